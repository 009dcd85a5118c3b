// The address of every view: all that is shown is in the hash, so a link shows it again.

const VIEWS = ["forecast", "quality", "snapshots", "status"];

/** The hash of a view with its parameters; empty ones are left out. */
export function address(view, params = {}) {
  const given = Object.entries(params).filter(([, value]) => value != null && value !== "");
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  return `#/${view === "forecast" && !query ? "" : view}${query}`;
}

/** The view and parameters of a hash; an unknown view is the first one. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS.includes(path) ? path : VIEWS[0];
  return { view, params: Object.fromEntries(new URLSearchParams(query)) };
}
