// Where no series is chosen yet: the busiest ones, or how to send the first sale.

import * as api from "./api.js";
import { address } from "./address.js";
import { failure, h, refill, setText, skeleton, table } from "./dom.js";
import * as f from "./format.js";

const SHOWN = 15;

function firstSale() {
  const sale = {
    type: "sale", id: `till-1-${Date.now()}`, source: "till-1",
    time: new Date().toISOString().replace(/\.\d+Z$/, "Z"),
    store: "Main Street", product: "Espresso", quantity: 2, price: 3.5,
  };
  const url = new URL("v1/events", location.href.split("#")[0]);
  return `curl -X POST ${url} \\\n  -H 'Content-Type: application/json' \\\n  -d '${
    JSON.stringify(sale, null, 1).replace(/\n\s*/g, " ")}'`;
}

function empty(received) {
  const command = firstSale();
  const code = h("code", {}, command);
  const copy = h("button", {
    type: "button",
    async onclick() {
      try {
        await navigator.clipboard.writeText(command);
        setText(copy, "Copied");
      } catch {
        // No clipboard outside of a secure context: select it, so that one key copies it.
        getSelection().selectAllChildren(code);
        setText(copy, "Selected");
      }
      setTimeout(() => setText(copy, "Copy"), 2000);
    },
  }, "Copy");
  return h("section", { class: "empty" },
    h("h1", {}, received ? "Waiting for the first bucket to close" : "No sales yet"),
    h("p", { class: "lead" }, received
      ? `${f.number(received)} ${received === 1 ? "record has" : "records have"} come in. A series `
        + "is listed, and forecast, once the first bucket it sold in is over and its grace has "
        + "passed. This page then shows it by itself."
      : "Send the first one and this page follows by itself:"),
    h("div", { class: "command" }, h("pre", { tabindex: "0" }, code), copy),
    h("p", { class: "muted" },
      "Many at once: send a JSON array, or one sale a line as application/x-ndjson. Sales of the "
      + "past come first, oldest first, so that there is something to learn from. If writes need "
      + "a key, it goes into the header X-API-Key. ",
      h("a", { href: "docs" }, "All fields are in the API reference"), "."));
}

export function homeView() {
  const root = h("article", { class: "home" });
  let listed = false;
  let told = null;

  async function load(signal) {
    let answer;
    try {
      answer = await api.series("", SHOWN, 0, signal);
      if (answer.total === 0) {
        const { partitions } = await api.status(signal);
        if (!signal.aborted) {
          const received = partitions.reduce((sum, p) => sum + (p.log_end || 0), 0);
          // Not anew at each refresh: the reader may be copying from it.
          if (received !== told) refill(root, empty(received));
          told = received;
        }
        return;
      }
    } catch (problem) {
      if (!signal.aborted && !listed) {
        refill(root, failure(problem, () => load(signal)));
        told = null;
      }
      return;
    }
    if (signal.aborted) return;
    listed = true;
    const digits = f.decimals(answer.items.map((item) => item.recent));
    refill(root,
      h("h1", {}, "Busiest series"),
      h("p", { class: "lead" }, `${f.number(answer.total)} series are forecast. Search above, or `
        + "start with one that sells most."),
      table("Series by recent volume", [
        { head: "Product", cell: (row) => h("a", { href: address("forecast",
          { store: row.store, product: row.product }) }, row.product) },
        { head: "Store", cell: (row) => row.store },
        { head: "Category", cell: (row) => row.category || f.NONE },
        { head: "Units per bucket", kind: "num", cell: (row) => f.number(row.recent, digits) },
      ], answer.items));
  }

  return {
    root,
    title: () => "",
    async show(_, signal) {
      if (!listed && told === null) refill(root, h("h1", {}, "Busiest series"), skeleton(12));
      await load(signal);
    },
    refresh: load,
  };
}
