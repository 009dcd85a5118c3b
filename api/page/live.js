// News of snapshots: server-sent events, and polling of the status while they do not come.

import * as api from "./api.js";

const POLL_MS = 3000;
const REOPEN_MS = 15_000;

/**
 * Call `onSnapshot(partition)` at each new snapshot, and `onState` with live, polling or offline.
 * A gap in the stream ends with `onSnapshot(null)`: anything may have changed.
 */
export function follow(onSnapshot, onState) {
  let source = null;
  let poll = null;
  let seen = null;
  let reopen = null;
  let gap = false;
  let first = true;

  /** Whether news may have been missed; not before the first connection: nothing was shown. */
  function missed() {
    const was = gap && !first;
    gap = first = false;
    return was;
  }

  async function look() {
    try {
      const { partitions } = await api.status();
      const now = new Map(partitions.map((p) => [p.partition, p.snapshot]));
      for (const [partition, snapshot] of now) {
        if (seen && seen.get(partition) !== snapshot) onSnapshot(partition);
      }
      seen = now;
      if (poll !== null) onState("polling");
    } catch {
      if (poll !== null) onState("offline");
    }
    if (poll !== null) poll = setTimeout(look, POLL_MS);
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(poll);
    clearTimeout(reopen);
    poll = null;
    gap = true;
  }

  function open() {
    close();
    source = new EventSource("v1/updates");
    source.addEventListener("open", () => {
      clearTimeout(poll);
      poll = null;
      seen = null;
      onState("live");
      if (missed()) onSnapshot(null);
    });
    source.addEventListener("snapshot", (event) => onSnapshot(JSON.parse(event.data).partition));
    source.addEventListener("error", () => {
      gap = true;
      // The browser comes back by itself from a lost connection, but not from an error answer.
      if (source.readyState === EventSource.CLOSED) reopen = setTimeout(open, REOPEN_MS);
      if (poll === null) poll = setTimeout(look, 0);
    });
  }

  // A browser allows six connections to a host: tabs that nobody looks at must not hold them all.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
  open();
}
