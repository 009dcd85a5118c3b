"""Models: what is served, and what learns beside it; promotion, where the API has it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from nicegui import ui

from api.console import operate
from api.console.client import ApiDown, ApiError
from api.console.formats import address, link, notice, number, percent, table, tag, text
from api.console.page import Console, Page, choices, heading, markup

PATH, PATHS = "/models", "/v1/models"
#: What each gate asks.
_GATES = {
    "evidence": "Enough was scored",
    "better": "Better over all series",
    "worthwhile": "By enough to matter",
    "floor": "Better than seasonal naive",
    "nowhere_worse": "Worse at no horizon",
    "fair": "Worse in no class or category",
}
_SAYS = {
    "seasonal_naive": "what was sold one season before",
    "twin": "the champion as it was, learning nothing since: what learning is worth",
}


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def models(do: str = "", model: str = "", horizon: int | None = None) -> None:
        page = Page(console, "Models", PATH, {"do": do, "model": model, "horizon": horizon})
        with page.main:
            _Models(page)


class _Models:
    def __init__(self, page: Page) -> None:
        self.page = page
        with heading("Models", "All learn from the same stream; one is served."):
            pass
        page.section(self._load, self._draw)
        page.section(self._load_gates, self._draw_gates, every_s=60.0)
        if page.query["do"] == "promote":
            ui.timer(0.1, self._open, once=True)

    async def _open(self) -> None:
        models: list[str] = []
        with suppress(ApiDown, ApiError):
            rows = (await self.page.api.get("/v1/quality"))["rows"]
            models = _promotable(rows)
        with self.page.main:
            action = operate.promote(self.page, self.page.query["model"], models)
        action.open()
        action.dialog.on("hide", lambda: self.page.hold(do="", model=""))

    async def _load(self) -> dict[str, Any]:
        scores = await self.page.api.get("/v1/quality")
        able = await self.page.api.abilities()
        return {"rows": scores["rows"], "promote": "promote" in able.operations}

    async def _load_gates(self) -> Any:
        able = await self.page.api.abilities()
        return (await self.page.api.get(PATHS))["items"] if PATHS in able.paths else []

    def _draw_gates(self, items: list[dict[str, Any]]) -> None:
        judged = [one for one in items if one["gates"]]
        if judged:
            markup("<h2>Gates of a promotion</h2>")
        for one in judged:
            said = "may be promoted" if one["promotable"] else "may not be promoted"
            markup(
                f'<h3>{text(one["model"])} <span class="muted">{said}</span></h3>'
                + gates_of(one["gates"])
            )

    def _draw(self, value: dict[str, Any]) -> None:
        rows = value["rows"]
        if not rows:
            markup(notice("No model is scored yet", "The first scores come when a bucket that was "
                          "forecast has closed."))  # fmt: skip
            return
        horizons = sorted({row["horizon"] for row in rows})
        chosen = self.page.query["horizon"]
        horizon = chosen if chosen in horizons else horizons[0]
        at = [row for row in rows if row["horizon"] == horizon]
        served = next((row for row in at if row["role"] == "champion"), None)
        promotable = _promotable(rows)
        lines = []
        for row in at:
            name = text(row["model"])
            if row["role"] == "champion":
                name += f" {tag('served', 'active')}"
            says = _SAYS.get(row["model"])
            worse = None
            if served and served is not row and served["rmsse"] and row["rmsse"] is not None:
                worse = row["rmsse"] / served["rmsse"] - 1
            act = ""
            if value["promote"] and row["model"] in promotable:
                act = link("Promote…", address(PATH, {"do": "promote", "model": row["model"]}))
            lines.append(
                [name + (f'<br><span class="muted small wrap">{text(says)}</span>' if says else ""),
                 number(row["rmsse"], 3), percent(worse, 1, sign=True), percent(row["wape"], 1),
                 percent(row["bias"], 1, sign=True), number(row["pinball"], 3),
                 number(row["n"], 0), act]
            )  # fmt: skip
        heads = ["Model", "RMSSE", "Against the served", "WAPE", "Bias", "Pinball", "Forecasts", ""]
        note = "" if value["promote"] else "This API promotes no model while it runs."
        markup(
            choices("Ahead", [(str(h), self.page.address(horizon=h), h == horizon)
                              for h in horizons])
            + table(heads, lines, label="Models", numbers=range(1, 7))
            + '<p class="muted small">Against the served: how much larger (+) or smaller (−) the '
            f"error is than that of what is served. {note} "
            + link("By slice and horizon", "/quality") + "</p>"
        )  # fmt: skip


def gates_of(gates: list[dict[str, Any]]) -> str:
    """What the gates say of one challenger, as a table."""
    rows = [
        [text(_GATES.get(one["gate"], one["gate"])),
         tag("holds", "active") if one["passed"] else tag("fails", "bad"),
         f'<span class="wrap">{text(one["detail"])}</span>']
        for one in gates
    ]  # fmt: skip
    return table(["Gate", "", "Found"], rows, label="Gates")


def _promotable(rows: list[dict[str, Any]]) -> list[str]:
    """Challengers that can be served; the twin is a copy of what was."""
    names = dict.fromkeys(
        row["model"] for row in rows if row["role"] == "challenger" and row["model"] != "twin"
    )
    return list(names)
