// The table of series: the newest row of each for one window, searched and sorted by the server.

import * as api from "../api.js";
import { choice, el, failed, icon, say } from "../dom.js";
import { count, moment, number, time, title } from "../format.js";
import * as state from "../state.js";
import { STATISTICS } from "../statistics.js";
import { badges } from "./profile.js";

/** Rows of a page, and most of the table: a browser is slow with more, and nobody reads them. */
const PAGE_ROWS = 100;
const TABLE_ROWS_MAX = 5_000;

/** How long typing must rest before the server is asked. */
const REST_MS = 150;

/** How often the first page is asked for again while it is all that is shown. */
const AGAIN_MS = 15_000;

/** What rows can be sorted by, as columns. */
const SORTABLE = [
  { key: "name", title: "Series", help: "by name" },
  ...STATISTICS.map((one) => ({ key: one.name, title: title(one), help: one.about, show: one.whole ? count : number, shown: one.overview })),
  { key: "at", title: "At (UTC)", help: "end of the window" },
];

const LENS = "m20 20-4.5-4.5M18 10.5a7.5 7.5 0 1 1-15 0 7.5 7.5 0 0 1 15 0Z";

/** Shows the view in `main`. */
export function show(main, now, server) {
  document.title = "Series · Tidewatch";
  const view = new Series(main, now, server);
  view.begin();
  return view;
}

class Series {
  constructor(main, now, server) {
    Object.assign(this, { main, now, server, rows: [], next: null, asked: null, timers: {} });
    this.search = el("input", {
      id: "search", type: "search", value: now.search, maxlength: 200, autocomplete: "off", spellcheck: "false",
      placeholder: "Name, label or label=value", "aria-describedby": "search-help", "aria-keyshortcuts": "/",
      oninput: () => this.typed(),
    });
    this.order = el("select", { id: "order", onchange: () => state.go({ sort: this.order.value }) });
    this.windows = el("div", { class: "windows" });
    this.head = el("tr", { role: "row" });
    this.body = el("tbody", { role: "rowgroup", onkeydown: (event) => this.step(event) });
    this.table = el("table", { class: "series", role: "table", "aria-label": "Newest window of each series" },
      el("thead", { role: "rowgroup" }, this.head), this.body);
    this.foot = el("div", { class: "foot" });
    this.trouble = el("div", {});
  }

  async begin() {
    const bar = el("div", { class: "bar" },
      el("div", { class: "search", role: "search" }, icon(LENS),
        el("label", { for: "search", class: "hidden" }, "Search series"), this.search,
        el("kbd", { "aria-hidden": "true" }, "/"),
        el("span", { id: "search-help", class: "hidden" }, "All words must occur in the name, a label or label=value.")),
      this.windows,
      el("div", { class: "order" }, el("label", { for: "order" }, "Sort"), this.order));
    this.main.replaceChildren(el("h1", { class: "hidden" }, "Series"), bar, this.trouble,
      el("div", { class: "card" }, this.table), this.foot);
    this.drawHead();
    this.wait();
    const status = this.server.status ?? (await this.server.first);
    this.lengths = status.windows.map((window) => window.length);
    if (this.gone) return;
    this.drawWindows();
    this.load();
  }

  leave() {
    this.gone = true;
    this.asked?.abort();
    Object.values(this.timers).forEach(clearTimeout);
  }

  /** Takes another state of the same view. */
  update(now) {
    this.now = now;
    if (this.search.value.trim() !== now.search) this.search.value = now.search;
    if (this.lengths) {
      this.drawHead();
      this.drawWindows();
      this.load();
    }
    return true;
  }

  window() {
    return this.lengths.includes(this.now.window) ? this.now.window : this.lengths[0];
  }

  typed() {
    clearTimeout(this.timers.typing);
    this.timers.typing = setTimeout(() => state.go({ search: this.search.value.trim() }, { replace: true }), REST_MS);
  }

