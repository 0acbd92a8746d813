// Numbers and times as the page shows them: short enough for a column, whole in the title.

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]];

/** A number with five digits, or three behind zeros; from a million on with a unit, a dash where there is none. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e18 || (size > 0 && size < 1e-4)) return value.toExponential(3).replace("-", "−").replace("e+", "e");
  const [by, unit] = UNITS.find(([least]) => size >= least) ?? [1, ""];
  return (size < 0.01 ? small : plain).format(value / by).replace("-", "−") + (unit && `\u202f${unit}`);
}

/** A number of things. */
export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));

/** Seconds as a short span. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)}\u202fs`;
  if (seconds < 120) return `${Math.round(seconds)}\u202fs`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)}\u202fmin`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)}\u202fh`;
  return `${Math.round(seconds / 86_400)}\u202fd`;
}

const text = (ms) => new Date(ms).toISOString();

/** A time of day in UTC; with its date unless that is today. */
export function time(ms) {
  if (ms === null || ms === undefined) return "–";
  const iso = text(ms);
  const clock = iso.slice(11, 19);
  return iso.slice(0, 10) === text(Date.now()).slice(0, 10) ? clock : `${iso.slice(0, 10)} ${clock}`;
}

/** A time with its date, in UTC. */
export const moment = (ms) => `${text(ms).slice(0, 10)} ${text(ms).slice(11, 19)} UTC`;

/** The title of a statistic: its name, and its unit where it is a rate. */
export const title = ({ name, unit }) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ") + (unit === "1/s" ? " /s" : "");

/** Seconds of a season in words: `1 h`, `1 d`, `25 min`. */
export function period(seconds) {
  const [size, unit] = [[86_400, "d"], [3_600, "h"], [60, "min"]].find(([size]) => seconds % size === 0) ?? [1, "s"];
  return `${seconds / size}\u202f${unit}`;
}

/** Milliseconds of a span such as 1h30m, as the API prints it. */
export function milliseconds(duration) {
  const units = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };
  let total = 0;
  for (const [, value, unit] of duration.matchAll(/(\d+)(ms|d|h|m|s)/g)) total += Number(value) * units[unit];
  return total;
}
