"""Audit: who did what, when and why, and what came of it; filter and export."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import FastAPI
from nicegui import ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from api.console.actions import excluded, outcomes_of
from api.console.client import ApiDown, ApiError
from api.console.formats import address, facts, link, moment, notice, number, table, tag, text
from api.console.page import Console, Page, heading, markup

PATH, EXPORT = "/audit", "/audit.export"
FILTERS = ("kind", "who", "state", "q", "since", "until")


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def audit(
        id: str = "", kind: str = "", who: str = "", state: str = "", q: str = "",
        since: str = "", until: str = "",
    ) -> None:  # fmt: skip
        query = {"id": id, "kind": kind, "who": who, "state": state, "q": q, "since": since,
                 "until": until}  # fmt: skip
        page = Page(console, "Audit", PATH, query)
        with page.main:
            _Audit(page)


def chosen(items: list[dict[str, Any]], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of the trail that pass every filter that is given.

    Parameters
    ----------
    wanted
        ``kind`` and ``state`` equal; ``who`` and ``q`` (anywhere in the entry) contained, in any
        letter case; ``since`` and ``until`` as days or times, the last one excluded.
    """

    def passes(one: dict[str, Any]) -> bool:
        get = wanted.get
        return (
            get("kind", "") in ("", one["kind"])
            and get("state", "") in ("", one["state"])
            and get("who", "").lower() in one["who"].lower()
            and get("q", "").lower() in json.dumps(one, ensure_ascii=False).lower()
            and one["time"] >= get("since", "")
            and (not get("until") or one["time"] < get("until", ""))
        )

    return [one for one in items if passes(one)]


class _Audit:
    def __init__(self, page: Page) -> None:
        self.page = page
        with heading("Audit", "Every operation, from the control log: it is never rewritten."):
            self.exports = markup("", "buttons")
        if page.query["id"]:
            page.section(self._load_one, self._draw_one, every_s=3.0)
        self._filters()
        self.list = page.section(self._load, self._draw, every_s=5.0)
        self._offer()

    def _filters(self) -> None:
        query = self.page.query
        kinds = ["", "freeze", "resume", "rollback", "quarantine", "readmit", "promote", "guard",
                 "resend", "discard"]  # fmt: skip
        with ui.element("div").classes("filters"):
            for name, label, options in (
                ("kind", "Kind", list(dict.fromkeys([*kinds, query["kind"]]))),
                ("state", "State", ["", "pending", "applied", "refused"]),
            ):
                ui.select({one: one or "any" for one in options}, label=label, value=query[name],
                          on_change=lambda event, name=name: self._choose(name, event.value)
                          ).props(f"outlined dense options-dense data-name={name}")  # fmt: skip
            for name, label in (("who", "Who"), ("q", "Words"), ("since", "From (2025-03-01)"),
                                ("until", "Before")):  # fmt: skip
                ui.input(label, value=query[name],
                         on_change=lambda event, name=name: self._choose(name, event.value)
                         ).props(f"outlined dense clearable debounce=250 data-name={name}")  # fmt: skip

    def _choose(self, name: str, value: str | None) -> None:
        self.page.hold(**{name: value or ""})
        self._offer()
        self.list.invalidate()

    def _offer(self) -> None:
        wanted = {name: self.page.query[name] for name in FILTERS}
        self.exports.set_content(
            "".join(
                link(f"Export {form.upper()}", address(EXPORT, {**wanted, "as": form}),
                     class_="button quiet", download="")
                for form in ("csv", "json")
            )
        )  # fmt: skip

    async def _load(self) -> Any:
        items = (await self.page.api.get("/v1/operations"))["items"]
        return {"all": len(items), "items": chosen(items, self.page.query)}

    def _draw(self, found: dict[str, Any]) -> None:
        if not found["all"]:
            markup(notice("Nothing was done yet", "Freezes, rollbacks, quarantines, promotions and "
                          "what becomes of dead letters will stand here."))  # fmt: skip
            return
        if not found["items"]:
            markup(notice("Nothing matches", "Clear a filter to see more."))
            return
        rows = [
            [link(moment(one["time"]), address(PATH, {"id": one["id"]})), text(one["kind"]),
             text(one["who"]), f'<span class="wrap">{text(one["reason"])}</span>', _state(one),
             f'<span class="wrap">{text(_about(one))}</span>']
            for one in found["items"]
        ]  # fmt: skip
        markup(
            table(["When", "Kind", "Who", "Why", "State", "What"], rows, label="Operations")
            + f'<p class="muted small">{number(len(rows), 0)} of {number(found["all"], 0)}.</p>'
        )

    async def _load_one(self) -> Any:
        return await self.page.api.get(f"/v1/operations/{self.page.query['id']}")

    def _draw_one(self, one: dict[str, Any]) -> None:
        said = [
            ("When", text(moment(one["time"]))), ("Who", text(one["who"])),
            ("Why", text(one["reason"])), ("State", _state(one)), ("What", text(_about(one))),
        ]  # fmt: skip
        close = link("Close", self.page.address(id=""), class_="button quiet")
        markup(
            f'<section class="detail"><h2>{text(one["kind"])} '
            f'<span class="mono">{text(one["id"])}</span></h2>{facts(said)}{outcomes_of(one)}'
            f'<div class="buttons">{close}</div></section>'
        )


