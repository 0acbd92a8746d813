// The chart of one series: the mean with a band from min to max, by uPlot; gaps stay gaps.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { moment, number } from "./format.js";

const HEIGHT = 320;
const HEIGHT_NARROW = 240;
/** Clocks differ by leap seconds and rows by nothing: what is this much farther than a hop is a gap. */
const GAP_HOPS = 1.5;

/** Columns for uPlot from rows in the order of time; a row of nothing stands in each gap. */
export function columns(rows, hopMs) {
  const [at, max, avg, min] = [[], [], [], []];
  let before = null;
  for (const row of rows) {
    if (before !== null && row.at_ms - before > hopMs * GAP_HOPS) {
      at.push((before + hopMs) / 1_000);
      for (const column of [max, avg, min]) column.push(null);
    }
    at.push(row.at_ms / 1_000);
    max.push(row.max);
    avg.push(row.avg);
    min.push(row.min);
    before = row.at_ms;
  }
  return [at, max, avg, min];
}

/** The colour a class of the style sheet gives, as canvas wants it. */
function colour(place, name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  place.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function options(place, width, told) {
  const [line, band, edge, grid, text] = ["line", "band", "edge", "grid", "text"].map((name) => colour(place, name));
  const font = `12px ${getComputedStyle(place).fontFamily}`;
  const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
  const narrow = width < 500;
  return {
    width,
    height: narrow ? HEIGHT_NARROW : HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), "Etc/UTC"),
    legend: { show: false },
    cursor: { y: false, points: { size: 7, fill: line, stroke: line }, drag: { x: true, y: false } },
    padding: [12, 16, 0, 4],
    series: [
      {},
      { label: "max", stroke: edge, width: 1, dash: [2, 3], points: { show: false } },
      { label: "avg", stroke: line, width: 1.75, points: { show: false } },
      { label: "min", stroke: edge, width: 1, dash: [2, 3], points: { show: false } },
    ],
    bands: [{ series: [1, 3], fill: band }],
    axes: [
      { ...axis, size: 34, space: narrow ? 64 : 80, values: times },
      { ...axis, size: (_, values) => 18 + 7 * Math.max(3, ...(values ?? []).map((value) => value.length)), values: (_, ticks) => ticks.map(number) },
    ],
    hooks: { setCursor: [(plot) => told(plot.cursor.idx ?? null)] },
  };
}

/** Clock times; the date where a day begins. */
function times(_, ticks) {
  let day = "";
  return ticks.map((seconds, i) => {
    const iso = new Date(seconds * 1_000).toISOString();
    const [date, clock] = [iso.slice(5, 10), iso.slice(11, seconds % 60 === 0 ? 16 : 19)];
    const turned = date !== day && (i > 0 || clock === "00:00");
    day = date;
    return turned ? (clock === "00:00" ? date : `${date} ${clock}`) : clock;
  });
}

/** A chart in `place`; `told` hears which point the cursor is at (an index into the columns), or null. */
export class Chart {
  constructor(place, told) {
    Object.assign(this, { place, told, plot: null, data: null });
    this.redraw = () => {
      this.plot?.destroy();
      this.plot = null;
      if (this.data) this.draw(this.data);
    };
    this.sizes = new ResizeObserver(() => this.fit());
    this.sizes.observe(place);
    addEventListener("themechange", this.redraw);
    place.addEventListener("keydown", (event) => this.key(event));
  }

  draw(data) {
    this.data = data;
    if (this.plot !== null) this.plot.setData(data);
    else this.plot = new uPlot(options(this.place, this.place.clientWidth, this.told), data, this.place);
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot === null || width === 0 || width === this.plot.width) return;
    this.plot.setSize({ width, height: width < 500 ? HEIGHT_NARROW : HEIGHT });
  }

  /** The cursor by keys: a point to either side, ten with shift, the ends. */
  key(event) {
    const last = (this.data?.[0].length ?? 0) - 1;
    if (this.plot === null || last < 0) return;
    const now = this.plot.cursor.idx ?? last;
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const idx = Math.min(last, Math.max(0, to));
    const { left, top } = { left: this.plot.valToPos(this.data[0][idx], "x"), top: 10 };
    this.plot.setCursor({ left, top });
  }

  leave() {
    this.sizes.disconnect();
    removeEventListener("themechange", this.redraw);
    this.plot?.destroy();
    this.plot = null;
  }
}

/** What the chart shows, in words. */
export function summary(rows, window) {
  if (rows.length === 0) return "No rows in this range";
  const finite = (key) => rows.map((row) => row[key]).filter((value) => value !== null);
  const least = finite("min").reduce((a, b) => Math.min(a, b), Infinity);
  const most = finite("max").reduce((a, b) => Math.max(a, b), -Infinity);
  const last = rows.at(-1);
  return `Mean over ${window} with a band from min to max: ${rows.length} points from ${moment(rows[0].at_ms)} to ${moment(last.at_ms)}, ` +
    `between ${number(Number.isFinite(least) ? least : null)} and ${number(Number.isFinite(most) ? most : null)}, last mean ${number(last.avg)}`;
}
