// Sets light or dark before the page is first painted. Not a module: modules run later than the first paint.
(() => {
  let kept = null;
  try {
    kept = localStorage.getItem("tidewatch.theme");
  } catch {
    // Storage may be forbidden; the system's choice then holds.
  }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
