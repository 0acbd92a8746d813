// One series: its newest numbers, the chart of one window, what kind of series it is, what was refused and what was revised.

import * as api from "../api.js";
import { Chart, columns, summary } from "../chart.js";
import { choice, el, failed, say } from "../dom.js";
import { count, milliseconds, moment, number, time, title } from "../format.js";
import * as state from "../state.js";
import { STATISTICS } from "../statistics.js";
import { drawProfile, readProfile } from "./profile.js";

/** How often newer rows are looked for. */
const AGAIN_MS = 15_000;

/** Rows in the table below the chart: the newest. */
const DATA_ROWS_MAX = 200;

/** Reasons of refusal, in words. */
const REASONS = {
  duplicate: "same time, same value",
  duplicate_timestamp: "same time, another value",
  too_old: "older than lateness",
  late_ring_full: "late, and its samples were gone",
  not_finite: "NaN or infinite",
  bootstrap_too_late: "history that came too late",
  quarantined: "the series is kept out",
};

/** Shows the view in `main`. */
export function show(main, now, server) {
  const view = new One(main, now, server);
  view.begin();
  return view;
}

class One {
  constructor(main, now, server) {
    Object.assign(this, { main, now, server, asked: null, timer: 0, chart: null, data: null, rows: [], newest: null });
    this.title = el("h1", { class: "metric" }, now.series);
    this.labels = el("ul", { class: "chips", "aria-label": "Labels" });
    this.choices = el("div", { class: "choices" });
    this.trouble = el("div", {});
    this.plot = el("div", { class: "plot", role: "img", tabindex: "0", "aria-label": "Loading", "aria-describedby": "plot-help" });
    this.read = el("p", { class: "read" }, " ");
    this.over = el("p", { class: "over" });
    this.facts = el("dl", { class: "facts" });
    this.table = el("div", {});
    this.profile = el("div", {});
    this.rejects = el("div", {});
    this.revisions = el("div", {});
    this.more = el("p", { class: "links" });
  }

