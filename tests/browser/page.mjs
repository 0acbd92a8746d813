// The page in a real Chromium, against a server with data: what tests/browser.rs runs.
//
//   node page.mjs <address of the server> <folder for screenshots>
//
// TEST_CHROMIUM is the browser, TEST_PLAYWRIGHT the folder of the package playwright-core. What the page shows is held
// to what the API answers. Ends with status 1 at the first thing that is not as it must be.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [address, folder] = process.argv.slice(2);
const origin = new URL(address).origin;
const { chromium } = await import(pathToFileURL(join(process.env.TEST_PLAYWRIGHT, "index.mjs")).href);
mkdirSync(folder, { recursive: true });

/** Anything the browser complained of, and any request that left the origin. */
const complaints = [];

const browser = await chromium.launch({
  executablePath: process.env.TEST_CHROMIUM,
  // Containers run as root and with a small /dev/shm.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"],
});

async function open(settings = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ...settings });
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  // A busy machine is no failure; what is judged is what is there in the end.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !unknown(message)) complaints.push(`${message.type()}: ${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complaints.push(`thrown: ${error.stack}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${origin}/`) && !request.url().startsWith("data:")) complaints.push(`left the origin: ${request.url()}`);
  });
  return page;
}

/** A series that nobody knows: the browser complains of every 404, and here it is what is asked for. */
const NOBODY = "00000000000000ff";
const unknown = (message) => message.text().includes("404") && message.location().url.includes(`/${NOBODY}`);

const ask = async (path) => (await fetch(`${origin}/api/v1/${path}`)).json();
const rowsOf = (page) => page.locator("table.series tbody tr:not(.waiting)");
const idsOf = (page) => page.locator("table.series tbody a[data-series]").evaluateAll((links) => links.map((link) => link.dataset.series));

/** The series the API answers with, in its order. */
const answered = async (parameters) => (await ask(`windows?${query({ limit: 100, ...parameters })}`)).data.map((row) => row.series);

/** Waits until the table shows what the API answers. Live numbers may change between the two, and their order: then once more. */
async function agrees(page, parameters, what) {
  for (let left = 5; left > 0; left -= 1) {
    try {
      await shows(page, await answered(parameters), what, left === 1 ? 60_000 : 10_000);
      return;
    } catch (error) {
      if (left === 1) throw error;
      await page.reload();
    }
  }
}

/** Waits until the table shows these series in this order. */
async function shows(page, ids, what, timeout = 60_000) {
  try {
    await page.waitForFunction((wanted) => {
      const shown = [...document.querySelectorAll("table.series tbody a[data-series]")].map((link) => link.dataset.series);
      return !document.querySelector("table.series[aria-busy]") && JSON.stringify(shown) === JSON.stringify(wanted);
    }, ids, { timeout });
  } catch {
    assert.deepEqual(await idsOf(page), ids, what);
  }
}

/** Whether the chart has pixels of its own: not all the same. */
const inked = (page) => page.locator(".plot canvas").evaluate((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0) colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
  return colours.size;
});

const shot = (page, name) => page.screenshot({ path: join(folder, `${name}.png`), fullPage: !name.includes("first") });
const done = (what) => console.log(`ok: ${what}`);
const query = (parameters) => new URLSearchParams(parameters).toString();

const status = await ask("status");
const window = status.windows[0].length;

async function table() {
  const page = await open();
  const began = performance.now();
  await page.goto(address);
  const first = await ask(`windows?${query({ window, limit: 100 })}`);
  await shows(page, first.data.map((row) => row.series), "the first page");
  console.log(`first view after ${Math.round(performance.now() - began)} ms`);
  await page.locator("#server-ready.good").waitFor();
  assert.equal(await page.locator("#server-series").textContent(), new Intl.NumberFormat("en").format(status.series));
  const { exceeded, estimate } = status.rows_per_day;
  assert.equal(await page.locator("#warning").isVisible(), exceeded, "the warning");
  if (exceeded) {
    assert.match(await page.locator("#warning").textContent(), new RegExp(`${new Intl.NumberFormat("en").format(estimate)} rows a day`));
    const { retention, retention_fits: fits } = status.rows_per_day;
    const room = fits ? `room for all that ${retention} ` : "days of them, not for";
    assert.ok((await page.locator("#warning").textContent()).includes(room), room);
    done("too many rows a day are told");
  }
  await shot(page, "series-light-1280-first");
  done("the table shows what the API answers");

  if (first.next) {
    await page.locator("#more").click();
    const second = await ask(`windows?${query({ window, limit: 100, cursor: first.next })}`);
    await shows(page, [...first.data, ...second.data].map((row) => row.series), "two pages");
    done("more shows the page after the first");
  }
  return page;
}

