"""The forms of operations: what each asks for, beside reason and who.

A form can be opened by an address, filled in: ``/snapshots?do=rollback&to=…&source=…``. It is
never sent by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from api.console.actions import Action
from api.console.page import Page, markup

Collect = Callable[[], dict[str, Any]]
_OFFSETS = re.compile(r"(\d+):(\d+)-(\d+)")
#: What narrows an exclusion, by the query's names.
_NARROW = ("store", "product", "category", "since", "until")
_NAMED = {"stores": "Stores", "products": "Products", "categories": "Categories"}


def names(text: str | None) -> list[str]:
    """Names, one a line; they may hold commas.

    >>> names(" rye, sliced \\n\\nrolls")
    ['rye, sliced', 'rolls']
    """
    return [one.strip() for one in (text or "").splitlines() if one.strip()]


def offsets(lines: str | None) -> dict[str, list[int]]:
    """Spans `PARTITION:FIRST-LAST`, one a line, as partition → first, and the one after the last.

    >>> offsets("0:5-9")
    {'0': [5, 10]}
    """
    found = {}
    for line in names(lines):
        match = _OFFSETS.fullmatch(line)
        if match is None or int(match[3]) < int(match[2]):
            raise ValueError(f"“{line}”: give offsets as PARTITION:FIRST-LAST, such as 0:120-180.")
        found[match[1]] = [int(match[2]), int(match[3]) + 1]
    return found


def _area(label: str, value: Sequence[str], name: str) -> ui.textarea:
    made = ui.textarea(label, value="\n".join(value))
    return made.props(f"outlined dense autogrow data-name={name}")


def _line(label: str, query: dict[str, Any], name: str) -> ui.input:
    made = ui.input(label, value=query.get(name) or "")
    return made.props(f"outlined dense data-name={name}")


def _cut(query: dict[str, Any], now: bool) -> Collect:
    """Fields of a cut: a time, snapshots, or what is allowed besides."""
    kinds = {"to": "Up to a time", "snapshots": "These snapshots"}
    kinds |= {"now": "What is served now"} if now else {"start": "All, from the log's beginning"}
    chosen = "snapshots" if query.get("snapshots") else "to"
    if not query.get("snapshots") and not query.get("to") and now:
        chosen = "now"
    kind = ui.radio(kinds, value=chosen).props('inline dense aria-label="How far"')
    to = ui.input("Newest snapshots that know nothing after (ISO 8601 with zone)",
                  value=query.get("to") or "")  # fmt: skip
    to.props("outlined dense data-name=to").bind_visibility_from(kind, "value", value="to")
    named = _area("Snapshots, one a partition and one a line", query.get("snapshots") or [],
                  "snapshots")  # fmt: skip
    named.bind_visibility_from(kind, "value", value="snapshots")

    def collect() -> dict[str, Any]:
        if kind.value == "now":
            return {}
        if kind.value == "start":
            return {"snapshots": ["start"]}
        if kind.value == "to":
            if not (to.value or "").strip():
                raise ValueError("Give the time to go back to.")
            return {"to": to.value.strip()}
        if not names(named.value):
            raise ValueError("Name the snapshots to go back to.")
        return {"snapshots": names(named.value)}

    return collect


def rollback(page: Page, query: dict[str, Any], sources: Sequence[str]) -> Action:
    """Go back to a cut; with a replay, learn again without what is excluded.

    Parameters
    ----------
    query
        What the form begins with: ``to``, ``snapshots``, ``source``, ``store``, ``product``,
        ``category``, ``since``, ``until``.
    sources
        Names of the sources that are known.
    """

    def fields() -> Collect:
        cut = _cut(query, now=False)
        begun = any(query.get(one) for one in ("replay", "source", *_NARROW))
        replay = ui.checkbox(
            "Facts too: learn again what came after, without what is excluded", value=begun
        ).props("data-name=replay")
        with ui.element("fieldset").classes("exclude") as excluding:
            excluding.bind_visibility_from(replay, "value")
            markup("<legend>Pass over what matches all of</legend>")
            every = list(dict.fromkeys([*sources, *query.get("source", [])]))
            source = ui.select(every, label="Sources", multiple=True, with_input=True,
                               value=list(query.get("source", [])))  # fmt: skip
            source.props("outlined dense use-chips data-name=sources")
            with ui.expansion("Only some stores, products, times, offsets").props("dense") as more:
                named = {
                    kind: _area(f"{label}, one a line", query.get(kind_of(kind), []), kind)
                    for kind, label in _NAMED.items()
                }
                since = _line("From this event time on (ISO 8601 with zone)", query, "since")
                until = _line("Before this event time", query, "until")
                spans = _area("Offsets, PARTITION:FIRST-LAST, one a line", [], "offsets")
            more.value = any(query.get(one) for one in _NARROW)
            surplus = ui.checkbox("What remains is whole: sent twice, or invented")
            late = ui.checkbox("Learn late items too")

        def collect() -> dict[str, Any]:
            asked: dict[str, Any] = {"kind": "rollback", **cut()}
            if not replay.value:
                if asked.get("snapshots") == ["start"]:
                    raise ValueError("Only a replay can begin where the log begins.")
                return asked
            what: dict[str, Any] = {
                "sources": list(source.value or []),
                **{kind: names(one.value) for kind, one in named.items()},
                "since": (since.value or "").strip(),
                "until": (until.value or "").strip(),
                "offsets": offsets(spans.value),
            }
            what = {name: value for name, value in what.items() if value}
            if what and surplus.value:
                what["surplus"] = True
            asked |= {"replay": True, "admit_late": bool(late.value)}
            return asked | ({"exclude": what} if what else {})

        return collect

    return Action(
        page, "Roll back",
        "Models return to the cut; every fact that came after is kept, unless it is learned again.",
        "Roll back", fields,
    )  # fmt: skip


def kind_of(plural: str) -> str:
    """The query's name of a kind of criterion.

    >>> kind_of("stores"), kind_of("categories")
    ('store', 'category')
    """
    return plural.removesuffix("ies") + "y" if plural.endswith("ies") else plural.removesuffix("s")


def freeze(page: Page, query: dict[str, Any]) -> Action:
    """Serve a cut and stay there."""

    def fields() -> Collect:
        cut = _cut(query, now=True)
        return lambda: {"kind": "freeze", **cut()}

    return Action(page, "Freeze", "What is served stays as it is; learning goes on behind.",
                  "Freeze", fields)  # fmt: skip


def resume(page: Page) -> Action:
    """Serve the newest again."""
    return Action(page, "Resume", "The newest snapshots are served again.", "Resume",
                  lambda: lambda: {"kind": "resume"})  # fmt: skip


def quarantine(page: Page, query: dict[str, Any], sources: Sequence[str]) -> Action:
    """Keep what comes from now on, but do not learn from it."""

    def fields() -> Collect:
        every = list(dict.fromkeys([*sources, *query.get("source", [])]))
        source = ui.select(every, label="Sources", multiple=True, with_input=True,
                           value=list(query.get("source", [])))  # fmt: skip
        source.props("outlined dense use-chips data-name=sources")
        store = _area("Stores, one a line", query.get("store", []), "stores")
        product = _area("Products, one a line", query.get("product", []), "products")

        def collect() -> dict[str, Any]:
            what = {"sources": list(source.value or []), "stores": names(store.value),
                    "products": names(product.value)}  # fmt: skip
            what = {name: value for name, value in what.items() if value}
            if not what:
                raise ValueError("Name a source, a store or a product.")
            return {"kind": "quarantine", "exclude": what}

        return collect

    return Action(page, "Quarantine",
                  "What they send from now on is kept, not learned; their buckets are missing.",
                  "Quarantine", fields)  # fmt: skip


def readmit(page: Page, query: dict[str, Any]) -> Action:
    """Learn after all what an operation keeps out."""

    def fields() -> Collect:
        named = ui.input(
            "Operation whose items to learn after all", value=query.get("operation") or ""
        )
        named.props("outlined dense data-name=operation")
        return lambda: {"kind": "readmit", "readmits": (named.value or "").strip()}

    return Action(page, "Readmit", "Learns again from before, with what was kept out.", "Readmit",
                  fields)  # fmt: skip


def promote(page: Page, model: str, models: Sequence[str]) -> Action:
    """Serve another model, behind gates."""

    def fields() -> Collect:
        every = list(dict.fromkeys([*models, *([model] if model else [])]))
        chosen = ui.select(every, label="Model", value=model or None)
        chosen.props("outlined dense data-name=model")

        def collect() -> dict[str, Any]:
            if not chosen.value:
                raise ValueError("Choose the model to promote.")
            return {"kind": "promote", "model": chosen.value}

        return collect

    return Action(page, "Promote", "A challenger becomes the model that is served, if it passes "
                  "the gates.", "Promote", fields)  # fmt: skip
