"""Dead letters: by reason and source, with their original bytes; mend and send again, discard."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui

from api.console.actions import LETTERS, Action
from api.console.formats import address, link, notice, number, table, text
from api.console.page import Console, Page, button, choices, heading, markup
from api.console.sources import Counts, latest, total

PATH = "/letters"
_SHOWN = 50


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def letters(reason: str = "", source: str = "", receipt: str = "", settled: str = "") -> None:
        query = {"reason": reason, "source": source, "receipt": receipt, "settled": settled}
        page = Page(console, "Inputs", PATH, query)
        with page.main:
            _Letters(page)


class _Letters:
    def __init__(self, page: Page) -> None:
        self.page = page
        query = page.query
        with heading("Dead letters", "Refused or late items, as they came. Nothing is lost."):
            markup(link("Inputs", "/inputs", class_="button quiet"), "buttons")
        page.section(self._load_groups, self._draw_groups, every_s=5.0)
        if query["reason"] or query["source"] or query["receipt"]:
            which = ", ".join(f"{name} {query[name]}" for name in ("receipt", "reason", "source")
                              if query[name])  # fmt: skip
            markup(f"<h2>{text(which)}</h2>", "block")
            with ui.element("div").classes("buttons"):
                button("Mend and send again…", lambda: self._mend().open())
                button("Discard…", lambda: self._discard().open())
        page.section(self._load, self._draw, every_s=5.0)

    # -- what there is ---------------------------------------------------------------------

    async def _load_groups(self) -> dict[str, Any]:
        groups = (await self.page.api.get(LETTERS, limit=0))["groups"]
        counts = [] if groups else [one["counts"] for one in await latest(self.page.api)]
        return {"groups": groups, "passed_over": passed_over(counts)}

    def _draw_groups(self, found: dict[str, Any]) -> None:
        groups = found["groups"]
        if not groups:
            said = "Nothing was refused or late."
            if n := found["passed_over"]:
                said += (f" {number(n, 0)} items are no letters and were not learned from either: "
                         f"they are in quarantine or excluded. {link('Inputs', '/inputs')} lists "
                         "them, as <code>salescast excluded</code> does.")  # fmt: skip
            markup(notice("No dead letters", said))
            return
        query = self.page.query
        rows = []
        for one in groups:
            where = address(PATH, {"reason": one["reason"], "source": one["source"]})
            on = (one["reason"], one["source"]) == (query["reason"], query["source"])
            shown = link(one["reason"], where, **({"aria-current": "true"} if on else {}))
            rows.append([shown, text(one["source"]) or "(not said)", number(one["letters"], 0)])
        markup(table(["Reason", "Source", "Letters"], rows, label="Dead letters", numbers=(2,)))

    async def _load(self) -> Any:
        query = self.page.query
        found = await self.page.api.get(
            LETTERS, reason=query["reason"], source=query["source"], limit=_SHOWN,
            settled="true" if query["settled"] else None,
        )  # fmt: skip
        return [one for one in found["items"] if query["receipt"] in ("", one["receipt"])]

    def _draw(self, items: list[dict[str, Any]]) -> None:
        query = self.page.query
        settled = bool(query["settled"])
        markup(
            choices("Show", [("Open", self.page.address(settled=""), not settled),
                             ("Settled too", self.page.address(settled="1"), settled)])
        )  # fmt: skip
        if not items:
            markup('<p class="muted">None of these.</p>')
            return
        shown = "".join(self._item(one) for one in items)
        more = f" The newest {_SHOWN} are shown." if len(items) == _SHOWN else ""
        markup(f'<ul class="letters">{shown}</ul><p class="muted small">{more}</p>')

    def _item(self, one: dict[str, Any]) -> str:
        here = self.page.address(receipt=one["receipt"])
        said = one["settled"] or one["remedy"]
        return (
            f"<li><p>{link(one['receipt'], here, class_='mono')} <strong>{text(one['reason'])}"
            f'</strong> {text(one["detail"])}</p><p class="muted">{text(said)}</p>'
            f'<pre class="bytes" tabindex="0">{text(one["value"])}</pre></li>'
        )

    # -- what can be done ------------------------------------------------------------------

    def _which(self) -> dict[str, Any]:
        query = self.page.query
        if query["receipt"]:
            return {"receipts": [query["receipt"]]}
        named = {"refused_for": query["reason"], "source": query["source"]}
        return {name: value for name, value in named.items() if value}

    def _mend(self) -> Action:
        def fields() -> Callable[[], dict[str, Any]]:
            set_ = ui.textarea("Values to set, FIELD=VALUE, one a line (JSON, or else text)")
            set_.props("outlined dense autogrow data-name=set")
            rename = ui.textarea("Fields to rename first, OLD=NEW, one a line")
            rename.props("outlined dense autogrow data-name=rename")
            return lambda: {
                "action": "resend", **self._which(), "rename": pairs(rename.value),
                "set": {name: _value(one) for name, one in pairs(set_.value).items()},
            }  # fmt: skip

        with self.page.main:
            return Action(
                self.page, "Mend and send again",
                "Each is mended by the rule and sent as a new item; what is still refused stays.",
                "Send again", fields, LETTERS,
            )  # fmt: skip

    def _discard(self) -> Action:
        with self.page.main:
            return Action(
                self.page, "Discard", "They are kept, and no longer listed.", "Discard",
                lambda: lambda: {"action": "discard", **self._which()}, LETTERS,
            )  # fmt: skip


def passed_over(counts: list[Counts]) -> int:
    """Items that were kept out on purpose: in quarantine or excluded.

    >>> passed_over([{"a": {"learned": 5, "quarantined": 2}}, {"b": {"excluded": 1, "late": 4}}])
    3
    """
    return sum(
        items.get(one, 0) for items in total(counts).values() for one in ("quarantined", "excluded")
    )


def pairs(lines: str | None) -> dict[str, str]:
    """``NAME=VALUE``, one a line.

    >>> pairs("qty=quantity\\nunit = kg")
    {'qty': 'quantity', 'unit': 'kg'}
    """
    found = {}
    for line in (lines or "").splitlines():
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or not equals:
            raise ValueError(f"“{line.strip()}”: give NAME=VALUE.")
        found[name] = value
    return found


def _value(said: str) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return said
