// The type-ahead: a combobox with a listbox (ARIA authoring practices), over /v1/series.

import * as api from "./api.js";
import { h, setText } from "./dom.js";
import { decimals, number } from "./format.js";

const WAIT_MS = 120;
const SHOWN = 12;

/** Wire the search field; `choose(store, product)` opens a series. */
export function search(choose) {
  const field = document.getElementById("q");
  const popup = document.getElementById("popup");
  const list = document.getElementById("results");
  const found = document.getElementById("found");
  let items = [];
  let at = -1;
  let timer = 0;
  let asked = null;

  function close() {
    clearTimeout(timer);
    timer = 0;
    asked?.abort();
    popup.hidden = true;
    field.setAttribute("aria-expanded", "false");
    point(-1);
  }

  function point(index) {
    list.children[at]?.setAttribute("aria-selected", "false");
    at = index;
    const option = list.children[at];
    if (option) {
      option.setAttribute("aria-selected", "true");
      option.scrollIntoView({ block: "nearest" });
      field.setAttribute("aria-activedescendant", option.id);
    } else field.removeAttribute("aria-activedescendant");
  }

  function pick(index) {
    const item = items[index];
    if (!item) return;
    field.value = "";
    close();
    field.blur();
    choose(item.store, item.product);
  }

  async function ask() {
    timer = 0;
    asked?.abort();
    asked = new AbortController();
    const { signal } = asked;
    let answer;
    try {
      answer = await api.series(field.value.trim(), SHOWN, 0, signal);
    } catch (problem) {
      if (signal.aborted) return;
      answer = { items: [], total: 0, failed: problem.title };
    }
    if (signal.aborted || document.activeElement !== field) return;
    items = answer.items;
    const digits = decimals(items.map((item) => item.recent));
    at = -1;
    setText(found, answer.failed || (answer.total === 0 ? "No series found"
      : answer.total > items.length ? `${items.length} of ${number(answer.total)} series`
      : `${answer.total} series`));
    list.replaceChildren(...items.map((item, i) =>
      h("li", { id: `result-${i}`, role: "option", "aria-selected": "false",
        // Not click: the field would lose focus, and close the list, before it.
        onpointerdown: (event) => event.preventDefault(), onclick: () => pick(i) },
        h("span", { class: "result-name" }, item.product),
        h("span", { class: "result-where" },
          [item.store, item.category].filter(Boolean).join(" · ")),
        h("span", { class: "result-recent num" }, number(item.recent, digits)))));
    popup.hidden = false;
    field.setAttribute("aria-expanded", "true");
    field.removeAttribute("aria-activedescendant");
    if (field.value.trim() && items.length) point(0);
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  });
  field.addEventListener("focus", ask);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", async (event) => {
    const last = items.length - 1;
    if (event.key === "Escape") {
      if (popup.hidden) field.value = "";
      close();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (popup.hidden || timer) {
        // Typed faster than the list came: choose from what was typed, not from what is shown.
        clearTimeout(timer);
        await ask();
      }
      pick(at);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (popup.hidden) await ask();
      else if (event.key === "ArrowDown") point(at >= last ? 0 : at + 1);
      else point(at <= 0 ? last : at - 1);
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      field.focus();
    }
  });
}