async function searched(page) {
  // Two words: the name of one of the series and one of its labels; case does not matter.
  const some = (await ask(`windows?${query({ window, limit: 60 })}`)).data.at(-1);
  const [label, value] = Object.entries(some.labels)[0];
  const search = `${some.name.toUpperCase()} ${label}=${value}`;
  const found = await ask(`windows?${query({ window, search, limit: 100 })}`);
  assert.ok(found.data.some((row) => row.series === some.series), "the API finds the series");
  await page.keyboard.press("/");
  await page.keyboard.type(search);
  await shows(page, found.data.map((row) => row.series), "a search");
  await page.reload();
  await shows(page, found.data.map((row) => row.series), "a search after a reload");
  assert.equal(await page.locator("#search").inputValue(), search);
  await page.locator("#search").fill("nothing-has-this-name");
  await page.getByText("No series matches").waitFor();
  await shot(page, "nothing-1280-first");
  await page.getByRole("button", { name: "Clear the search" }).click();
  await shows(page, (await ask(`windows?${query({ window, limit: 100 })}`)).data.map((row) => row.series), "the search cleared");
  done("search, its reload, and nothing found");
}

async function sorted(page) {
  const other = status.windows[1]?.length ?? window;
  await page.getByRole("radio", { name: other, exact: true }).check();
  for (const [button, sort] of [["Max", "-max"], ["Max", "max"], ["Std", "-std"]]) {
    await page.locator("thead").getByRole("button", { name: button }).click();
    await agrees(page, { window: other, sort }, `sorted by ${sort}`);
    const direction = sort.startsWith("-") ? "descending" : "ascending";
    assert.equal(await page.locator(`th[aria-sort=${direction}]`).count(), 1, sort);
  }
  await page.reload();
  await agrees(page, { window: other, sort: "-std" }, "sorted, after a reload");
  assert.ok(await page.getByRole("radio", { name: other, exact: true }).isChecked(), "the window after a reload");
  await shot(page, "sorted-light-1280-first");
  done("sort and window, kept by a reload");
}

/** A whole row opens its series, by mouse and by keyboard; text can be marked in it, and its link is one. */
async function opened(page) {
  const before = page.url();
  const ids = await idsOf(page);
  const opens = async (id, how) => {
    await page.waitForFunction((wanted) => location.search.includes(`series=${wanted}`), id).catch(() => assert.fail(`${how} opens ${id}: ${page.url()}`));
    await page.goBack();
    await page.waitForFunction((wanted) => location.href === wanted, before);
    await page.locator("table.series:not([aria-busy]) a[data-series]").first().waitFor();
  };
  for (const cell of ["td.max", "td.at", "th.name"]) {
    const row = rowsOf(page).filter({ has: page.locator(`[data-series="${ids[2]}"]`) });
    // Of the name's cell the corner, where there is neither its link nor a label.
    const { width, height } = await row.locator(cell).boundingBox();
    await row.locator(cell).click({ position: { x: width - 3, y: height - 3 } });
    await opens(ids[2], `a click on ${cell}`);
  }
  const links = page.locator("table.series tbody a[data-series]");
  await links.first().focus();
  await page.keyboard.press("ArrowDown");
  const second = await page.evaluate(() => document.activeElement.dataset.series);
  assert.equal(second, (await idsOf(page))[1], "an arrow goes to the next row");
  await page.keyboard.press("Enter");
  await opens(second, "Enter");
  const [tab] = await Promise.all([page.context().waitForEvent("page"), links.first().click({ button: "middle" })]);
  await tab.waitForURL(/series=/);
  await tab.close();
  assert.equal(page.url(), before, "a middle click opens another tab");
  // A number is marked from one end of its cell to the other.
  const box = await rowsOf(page).first().locator("td.avg").boundingBox();
  await page.mouse.move(box.x + 1, box.y + 12);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width - 1, box.y + 14, { steps: 4 });
  await page.mouse.up();
  assert.equal(page.url(), before, "marking a number opens nothing");
  assert.notEqual(await page.evaluate(() => String(getSelection())), "", "a number can be marked");
  await page.mouse.click(4, 4);
  done("a row opens its series");
}

