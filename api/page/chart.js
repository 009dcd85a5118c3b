// Charts by Plotly, drawn in place: the same traces in the same order, so that what the user has
// zoomed to stays. Names from data never come here as markup.

import { h } from "./dom.js";
import { otherYear, wall } from "./format.js";

const WIDTH_MS = { hour: 3_600_000, day: 86_400_000, week: 604_800_000 };
//: Buckets of the past that are shown at first where there is little room.
const RECENT = { hour: 72, day: 28, week: 26 };
const HOVER = { hour: "%a %-d %b %Y, %H:%M", day: "%a %-d %b %Y", week: "Week of %-d %b %Y" };
//: Where buckets are of another year, weeks apart, it stands below.
const TICKS = { hour: "%H:%M\n%-d %b", day: "%-d %b", week: "%-d %b\n%Y" };
const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  toImageButtonOptions: { filename: "salescast", scale: 2 },
};

let loading = null;

/** Plotly, loaded once, when a chart is first wanted: it is far larger than the page. */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", {
      src: "static/plotly.min.js",
      onload: () => resolve(window.Plotly),
      onerror: () => {
        loading = null;
        reject(new Error("the chart library could not be loaded"));
      },
    });
    document.head.append(script);
  });
  return loading;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

const coarse = () => matchMedia("(pointer: coarse)").matches;
const shift = (iso, ms) => new Date(Date.parse(`${wall(iso)}Z`) + ms).toISOString().slice(0, 19);

function frame(colour) {
  return {
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("muted") },
    margin: { l: 48, r: 8, t: 28, b: 44 },
    showlegend: false,
    hoverlabel: {
      bgcolor: colour("surface"), bordercolor: colour("rule"),
      font: { color: colour("ink"), size: 12 },
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("accent") },
    // A finger scrolls the page; only a mouse draws a zoom.
    dragmode: coarse() ? false : "zoom",
  };
}

const grid = (colour) => ({
  gridcolor: colour("grid"), zerolinecolor: colour("rule"), linecolor: colour("rule"),
  tickcolor: colour("rule"), fixedrange: true,
});

/** The share of a bucket that is planned to be promoted: of the plans that cover its middle, the
 * most particular one's that tells it. */
function planned(step, plans) {
  const middle = (Date.parse(step.start) + Date.parse(step.end)) / 2;
  const rank = (plan) => (plan.product !== null ? 4 : plan.category !== null ? 2 : 0)
    + (plan.store !== "*" ? 1 : 0);
  const found = plans
    .filter((plan) => plan.promotion !== null && Date.parse(plan.start) <= middle
      && middle < Date.parse(plan.end))
    .sort((a, b) => rank(b) - rank(a) || b.revision - a.revision || (b.id > a.id ? 1 : -1));
  return found.length ? found[0].promotion : 0;
}

/** History, what is sold so far, and the forecast with its band, as Plotly's traces. */
function seriesTraces(forecast, history, plans, colour) {
  const width = WIDTH_MS[forecast.bucket];
  const steps = forecast.steps;
  const past = history.items;
  const missing = past.filter((item) => item.status === "missing");
  const promoted = [
    ...past,
    ...steps.map((step) => ({ start: step.start, promotion: planned(step, plans) })),
  ].filter((item) => item.promotion > 0);
  const open = steps.filter((step) => step.sold != null);
  const starts = (items) => items.map((item) => wall(item.start));
  const x = starts(steps);
  const bars = (name, items, value, marker, more = {}) => ({
    type: "bar", name, x: starts(items), y: items.map(value), width: 0.8 * width, marker,
    hovertemplate: "%{y:.4~g}", ...more,
  });
  const line = (name, y, style) => ({
    type: "scatter", mode: "lines", name, x, y, hovertemplate: "%{y:.1f}", ...style,
  });
  // Missing buckets and promotions fill the height, on an axis of their own behind the units.
  const behind = { yaxis: "y2", width: undefined };
  return [
    bars("Promotion", promoted, () => 1,
      { color: colour("promotion"), opacity: promoted.map((item) => 0.25 + 0.6 * item.promotion) },
      { ...behind, width, customdata: promoted.map((item) => item.promotion),
        hovertemplate: "%{customdata:.0%} of the bucket" }),
    bars("Missing", missing, () => 1, {
      color: "rgba(0,0,0,0)",
      pattern: { shape: "/", fgcolor: colour("hatch"), size: 6, solidity: 0.25 },
    }, { ...behind, width, hovertemplate: "not known" }),
    bars("Units", past.filter((item) => item.status === "observed"), (item) => item.units,
      { color: colour("bar") }),
    bars("Stock-out", past.filter((item) => item.status === "censored"), (item) => item.units, {
      color: colour("surface"),
      line: { color: colour("bar-strong"), width: 1.2 },
      pattern: { shape: "x", fgcolor: colour("bar-strong"), size: 5, solidity: 0.2 },
    }, { hovertemplate: "at least %{y:.4~g}" }),
    bars("Sold so far", open, (step) => step.sold, { color: colour("bar-strong") }),
    line("10 %", steps.map((step) => step.quantiles["0.1"]), { line: { width: 0 } }),
    line("90 %", steps.map((step) => step.quantiles["0.9"]),
      { line: { width: 0 }, fill: "tonexty", fillcolor: colour("band") }),
    line("Median", steps.map((step) => step.median),
      { line: { color: colour("accent"), width: 1.2, dash: "dot" } }),
    line("Mean", steps.map((step) => step.mean), {
      mode: "lines+markers", line: { color: colour("accent"), width: 2 },
      marker: { color: colour("accent"), size: 5 },
    }),
  ];
}

