// What the keyboard needs beside the browser's own ways: "/" goes to the search, arrows walk
// through what it found, and a list that is drawn anew does not lose the focus.
document.addEventListener("keydown", (event) => {
  const active = document.activeElement;
  const typing = active && active.matches("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const search = document.querySelector("input[type=search]");
    if (search) { search.focus(); search.select(); event.preventDefault(); }
    return;
  }
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const found = [...document.querySelectorAll("a.found")];
  const at = found.indexOf(active);
  if (!found.length || (at < 0 && !active?.matches("input[type=search]"))) return;
  const next = at + (event.key === "ArrowDown" ? 1 : -1);
  if (next >= 0) found[Math.min(next, found.length - 1)].focus();
  else document.querySelector("input[type=search]")?.focus();
  event.preventDefault();
});

let focused = null;
document.addEventListener("focusin", (event) => { focused = event.target; });
new MutationObserver(() => {
  if (!focused || focused.isConnected || document.activeElement !== document.body) return;
  const href = focused.getAttribute?.("href");
  focused = null;
  if (!href) return;
  for (const link of document.querySelectorAll(".content a[href]")) {
    if (link.getAttribute("href") === href) { link.focus({ preventScroll: true }); return; }
  }
}).observe(document.documentElement, { childList: true, subtree: true });
