// The description of the API. Swagger UI is a classic script that was loaded before this module runs.

const theme = document.documentElement.dataset.theme;
const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.classList.toggle("dark-mode", dark);

// The address as a whole: Swagger UI would take a relative one of the servers as one of its own path.
globalThis.SwaggerUIBundle({
  url: new URL("api/v1/openapi.json", document.baseURI).href,
  domNode: document.getElementById("docs"),
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  // Otherwise a server outside is asked whether the document is right.
  validatorUrl: null,
});
