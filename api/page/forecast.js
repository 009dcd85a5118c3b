// One series: its past, its forecast, what is sold so far.

import * as api from "./api.js";
import { address } from "./address.js";
import { drawSeries } from "./chart.js";
import { choices, failure, h, refill, setText, skeleton, table } from "./dom.js";
import * as f from "./format.js";
import { advantage } from "./quality.js";

const HISTORY = 366;
const HORIZONS = { hour: [24, 48, 72], day: [7, 14, 28], week: [4, 13, 26] };
const LEGEND = [
  ["units", "Units sold"], ["censored", "Stock-out: at least this"], ["missing", "Missing"],
  ["promotion", "Promotion"], ["sold", "Sold so far"], ["mean", "Mean"], ["median", "Median"],
  ["band", "80 % band"],
];

/** The view; it keeps its elements, so that a refresh moves nothing. */
export function forecastView() {
  const title = h("h1", {}, " ");
  const where = h("p", { class: "where" }, " ");
  const state = h("p", { class: "state", role: "status" }, " ");
  const figures = h("dl", { class: "figures" });
  const controls = h("div", { class: "controls" });
  const chart = h("div", { class: "chart", id: "chart", role: "img", "aria-label": "Chart" });
  const unit = h("p", { class: "chart-unit" }, " ");
  const note = h("p", { class: "field-error", role: "alert" });
  const legend = h("ul", { class: "legend", "aria-hidden": "true" },
    LEGEND.map(([kind, text]) => h("li", { "data-kind": kind }, text)));
  const steps = h("div", { class: "steps" });
  const facts = h("dl", { class: "facts" });
  const body = h("div", { class: "body" },
    figures,
    h("section", { class: "plot", "aria-label": "History and forecast" },
      h("div", { class: "plot-head" }, unit, controls), note, chart, legend),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Forecast"), steps),
      h("section", {}, h("h2", {}, "Where it comes from"), facts)));
  const fault = h("div", {});
  const root = h("article", { class: "series" },
    h("header", { class: "series-head" }, h("div", {}, title, where), state), fault, body);

  let shown = null; // {forecast, history, quality} of the series in `params`
  let params = {};
  let said = ""; // the fault that is shown

  function clear() {
    shown = null;
    setText(state, " ");
    state.dataset.state = "loading";
    refill(figures, ...[1, 2, 3, 4].map(() => h("div", {}, skeleton(2))));
    refill(steps, skeleton(8));
    refill(facts, skeleton(5));
    refill(controls);
    setText(unit, " ");
    chart.classList.add("loading");
    body.hidden = false;
    refill(fault);
  }

  function paintFigures({ forecast, quality }) {
    const known = forecast.steps.filter((step) => step.sold != null);
    const now = Date.now();
    const open = known.find((s) => Date.parse(s.start) <= now && now < Date.parse(s.end))
      || known.at(-1);
    const total = forecast.steps.reduce((sum, step) => sum + step.mean, 0);
    const length = forecast.steps.length;
    const digits = f.decimals(forecast.steps.flatMap((step) => [step.mean, total]));
    const better = advantage(quality, length);
    const items = [
      open
        ? ["Sold so far", f.number(open.sold), f.bucket(open.start, forecast.bucket)]
        : ["Sold so far", f.NONE, "no bucket is open yet"],
      ["Remains", open ? f.number(open.remains, digits) : f.NONE,
        open ? `of ${f.number(open.mean, digits)} expected` : " "],
      [`Next ${f.buckets(length, forecast.bucket)}`, f.number(total, digits), "units, sum of the means"],
      better
        ? [`${better.gain < 0 ? "Worse" : "Better"} than seasonal naive`,
          f.percent(Math.abs(better.gain), 0),
          h("a", { href: address("quality", { horizon: better.horizon }) },
            `RMSSE, ${f.buckets(better.horizon, forecast.bucket)} ahead, all series`)]
        : ["Better than seasonal naive", f.NONE, "no comparison yet"],
    ];
    refill(figures, ...items.map(([name, value, more]) =>
      h("div", {}, h("dt", {}, name), h("dd", { class: "figure num" }, value),
        h("dd", { class: "more" }, more))));
  }

  function paintState({ forecast }) {
    const as = `as of ${f.moment(forecast.as_of, forecast.timezone)}`;
    const age = `${f.duration(forecast.age_s)} old`;
    const [kind, text] = forecast.frozen
      ? ["frozen", `Frozen by an operator: ${as}. Learning goes on; this forecast stays.`]
      : forecast.stale
        ? ["stale", `Stale: ${as}, ${age}. No newer snapshot has come; see Status.`]
        : ["fresh", `Up to date: ${as}`];
    state.dataset.state = kind;
    setText(state, text);
  }

  function paintControls({ forecast }) {
    const length = forecast.steps.length;
    const presets = HORIZONS[forecast.bucket];
    const lengths = [...new Set([...presets, length])].sort((a, b) => a - b);
    const to = (more) => address("forecast", { ...params, ...more });
    refill(controls,
      choices("Past", [
        { text: "Recent", on: !wholePast(), href: to({ past: "recent" }) },
        { text: "All", on: wholePast(), href: to({ past: "all" }) },
      ]),
      choices("Ahead", lengths.map((n) => ({
        text: f.buckets(n, forecast.bucket), on: n === length, href: to({ horizon: n }),
      }))));
  }

  function paintSteps({ forecast }) {
    const all = forecast.steps;
    const digits = f.decimals(all.flatMap((s) => [s.mean, s.median, ...Object.values(s.quantiles)]));
    const open = all.some((step) => step.sold != null);
    const amount = (head, value, d = digits) =>
      ({ head, kind: "num", cell: (step) => f.number(value(step), d) });
    refill(steps, table("Forecast by bucket", [
      { head: forecast.bucket[0].toUpperCase() + forecast.bucket.slice(1),
        cell: (step) => f.bucket(step.start, forecast.bucket) },
      { ...amount("Mean", (s) => s.mean), kind: "num strong" },
      amount("Median", (s) => s.median),
      amount("10 %", (s) => s.quantiles["0.1"]),
      amount("90 %", (s) => s.quantiles["0.9"]),
      ...(open ? [amount("Sold", (s) => s.sold, f.decimals(all.map((s) => s.sold ?? 0))),
        amount("Remains", (s) => s.remains)] : []),
    ], all));
  }

  function paintFacts({ forecast, history }) {
    const count = (status) => history.items.filter((item) => item.status === status).length;
    const length = forecast.bucket;
    const items = [
      ["Last closed", f.bucket(forecast.origin, length)],
      ["Model", forecast.model],
      ["Snapshot", h("a", { class: "mono", href: address("snapshots", { id: forecast.snapshot }) },
        forecast.snapshot)],
      ["As of", f.moment(forecast.as_of, forecast.timezone)],
      ["Time zone", forecast.timezone],
      ["Past kept", `${f.buckets(history.items.length, length)}: ${count("observed")} observed, `
        + `${count("missing")} missing, ${count("censored")} under a stock-out`],
    ];
    refill(facts, ...items.map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  const wholePast = () =>
    params.past ? params.past === "all" : !matchMedia("(max-width: 640px)").matches;

  async function paintChart() {
    const { forecast, history, plans } = shown;
    setText(unit, `Units per ${forecast.bucket}`);
    const last = forecast.steps.at(-1);
    chart.setAttribute("aria-label",
      `Chart of ${history.items.length} past and ${forecast.steps.length} forecast buckets, up to `
      + `${f.bucket(last.start, forecast.bucket)}; the table below has the forecast's numbers.`);
    const key = JSON.stringify([params.store, params.product, wholePast(), forecast.steps.length]);
    try {
      await drawSeries(chart, { forecast, history, plans, key, all: wholePast() });
      chart.classList.remove("loading");
    } catch (error) {
      chart.classList.remove("loading");
      chart.replaceChildren(h("p", { class: "muted" }, `No chart: ${error.message}.`));
    }
  }

  function paintFault(problem, retry) {
    // Said once: a refresh that fails alike must not be announced, nor take the focus, again.
    const what = JSON.stringify([problem.status, problem.detail, params]);
    if (fault.hasChildNodes() && what === said) return;
    said = what;
    refill(fault);
    setText(note, "");
    if (problem.status === 422) {
      body.hidden = !shown;
      if (shown) setText(note, problem.detail);
      else {
        const { store, product } = params;
        refill(fault, failure(problem),
          h("p", { class: "way-out" }, h("a", { href: address("forecast", { store, product }) },
            "Show as far ahead as usual")));
      }
    } else if (problem.status === 404) {
      body.hidden = true;
      setText(state, " ");
      state.dataset.state = "loading";
      // A store's name may hold a slash too: what follows this store's name is the product.
      const split = (name) => {
        const cut = name.startsWith(`${params.store}/`) ? params.store.length : name.indexOf("/");
        return { store: name.slice(0, cut), product: name.slice(cut + 1) };
      };
      const near = problem.near.map(split);
      refill(fault, h("section", { class: "notice", role: "alert" },
        h("h2", {}, "No such series"),
        h("p", {}, problem.detail),
        near.length
          ? [h("p", {}, "Perhaps you mean:"),
            h("ul", { class: "near" }, near.map(({ store, product }) =>
              h("li", {}, h("a", { href: address("forecast", { store, product }) }, product),
                h("span", { class: "muted" }, ` · ${store}`))))]
          : h("p", { class: "muted" }, "Search for it above. A new series is listed once its "
            + "first bucket closes.")));
    } else {
      body.hidden = !shown;
      refill(fault, failure(problem, retry));
    }
  }

  async function load(signal) {
    const { store, product, horizon } = params;
    try {
      const [forecast, history, quality, plans] = await Promise.all([
        api.forecast(store, product, horizon, signal),
        api.history(store, product, HISTORY, signal),
        // The forecast is shown even where its scores cannot be.
        api.quality(signal).catch(() => ({ rows: [] })),
        api.plans(store, product, signal).catch(() => ({ items: [] })),
      ]);
      if (signal.aborted) return;
      shown = { forecast, history, quality, plans: plans.items };
    } catch (problem) {
      if (signal.aborted) return;
      paintFault(problem, () => load(signal));
      return;
    }
    refill(fault);
    body.hidden = false;
    setText(note, "");
    setText(where, [store, shown.forecast.category].filter(Boolean).join(" · "));
    paintState(shown);
    paintFigures(shown);
    paintControls(shown);
    paintSteps(shown);
    paintFacts(shown);
    await paintChart();
  }

  return {
    root,
    title: () => params.product,
    async show(next, signal) {
      const same = next.store === params.store && next.product === params.product;
      params = next;
      if (!same || !shown) clear();
      setText(title, params.product);
      if (!same || !shown) setText(where, params.store);
      await load(signal);
    },
    refresh: load,
    recolour: () => shown && paintChart(),
  };
}
