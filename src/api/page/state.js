// The state of the page, which is the query of its address: reload, back and a link sent to a colleague keep it.

import { STATISTICS } from "./statistics.js";

/** Ranges of the chart, in milliseconds before the newest row; "all" has no beginning. */
export const RANGES = { "1h": 3_600_000, "6h": 21_600_000, "24h": 86_400_000, "48h": 172_800_000, all: null };

/** What the table can be sorted by. */
export const SORTS = ["name", ...STATISTICS.map(({ name }) => name), "at"];

const DEFAULTS = { view: "series", search: "", sort: "name", window: "", series: "", range: "6h" };

/** The state an address stands for; what it does not say, or says wrongly, is as by default. */
export function parse(query) {
  const given = new URLSearchParams(query);
  const state = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) {
    const value = given.get(key);
    if (value !== null) state[key] = value;
  }
  if (!SORTS.includes(state.sort.replace(/^-/, ""))) state.sort = DEFAULTS.sort;
  if (!Object.hasOwn(RANGES, state.range)) state.range = DEFAULTS.range;
  if (!/^[0-9a-f]{16}$/.test(state.series)) state.series = "";
  if (state.view !== "one" || state.series === "") state.view = "series";
  return state;
}

/** The address of a state, with only what is not as by default. */
export function address(state) {
  const query = new URLSearchParams();
  for (const [key, usual] of Object.entries(DEFAULTS)) {
    const belongs = state.view === "one" || (key !== "series" && key !== "range");
    if (belongs && state[key] !== usual) query.set(key, state[key]);
  }
  const text = query.toString();
  return text === "" ? "./" : `./?${text}`;
}

let current = parse(location.search);
let listener = () => {};

/** The state now. */
export const state = () => current;

/** Changes the state; `replace` leaves no step to go back to (for each letter of a search). */
export function go(change, { replace = false } = {}) {
  const next = { ...current, ...change };
  if (address(next) === address(current)) return;
  const before = current;
  current = next;
  history[replace ? "replaceState" : "pushState"](null, "", address(next));
  listener(current, before);
}

/** Calls `each` with the state and the one before whenever it changes. */
export function listen(each) {
  listener = each;
  addEventListener("popstate", () => {
    const before = current;
    current = parse(location.search);
    each(current, before);
  });
}