  async begin() {
    const back = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      state.go({ view: "series" });
    };
    const all = state.address({ ...this.now, view: "series" });
    const details = el("details", { class: "data", ontoggle: () => this.drawTable() }, el("summary", {}, "Show data"), this.table);
    this.details = details;
    this.main.replaceChildren(
      el("nav", { "aria-label": "Breadcrumb" }, el("a", { class: "back", href: all, onclick: back }, "← All series")),
      el("div", { class: "headline" }, this.title, this.labels), this.trouble, this.facts,
      el("section", { class: "card chart", "aria-label": "Chart" },
        el("div", { class: "bar" }, this.choices, this.legend()), this.plot,
        el("p", { class: "hidden", id: "plot-help" }, "Arrow keys move through the points, with shift by ten. Drag to zoom, double click to zoom out."),
        el("div", { class: "under" }, this.read, this.over), details),
      el("section", { class: "card kind" }, el("h2", {}, "Kind of series"), this.profile),
      el("div", { class: "two" },
        el("section", { class: "card" }, el("h2", {}, "Refused samples"), this.rejects),
        el("section", { class: "card" }, el("h2", {}, "Revisions"), this.revisions)),
      this.more);
    this.chart = new Chart(this.plot, (idx) => this.point(idx));
    // Said for keys only: a mouse passes over hundreds of points.
    this.plot.addEventListener("keyup", () => say(this.read.textContent));
    const status = this.server.status ?? (await this.server.first);
    if (this.gone) return;
    this.windows = status.windows;
    this.drawChoices();
    this.load();
  }

  leave() {
    this.gone = true;
    this.asked?.abort();
    clearTimeout(this.timer);
    this.chart?.leave();
  }

  /** Takes another state of the same view; another series is another view. */
  update(now) {
    if (now.series !== this.now.series || !this.windows) return false;
    this.now = now;
    this.drawChoices();
    this.load();
    return true;
  }

  window() {
    return this.windows.find((window) => window.length === this.now.window) ?? this.windows[0];
  }

  legend() {
    const key = (name, text) => el("li", {}, el("span", { class: `key key-${name}`, "aria-hidden": "true" }), text);
    return el("ul", { class: "legend", "aria-label": "Legend" }, key("line", "avg"), key("band", "min to max"));
  }

  drawChoices() {
    const focused = document.activeElement?.name;
    this.choices.replaceChildren(
      choice({ legend: "Window", name: "window", options: this.windows.map((window) => window.length), value: this.window().length, choose: (window) => state.go({ window }) }),
      choice({ legend: "Range", name: "range", options: Object.keys(state.RANGES), value: this.now.range, choose: (range) => state.go({ range }) }));
    if (focused) this.choices.querySelector(`input[name="${focused}"]:checked`)?.focus();
  }

  /** Asks for everything that is shown; `quiet` looks for newer rows, and does not show that it does. */
  async load({ quiet = false } = {}) {
    this.asked?.abort();
    clearTimeout(this.timer);
    const asked = new AbortController();
    this.asked = asked;
    const { series, range } = this.now;
    const window = this.window().length;
    if (!quiet) this.plot.setAttribute("aria-busy", "true");
    try {
      const newest = await api.newest(series, window, asked.signal);
      this.newest = newest;
      const who = newest ?? (await api.known(series, window, asked.signal));
      this.drawHead(who);
      this.drawFacts();
      this.drawLinks(window);
      const [rows] = await Promise.all([
        this.ofRange(newest, window, range, asked.signal),
        this.side(this.profile, () => readProfile(who, asked.signal), drawProfile),
        this.side(this.rejects, () => api.rejects(who, asked.signal), drawRejects),
        this.side(this.revisions, () => api.corrections(series, window, asked.signal), drawRevisions),
      ]);
      this.drawChart(rows, window);
      if (!quiet) say(this.plot.getAttribute("aria-label"));
      this.trouble.replaceChildren();
    } catch (error) {
      if (asked.signal.aborted) return;
      this.trouble.replaceChildren(failed(error, () => this.load()));
    }
    this.plot.removeAttribute("aria-busy");
    this.timer = setTimeout(() => this.again(), AGAIN_MS);
  }

  /** Looks for newer rows, unless the whole of a long history would have to be loaded for it. */
  again() {
    const zoomed = this.chart.plot && this.data && this.chart.plot.scales.x.min > this.data[0][0];
    if (document.hidden || zoomed || this.now.range === "all") this.timer = setTimeout(() => this.again(), AGAIN_MS);
    else this.load({ quiet: true });
  }

  async ofRange(newest, window, range, signal) {
    if (newest === null) return { rows: [], cut: false };
    const length = state.RANGES[range];
    const start = length === null ? 0 : (newest.at_ms - length) / 1_000;
    return api.rows(this.now.series, { window, start, end: newest.at_ms / 1_000 }, signal);
  }

  /** A part that fails says so by itself; the rest of the view goes on. */
  async side(place, ask, draw) {
    try {
      place.replaceChildren(draw(await ask()));
    } catch (error) {
      if (!this.asked.signal.aborted) place.replaceChildren(failed(error));
    }
  }

  drawHead({ name, labels, series }) {
    const title = name || series;
    document.title = `${title} · Tidewatch`;
    if (this.title.textContent !== title) this.title.textContent = title;
    if (this.labels.children.length > 0) return;
    const chips = Object.entries(labels).map(([label, value]) => {
      const search = `${label}=${value}`;
      const to = state.address({ ...this.now, view: "series", search });
      const open = (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        state.go({ view: "series", search });
      };
      return el("li", {}, el("a", { href: to, onclick: open, title: `Series with ${search}` }, el("i", {}, `${label}=`), value));
    });
    this.labels.replaceChildren(...chips);
  }

  drawFacts() {
    const row = this.newest;
    if (row === null) {
      this.facts.replaceChildren();
      return;
    }
    const shown = STATISTICS.filter(({ name }) => Object.hasOwn(row, name) && !["count", "revision"].includes(name));
    const fact = (title, text, whole) => el("div", { title: whole }, el("dt", {}, title), el("dd", {}, text));
    this.facts.replaceChildren(...shown.map((one) => fact(title(one), number(row[one.name]), row[one.name])),
      fact("Count", count(row.count)), fact("At (UTC)", time(row.at_ms), moment(row.at_ms)));
  }

  drawLinks(window) {
    const link = (text, path, parameters) => el("a", { href: api.url(path, parameters) }, text);
    const { series } = this.now;
    const links = [el("span", {}, "JSON: ")];
    if (this.newest !== null) {
      links.push(link("why the newest number is what it is", `windows/${series}/explain`, { window, at: this.newest.at }), " · ");
    }
    links.push(link("rows", `windows/${series}`, { window, limit: 100 }), " · series ", el("code", {}, series));
    this.more.replaceChildren(...links);
  }

  drawChart({ rows, cut }, window) {
    this.rows = rows;
    const hopMs = milliseconds(this.window().hop);
    this.data = columns(rows, hopMs);
    this.byTime = new Map(rows.map((row) => [row.at_ms, row]));
    this.plot.classList.toggle("nothing", rows.length === 0);
    this.chart.draw(this.data);
    this.plot.setAttribute("aria-label", summary(rows, window));
    const gaps = this.data[0].length - rows.length;
    const range = rows.length === 0 ? "No rows in this range" :
      `${count(rows.length)} points, ${time(rows[0].at_ms)} to ${time(rows.at(-1).at_ms)} UTC${gaps ? `, ${gaps} ${gaps === 1 ? "gap" : "gaps"}` : ""}`;
    this.over.textContent = cut ? `Only the first ${count(api.CHART_ROWS_MAX)} rows of the range are drawn. ${range}` : range;
    this.point(null);
    this.drawTable();
  }

  /** Says what is at the cursor; without one, the newest. */
  point(idx) {
    const at = idx === null ? undefined : Math.round(this.data[0][idx] * 1_000);
    const row = at === undefined ? this.rows.at(-1) : this.byTime.get(at);
    if (row === undefined) {
      this.read.textContent = at === undefined ? " " : `${moment(at)} · no row`;
      return;
    }
    const part = (name, value) => el("span", {}, el("i", {}, name), " ", el("b", {}, value));
    this.read.replaceChildren(el("span", {}, moment(row.at_ms)), part("avg", number(row.avg)), part("min", number(row.min)),
      part("max", number(row.max)), part("count", count(row.count)));
  }

  drawTable() {
    if (!this.details.open) return;
    const newest = this.rows.slice(-DATA_ROWS_MAX).reverse();
    const shown = STATISTICS.filter(({ overview }) => overview);
    const head = el("tr", {}, el("th", { scope: "col" }, "At (UTC)"), shown.map(({ name }) => el("th", { scope: "col" }, name)));
    const body = newest.map((row) => el("tr", {}, el("th", { scope: "row" }, moment(row.at_ms).replace(" UTC", "")),
      shown.map(({ name, whole }) => el("td", {}, whole ? count(row[name]) : number(row[name])))));
    const caption = this.rows.length > newest.length ? `The newest ${newest.length} of ${count(this.rows.length)} points` : "All points of the range";
    this.table.replaceChildren(el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Data of the chart" },
      el("table", { class: "small" }, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, body))));
  }
}