  drawWindows() {
    const old = this.windows.querySelector("input:checked");
    if (old?.value === this.window()) return;
    const focused = this.windows.contains(document.activeElement);
    const choose = (window) => state.go({ window });
    this.windows.replaceChildren(choice({ legend: "Window", name: "window", options: this.lengths, value: this.window(), choose }));
    if (focused) this.windows.querySelector("input:checked").focus();
  }

  /** The columns of the table: those of the overview, and the one that rows are sorted by. */
  columns() {
    const by = this.now.sort.replace(/^-/, "");
    return SORTABLE.filter(({ key, shown }) => shown !== false || key === by);
  }

  drawHead() {
    const by = this.now.sort.replace(/^-/, "");
    const falling = this.now.sort.startsWith("-");
    const focused = document.activeElement?.dataset?.sort;
    this.head.replaceChildren(...this.columns().map(({ key, title, help }) => {
      const sorted = key === by;
      const next = sorted ? (falling ? key : `-${key}`) : key === "name" ? key : `-${key}`;
      const label = sorted && el("span", { "aria-hidden": "true" }, falling ? "↓" : "↑");
      const button = el("button", { type: "button", "data-sort": key, title: `Sort: ${help}`, onclick: () => state.go({ sort: next }) },
        el("span", {}, title), label);
      return el("th", { scope: "col", role: "columnheader", class: key, "aria-sort": sorted ? (falling ? "descending" : "ascending") : null }, button);
    }));
    if (focused) this.head.querySelector(`[data-sort="${focused}"]`)?.focus();
    const options = SORTABLE.flatMap(({ key, title }) => [[key, `${title} ↑`], [`-${key}`, `${title} ↓`]]);
    this.order.replaceChildren(...options.map(([value, text]) => el("option", { value, selected: value === this.now.sort }, text)));
  }

  wait() {
    this.table.setAttribute("aria-busy", "true");
    if (this.rows.length === 0 && this.body.children.length === 0) {
      const cells = () => this.columns().map(({ key }) => el("td", { class: key }, el("span", { class: "bone" })));
      this.body.replaceChildren(...Array.from({ length: 8 }, () => el("tr", { class: "waiting", "aria-hidden": "true" }, cells())));
    }
  }

  /** Asks for the first page, or with a cursor for the one after those that are shown. */
  async load(cursor = null, { quiet = false } = {}) {
    this.asked?.abort();
    clearTimeout(this.timers.again);
    const asked = new AbortController();
    this.asked = asked;
    if (!quiet) this.wait();
    const { search, sort } = this.now;
    try {
      const page = await api.latest({ window: this.window(), search, sort, cursor, limit: PAGE_ROWS }, asked.signal);
      this.trouble.replaceChildren();
      this.take(page, cursor !== null);
      if (!quiet) this.tell(cursor !== null);
    } catch (error) {
      if (asked.signal.aborted) return;
      this.trouble.replaceChildren(failed(error, () => this.load(cursor)));
      if (this.rows.length === 0) this.body.replaceChildren();
    }
    this.table.removeAttribute("aria-busy");
    if (this.rows.length <= PAGE_ROWS) this.timers.again = setTimeout(() => this.again(), AGAIN_MS);
  }

  again() {
    // Not while somebody is copying a number.
    const idle = !document.hidden && getSelection().isCollapsed;
    if (idle) this.load(null, { quiet: true });
    else this.timers.again = setTimeout(() => this.again(), AGAIN_MS);
  }

  take(page, further) {
    this.next = page.next;
    this.rows = further ? this.rows.concat(page.data) : page.data;
    const focused = document.activeElement?.dataset?.series;
    const drawn = page.data.map((row) => this.row(row));
    if (further) this.body.append(...drawn);
    else this.body.replaceChildren(...drawn);
    if (further) drawn[0]?.querySelector("a").focus();
    else if (focused) this.body.querySelector(`[data-series="${focused}"]`)?.focus({ preventScroll: true });
    this.drawFoot();
    this.drawBadges(page.data.map((row) => row.series));
  }