async function one(page) {
  const before = page.url();
  const ids = await idsOf(page);
  await page.locator("table.series tbody a[data-series]").first().click();
  await page.locator(".plot:not([aria-busy]) canvas").waitFor();
  assert.match(page.url(), new RegExp(`series=${ids[0]}`));
  assert.ok((await inked(page)) > 2, "the chart has pixels");
  const at = page.url();
  await page.reload();
  await page.locator(".plot:not([aria-busy]) canvas").waitFor();
  assert.equal(page.url(), at, "a reload keeps the address");
  for (const range of ["24h", "all"]) {
    await page.getByRole("radio", { name: range, exact: true }).check();
    await page.locator(".plot:not([aria-busy]) canvas").waitFor();
    await page.waitForFunction((wanted) => location.search.includes(`range=${wanted}`), range);
  }
  await page.locator(".plot").focus();
  await page.keyboard.press("ArrowLeft");
  assert.match(await page.locator(".read").textContent(), /avg/, "the keyboard moves the cursor");
  await page.locator("details.data summary").click();
  await page.locator("details.data tbody tr").nth(10).waitFor();
  await page.locator("details.data summary").click();
  const explained = await page.getByRole("link", { name: "why the newest number" }).getAttribute("href");
  const told = await (await fetch(new URL(explained, `${origin}/`))).json();
  assert.equal(told.series, ids[0]);
  await shot(page, "one-light-1280");
  await page.goBack();
  await page.goBack();
  await page.goBack();
  await page.waitForFunction((wanted) => location.href === wanted, before);
  await agrees(page, { window: status.windows[1]?.length ?? window, sort: "-std" }, "the table after going back");
  done("one series: chart, ranges, data, explain, reload, back");
}

/** What was refused and revised is shown as the API tells it. */
async function refused(page) {
  const rejects = (await ask("rejects?by=series,reason&limit=10000")).data.filter((row) => row.series !== null);
  if (rejects.length === 0) return;
  await page.goto(`${address}?${query({ view: "one", series: rejects[0].series, range: "all" })}`);
  await page.locator(".two code", { hasText: rejects[0].reason }).first().waitFor();
  done("refused samples are listed");
}

async function revised(page) {
  const some = (await ask("windows?min_revision=1&start=0&limit=1")).data[0];
  if (!some) return;
  const told = (await ask(`windows/${some.series}/corrections?${query({ window: some.window, limit: 20 })}`)).data;
  assert.ok(told.length > 0, "the API tells of revisions");
  await page.goto(`${address}?${query({ view: "one", series: some.series, window: some.window, range: "all" })}`);
  const rows = page.locator("section", { hasText: "Revisions" }).last().locator("tbody tr");
  await rows.first().waitFor();
  const ends = await rows.locator("th").evaluateAll((cells) => cells.map((cell) => cell.title));
  assert.deepEqual(ends, told.map((row) => row.at), "the revisions as the API tells them");
  await shot(page, "revised-light-1280");
  done("revisions are listed");
}

/** What kind of series one is: its verdicts in words, and a stem for each lag. */
async function kind(page) {
  const all = (await ask("profiles?limit=1000")).data;
  const some = all.find((row) => row.seasonal) ?? all.find((row) => row.status === "ok");
  if (!some) return;
  await page.goto(`${address}?${query({ view: "one", series: some.series })}`);
  const card = page.locator("section.kind");
  const sentences = card.locator("ul li");
  await sentences.first().waitFor();
  const words = (await sentences.allTextContents()).join(" ");
  assert.ok(words.includes(some.stationary ? "Stationary:" : "Not stationary:"), words);
  assert.ok(words.includes(some.seasonal ? "Seasonal: it repeats" : "seasonal"), words);
  const stems = await card.locator("path.stem").getAttribute("d");
  assert.equal(stems.split("M").length - 1, some.acf.length - 1, "a stem for each lag but 0");
  if (some.period_seconds) {
    const parts = page.locator("svg.parts");
    await parts.waitFor();
    for (const part of ["value", "trend", "season", "rest"]) {
      const drawn = await parts.locator(`path.${part}`).getAttribute("d");
      assert.ok(drawn.split("L").length > 100, `${part}: ${drawn}`);
    }
  }
  await shot(page, "kind-light-1280");
  await page.goto(`${address}?${query({ search: some.name })}`);
  const badges = page.locator(`a[data-series="${some.series}"] ~ .badges .badge`);
  await badges.first().waitFor();
  const told = (await badges.allTextContents()).join(" ");
  for (const word of ["stationary", "seasonal", "autocorrelated"]) {
    assert.equal(told.includes(word), some[word] === true, `${word}: ${told}`);
  }
  await shot(page, "badges-light-1280");
  done("the kind of a series is told");
}

