// Numbers and times as people read them. A bucket is shown by the wall clock of the deployment's
// zone, which its ISO time carries; every other moment by the browser's.

const LOCALE = "en-GB";
export const NONE = "–";
const PLURAL = { hour: "hours", day: "days", week: "weeks" };

/** Decimals that suit a set of amounts: the same for all, so that columns line up. */
export function decimals(values) {
  const known = values.filter(Number.isFinite);
  if (known.every(Number.isInteger)) return 0;
  const most = Math.max(0, ...known.map(Math.abs));
  return most < 10 ? 2 : most < 1000 ? 1 : 0;
}

export function number(value, digits = decimals([value])) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const text = value.toLocaleString(LOCALE, {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  });
  return text.replace(/^-/, /[1-9]/.test(text) ? "−" : "");
}

export function percent(ratio, digits = 1, signed = false) {
  if (ratio == null || !Number.isFinite(ratio)) return NONE;
  const text = number(100 * ratio, digits);
  return `${signed && ratio > 0 && /[1-9]/.test(text) ? "+" : ""}${text} %`;
}

export function size(bytes) {
  if (bytes == null) return NONE;
  const step = bytes < 1000 ? 0 : bytes < 1e6 ? 1 : bytes < 1e9 ? 2 : 3;
  return `${number(bytes / 1000 ** step, step ? 1 : 0)} ${["B", "kB", "MB", "GB"][step]}`;
}

export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} days`;
}

/** The wall clock's part of an ISO time with a zone: what a chart can place. */
export const wall = (iso) => iso.slice(0, 19);

/** Whether a bucket is of another year than this one, so that its year has to be said. */
export const otherYear = (iso) => iso.slice(0, 4) !== String(new Date().getFullYear());

export function bucket(iso, length) {
  const at = new Date(`${wall(iso)}Z`);
  const date = at.toLocaleDateString(LOCALE, {
    timeZone: "UTC", weekday: length === "week" ? undefined : "short", day: "numeric",
    month: "short", year: length === "week" || otherYear(iso) ? "numeric" : undefined,
  }).replace(",", "");
  if (length === "week") return `Week of ${date}`;
  return length === "hour" ? `${date}, ${iso.slice(11, 16)}` : date;
}

export function buckets(count, length) {
  return `${count} ${count === 1 ? length : PLURAL[length] || length}`;
}

export function moment(iso, timeZone) {
  if (!iso) return NONE;
  const at = new Date(iso);
  const yearOf = (date) => date.toLocaleString(LOCALE, { timeZone, year: "numeric" });
  return at.toLocaleString(LOCALE, {
    timeZone, day: "numeric", month: "short",
    year: yearOf(at) === yearOf(new Date()) ? undefined : "numeric",
    hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
}

export const age = (iso) => (iso ? (Date.now() - Date.parse(iso)) / 1000 : null);
