// The page: one view at a time by its address, refreshed as snapshots come.

import * as api from "./api.js";
import { address, parse } from "./address.js";
import { onColours } from "./chart.js";
import { setText } from "./dom.js";
import { forecastView } from "./forecast.js";
import { homeView } from "./home.js";
import { follow } from "./live.js";
import { qualityView } from "./quality.js";
import { search } from "./search.js";
import { snapshotsView } from "./snapshots.js";
import { statusView } from "./status.js";

//: Snapshots may come many a second; the page is read by people.
const REFRESH_MS = 400;
//: Views grow older by themselves: what says how old must be asked again.
const EVERY_MS = 20_000;
const LIVE = { live: "Live", polling: "Polling", offline: "Offline", connecting: "Connecting" };

const views = {
  home: homeView(), forecast: forecastView(), quality: qualityView(),
  snapshots: snapshotsView(), status: statusView(),
};
const main = document.getElementById("main");
const live = document.getElementById("live");
let current = null;
let controller = new AbortController();
let due = 0;
let busy = false;
let again = false;
let soon = false;

async function route() {
  const { view, params } = parse(location.hash);
  const series = params.store !== undefined && params.product !== undefined;
  const next = views[view === "forecast" && !series ? "home" : view];
  controller.abort();
  controller = new AbortController();
  if (next !== current) {
    current = next;
    main.replaceChildren(next.root);
    scrollTo(0, 0);
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const shown = next.show(params, controller.signal);
  document.title = [next.title(), "Salescast"].filter(Boolean).join(" · ");
  main.setAttribute("aria-busy", "true");
  await shown;
  main.removeAttribute("aria-busy");
  schedule(current.everyMs || EVERY_MS);
}

function schedule(ms) {
  clearTimeout(due);
  due = setTimeout(refresh, ms);
  soon = ms === REFRESH_MS;
}

/** Refresh soon; news that come meanwhile do not put it off, nor make more of it. */
function news() {
  if (!soon) schedule(REFRESH_MS);
}

async function refresh() {
  soon = false;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    await current.refresh(controller.signal);
  } finally {
    busy = false;
    schedule(again ? REFRESH_MS : current.everyMs || EVERY_MS);
    again = false;
  }
}

search((store, product) => {
  location.hash = address("forecast", { store, product });
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();  // the address says which view is shown
  main.focus();
});
addEventListener("hashchange", route);
onColours(() => current.recolour?.());
route();
follow(
  news,
  (state) => {
    live.dataset.state = state;
    setText(live, LIVE[state]);
  },
);
api.status()
  .then(({ version }) => setText(document.getElementById("version"), `Salescast ${version}`))
  .catch(() => {});