function drawRejects(rows) {
  if (rows.length === 0) return el("p", { class: "dim" }, "None: every sample of this series was applied.");
  const body = rows.sort((a, b) => b.count - a.count).map((row) => el("tr", {},
    el("th", { scope: "row" }, el("code", {}, row.reason), REASONS[row.reason] && el("span", { class: "dim" }, ` ${REASONS[row.reason]}`)),
    el("td", {}, count(row.count)), el("td", { title: `from ${moment(row.first_at_ms)}` }, time(row.last_at_ms))));
  const head = ["Reason", "Samples", "Last (UTC)"].map((title) => el("th", { scope: "col" }, title));
  return el("div", { class: "scroll" }, el("table", { class: "small" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}

/** When a row was written; of older ones only the hour is known. */
function written({ epoch, written_ms: ms }) {
  return epoch === null && ms % 3_600_000 === 0 ? `after ${time(ms).slice(0, -3)}` : time(ms);
}

function drawRevisions(rows) {
  if (rows.length === 0) return el("p", { class: "dim" }, "None: no late sample changed a row of this window.");
  const body = rows.map((row) => {
    return el("tr", {}, el("th", { scope: "row", title: row.at }, time(row.at_ms)), el("td", {}, count(row.revision)),
      el("td", {}, count(row.count)), el("td", { title: row.written }, written(row)));
  });
  const head = ["Window end (UTC)", "Revision", "Samples", "Written (UTC)"].map((title) => el("th", { scope: "col" }, title));
  return el("div", { class: "scroll" }, el("table", { class: "small" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}
