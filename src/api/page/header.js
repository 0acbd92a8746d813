// The header: how the server fares, asked for every few seconds while somebody looks; and light or dark.

import * as api from "./api.js";
import { el, icon } from "./dom.js";
import { count, number, span } from "./format.js";

/** How often the server is asked while the page is visible. */
const EVERY_MS = 5_000;

const SUN = "M12 4V2m0 20v-2m8-8h2M2 12h2m13.7-5.7 1.4-1.4M4.9 19.1l1.4-1.4m0-11.4L4.9 4.9m14.2 14.2-1.4-1.4M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0Z";
const MOON = "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z";

const field = (label, key, title = null) => {
  const value = el("dd", { id: `server-${key}` }, "–");
  return el("div", { class: `fact fact-${key}`, title }, el("dt", {}, label), value);
};

/** Fills the header, and keeps it filled; `each` hears every status. */
export function start(each) {
  const server = document.getElementById("server");
  server.append(field("Server", "ready"), field("Series", "series", "Series that are held"),
    field("Samples/s", "rate", "Live samples computed per second, over the last 30 s"), field("Lag", "lag", "How far the newest epoch is behind the clock"));
  theme(document.getElementById("theme"));
  let timer = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const status = await api.status();
      show(status);
      each(status);
    } catch (error) {
      put("ready", error.title, "bad");
    }
    clearTimeout(timer);
    timer = setTimeout(turn, EVERY_MS);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
}

function show(status) {
  const ready = status.ready !== false;
  put("ready", ready ? "ready" : "catching up", ready ? "good" : "busy", status.waits_for);
  put("series", count(status.series));
  put("lag", span(status.lag_seconds));
  put("rate", number(status.samples_per_second));
  warn(status.rows_per_day);
}

/** Says when the store gets more rows than it is meant for; nothing is refused then, so nobody else would. */
function warn({ exceeded, estimate, max, series, days_that_fit: days, retention, retention_fits: fits }) {
  const notice = document.getElementById("warning");
  const some = () => `${days < 10 ? days.toFixed(1) : count(days)} days of them, not for ${retention} (store.retention)`;
  const all = `all that ${retention} (store.retention) come to`;
  const fit = days === null ? "" : ` The disk has room for ${fits ? all : some()}.`;
  const text = `${count(series)} series make ${count(estimate)} rows a day, more than store.rows_per_day_max (${count(max)}).${fit}`;
  if (exceeded && notice.textContent !== text) notice.textContent = text;
  notice.hidden = !exceeded;
}

function put(key, text, tone = "", title = null) {
  const place = document.getElementById(`server-${key}`);
  if (place.textContent !== text) place.textContent = text;
  place.className = tone;
  if (title) place.title = title;
  else place.removeAttribute("title");
}

/** Light or dark: as the system has it until somebody presses the button. */
function theme(button) {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const draw = () => {
    const other = isDark() ? "light" : "dark";
    button.replaceChildren(icon(isDark() ? SUN : MOON));
    button.setAttribute("aria-label", `Switch to ${other} colours`);
    button.title = `Switch to ${other} colours`;
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("tidewatch.theme", root.dataset.theme);
    } catch {
      // Storage may be forbidden; the choice then holds until the page is left.
    }
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
}
