// The page begins here: the state in the address decides which view is shown, and each view is a module of its own.

import { failed } from "./dom.js";
import * as header from "./header.js";
import * as state from "./state.js";
import * as series from "./views/series.js";

const main = document.getElementById("main");
/** Views by the word in the address; those that are not first come when they are asked for. */
const VIEWS = { series: async () => series, one: () => import("./views/one.js") };

/** The view on the page: what its module's `show` gave. */
let shown = null;
let turn = 0;

/** What a view gets beside the state: the newest status of the server, and where to wait for the first. */
const server = { status: null, first: null };
server.first = new Promise((resolve) => {
  header.start((status) => {
    server.status = status;
    resolve(status);
    shown?.told?.(status);
  });
});

async function show(now, before) {
  if (shown !== null && before?.view === now.view && shown.update(now)) return;
  turn += 1;
  const mine = turn;
  shown?.leave();
  shown = null;
  try {
    const view = await VIEWS[now.view]();
    if (mine !== turn) return;
    shown = view.show(main, now, server);
  } catch (error) {
    main.replaceChildren(failed(error, () => location.reload()));
    return;
  }
  if (before) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

document.getElementById("home").addEventListener("click", (event) => {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  state.go({ view: "series", search: "", sort: "name", series: "" });
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea");
  if (event.key !== "/" || typing || event.metaKey || event.ctrlKey || event.altKey) return;
  const search = document.getElementById("search");
  if (search === null) return;
  event.preventDefault();
  search.focus();
  search.select();
});

state.listen(show);
show(state.state(), null);