/** The description of the API: every operation is in it, and one can be tried. */
async function described(page) {
  const { paths } = await ask("openapi.json");
  const ids = Object.values(paths).flatMap(Object.values).map((operation) => operation.operationId);
  await page.goto(address);
  await page.getByRole("link", { name: "API", exact: true }).click();
  await page.locator(".opblock").first().waitFor();
  assert.equal(await page.locator(".opblock").count(), ids.length, "every operation is described");
  await shot(page, "docs-light-1280");
  await page.locator("#operations-Results-names .opblock-summary-control").click();
  const names = page.locator("#operations-Results-names");
  await names.getByRole("button", { name: "Try it out" }).click();
  await names.getByRole("button", { name: "Execute" }).click();
  await names.locator(".live-responses-table .response-col_status", { hasText: "200" }).first().waitFor();
  assert.match(await names.locator(".request-url").textContent(), new RegExp(`${origin}/api/v1/names`));
  await shot(page, "docs-tried-light-1280");
  done("the API is described, and can be tried there");
}

async function looks() {
  const some = (await ask(`windows?${query({ window, sort: "-std", limit: 1 })}`)).data[0];
  const views = { series: "", one: `?${query({ view: "one", series: some.series, range: "all" })}` };
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      const mobile = width < 600 ? { isMobile: true, hasTouch: true, deviceScaleFactor: 2 } : {};
      const page = await open({ viewport: { width, height: 900 }, colorScheme, ...mobile });
      for (const [name, search] of Object.entries(views)) {
        await page.goto(`${address}${search}`);
        await page.locator(name === "one" ? ".plot:not([aria-busy]) canvas" : "table.series:not([aria-busy]) a").first().waitFor();
        if (name === "one") assert.ok((await inked(page)) > 2, "the chart has pixels");
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.ok(over <= 0, `${name} at ${width} px is ${over} px too wide`);
        const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const bright = background.match(/\d+/g).slice(0, 3).every((part) => Number(part) > 128);
        assert.equal(bright, colorScheme === "light", `${colorScheme}: ${background}`);
        // A rate needs two answers.
        await page.waitForFunction(() => document.getElementById("server-rate").textContent !== "–");
        await shot(page, `${name}-${colorScheme}-${width}${name === "series" ? "-first" : ""}`);
      }
      await page.context().close();
    }
  }
  done("both views, light and dark, at 1280 and 390 px");
}

async function coloured(page) {
  await page.goto(address);
  await page.getByRole("button", { name: "Switch to dark colours" }).click();
  await page.reload();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark", "the choice is kept");
  await page.getByRole("button", { name: "Switch to light colours" }).click();
  done("the choice of colours is kept");
}

/** A bad answer is told in words, and what labels say is never markup. */
async function troubled(page) {
  await page.goto(`${address}?${query({ view: "one", series: NOBODY })}`);
  await page.getByRole("alert").first().waitFor();
  assert.match(await page.getByRole("alert").first().textContent(), /there is no series/);
  const markup = await ask(`windows?${query({ window, search: "<img", limit: 1 })}`);
  done("a bad question is answered in words");
  if (markup.data.length === 0) return;
  await page.goto(`${address}?${query({ search: "<img" })}`);
  await page.locator(".labels", { hasText: "<img" }).first().waitFor();
  assert.equal(await page.locator("main img").count(), 0, "a label became markup");
  await page.locator("table.series tbody a[data-series]").first().click();
  await page.locator(".chips a", { hasText: "<img" }).waitFor();
  assert.equal(await page.locator("main img").count(), 0, "a label became markup");
  done("a label with markup is text");
}

try {
  const page = await table();
  await searched(page);
  await sorted(page);
  await opened(page);
  await one(page);
  await refused(page);
  await revised(page);
  await kind(page);
  await described(page);
  await coloured(page);
  await troubled(page);
  await looks();
  assert.deepEqual(complaints, [], "the browser complained");
  done("no error in the console, no violation of the policy, no request to elsewhere");
} finally {
  if (complaints.length > 0) console.log(complaints.join("\n"));
  await browser.close();
}
