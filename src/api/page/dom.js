// Elements from code. Text goes in as text nodes only, so that no label can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; `on…` adds a listener, false and null leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An icon of one stroke. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** A picture of so many units, described by `label`; `add` puts a shape into it. */
export function picture(name, width, height, label) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { viewBox: `0 0 ${width} ${height}`, class: name, preserveAspectRatio: "xMinYMid meet", role: "img", "aria-label": label };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  const add = (shape, of, text = null) => {
    const element = document.createElementNS(SVG, shape);
    for (const [key, value] of Object.entries(of)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    svg.append(element);
  };
  return { svg, add };
}

/** A choice of one among few, as a row of radio buttons. */
export function choice({ legend, name, options, value, choose }) {
  const inputs = options.map((option) => {
    const input = el("input", { type: "radio", name, value: option, checked: option === value, onchange: () => choose(option) });
    return el("label", {}, input, el("span", {}, option));
  });
  return el("fieldset", { class: "choice" }, el("legend", {}, legend), inputs);
}

/** What went wrong, and a way to try again. */
export function failed(error, again) {
  const title = error.title ?? "The page failed";
  const detail = error.detail ?? String(error.message ?? error);
  return el("div", { class: "notice bad", role: "alert" }, el("p", {}, el("strong", {}, title), " ", detail),
    again && el("button", { type: "button", onclick: again }, "Try again"));
}

/** Tells a screen reader what changed. */
export function say(text) {
  const said = document.getElementById("said");
  if (said.textContent !== text) said.textContent = text;
}
