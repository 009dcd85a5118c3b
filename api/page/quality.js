// How good the forecasts are, beside seasonal naive.

import * as api from "./api.js";
import { address } from "./address.js";
import { drawQuality } from "./chart.js";
import { choices, failure, h, refill, skeleton, table } from "./dom.js";
import * as f from "./format.js";

const NAIVE = "seasonal_naive";
const METRICS = {
  rmsse: { text: "RMSSE", show: (v) => f.number(v, 3), format: ".2f" },
  wape: { text: "WAPE", show: (v) => f.percent(v), format: ".0%" },
  pinball: { text: "Pinball", show: (v) => f.number(v, 3), format: ".2f" },
  bias: { text: "Bias", show: (v) => f.percent(v, 1, true), format: "+.0%" },
};
const DASHES = ["dash", "dot", "dashdot", "longdash"];
const words = (model) => model.replaceAll("_", " ");

function gain(rows, row, metric) {
  const naive = rows.find((other) => other.model === NAIVE && other.horizon === row.horizon);
  return naive && naive[metric] > 0 && Number.isFinite(row[metric])
    ? 1 - row[metric] / naive[metric] : null;
}

/** How much better than seasonal naive the champion is, at the scored horizon nearest to one. */
export function advantage({ rows }, wanted) {
  const scored = rows
    .filter((row) => row.role === "champion" && row.n > 0)
    .map((row) => ({ horizon: row.horizon, gain: gain(rows, row, "rmsse") }))
    .filter((row) => row.gain !== null)
    .sort((a, b) => Math.abs(a.horizon - wanted) - Math.abs(b.horizon - wanted));
  return scored[0] || null;
}