  /** Says of each of these series what kind it is; a table without it is still a table. */
  async drawBadges(series) {
    if (series.length === 0) return;
    const rows = await api.profiles(series, this.asked?.signal).catch(() => []);
    for (const row of rows) {
      this.body.querySelector(`[data-series="${row.series}"] ~ .badges`)?.replaceChildren(...badges(row));
    }
  }

  /** Says what came, to whoever does not see it. */
  tell(further) {
    const shown = this.rows.length === 0 ? "No series" : `${this.rows.length} series${further ? " now" : ""}`;
    say(this.next ? `${shown}, and more` : shown);
  }

  /** Arrows go from the link of a row to that of the next. */
  step(event) {
    const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const link = way && event.target.closest("tr")?.[way]?.querySelector("a[data-series]");
    if (!link) return;
    event.preventDefault();
    link.focus();
  }

  row(row) {
    // The whole row opens its series; its link stays one for other tabs, and text that is being marked stays marked.
    const open = (event) => {
      const link = event.target.closest("a");
      if (event.metaKey || event.ctrlKey || event.shiftKey || (!link && !getSelection().isCollapsed)) return;
      event.preventDefault();
      state.go({ view: "one", series: row.series, window: this.now.window });
    };
    const to = state.address({ ...this.now, view: "one", series: row.series });
    const labels = Object.entries(row.labels).map(([label, value]) => [el("span", { class: "label" }, el("i", {}, `${label}=`), value), " "]);
    const cell = (key, text, title) => el("td", { class: key, role: "cell", "data-label": key, title }, text);
    const statistics = this.columns().filter(({ show }) => show);
    const numbers = statistics.map(({ key, show }) => cell(key, show(row[key] ?? null), row[key]));
    const notes = [row.partial && "partial", row.revision > 0 && `corrected ${row.revision}×`].filter(Boolean);
    return el("tr", { role: "row", class: row.partial ? "partial" : null, onclick: open },
      el("th", { scope: "row", role: "rowheader", class: "name" },
        el("a", { href: to, "data-series": row.series }, row.name || row.series),
        notes.map((note) => el("span", { class: "note" }, note)),
        el("span", { class: "badges" }),
        el("div", { class: "labels" }, labels)),
      numbers, cell("at", time(row.at_ms), moment(row.at_ms)));
  }

  drawFoot() {
    this.table.parentElement.hidden = this.rows.length === 0;
    const parts = [];
    if (this.rows.length === 0) parts.push(this.nothing());
    else {
      const shown = this.next ? `First ${count(this.rows.length)} series` : `${count(this.rows.length)} series`;
      parts.push(el("p", {}, shown, el("span", { class: "dim" }, ` · newest window of ${this.window()} each`)));
    }
    if (this.next && this.rows.length < TABLE_ROWS_MAX) {
      parts.push(el("button", { type: "button", id: "more", onclick: () => this.load(this.next) }, `Show ${PAGE_ROWS} more`));
    } else if (this.next) {
      parts.push(el("p", {}, `The table ends at ${count(TABLE_ROWS_MAX)} rows; search for fewer.`));
    }
    this.foot.replaceChildren(...parts);
  }

  nothing() {
    if (this.now.search !== "") {
      return el("div", { class: "empty" }, el("p", {}, "No series matches ", el("strong", {}, this.now.search), "."),
        el("p", { class: "dim" }, "Every word must occur in the name, a label value or label=value."),
        el("button", { type: "button", onclick: () => state.go({ search: "" }) }, "Clear the search"));
    }
    const hop = this.server.status?.windows.find((window) => window.length === this.window())?.hop;
    return el("div", { class: "empty" }, el("p", {}, "No window has been answered yet."),
      el("p", { class: "dim" }, `The first row of a series comes when its first ${hop ?? "step"} is over. Samples are taken at `,
        el("code", {}, "/api/v1/write"), "."));
  }
}
