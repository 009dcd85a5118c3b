"""Quality: scores by horizon and slice beside seasonal naive and twin; calibration."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from api.console import charts, guard
from api.console.formats import link, notice, number, percent, table, tag, text
from api.console.page import Console, Page, choices, heading, markup

PATH = "/quality"
#: Metric → its name, Plotly's format, and what it says.
METRICS = {
    "rmsse": ("RMSSE", ".3f", "error of the mean over the seasonal difference; less is better"),
    "wape": ("WAPE", ".1%", "absolute errors of the median over demand; less is better"),
    "bias": ("Bias", "+.1%", "forecast less demand, over demand; nearest to 0 is best"),
    "pinball": ("Pinball", ".3f", "of the quantiles 10, 50 and 90 %; less is better"),
}
SLICES = {"": "All", "store": "Store", "category": "Category", "volume_class": "Volume"}
#: Most values of a slice that are shown.
MOST = 60


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def quality(
        metric: str = "rmsse", slice: str = "", value: str = "", horizon: int | None = None
    ) -> None:
        query = {
            "metric": metric if metric in METRICS else "rmsse",
            "slice": slice if slice in SLICES else "", "value": value, "horizon": horizon,
        }  # fmt: skip
        page = Page(console, "Quality", PATH, query)
        with page.main:
            _Quality(page)


class _Quality:
    def __init__(self, page: Page) -> None:
        self.page, self.metric = page, page.query["metric"]
        name, _, says = METRICS[self.metric]
        value = page.query["value"]
        of = f" of {text(value)}" if value else ""
        with heading("Quality", "Every model is scored before it learns, on what really came."):
            pass
        markup(
            '<div class="controls">'
            + choices("Metric", [(METRICS[one][0], page.address(metric=one), one == self.metric)
                                 for one in METRICS])
            + choices("By", [(label, page.address(slice=one, value=""), one == page.query["slice"])
                             for one, label in SLICES.items()])
            + "</div>"
        )  # fmt: skip
        markup(f'<p class="muted small">{text(name)}: {text(says)}.</p>')
        self.whole = page.section(self._load, self._draw, keep=True)
        with self.whole.body:
            self.empty = markup("")
            self.shown = ui.element("div")
            with self.shown:
                with ui.element("div").classes("columns even"):
                    with ui.element("section"):
                        markup(f"<h2>{text(name)} by horizon{of}</h2>")
                        self.chart = ui.plotly(charts.blank()).classes("chart short")
                    with ui.element("section"):
                        markup(f"<h2>Calibration of what is served{of}</h2>")
                        self.curve = ui.plotly(charts.blank()).classes("chart short")
                self.table = markup("", "block")
        guard.add_champions(page)
        if page.query["slice"]:
            page.section(self._load_slices, self._draw_slices)

    async def _load(self) -> dict[str, Any]:
        query = self.page.query
        given = {"slice": query["slice"], "value": query["value"]} if query["value"] else {}
        scores = await self.page.api.get("/v1/quality", **given)
        return {"scores": scores, "bucket": "bucket"}

    def _draw(self, value: dict[str, Any]) -> None:
        rows = [row for row in value["scores"]["rows"] if row["n"] > 0]
        self.shown.set_visibility(bool(rows))
        if not rows:
            self.empty.set_content(
                notice("Nothing is scored yet", "The first scores come when a bucket that was "
                       "forecast has closed.")
            )  # fmt: skip
            return
        self.empty.set_content("")
        name, form, _ = METRICS[self.metric]
        bucket = value["bucket"]
        self.chart.update_figure(charts.scores(rows, self.metric, form, name, bucket))
        champion = [row for row in rows if row["role"] == "champion"]
        self.curve.update_figure(charts.calibration(champion))
        self.table.set_content(_table(rows))

    async def _load_slices(self) -> dict[str, Any]:
        query = self.page.query
        found: dict[str, Any] = await self.page.api.get("/v1/quality", slice=query["slice"])
        return found

    def _draw_slices(self, found: dict[str, Any]) -> None:
        rows = [row for row in found["rows"] if row["n"] > 0]
        if not rows:
            return
        horizons = sorted({row["horizon"] for row in rows})
        chosen = self.page.query["horizon"]
        horizon = chosen if chosen in horizons else horizons[0]
        models = list(dict.fromkeys(row["model"] for row in rows))
        values = list(dict.fromkeys(row["value"] for row in rows))
        at = {(row["value"], row["model"]): row for row in rows if row["horizon"] == horizon}
        lines = []
        for one in values[:MOST]:
            href = self.page.address(value=one)
            on = {"aria-current": "true"} if one == self.page.query["value"] else {}
            shown = link(one or "(none)", href, **on)
            cells = [_cell(at.get((one, model)), self.metric) for model in models]
            n = next((at[one, model]["n"] for model in models if (one, model) in at), None)
            lines.append([shown, *cells, number(n, 0)])
        kind = SLICES[self.page.query["slice"]]
        more = (
            f" The {MOST} with the largest demand of {len(values)}." if len(values) > MOST else ""
        )
        markup(
            f"<h2>{METRICS[self.metric][0]} by {kind.lower()}</h2>"
            + choices("Ahead", [(str(h), self.page.address(horizon=h), h == horizon)
                                for h in horizons])
            + table([kind, *models, "Forecasts"], lines, label=f"Scores by {kind}",
                    numbers=range(1, len(models) + 2))
            + f'<p class="muted small">The largest demand comes first.{more} '
            + (link("All of them", self.page.address(value="")) if self.page.query["value"] else "")
            + "</p>"
        )  # fmt: skip


def _cell(row: dict[str, Any] | None, metric: str) -> str:
    if row is None:
        return "–"
    if metric in ("wape", "bias"):
        return percent(row[metric], 1, sign=metric == "bias")
    return number(row[metric], 3)


def _table(rows: list[dict[str, Any]]) -> str:
    """All metrics of all models by horizon, and how much better each is than seasonal naive."""
    naive = {row["horizon"]: row for row in rows if row["model"] == "seasonal_naive"}
    lines = []
    for row in sorted(rows, key=lambda one: one["horizon"]):
        base = naive.get(row["horizon"])
        gain = None
        if base and base["rmsse"] and row["rmsse"] is not None and base is not row:
            gain = 1 - row["rmsse"] / base["rmsse"]
        name = text(row["model"]) + (f" {tag('served', 'active')}" if row["role"] == "champion"
                                     else "")  # fmt: skip
        lines.append(
            [name, str(row["horizon"]), number(row["rmsse"], 3), percent(gain, 1, sign=True),
             percent(row["wape"], 1), percent(row["bias"], 1, sign=True),
             number(row["pinball"], 3), number(row["n"], 0)]
        )  # fmt: skip
    heads = ["Model", "Ahead", "RMSSE", "Less error than naive", "WAPE", "Bias", "Pinball",
             "Forecasts"]  # fmt: skip
    return "<h2>All scores</h2>" + table(heads, lines, label="All scores", numbers=range(1, 8))