export function qualityView() {
  const head = h("header", {});
  const controls = h("div", { class: "controls" });
  const chart = h("div", { class: "chart short", id: "quality-chart", role: "img",
    "aria-label": "Chart of the metric by horizon; the table below has its numbers." });
  const legend = h("ul", { class: "legend" });
  const detail = h("div", {});
  const plot = h("section", { class: "plot", "aria-label": "Metric by horizon" },
    h("div", { class: "plot-head" }, h("p", { class: "chart-unit" }, "By horizon"), controls),
    chart, legend);
  const root = h("article", { class: "quality" }, head, plot, detail);
  let rows = null;
  let params = {};

  function paint() {
    const metric = METRICS[params.metric] ? params.metric : "rmsse";
    const horizons = [...new Set(rows.map((row) => row.horizon))].sort((a, b) => a - b);
    const horizon = horizons.find((n) => n === Number(params.horizon)) ?? horizons[0];
    const better = advantage({ rows }, horizon);
    const champion = rows.find((row) => row.role === "champion" && row.horizon === horizon);
    const naive = rows.find((row) => row.model === NAIVE && row.horizon === horizon);
    refill(head,
      h("h1", {}, better
        ? `${f.percent(Math.abs(better.gain), 1)} ${better.gain < 0 ? "worse" : "better"} than `
          + "seasonal naive"
        : "Recent quality"),
      h("p", { class: "lead" }, better && champion && naive
        ? `${words(champion.model)}, ${horizon} ahead: RMSSE ${METRICS.rmsse.show(champion.rmsse)} `
          + `against ${METRICS.rmsse.show(naive.rmsse)}, WAPE ${METRICS.wape.show(champion.wape)} `
          + `against ${METRICS.wape.show(naive.wape)}, over ${f.number(champion.n, 0)} recent forecasts.`
        : "Every forecast is scored when its bucket closes, before it is learned from."));
    const to = (more) => address("quality", { metric, horizon, ...more });
    refill(controls,
      choices("Metric", Object.entries(METRICS).map(([name, { text }]) =>
        ({ text, on: name === metric, href: to({ metric: name }) }))),
      choices("Ahead", horizons.map((n) =>
        ({ text: String(n), on: n === horizon, href: to({ horizon: n }) }))));

    const order = (row) => (row.role === "champion" ? 0 : row.model === NAIVE ? 1 : 2);
    const models = [...new Map([...rows].sort((a, b) => order(a) - order(b)
      || a.model.localeCompare(b.model)).map((row) => [row.model, row])).values()];
    const lines = models.map((model, i) => ({
      name: words(model.model), wide: model.role === "champion",
      colour: model.role === "champion" ? "accent" : model.model === NAIVE ? "ink" : "muted",
      dash: model.role === "champion" ? "solid" : DASHES[(i - 1) % DASHES.length],
      values: horizons.map((n) => rows.find((row) =>
        row.model === model.model && row.horizon === n)?.[metric] ?? null),
    }));
    refill(legend, ...lines.map((line) =>
      h("li", { "data-kind": "line", "data-colour": line.colour, "data-dash": line.dash },
        line.name)));
    drawQuality(chart, { lines, horizons, bucket: "buckets ahead",
      format: METRICS[metric].format, key: metric })
      .then(() => chart.classList.remove("loading"))
      .catch((error) => chart.replaceChildren(h("p", {}, `No chart: ${error.message}.`)));

    const sorted = models.map((model) =>
      rows.find((row) => row.model === model.model && row.horizon === horizon)).filter(Boolean);
    const against = (metricName) => (row) => row.model === NAIVE ? f.NONE
      : f.percent(gain(rows, row, metricName), 1, true);
    refill(detail,
      h("h2", {}, `At ${horizon} ${horizon === 1 ? "bucket" : "buckets"} ahead`),
      table(`Models at ${horizon} ahead`, [
        { head: "Model", cell: (row) => words(row.model) },
        { head: "Role", cell: (row) => row.role },
        { head: "RMSSE", kind: "num", cell: (row) => METRICS.rmsse.show(row.rmsse) },
        { head: "better by", kind: "num strong", cell: against("rmsse") },
        { head: "WAPE", kind: "num", cell: (row) => METRICS.wape.show(row.wape) },
        { head: "better by", kind: "num strong", cell: against("wape") },
        { head: "Bias", kind: "num", cell: (row) => METRICS.bias.show(row.bias) },
        { head: "Pinball", kind: "num", cell: (row) => METRICS.pinball.show(row.pinball) },
        { head: "In the 80 % band", kind: "num",
          cell: (row) => f.percent(row.hits["0.9"] - row.hits["0.1"], 1) },
        { head: "Forecasts", kind: "num", cell: (row) => f.number(row.n, 0) },
      ], sorted, (row) => ({ class: row.role === "champion" ? "champion" : null })),
      h("p", { class: "muted small" }, "RMSSE: root of the squared errors over the squared "
        + "seasonal differences of the same series; WAPE: absolute error of medians over units sold; "
        + "bias: mean forecast less sold, over units sold; pinball: loss of the quantiles at 0.1, 0.5 "
        + "and 0.9; in the band: demand between those at 0.1 and 0.9, which should be 80 %. Scores forget, so that they say how it goes now. "
        + "Better by: against seasonal naive, on the same forecasts."));
  }

  async function load(signal) {
    try {
      const answer = await api.quality(signal);
      if (signal.aborted) return;
      rows = answer.rows.filter((row) => row.n > 0);
    } catch (problem) {
      if (!signal.aborted && !rows?.length) {
        plot.hidden = true;
        refill(head, failure(problem, () => load(signal)));
        refill(detail);
      }
      return;
    }
    plot.hidden = rows.length === 0;
    if (rows.length) paint();
    else {
      refill(head, h("h1", {}, "Not scored yet"),
        h("p", { class: "lead" }, "A forecast is scored when the bucket it is for closes. The "
          + "first scores come one bucket after the first forecast."));
      refill(detail);
    }
  }

  return {
    root,
    title: () => "Quality",
    async show(next, signal) {
      params = next;
      if (rows?.length) paint();
      else {
        chart.classList.add("loading");
        refill(head, h("h1", {}, "Recent quality"), skeleton(1));
        refill(detail, skeleton(6));
      }
      await load(signal);
    },
    refresh: load,
    recolour: () => rows?.length && paint(),
  };
}
