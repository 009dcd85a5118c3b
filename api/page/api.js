// The HTTP API as functions. Every failure is a Problem (RFC 9457), a lost connection too.

export class Problem extends Error {
  constructor(members) {
    super(members.detail || members.title);
    this.title = members.title || "Error";
    this.status = members.status || 0;
    this.detail = members.detail || "";
    this.remedy = members.remedy || "";
    this.field = members.field || "";
    this.near = members.near || [];
  }
}

async function get(path, signal) {
  let response;
  try {
    response = await fetch(path, { headers: { Accept: "application/json" }, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "No connection",
      detail: "The service does not answer.",
      remedy: "check that Salescast is running; this page goes on trying",
    });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  throw new Problem({
    title: response.statusText || `HTTP ${response.status}`,
    detail: `The answer of ${path.split("?")[0]} was not understood.`,
    ...body,
    status: response.status,
  });
}

const query = (values) => {
  const given = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};
const key = (store, product) => `${encodeURIComponent(store)}/${encodeURIComponent(product)}`;

export const series = (q, limit, offset, signal) =>
  get(`v1/series${query({ q, limit, offset })}`, signal);
export const forecast = (store, product, horizon, signal) =>
  get(`v1/forecasts/${key(store, product)}${query({ horizon, quantiles: ".1,.5,.9" })}`, signal);
export const history = (store, product, limit, signal) =>
  get(`v1/history/${key(store, product)}${query({ limit })}`, signal);
export const plans = (store, product, signal) =>
  get(`v1/plans${query({ store, product, limit: 1000 })}`, signal);
export const quality = (signal) => get("v1/quality", signal);
export const snapshots = (partition, limit, signal) =>
  get(`v1/snapshots${query({ partition, limit })}`, signal);
export const snapshot = (id, signal) => get(`v1/snapshots/${encodeURIComponent(id)}`, signal);
export const status = (signal) => get("v1/status", signal);
