// What kind of series one is: a sentence for each verdict, and its autocorrelation by lag.

import { el } from "../dom.js";
import { moment, number } from "../format.js";

const SVG = "http://www.w3.org/2000/svg";

/** Lags of the stems, lag 0 left out, and the size of the picture. */
const STEM_WIDTH = 8;
const HEIGHT = 80;

/** Why no verdict is given, in words. */
const STATUS = {
  too_short: "Fewer than 60 minutes of samples: too few to say.",
  gaps: "More than a fifth of the minutes have no sample: too many to say.",
  constant: "All values are equal.",
};

/** Draws the profile of a series; `null` if there is none yet. */
export function drawProfile(row) {
  if (row === null) return el("p", { class: "dim" }, "Not known yet: it takes an hour of samples.");
  const parts = [];
  if (row.status !== "ok") parts.push(el("p", {}, STATUS[row.status] ?? row.status));
  else parts.push(el("ul", { class: "verdicts" }, sentences(row).map((one) => el("li", {}, one))), stems(row));
  const what = row.transform === "rate" ? "rates per minute" : "means per minute";
  parts.push(el("p", { class: "dim" }, `${row.steps} ${what} up to ${moment(row.at_ms)}. Median of the last hour ${number(row.median_60)}, of four hours ${number(row.median_240)}.`));
  return el("div", {}, parts);
}

function sentences(row) {
  const p = (value) => (value < 0.001 ? "p < 0.001" : `p = ${value.toFixed(3)}`);
  const all = [];
  if (row.stationary === null) all.push(`Whether it is stationary cannot be said (${row.adf_status.replaceAll("_", " ")}).`);
  else if (row.stationary) all.push(`Stationary: a unit root is unlikely (ADF ${row.adf_statistic.toFixed(2)}, ${p(row.adf_p_value)}).`);
  else all.push(`Not stationary: a unit root cannot be ruled out (ADF ${row.adf_statistic.toFixed(2)}, ${p(row.adf_p_value)}).`);
  if (row.seasonal) all.push(`Seasonal: it repeats every ${length(row.period_seconds)}, strength ${row.seasonal_strength.toFixed(2)}.`);
  else if (row.period_seconds) all.push(`Hardly seasonal: a period of ${length(row.period_seconds)} has a strength of only ${row.seasonal_strength.toFixed(2)}.`);
  else all.push("Not seasonal: no significant period.");
  if (row.autocorrelated !== null) {
    const test = `Ljung-Box at ${row.ljung_box_lags} lags, ${p(row.ljung_box_p_value)}`;
    all.push(row.autocorrelated ? `Autocorrelated: its minutes depend on those before (${test}).` : `Not autocorrelated (${test}).`);
  }
  return all;
}

/** A period in words: `1 h`, `1 d`, `25 min`. */
function length(seconds) {
  const [size, unit] = [[86_400, "d"], [3_600, "h"], [60, "min"]].find(([size]) => seconds % size === 0) ?? [1, "s"];
  return `${seconds / size} ${unit}`;
}

/** The autocorrelation by lag as stems, with the band in which it would be without any (Bartlett, 95 %). */
function stems({ acf, steps }) {
  const svg = document.createElementNS(SVG, "svg");
  const width = STEM_WIDTH * acf.length;
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("class", "stems");
  svg.setAttribute("preserveAspectRatio", "xMinYMid meet");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Autocorrelation of lags 1 to ${acf.length - 1} minutes; at lag 1 it is ${(acf[1] ?? 0).toFixed(2)}`);
  const y = (value) => (HEIGHT / 2) * (1 - value);
  const add = (name, attributes) => {
    const shape = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    svg.append(shape);
  };
  let sum = 0;
  const bounds = acf.slice(1).map((value) => {
    const bound = 1.96 * Math.sqrt((1 + 2 * sum) / steps);
    sum += value * value;
    return bound;
  });
  const x = (lag) => (lag + 0.5) * STEM_WIDTH;
  const upper = bounds.map((bound, i) => `${x(i + 1)},${y(Math.min(bound, 1))}`);
  const lower = bounds.map((bound, i) => `${x(i + 1)},${y(-Math.min(bound, 1))}`).reverse();
  add("polygon", { points: [...upper, ...lower].join(" "), class: "band" });
  add("path", { d: `M0 ${HEIGHT / 2}H${width}`, class: "axis" });
  add("path", { d: acf.map((value, lag) => (lag === 0 ? "" : `M${x(lag)} ${HEIGHT / 2}V${y(value)}`)).join(""), class: "stem" });
  return svg;
}