def _state(one: dict[str, Any]) -> str:
    kind = {"applied": "active", "refused": "bad", "pending": "warn"}[one["state"]]
    return tag(one["state"], kind)


def _about(one: dict[str, Any]) -> str:
    """What it was about, in a few words."""
    parts = [one["about"]] if one["about"] else []
    if one["cut"] and one["kind"] in ("freeze", "rollback"):
        parts.append("to " + ", ".join(one["cut"].values()))
    if one["replay"]:
        parts.append("learned again")
    without = excluded(one["exclude"])
    if without:
        parts.append(("keeps out " if one["kind"] == "quarantine" else "without ") + without)
    if one["readmits"]:
        parts.append(f"what {one['readmits']} kept out")
    if one.get("model"):
        parts.append(str(one["model"]))
    return "; ".join(parts)


# -- export -------------------------------------------------------------------------------------

_COLUMNS = ("time", "kind", "who", "reason", "state", "id", "about", "partition", "outcome",
            "detail", "offset")  # fmt: skip


def as_csv(items: list[dict[str, Any]]) -> str:
    """The trail as CSV: a line for each partition that an operation came to, one at least."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for one in items:
        head = [one["time"], one["kind"], one["who"], one["reason"], one["state"], one["id"],
                _about(one)]  # fmt: skip
        for each in one["outcomes"] or [{}]:
            tail = [each.get(name, "") for name in _COLUMNS[7:]]
            writer.writerow([_plain(cell) for cell in (*head, *tail)])
    return out.getvalue()


def _plain(cell: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell


def install_export(app: FastAPI, console: Console) -> None:
    """Serve the trail as a file, with the page's filters."""

    async def export(request: Request) -> Response:
        query = request.query_params
        try:
            items = (await console.api.get("/v1/operations"))["items"]
        except (ApiDown, ApiError) as error:
            return PlainTextResponse(f"the API gave no answer: {error}", 503)
        found = chosen(items, {name: query.get(name, "") for name in FILTERS})
        day = f"{datetime.now().astimezone():%Y-%m-%d}"
        if query.get("as") == "json":
            body, kind = json.dumps(found, ensure_ascii=False, indent=2), "application/json"
        else:
            body, kind = as_csv(found), "text/csv; charset=utf-8"
        name = f"salescast-audit-{day}.{'json' if query.get('as') == 'json' else 'csv'}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(body, media_type=kind, headers=headers)

    app.add_route(EXPORT, export)
