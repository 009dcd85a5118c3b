"""Inputs: what each source sends and what becomes of it; quarantine and its end."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from nicegui import ui
from starlette.requests import Request

from api.console import guard, operate
from api.console.client import ApiDown, ApiError
from api.console.formats import (
    address,
    duration,
    link,
    notice,
    number,
    percent,
    span,
    table,
    text,
)
from api.console.page import Console, Page, heading, markup
from api.console.sources import known_sources, measured, shown_outcomes
from api.console.trail import excluded

PATH = "/inputs"
#: Most items, and most sources, that are shown.
_ITEMS, _SOURCES = 100, 300
#: The source of ticks and markers, which Salescast appends itself.
OURS = "salescast"


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def inputs(request: Request, do: str = "", operation: str = "", reason: str = "") -> None:
        query: dict[str, Any] = {"do": do, "operation": operation, "reason": reason}
        query |= {one: request.query_params.getlist(one) for one in ("source", "store", "product")}
        page = Page(console, "Inputs", PATH, query)
        with page.main:
            _Inputs(page)


class _Inputs:
    def __init__(self, page: Page) -> None:
        self.page = page
        with heading("Inputs", "What each source sends, and what becomes of it."):
            markup(
                link("Quarantine…", address(PATH, {"do": "quarantine"}), class_="button")
                + link("Dead letters", "/letters", class_="button quiet"), "buttons",
            )  # fmt: skip
        guard.add_sources(page)
        page.section(self._load_sources, self._draw_sources, every_s=10.0)
        page.section(self._load_letters, self._draw_letters, every_s=5.0)
        page.section(self._load_rules, self._draw_rules, every_s=5.0)
        if page.query["do"] in ("quarantine", "readmit"):
            ui.timer(0.1, self._open, once=True)

    async def _open(self) -> None:
        query = self.page.query
        sources: list[str] = []
        if query["do"] == "quarantine":
            with suppress(ApiDown, ApiError):
                sources = await known_sources(self.page.api)
        with self.page.main:
            action = (
                operate.quarantine(self.page, query, sources) if query["do"] == "quarantine"
                else operate.readmit(self.page, query)
            )  # fmt: skip
        action.open()
        action.dialog.on("hide", lambda: self.page.hold(
            do="", source=[], store=[], product=[], operation="", reason=""
        ))  # fmt: skip

    # -- sources ---------------------------------------------------------------------------

    async def _load_sources(self) -> dict[str, Any]:
        return await measured(self.page.api)

    def _draw_sources(self, found: dict[str, Any]) -> None:
        counts, rates = found["counts"], found["rates"]
        if not counts:
            markup(notice("No source was heard of yet", "Producers name themselves in every "
                          "event's <code>source</code>."))  # fmt: skip
            return
        outcomes = shown_outcomes(counts)
        rows = []
        largest = sorted(counts.items(), key=lambda one: -sum(one[1].values()))
        for source, items in largest[:_SOURCES]:
            whole = max(sum(items.values()), 1)
            lost = sum(items.get(one, 0) for one in ("late", "refused")) / whole
            rate = "–" if rates is None else number(rates.get(source, 0.0), 1)
            act = (
                link("Quarantine", address(PATH, {"do": "quarantine", "source": source}))
                + " "
                + link("Take back", address("/snapshots", {"do": "rollback", "source": source}))
            )
            rows.append(
                [text(source), rate,
                 *(number(items.get(one, 0), 0) for one in outcomes), percent(lost, 1),
                 "" if source == OURS else act]
            )  # fmt: skip
        shown = f" The largest {_SOURCES} of {len(counts):,}." if len(counts) > _SOURCES else ""
        span = f" Rates are over the last {duration(found['span_s'])}." if found["span_s"] else ""
        markup(
            "<h2>Sources</h2>"
            + table(["Source", "Items a s", *(one.capitalize() for one in outcomes), "Lost", ""],
                    rows, label="Sources", numbers=range(1, len(outcomes) + 3))
            + f'<p class="muted small">Lost: late or refused, of all its items.{span}{shown}</p>'
        )  # fmt: skip

    # -- dead letters, in short ------------------------------------------------------------

    async def _load_letters(self) -> Any:
        return (await self.page.api.get("/v1/dead-letters", limit=0))["groups"]

    def _draw_letters(self, groups: list[dict[str, Any]]) -> None:
        markup("<h2>Dead letters</h2>")
        if not groups:
            markup('<p class="muted">None: nothing was refused or late.</p>')
            return
        rows = [
            [link(one["reason"], address("/letters", {"reason": one["reason"],
                                                      "source": one["source"]})),
             text(one["source"]) or "(not said)", number(one["letters"], 0)]
            for one in groups
        ]  # fmt: skip
        markup(table(["Reason", "Source", "Letters"], rows, label="Dead letters", numbers=(2,)))

    # -- quarantine and exclusions ---------------------------------------------------------

    async def _load_rules(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.page.api.get("/v1/excluded")
        chosen = self.page.query["operation"]
        items: dict[str, Any] = {"items": [], "next": None}
        if (
            chosen
            and not self.page.query["do"]
            and any(one["operation"] == chosen for one in found["rules"])
        ):
            items = await self.page.api.get("/v1/excluded", operation=chosen, limit=_ITEMS)
        return {"rules": found["rules"], "items": items["items"], "more": items["next"]}

    def _draw_rules(self, found: dict[str, Any]) -> None:
        markup("<h2>Kept out</h2>")
        by_operation: dict[str, list[dict[str, Any]]] = {}
        for one in found["rules"]:
            by_operation.setdefault(one["operation"], []).append(one)
        if not by_operation:
            markup('<p class="muted">Nothing is in quarantine, nothing is excluded.</p>')
            return
        rows = []
        for operation, rules in by_operation.items():
            kind, what = rules[0]["kind"], excluded(rules[0]["what"])
            spans = ", ".join(
                f"{one['partition']}: {span(one['start'], one['end'])}" for one in rules
            )
            rows.append(
                [link(operation, address("/audit", {"id": operation}), class_="mono"), kind,
                 text(what), spans,
                 link("Items", address(PATH, {"operation": operation})) + " "
                 + link("Readmit", address(PATH, {"do": "readmit", "operation": operation}))]
            )  # fmt: skip
        markup(table(["Operation", "Is", "What", "Offsets by partition", ""], rows,
                     label="Kept out"))  # fmt: skip
        if found["items"]:
            lines = [
                [f'<span class="mono">{text(one["receipt"])}</span>', text(one["source"]),
                 text(one["type"]), f'<code class="bytes">{text(_brief(one["value"]))}</code>']
                for one in found["items"]
            ]  # fmt: skip
            more = f" The first {len(lines)} are shown." if found["more"] else ""
            markup(
                f"<h2>Items that {text(self.page.query['operation'])} keeps out</h2>"
                + table(["Receipt", "Source", "Type", "Original"], lines, label="Items kept out")
                + f'<p class="muted small">They are kept in the log.{more}</p>'
            )


def _brief(value: str) -> str:
    """An item's original, without blanks where it is JSON."""
    try:
        return json.dumps(json.loads(value), ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        return value