/**
 * Draw a series. `key` names what is shown: while it stays, so does the user's zoom. `all` shows
 * the whole past that is kept, else its newest part.
 */
export async function drawSeries(element, { forecast, history, plans, key, all }) {
  const Plotly = await plotly();
  const colour = colours();
  const width = WIDTH_MS[forecast.bucket];
  const past = all ? history.items : history.items.slice(-RECENT[forecast.bucket]);
  const steps = forecast.steps;
  const first = (past[0] || steps[0]).start;
  const now = shift(steps[0].start, -width / 2);
  await Plotly.react(element, seriesTraces(forecast, history, plans, colour), {
    ...frame(colour),
    uirevision: key,
    barmode: "overlay",
    hovermode: "x unified",
    xaxis: {
      ...grid(colour), type: "date", showgrid: false, fixedrange: false, ticks: "outside",
      range: [shift(first, -width), shift(steps.at(-1).start, width)],
      hoverformat: HOVER[forecast.bucket],
      tickformat: TICKS[forecast.bucket]
        + (otherYear(first) && forecast.bucket !== "week" ? (forecast.bucket === "hour" ? " %Y" : "\n%Y") : ""),
    },
    yaxis: { ...grid(colour), rangemode: "tozero", overlaying: "y2", tickmode: "auto", nticks: 6 },
    yaxis2: { fixedrange: true, range: [0, 1], visible: false },
    shapes: [{
      type: "line", xref: "x", yref: "paper", x0: now, x1: now, y0: 0, y1: 1,
      line: { color: colour("muted"), width: 1, dash: "dot" },
    }],
  }, { ...CONFIG, displayModeBar: coarse() ? false : "hover" });
}

/** Draw a metric by horizon, one line a model; `lines` are {name, colour, dash, wide, values}. */
export async function drawQuality(element, { lines, horizons, bucket, format, key }) {
  const Plotly = await plotly();
  const colour = colours();
  const traces = lines.map((line) => ({
    type: "scatter", mode: "lines+markers", x: horizons.map(String), y: line.values,
    name: line.name.replace(/[<&]/g, (c) => (c === "<" ? "&lt;" : "&amp;")),
    line: { color: colour(line.colour), width: line.wide ? 2.5 : 1.5, dash: line.dash },
    marker: { color: colour(line.colour), size: line.wide ? 7 : 5 },
    hovertemplate: `%{y:${format}}`,
  }));
  await Plotly.react(element, traces, {
    ...frame(colour),
    uirevision: key,
    hovermode: "x unified",
    dragmode: false,
    margin: { l: 56, r: 12, t: 12, b: 44 },
    xaxis: { ...grid(colour), type: "category", showgrid: false, title: { text: bucket } },
    yaxis: { ...grid(colour), tickformat: format, nticks: 6 },
  }, { ...CONFIG, displayModeBar: false });
}

/** Redraw when the colours of the system change. */
export function onColours(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
