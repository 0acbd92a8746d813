// What kind of series one is: badges, a sentence for each verdict, its autocorrelation by lag, and how that has changed.

import * as api from "../api.js";
import { el, picture } from "../dom.js";
import { moment, number, period } from "../format.js";
import { drawParts } from "./parts.js";

/** Lags of the stems, lag 0 left out, and the size of the picture. */
const STEM_WIDTH = 8;
const HEIGHT = 80;

/** Why no verdict is given, in words. */
const STATUS = {
  too_short: "Fewer than 60 minutes of samples: too few to say.",
  gaps: "More than a fifth of the minutes have no sample: too many to say.",
  constant: "All values are equal.",
};

/** What kind a series is, as badges of a word each. */
export function badges(row) {
  const all = [
    row.stationary && ["stationary", `ADF p = ${row.adf_p_value?.toPrecision(2)}`],
    row.seasonal && [`seasonal ${period(row.period_seconds)}`, `strength ${row.seasonal_strength?.toFixed(2)}`],
    row.autocorrelated && ["autocorrelated", `Ljung-Box p = ${row.ljung_box_p_value?.toPrecision(2)}`],
    row.status === "constant" && ["constant", "all values are equal"],
  ];
  return all.filter(Boolean).map(([word, title]) => el("span", { class: "badge", title }, word));
}

/** The profile of a series with its changes, and taken apart if it has a season; `row` is null where nothing is known. */
export async function readProfile(who, signal) {
  const row = await api.profile(who.series, signal);
  if (row === null) return { row, changes: [], parts: null };
  const changes = await api.events(who, signal);
  // One that has lost its steps, or its season, in between has no parts.
  const parts = row.period_seconds ? await api.decomposition(who.series, signal).catch(() => null) : null;
  return { row, changes, parts };
}

/** Draws the profile of a series. */
export function drawProfile({ row, changes, parts: apart }) {
  if (row === null) return el("p", { class: "dim" }, "Not known yet: it takes an hour of samples.");
  const parts = [];
  if (row.status !== "ok") parts.push(el("p", {}, STATUS[row.status] ?? row.status));
  else parts.push(el("ul", { class: "verdicts" }, sentences(row).map((one) => el("li", {}, one))), stems(row));
  const what = row.transform === "rate" ? "rates per minute" : "means per minute";
  parts.push(el("p", { class: "dim" }, `${row.steps} ${what} up to ${moment(row.at_ms)}. Median of the last hour ${number(row.median_60)}, of four hours ${number(row.median_240)}.`));
  if (apart) parts.push(drawParts(apart));
  if (changes.length > 0) parts.push(drawChanges(changes));
  return el("div", {}, parts);
}

/** Changes shown; older ones are in the API. */
const CHANGES_SHOWN = 5;

function drawChanges(changes) {
  const body = changes.slice(0, CHANGES_SHOWN).map(({ at_ms: at, change, to }) =>
    el("li", {}, `${moment(at)}: ${to ? "became" : "is no longer"} ${change}`));
  return el("div", {}, el("h3", {}, "Changes of kind"), el("ul", { class: "changes" }, body));
}

function sentences(row) {
  const p = (value) => (value < 0.001 ? "p < 0.001" : `p = ${value.toFixed(3)}`);
  const all = [];
  if (row.stationary === null) all.push(`Whether it is stationary cannot be said (${row.adf_status.replaceAll("_", " ")}).`);
  else if (row.stationary) all.push(`Stationary: a unit root is unlikely (ADF ${row.adf_statistic.toFixed(2)}, ${p(row.adf_p_value)}).`);
  else all.push(`Not stationary: a unit root cannot be ruled out (ADF ${row.adf_statistic.toFixed(2)}, ${p(row.adf_p_value)}).`);
  if (row.seasonal) all.push(`Seasonal: it repeats every ${period(row.period_seconds)}, strength ${row.seasonal_strength.toFixed(2)}.`);
  else if (row.period_seconds) all.push(`Hardly seasonal: a period of ${period(row.period_seconds)} has a strength of only ${row.seasonal_strength.toFixed(2)}.`);
  else all.push("Not seasonal: no significant period.");
  if (row.autocorrelated !== null) {
    const test = `Ljung-Box at ${row.ljung_box_lags} lags, ${p(row.ljung_box_p_value)}`;
    all.push(row.autocorrelated ? `Autocorrelated: its minutes depend on those before (${test}).` : `Not autocorrelated (${test}).`);
  }
  return all;
}

/** The autocorrelation by lag as stems, with the band in which it would be without any (Bartlett, 95 %). */
function stems({ acf, steps }) {
  const width = STEM_WIDTH * acf.length;
  const label = `Autocorrelation of lags 1 to ${acf.length - 1} minutes; at lag 1 it is ${(acf[1] ?? 0).toFixed(2)}`;
  const { svg, add } = picture("stems", width, HEIGHT, label);
  const y = (value) => (HEIGHT / 2) * (1 - value);
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
