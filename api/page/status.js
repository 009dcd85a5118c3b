// What each partition serves, and how far it is behind its log.

import * as api from "./api.js";
import { address } from "./address.js";
import { failure, h, refill, skeleton, table } from "./dom.js";
import * as f from "./format.js";

function condition(row) {
  const [kind, text] = row.frozen
    ? ["frozen", row.frozen_by ? `Frozen by ${row.frozen_by}` : "Frozen"]
    : row.standstill ? ["stale", "Stands still"]
    : !row.snapshot ? ["none", "No snapshot yet"]
    : row.stale ? ["stale", "Stale"]
    : row.catching_up ? ["behind", "Catching up"] : ["fresh", "Serving"];
  return h("span", { class: "condition", "data-state": kind }, text);
}

function summary({ partitions, log_up: logUp, store_up: storeUp }) {
  const down = [!logUp && "event log", !storeUp && "snapshot store"].filter(Boolean).join(" and ");
  if (down) {
    return ["Cut off", `The ${down} cannot be reached: forecasts are answered from memory, and go on `
      + "by themselves when it is back."];
  }
  const count = (test) => partitions.filter(test).length;
  const frozen = count((p) => p.frozen);
  const stale = count((p) => p.stale && !p.frozen);
  const none = count((p) => !p.snapshot);
  const of = (n, what) => `${n} of ${partitions.length} partitions ${n === 1 ? "is" : "are"} ${what}`;
  if (frozen) {
    return ["Frozen", `${of(frozen, "frozen")}: learning goes on, forecasts stay. `
      + "To follow again: salescast resume."];
  }
  if (stale) {
    return ["Stale", `${of(stale, "stale")}: no new snapshot has come for too long. Check that the `
      + "learner runs."];
  }
  const still = partitions.find((p) => p.standstill);
  if (still) {
    return ["Stands still", `Partition ${still.partition} learns nothing: ${still.standstill.why}. `
      + `What helps: ${still.standstill.remedy}`];
  }
  const late = partitions.filter((p) => p.catching_up);
  if (late.length) {
    const most = Math.max(...late.map((p) => p.lag));
    return ["Catching up", `${of(late.length, "catching up")}, by up to ${f.number(most)} records: `
      + "forecasts are answered from what is learned so far."];
  }
  if (none === partitions.length) return ["Waiting", "No partition has a snapshot yet."];
  return ["All well", none ? of(partitions.length - none, "serving; the others have no events yet")
    : "Every partition serves a fresh snapshot."];
}

export function statusView() {
  const root = h("article", { class: "status" });
  let loaded = false;

  async function load(signal) {
    let status;
    try {
      status = await api.status(signal);
    } catch (problem) {
      if (!signal.aborted) refill(root, failure(problem, () => load(signal)));
      loaded = false;
      return;
    }
    if (signal.aborted) return;
    loaded = true;
    const { partitions } = status;
    const [title, text] = summary(status);
    refill(root,
      h("h1", {}, title),
      h("p", { class: "lead" }, text),
      table("Partitions", [
        { head: "Partition", kind: "num first", cell: (row) => String(row.partition) },
        { head: "State", cell: condition },
        { head: "Lag", kind: "num strong", cell: (row) => f.number(row.lag) },
        { head: "Age", kind: "num", cell: (row) => f.duration(row.age_s) },
        { head: "As of", cell: (row) =>
          row.as_of ? h("time", { datetime: row.as_of, title: row.as_of }, f.moment(row.as_of))
            : f.NONE },
        { head: "Series", kind: "num", cell: (row) => f.number(row.series) },
        { head: "Position", kind: "num", cell: (row) => f.number(row.position) },
        { head: "Log end", kind: "num", cell: (row) => f.number(row.log_end) },
        { head: "Snapshot", kind: "mono", cell: (row) => (row.snapshot
          ? h("a", { href: address("snapshots", { id: row.snapshot }) }, row.snapshot) : f.NONE) },
      ], partitions),
      h("p", { class: "muted small" }, `Salescast ${status.version}, log: ${status.log}, snapshots: `
        + `${status.store}. Lag: records of the log that the served snapshot does not hold yet. `
        + "As of: events up to this time have been awaited; in your browser's time zone."));
  }

  return {
    root,
    title: () => "Status",
    async show(_, signal) {
      if (!loaded) refill(root, h("h1", {}, "Status"), skeleton(6));
      await load(signal);
    },
    refresh: load,
    everyMs: 5000,
  };
}
