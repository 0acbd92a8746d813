// Questions to the API of this server; what goes wrong becomes a `Failure` with words to show.

/** Longest wait for an answer: longer than the server's own bound, whose words are better. */
const PATIENCE_MS = 20_000;

/** Most rows of one series that are loaded for a chart. */
export const CHART_ROWS_MAX = 50_000;

/** A question that was not answered. */
export class Failure extends Error {
  constructor(title, detail, status = 0) {
    super(`${title}: ${detail}`);
    Object.assign(this, { title, detail, status });
  }
}

/** The parameters of a question; an array gives one pair per element, and what is empty is left out. */
function query(parameters) {
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") given.append(key, String(one));
    }
  }
  const text = given.toString();
  return text === "" ? "" : `?${text}`;
}

/** The address of a question. */
export const url = (path, parameters = {}) => `api/v1/${path}${query(parameters)}`;

/** Asks, and gives the JSON of the answer. */
export async function ask(path, parameters = {}, signal = undefined) {
  const bounds = [AbortSignal.timeout(PATIENCE_MS), ...(signal ? [signal] : [])];
  let response;
  try {
    response = await fetch(url(path, parameters), { signal: AbortSignal.any(bounds), headers: { accept: "application/json" } });
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (error.name === "TimeoutError") {
      throw new Failure("No answer", `The server did not answer within ${PATIENCE_MS / 1000} s.`);
    }
    throw new Failure("The server cannot be reached", "It may be stopped, or the network between you is.");
  }
  throw await failure(response);
}

/** What an answer with an error says. */
async function failure(response) {
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("application/problem+json")) {
    const problem = await response.json().catch(() => ({}));
    return new Failure(problem.title ?? `Error ${response.status}`, problem.detail ?? "", response.status);
  }
  return new Failure(`Error ${response.status}`, "The answer is not one of Tidewatch: is something between you and it?", response.status);
}

/** The latest row per series of one window: a page of `{data, next}`. */
export function latest({ window, search, sort, cursor, limit }, signal) {
  return ask("windows", { window, search, sort: sort === "name" ? "" : sort, cursor, limit }, signal);
}

/** Matches exactly the series of these labels. */
function selector({ name, labels }) {
  const pairs = Object.entries({ __name__: name, ...labels });
  return `{${pairs.map(([label, value]) => `${label}=${JSON.stringify(value)}`).join(",")}}`;
}

/** The newest row of a window of a series; none if it has none. */
export async function newest(series, window, signal) {
  const page = await ask(`windows/${series}`, { window, limit: 1 }, signal);
  return page.data[0] ?? null;
}

/** All rows of a window of a series between two times, page by page; `cut` says that there were too many. */
export async function rows(series, { window, start, end }, signal) {
  const all = [];
  let cursor = "";
  do {
    const page = await ask(`windows/${series}`, { window, start, end, cursor, limit: 10_000 }, signal);
    for (const row of page.data) all.push(row);
    cursor = page.next;
  } while (cursor && all.length < CHART_ROWS_MAX);
  return { rows: all, cut: Boolean(cursor) };
}

/** The series of an id: name and labels, also if the window asked for has no row. */
export async function known(series, window, signal) {
  const { name, labels } = await ask(`windows/${series}/explain`, { window, at: 0 }, signal);
  return { series, name, labels };
}

/** Samples of one series that were not applied, summed by reason. */
export async function rejects(who, signal) {
  const page = await ask("rejects", { "match[]": selector(who), by: "series,reason" }, signal);
  return page.data.filter((row) => row.series === who.series);
}

/** What kind of series one is; none if it is not known yet. */
export async function profile(series, signal) {
  return (await ask(`profiles/${series}`, {}, signal)).data[0] ?? null;
}

/** Profiles of some series, by their ids; those of which nothing is known yet have none. */
export async function profiles(series, signal) {
  return (await ask("profiles", { series, limit: series.length }, signal)).data;
}

/** A series taken apart into trend, season and what is left. */
export const decomposition = (series, signal) => ask(`profiles/${series}/decomposition`, {}, signal);

/** When a series has changed its kind, the newest first. */
export async function events(who, signal) {
  const page = await ask("profiles/events", { "match[]": selector(who), limit: 1_000 }, signal);
  return page.data.filter((row) => row.series === who.series).sort((a, b) => b.at_ms - a.at_ms);
}

/** The newest revisions of a window of a series. */
export async function corrections(series, window, signal) {
  return (await ask(`windows/${series}/corrections`, { window, limit: 20 }, signal)).data;
}

/** How the server fares. */
export const status = (signal) => ask("status", {}, signal);
