"""Audit: who did what, when and why, and what came of it; filter and export."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from nicegui import ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from api.console.actions import outcomes_of
from api.console.client import ApiDown, ApiError
from api.console.formats import address, facts, link, moment, notice, number, table, tag, text
from api.console.page import Console, Page, heading, markup
from api.console.trail import FILTERS, about, as_csv, chosen

PATH, EXPORT = "/audit", "/audit.export"


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
        words = {"who": "Who", "q": "Words", "since": "From (2025-03-01)", "until": "Before"}
        with ui.element("div").classes("filters"):
            self.kind = ui.select(_any([query["kind"]]), label="Kind", value=query["kind"])
            state = ui.select(
                _any(["pending", "applied", "refused"]), label="State", value=query["state"]
            )
            for name, field in (("kind", self.kind), ("state", state)):
                self._heed(name, field.props("options-dense"))
            for name, label in words.items():
                self._heed(name, ui.input(label, value=query[name]).props("clearable debounce=250"))

    def _heed(self, name: str, field: ui.select | ui.input) -> None:
        """A filter's choice goes into the address, and into what is listed and exported."""
        field.props(f"outlined dense data-name={name}")
        field.on_value_change(lambda event: self._choose(name, event.value))

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
        kinds = sorted({one["kind"] for one in items})
        return {"all": len(items), "kinds": kinds, "items": chosen(items, self.page.query)}

    def _draw(self, found: dict[str, Any]) -> None:
        kind = self.page.query["kind"]
        self.kind.set_options(_any([*found["kinds"], kind]), value=kind)
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
             f'<span class="wrap">{text(about(one))}</span>']
            for one in found["items"]
        ]  # fmt: skip
        markup(
            table(["When", "Kind", "Who", "Why", "State", "What"], rows, label="Operations")
            + f'<p class="muted small">{number(len(rows), 0)} of {number(found["all"], 0)}.</p>'
        )

    async def _load_one(self) -> Any:
        return await self.page.api.get(f"/v1/operations/{quote(self.page.query['id'], safe='')}")

    def _draw_one(self, one: dict[str, Any]) -> None:
        said = [
            ("When", text(moment(one["time"]))), ("Who", text(one["who"])),
            ("Why", text(one["reason"])), ("State", _state(one)), ("What", text(about(one))),
        ]  # fmt: skip
        close = link("Close", self.page.address(id=""), class_="button quiet")
        markup(
            f'<section class="detail"><h2>{text(one["kind"])} '
            f'<span class="mono">{text(one["id"])}</span></h2>{facts(said)}{outcomes_of(one)}'
            f'<div class="buttons">{close}</div></section>'
        )


def _any(names: list[str]) -> dict[str, str]:
    """Options of a filter, the first of which lets everything through."""
    return {"": "any", **{one: one for one in names if one}}


def _state(one: dict[str, Any]) -> str:
    kinds = {"applied": "active", "refused": "bad", "pending": "warn"}
    return tag(one["state"], kinds.get(one["state"], ""))


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
