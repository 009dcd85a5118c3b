// The snapshots kept, newest first, and what one of them holds.

import * as api from "./api.js";
import { address } from "./address.js";
import { choices, failure, h, refill, skeleton, table } from "./dom.js";
import * as f from "./format.js";

const STEP = 50;
const MOST = 1000;

function tags(row) {
  const names = [row.active && "active", row.head && "head"].filter(Boolean);
  return names.length ? names.map((name) => h("span", { class: `tag ${name}` }, name)) : f.NONE;
}

/** RMSSE of the champion and of seasonal naive at the shortest horizon that is scored. */
function score(row) {
  const scored = (row.scores || []).filter((s) => s.n > 0);
  const first = Math.min(...scored.map((s) => s.horizon));
  const at = (match) => scored.find((s) => s.horizon === first && match(s))?.rmsse;
  const champion = at((s) => s.role === "champion");
  return champion == null ? f.NONE
    : `${f.number(champion, 3)} / ${f.number(at((s) => s.model === "seasonal_naive"), 3)}`;
}

const when = (iso) => h("time", { datetime: iso, title: iso }, f.moment(iso));

function value(of) {
  if (Array.isArray(of)) return of.map(value).join(", ");
  if (of !== null && typeof of === "object") {
    return Object.entries(of).map(([name, one]) => `${name} ${value(one)}`).join(", ");
  }
  return typeof of === "number" ? f.number(of) : String(of);
}

function list(title, values) {
  const entries = Object.entries(values || {});
  if (!entries.length) return null;
  return h("section", {}, h("h2", {}, title),
    h("dl", { class: "facts" }, entries.map(([name, of]) =>
      h("div", {}, h("dt", {}, name.replaceAll("_", " ")), h("dd", { class: "num" }, value(of))))));
}

function detail(row) {
  const facts = {
    partition: row.partition, position: row.position, lineage: row.lineage,
    parent: row.parent ?? f.NONE, published: f.moment(row.published_at),
    "as of": f.moment(row.as_of), size: f.size(row.size_bytes), digest: row.digest,
  };
  return [
    h("p", {}, h("a", { href: address("snapshots", { partition: row.partition }) },
      "All snapshots of this partition")),
    h("h1", { class: "mono" }, row.id),
    h("p", { class: "lead" }, tags(row)),
    h("div", { class: "columns even" },
      list("Snapshot", facts), list("Counts", row.counts),
      list("Versions", row.versions), list("Settings", row.settings)),
    row.parts?.length && h("section", {}, h("h2", {}, "Parts"), table("Parts", [
      { head: "Part", cell: (part) => part.name },
      { head: "Size", kind: "num", cell: (part) => f.size(part.size) },
      { head: "Chunks", kind: "num",
        cell: (part) => f.number(Array.isArray(part.chunks) ? part.chunks.length : part.chunks) },
    ], row.parts)),
  ].filter(Boolean);
}

export function snapshotsView() {
  const root = h("article", { class: "snapshots" });
  let params = {};
  let partitions = [];
  let shown = "";

  async function load(signal) {
    const limit = Math.min(Number(params.limit) || STEP, MOST);
    try {
      if (params.id) {
        const row = await api.snapshot(params.id, signal);
        if (!signal.aborted) refill(root, ...detail(row));
        return;
      }
      const [answer, status] = await Promise.all(
        [api.snapshots(params.partition, limit, signal), api.status(signal)]);
      if (signal.aborted) return;
      partitions = status.partitions.map((p) => p.partition);
      paint(answer.items, limit);
    } catch (problem) {
      if (!signal.aborted) refill(root, failure(problem, () => load(signal)));
    }
  }

  function paint(items, limit) {
    const to = (more) => address("snapshots", { ...params, ...more });
    refill(root,
      h("h1", {}, "Snapshots"),
      h("p", { class: "lead" }, "Each is the whole state of a partition at a position of the log. "
        + "The active one is served, the head is learned on from."),
      h("div", { class: "controls" }, choices("Partition", [
        { text: "All", on: !params.partition, href: to({ partition: null }) },
        ...partitions.map((p) =>
          ({ text: String(p), on: params.partition === String(p), href: to({ partition: p }) })),
      ])),
      items.length ? table("Snapshots, newest first", [
        { head: "Published", cell: (row) => when(row.published_at) },
        { head: "Partition", kind: "num", cell: (row) => String(row.partition) },
        { head: "Snapshot", kind: "mono", cell: (row) =>
          h("a", { href: address("snapshots", { id: row.id }) }, row.id) },
        { head: "State", cell: tags },
        { head: "Position", kind: "num", cell: (row) => f.number(row.position) },
        { head: "As of", cell: (row) => (row.as_of ? when(row.as_of) : f.NONE) },
        { head: "RMSSE / naive", kind: "num", cell: score },
        { head: "Size", kind: "num", cell: (row) => f.size(row.size_bytes) },
      ], items) : h("p", { class: "muted" }, "None yet: the first is published soon after the first "
        + "event."),
      ...(items.length >= limit && limit < MOST
        ? [h("p", {}, h("a", { href: to({ limit: limit + STEP }) }, "Show more"))] : []));
  }

  return {
    root,
    title: () => (params.id ? `Snapshot ${params.id}` : "Snapshots"),
    async show(next, signal) {
      params = next;
      if (shown !== (params.id || "list")) {
        refill(root, h("h1", {}, params.id || "Snapshots"), skeleton(12));
      }
      shown = params.id || "list";
      await load(signal);
    },
    // One snapshot never changes, but whether it is head or active does.
    refresh: load,
  };
}
