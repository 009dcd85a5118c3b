"""Forecasts: find a series, its past and its band, what if, and why."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from nicegui import ui

from api.console import charts
from api.console.client import ApiDown, ApiError, series_path
from api.console.diff import Diff
from api.console.formats import (
    address,
    bar,
    bucket,
    buckets,
    duration,
    facts,
    link,
    moment,
    notice,
    number,
    percent,
    signed,
    table,
    text,
    units,
)
from api.console.page import Console, Page, choices, error_notice, heading, markup

PATH = "/forecasts"
_HORIZONS = {"hour": (24, 48, 72), "day": (7, 14, 28), "week": (4, 13, 26)}
_RECENT = {"hour": 7 * 24, "day": 90, "week": 52}
_FOUND = 50


def install(console: Console) -> None:
    """Add the page."""

    @ui.page(PATH)
    def forecasts(
        q: str = "", store: str = "", product: str = "", horizon: int | None = None,
        past: str = "", price: float | None = None, promotion: float | None = None,
        step: int = 1, since: str = "", until: str = "",
    ) -> None:  # fmt: skip
        query = {
            "q": q, "store": store, "product": product, "horizon": horizon, "past": past,
            "price": price, "promotion": promotion, "step": step if step != 1 else None,
            "since": since, "until": until,
        }  # fmt: skip
        page = Page(console, "Forecasts", PATH, query, product)
        with page.main:
            _search(page, bool(store and product))
            if store and product:
                _Series(page, store, product)


def _search(page: Page, narrow: bool) -> None:
    """A field and what it finds; beside a chosen series only once something is typed."""

    async def load() -> dict[str, Any] | None:
        if narrow and not page.query["q"]:
            return None
        found: dict[str, Any] = await page.api.get("/v1/series", q=page.query["q"], limit=_FOUND)
        return found

    def draw(found: dict[str, Any] | None) -> None:
        if found is None:
            return
        if not found["items"]:
            markup(_nothing(page, page.query["q"]))
            return
        rows = [
            [link(one["product"], address(PATH, {"store": one["store"], "product": one["product"]}),
                  class_="found"),
             text(one["store"]), text(one["category"]), units(one["recent"])]
            for one in found["items"]
        ]  # fmt: skip
        shown = "" if len(rows) == found["total"] else f"; the largest {len(rows)} are shown"
        markup(
            f'<p class="muted small">{number(found["total"], 0)} series{shown}. Units: mean of a '
            "bucket over the last season.</p>"
            + table(["Product", "Store", "Category", "Units"], rows, label="Series", numbers=(3,))
        )

    def typed(event: Any) -> None:
        page.hold(q=event.value or "")
        found.invalidate()

    if not narrow:
        with heading("Forecasts", "Every series, the largest first."):
            pass
    ui.input("Search store, product, category", value=page.query["q"], on_change=typed).props(
        "outlined dense clearable debounce=200 for=q type=search"
    ).classes("find")
    found = page.section(load, draw, every_s=30.0)


def _nothing(page: Page, sought: str) -> str:
    if sought:
        return notice("Nothing is found", f"No store, product or category holds “{text(sought)}”.")
    return notice(
        "No sales yet",
        f"Send the first ones to <code>{text(page.api.url)}/v1/events</code>, for example with "
        "<code>salescast produce sales.csv</code>. A series is listed once its first bucket "
        "has closed.",
    )


class _Slider(ui.slider):
    """A slider whose handle goes where the hand puts it: no echo of the server moves it back."""

    LOOPBACK = False


class _Series:
    """One series."""

    def __init__(self, page: Page, store: str, product: str) -> None:
        self.page, self.store, self.product = page, store, product
        self.shown: dict[str, Any] | None = None
        self.supposed: dict[str, Any] | None = None
        with heading(product):
            self.state = markup("", "state-line")
        self.main = page.section(self._load, self._draw, keep=True)
        with self.main.body:
            self.figures = markup(_SKELETON)
            self.controls = markup("", "controls")
            self.chart = ui.plotly(charts.blank()).classes("chart")
            self.chart.props(
                'role=img aria-label="History and forecast; the table has the numbers"'
            )
            with ui.element("div").classes("columns"):
                with ui.element("div"):
                    self._build_what_if()
                    self.table = markup("", "block")
                with ui.element("div"):
                    self.why = page.section(self._load_why, self._draw_why, every_s=30.0)
                    self.where = markup("", "block")
        Diff(page, store, product)

    # -- past and forecast -----------------------------------------------------------------

    async def _load(self) -> dict[str, Any]:
        api, horizon = self.page.api, self.page.query["horizon"]
        forecast = await api.get(series_path("/v1/forecasts", self.store, self.product),
                                 horizon=horizon)  # fmt: skip
        history = await api.get(series_path("/v1/history", self.store, self.product), limit=366)
        accuracy = None
        with suppress(ApiError):
            accuracy = await api.get(series_path("/v1/accuracy", self.store, self.product))
        # Its age is told by the page that shows it, and would draw everything anew.
        age_s = forecast.pop("age_s")
        self._age_s = age_s
        return {"forecast": forecast, "history": history, "accuracy": accuracy}

    def _draw(self, value: dict[str, Any]) -> None:
        first, self.shown = self.shown is None, value
        forecast, history = value["forecast"], value["history"]
        self.state.set_content(_state(forecast, self._age_s))
        self.figures.set_content(_figures(forecast, value["accuracy"]))
        self.controls.set_content(self._choices(forecast))
        self.table.set_content(_steps(forecast))
        self.where.set_content(_where(forecast))
        if first:
            self._set_sliders(history)
        self._draw_chart()

    def _draw_chart(self) -> None:
        if self.shown is None:
            return
        forecast, history = self.shown["forecast"], self.shown["history"]
        whole = self.page.query["past"] == "all"
        last = len(history["items"]) if whole else _RECENT[forecast["bucket"]]
        self.chart.update_figure(charts.series(forecast, history, self.supposed, last))

    def _choices(self, forecast: dict[str, Any]) -> str:
        page, length, steps = self.page, forecast["bucket"], len(forecast["steps"])
        ahead = sorted({*_HORIZONS[length], steps})
        whole = page.query["past"] == "all"
        return choices(
            "Past", [("Recent", page.address(past=""), not whole),
                     ("All", page.address(past="all"), whole)],
        ) + choices(
            "Ahead",
            [(buckets(n, length), page.address(horizon=n), n == steps) for n in ahead],
        )  # fmt: skip

    # -- what if ---------------------------------------------------------------------------

    def _build_what_if(self) -> None:
        query = self.page.query
        with ui.element("section"):
            markup("<h2>What if</h2>")
            with ui.element("div").classes("sliders"):
                self.promotion_text = ui.label("Promotion: as planned")
                self.promotion = _Slider(min=0, max=1, step=0.05, value=query["promotion"] or 0)
                self.promotion.props('aria-label="Promotion, 0 to 1" data-name=promotion')
                self.price_text = ui.label("Price: as planned")
                self.price = _Slider(min=0.01, max=2, step=0.01, value=query["price"] or 1)
                self.price.props('aria-label="Price" data-name=price')
            self.answer = markup('<p class="muted">Move a slider to suppose something.</p>')
            for slider, name in ((self.promotion, "promotion"), (self.price, "price")):
                slider.on("change", lambda event, name=name: self._suppose(name, event.args))

    def _set_sliders(self, history: dict[str, Any]) -> None:
        prices = [one["price"] for one in history["items"] if one["price"]]
        if prices:
            usual = sorted(prices)[len(prices) // 2]
            self.price.props(f"min={usual * 0.5:.2f} max={usual * 1.5:.2f} step={usual / 100:.4f}")
            if self.page.query["price"] is None:
                self.price.set_value(round(usual, 2))
        else:
            self.price.disable()
            self.price_text.set_text("Price: no sale told one, so its effect is unknown")
        if self.page.query["promotion"] is not None or self.page.query["price"] is not None:
            ui.timer(0.01, self._suppose, once=True)

    async def _suppose(self, name: str = "", value: float = 0.0) -> None:
        """Ask what would be, under what the sliders say; one of them was moved."""
        if name:
            self.page.hold(**{name: round(value, 4)})
        query = self.page.query
        wanted = {
            "store": self.store, "product": self.product, "horizon": query["horizon"],
            **{one: query[one] for one in ("promotion", "price") if query[one] is not None},
        }  # fmt: skip
        if query["promotion"] is not None:
            self.promotion_text.set_text(f"Promotion: {percent(query['promotion'])} of the bucket")
        if query["price"] is not None:
            self.price_text.set_text(f"Price: {number(query['price'], 2)}")
        try:
            self.supposed = await self.page.api.post("/v1/forecasts:what-if", wanted)
        except ApiError as error:
            self.answer.set_content(error_notice(error))
            return
        except ApiDown as error:
            self.answer.set_content(notice("The API cannot be reached", text(error), kind="warn"))
            return
        steps = self.supposed["steps"] if self.supposed else []
        base, then = (sum(one[kind] for one in steps) for kind in ("base", "mean"))
        change = percent(then / base - 1, sign=True) if base else "–"
        back = self.page.address(promotion=None, price=None)
        self.answer.set_content(
            f'<p>As planned <strong class="num">{units(base)}</strong>, then '
            f'<strong class="num">{units(then)}</strong> units over {len(steps)} buckets: '
            f'<strong class="num">{change}</strong>. {link("As planned", back)}</p>'
        )
        self._draw_chart()

    # -- why -------------------------------------------------------------------------------

    async def _load_why(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.page.api.get(
            series_path("/v1/explain", self.store, self.product),
            horizon=self.page.query["step"] or 1,
        )
        return found

    def _draw_why(self, found: dict[str, Any]) -> None:
        step = found["horizon"]
        most = max([abs(one) for one in found["parts"].values()] + [1e-9])
        rows = [
            [text(name.capitalize()), bar(value / most), signed(value)]
            for name, value in found["parts"].items()
        ]
        rows.append(["<strong>Mean</strong>", "", f"<strong>{units(found['mean'])}</strong>"])
        experts = ", ".join(
            f"{text(one['name'])} {percent(one['weight'])}" for one in found["experts"]
        )
        around = [
            (str(n), self.page.address(step=n), n == step)
            for n in sorted({1, 7, 14, step})
            if self.shown is None or n <= len(self.shown["forecast"]["steps"]) or n == step
        ]
        markup(
            "<h2>Why</h2>"
            + choices("Buckets ahead", around)
            + f'<p class="muted small">The mean of {_start(found)} in parts, in units.</p>'
            + table(["Part", "", "Units"], rows, label="Parts of the forecast", numbers=(2,))
            + (f'<p class="muted small">Experts by weight: {experts}.</p>' if experts else "")
        )


def _start(found: dict[str, Any]) -> str:
    return text(bucket(found["start"], "day" if found["start"][11:16] == "00:00" else "hour"))


_SKELETON = '<div class="skeleton"><span></span><span></span></div>'


def _state(forecast: dict[str, Any], age_s: float) -> str:
    as_of = text(moment(forecast["as_of"]))
    if forecast["frozen"]:
        said, kind = f"Frozen by an operator: as of {as_of}. Learning goes on behind.", "frozen"
    elif forecast["stale"]:
        said, kind = (
            f"Stale: as of {as_of}, {duration(age_s)} old. No newer snapshot came.",
            "stale",
        )
    else:
        said, kind = f"Up to date: as of {as_of}", "fresh"
    where = " · ".join(text(one) for one in (forecast["store"], forecast["category"]) if one)
    basis = {
        "group": '<p class="muted">Young: it still stands on the demand of its kind.</p>',
        "retired": '<p class="muted">Retired: delisted, or silent beyond its own gaps.</p>',
    }.get(forecast["basis"], "")
    return f'<p class="where">{where}</p><p class="state" data-state="{kind}">{said}</p>{basis}'


def _figures(forecast: dict[str, Any], accuracy: dict[str, Any] | None) -> str:
    steps, length = forecast["steps"], forecast["bucket"]
    opened = [one for one in steps if one["sold"] is not None]
    now = opened[-1] if opened else None
    cells = [
        ("Sold so far", units(now["sold"]), text(bucket(now["start"], length))) if now
        else ("Sold so far", "–", "no bucket is open"),
        ("Remains", units(now["remains"]), f"of {units(now['mean'])} expected") if now
        else ("Remains", "–", ""),
        (f"Next {buckets(len(steps), length)}", units(sum(one["mean"] for one in steps)),
         "units, sum of the means"),
        _accuracy(accuracy, length),
    ]  # fmt: skip
    inside = "".join(
        f'<div><dt>{name}</dt><dd class="figure num">{value}</dd><dd class="more">{more}</dd></div>'
        for name, value, more in cells
    )
    return f'<dl class="figures">{inside}</dl>'


def _accuracy(accuracy: dict[str, Any] | None, length: str) -> tuple[str, str, str]:
    """RMSSE of the shortest horizon that is scored, beside seasonal naive."""
    for one in (accuracy or {}).get("horizons", []):
        champion, naive = one["champion"], one["naive"]
        if champion and champion["rmsse"] is not None:
            beside = f"seasonal naive {number(naive['rmsse'], 2)}; " if naive else ""
            ahead = buckets(one["horizon"], length)
            return f"RMSSE, {ahead} ahead", number(champion["rmsse"], 2), f"{beside}of {one['n']}"
    return "RMSSE", "–", "no forecast is scored yet"


def _steps(forecast: dict[str, Any]) -> str:
    rows = [
        [text(bucket(one["start"], forecast["bucket"])), f"<strong>{units(one['mean'])}</strong>",
         units(one["median"]), units(one["quantiles"]["0.1"]), units(one["quantiles"]["0.9"]),
         units(one["sold"])]
        for one in forecast["steps"]
    ]  # fmt: skip
    heads = [forecast["bucket"].capitalize(), "Mean", "Median", "10 %", "90 %", "Sold"]
    return "<h2>Forecast by bucket</h2>" + table(heads, rows, label="Forecast", numbers=range(1, 6))


def _where(forecast: dict[str, Any]) -> str:
    return "<h2>Where it comes from</h2>" + facts([
        ("Model", text(forecast["model"])),
        ("Snapshot", link(forecast["snapshot"],
                          address("/snapshots", {"snapshot": forecast["snapshot"]}),
                          class_="mono")),
        ("Time zone", text(forecast["timezone"])),
    ])  # fmt: skip
