// A series taken apart: its values with the trend, the season, and what is left, one below the other on one axis of time.

import { el, picture } from "../dom.js";
import { moment, number, period } from "../format.js";

/** The size of the picture, and of one part of it. */
const WIDTH = 720;
const PART = 72;
const GAP = 14;
const MARGIN = 4;

/** Draws the parts of a series. */
export function drawParts({ method, model, period_seconds: season, seasonal_strength: strength, data }) {
  const shown = [
    ["values and trend", [["value", "value"], ["trend", "trend"]]],
    [`season of ${period(season)}`, [["seasonal", "season"]]],
    ["what is left", [["residual", "rest"]]],
  ];
  const label = `${method} decomposition: values with their trend, the season of ${period(season)}, and what is left, ` +
    `${data.length} steps from ${moment(data[0].at_ms)} to ${moment(data.at(-1).at_ms)}`;
  const { svg, add } = picture("parts", WIDTH, shown.length * (PART + GAP), label);
  shown.forEach(([title, lines], place) => {
    const top = place * (PART + GAP) + GAP;
    const values = lines.flatMap(([key]) => data.map((row) => row[key])).filter((value) => value !== null);
    const [least, most] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    const y = (value) => top + MARGIN + (PART - 2 * MARGIN) * (most > least ? (most - value) / (most - least) : 0.5);
    const x = (i) => (WIDTH * i) / Math.max(1, data.length - 1);
    add("path", { d: `M0 ${top + PART}H${WIDTH}`, class: "axis" });
    for (const [key, name] of lines) add("path", { d: path(data.map((row) => row[key]), x, y), class: name });
    const range = values.length > 0 ? `, ${number(least)} to ${number(most)}` : "";
    add("text", { x: 0, y: top - 3 }, `${title}${range}`);
  });
  return el("figure", { class: "apart" }, el("figcaption", { class: "dim" },
    `Taken apart (${method}, ${model}): the season has a strength of ${number(strength)}.`), svg);
}

/** A line through values; it is broken where there is none. */
function path(values, x, y) {
  let drawn = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (value === null) {
      pen = "M";
      return;
    }
    drawn += `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return drawn;
}
