"""Why a forecast moved between two snapshots: facts, plans and model, where the API tells it."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from api.console.client import ApiError, series_path
from api.console.formats import bar, bucket, moment, number, signed, table, text, units
from api.console.page import Page, markup

PREFIX = "/v1/diff"
_PARTS = {
    "plans": "Plans known since",
    "amended": "Facts known otherwise by now",
    "closed": "Buckets closed since",
    "model": "What the model learned",
    "open": "Sold of it already",
}
#: Most snapshots that are offered.
_OFFERED = 40


class Diff:
    """The section of one series; it is hidden where the API tells no differences."""

    def __init__(self, page: Page, store: str, product: str) -> None:
        self.page, self.store, self.product = page, store, product
        self.section = page.section(self._load, self._draw, every_s=30.0, keep=True)
        with self.section.body:
            self.box = ui.element("div")
            self.box.set_visibility(False)
        with self.box:
            markup("<h2>Why it moved</h2>")
            with ui.element("div").classes("filters"):
                self.since = self._choice("since", "From")
                self.until = self._choice("until", "To")
            self.said = markup("")

    def _choice(self, name: str, label: str) -> ui.select:
        made = ui.select({"": "…"}, label=label, value="")
        made.props(f"outlined dense options-dense data-name={name}")

        def chosen(event: Any) -> None:
            if (event.value or "") != (self.page.query[name] or ""):
                self.page.hold(**{name: event.value or ""})
                self.section.invalidate()

        made.on_value_change(chosen)
        return made

    async def _load(self) -> dict[str, Any] | None:
        api, query = self.page.api, self.page.query
        if not any(one.startswith(PREFIX) for one in (await api.abilities()).paths):
            return None
        found: dict[str, Any] = {}
        why, partition = "", None
        try:
            # "from" is no name of an argument.
            found = await api.get(
                series_path(PREFIX, self.store, self.product),
                **{"from": query["since"], "to": query["until"], "horizon": query["step"]},
            )
            partition = found["partition"]
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise
            why = f"{error.detail or error.title}. {error.remedy}"
        kept = await api.get("/v1/snapshots", partition=partition, limit=_OFFERED)
        offered = {
            one["id"]: f"{moment(one['as_of'])}: {one['id']}"
            for one in kept["items"]
            if one["origin"]
        }
        return {"diff": found, "why": why, "offered": offered}

    def _draw(self, value: dict[str, Any] | None) -> None:
        self.box.set_visibility(value is not None)
        if value is None:
            return
        query = self.page.query
        for select, name, otherwise in (
            (self.since, "since", "the close before"), (self.until, "until", "what is served"),
        ):  # fmt: skip
            chosen = query[name] or ""
            options = {"": f"As usual: {otherwise}", **({chosen: chosen} if chosen else {})}
            select.set_options({**options, **value["offered"]}, value=chosen)
        if not value["diff"]:
            self.said.set_content(f'<p class="muted">{text(value["why"])}</p>')
            return
        self.said.set_content(told(value["diff"]))


def told(diff: dict[str, Any]) -> str:
    """A difference as markup: what it was, what it is, and the parts that add up to the change."""
    before, after = diff["from"], diff["to"]
    length = "day" if diff["start"][11:16] == "00:00" else "hour"
    most = max([abs(one) for one in diff["parts"].values()] + [1e-9])
    rows = [
        [text(_PARTS.get(name, name)), bar(value / most), signed(value)]
        for name, value in diff["parts"].items()
    ]
    rows.append(["<strong>Change</strong>", "", f"<strong>{signed(diff['change'])}</strong>"])
    said = (
        f"<p>{text(bucket(diff['start'], length))}: <strong>{units(before['mean'])}</strong> as of "
        f"{text(moment(before['as_of']))}, <strong>{units(after['mean'])}</strong> as "
        f"of {text(moment(after['as_of']))}.</p>"
    ) + table(["Part", "", "Units"], rows, label="Parts of the change", numbers=(2,))
    if diff["closed"]:
        lines = [
            [text(bucket(one["start"], length)), units(one["demand"]), signed(one["effect"]),
             _senders(one["sources"])]
            for one in diff["closed"]
        ]  # fmt: skip
        said += "<h3>Buckets closed since</h3>" + table(
            ["Bucket", "Demand", "Moved it by", "Sent by"], lines, label="Buckets closed since",
            numbers=(1, 2),
        )  # fmt: skip
    if diff["amended"]:
        lines = [
            [text(bucket(one["start"], length)), units(one["before"]), units(one["after"]),
             _senders(one["sources"])]
            for one in diff["amended"]
        ]  # fmt: skip
        said += "<h3>Known otherwise by now</h3>" + table(
            ["Bucket", "Before", "After", "Sent by"], lines, label="Known otherwise by now",
            numbers=(1, 2),
        )  # fmt: skip
    if not diff["log"]["complete"]:
        said += f'<p class="muted small">{text(diff["log"]["detail"])}</p>'
    return said


def _senders(sources: list[dict[str, Any]]) -> str:
    said = []
    for one in sources:
        items = "1 item" if one["items"] == 1 else f"{number(one['items'], 0)} items"
        out = ", kept out" if one["passed_over"] else ""
        said.append(f"{one['source']} {units(one['units'])} ({items}{out})")
    return f'<span class="wrap">{text(", ".join(said) or "–")}</span>'
