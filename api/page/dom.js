// Elements from values. Text always goes in as text nodes, so a name from data is never markup.

/** An element: `on…` attributes are listeners, false and null ones are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const FOCUSABLE = "a[href], button, [tabindex]";

/** Put children in place of others; what was focused or scrolled sideways there stays so. */
export function refill(parent, ...children) {
  const held = [...parent.querySelectorAll(FOCUSABLE)];
  const at = held.indexOf(document.activeElement);
  const scrolled = [...parent.querySelectorAll(".scroll")].map((element) => element.scrollLeft);
  parent.replaceChildren(...children.flat().filter((child) => child != null && child !== false));
  parent.querySelectorAll(".scroll").forEach((element, i) => {
    element.scrollLeft = scrolled[i] || 0;
  });
  if (at < 0) return;
  const now = [...parent.querySelectorAll(FOCUSABLE)];
  const href = held[at].getAttribute("href");
  const same = href && now.find((element) => element.getAttribute("href") === href);
  (same || now[at])?.focus({ preventScroll: true });
}

/** Write a text only where it differs: screen readers announce what changes. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A table that scrolls sideways by itself; a column is {head, cell(row), kind?}. */
export function table(caption, columns, rows, rowAttributes = () => ({})) {
  const head = columns.map((c) => h("th", { scope: "col", class: c.kind }, c.head));
  const body = rows.map((row) =>
    h("tr", rowAttributes(row), columns.map((c, i) =>
      i === 0
        ? h("th", { scope: "row", class: c.kind }, c.cell(row))
        : h("td", { class: c.kind }, c.cell(row)))));
  return h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    h("table", {},
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, body)));
}

/** Choices of which one holds, as links: each is an address. */
export function choices(label, options) {
  return h("div", { class: "choices", role: "group", "aria-label": label },
    h("span", { class: "choices-label", "aria-hidden": "true" }, label),
    options.map(({ text, href, on, title }) =>
      h("a", { href, title, "aria-current": on ? "true" : null }, text)));
}

/** What went wrong and what to do about it, with a way to try again. */
export function failure(problem, retry) {
  return h("section", { class: "notice error", role: "alert" },
    h("h2", {}, problem.title),
    h("p", {}, problem.detail),
    problem.remedy && h("p", { class: "muted" }, `What to do: ${problem.remedy}`),
    retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

/** Lines that hold the place of text to come. */
export function skeleton(lines) {
  return h("div", { class: "skeleton", "aria-hidden": "true" },
    Array.from({ length: lines }, () => h("span")));
}
