"""Figures for Plotly, as plain values. Pure.

Colours are told apart on light and dark ground alike; text, grid and ground follow the page, by
its style sheet.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

ACCENT, BAND, BAR, STRONG = "#178f84", "rgba(23,143,132,.22)", "#8a97a2", "#5f6c77"
SUPPOSED, NAIVE, TWIN, MISSING = "#c2702e", "#8a97a2", "#7a6bd0", "rgba(138,151,162,.35)"
_OTHERS = ("#c2702e", "#7a6bd0", "#3f86c9", "#b5557f")
_WIDTH_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 7 * 86_400_000}
#: Dates as the page has them.
_TICKS = {"hour": "%H:%M\n%-d %b %Y", "day": "%-d %b\n%Y", "week": "%-d %b\n%Y"}

Figure = dict[str, Any]


def blank() -> Figure:
    """What stands there before there is anything to draw."""
    return _figure([], "", xaxis={"visible": False}, yaxis={"visible": False})


def _figure(data: list[dict[str, Any]], key: str, **layout: Any) -> Figure:
    """A figure without tools; ``key`` names what is shown: while it stays, so does the zoom."""
    x, y = layout.pop("xaxis", {}), layout.pop("yaxis", {})
    axis = {"zeroline": False, "linecolor": "rgba(128,128,128,.4)", "tickfont": {"size": 12}}
    return {
        "data": data,
        "layout": {
            "margin": {"l": 52, "r": 10, "t": 8, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": True,
            "legend": {"orientation": "h", "y": -0.14, "x": 0, "yanchor": "top"},
            "hovermode": "x unified",
            "dragmode": False,
            "uirevision": key,
            "xaxis": {**axis, "fixedrange": True, "showgrid": False, "ticks": "outside", **x},
            "yaxis": {**axis, "fixedrange": True, "nticks": 6, "automargin": True, **y},
            **layout,
        },
        "config": {"displayModeBar": False, "responsive": True, "locale": "en"},
    }


def series(
    forecast: dict[str, Any], history: dict[str, Any], supposed: dict[str, Any] | None, last: int
) -> Figure:
    """A series: its past, its forecast with the 80 % band, and what a what-if says.

    Parameters
    ----------
    forecast, history, supposed
        Answers of the API.
    last
        How many past buckets to show.
    """
    length = forecast["bucket"]
    past = history["items"][-last:]
    steps = forecast["steps"]
    when = [one["start"][:19] for one in steps]

    def bars(name: str, rows: list[tuple[str, float]], colour: str, **more: Any) -> dict[str, Any]:
        return {
            "type": "bar", "name": name, "x": [x[:19] for x, _ in rows],
            "y": [y for _, y in rows], "marker": {"color": colour},
            "width": 0.8 * _WIDTH_MS[length], "hovertemplate": "%{y:,.4~g}", **more,
        }  # fmt: skip

    def line(name: str, values: list[float], **more: Any) -> dict[str, Any]:
        return {"type": "scatter", "mode": "lines", "name": name, "x": when, "y": values,
                "hovertemplate": "%{y:,.3~g}", **more}  # fmt: skip

    top = max(
        [one["units"] or 0 for one in past] + [one["quantiles"]["0.9"] for one in steps] + [1.0]
    )
    open_ = [(one["start"], one["sold"]) for one in steps if one["sold"] is not None]
    data = [
        bars("Sold", [(o["start"], o["units"]) for o in past if o["status"] == "observed"], BAR),
        bars("Stock-out: at least", [(o["start"], o["units"]) for o in past
                                     if o["status"] == "censored"], STRONG),
        # Low and hatched: nothing is known of it, so it must not look like sales.
        bars("Missing", [(o["start"], 0.05 * top) for o in past if o["status"] == "missing"],
             MISSING, hovertemplate="not known", marker={"color": "rgba(0,0,0,0)", "pattern": {
                 "shape": "/", "fgcolor": MISSING, "size": 6, "solidity": 0.4}}),
        bars("Sold so far", open_, STRONG),
        line("10 %", [o["quantiles"]["0.1"] for o in steps], line={"width": 0}, showlegend=False),
        line("80 % band", [o["quantiles"]["0.9"] for o in steps], line={"width": 0}, fill="tonexty",
             fillcolor=BAND),
        line("Median", [o["median"] for o in steps],
             line={"color": ACCENT, "width": 1.2, "dash": "dot"}),
        line("Mean", [o["mean"] for o in steps], mode="lines+markers",
             line={"color": ACCENT, "width": 2}, marker={"color": ACCENT, "size": 5}),
    ]  # fmt: skip
    if supposed is not None:
        data.append(
            line("What if", [o["mean"] for o in supposed["steps"]], mode="lines+markers",
                 line={"color": SUPPOSED, "width": 2, "dash": "dash"},
                 marker={"color": SUPPOSED, "size": 5})
        )  # fmt: skip
    for one in data[:4]:
        one["showlegend"] = bool(one["x"])
    return _figure(
        data,
        f"{forecast['store']}/{forecast['product']}/{last}",
        barmode="overlay",
        # Names from data never come here as markup.
        xaxis={"type": "date", "fixedrange": False, "tickformat": _TICKS[length],
               "hoverformat": "%a %-d %b %Y" + (", %H:%M" if length == "hour" else "")},
        yaxis={"rangemode": "tozero", "title": {"text": f"Units a {length}"}},
        dragmode="zoom",
    )  # fmt: skip


def scores(
    rows: Sequence[dict[str, Any]], metric: str, form: str, title: str, bucket: str
) -> Figure:
    """A metric by horizon, one line a model, the champion first and strongest."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    roles = {row["model"]: row["role"] for row in rows}
    horizons = sorted({row["horizon"] for row in rows})
    others = iter(_OTHERS * len(names))
    data = []
    for name in names:
        values = {row["horizon"]: row[metric] for row in rows if row["model"] == name}
        champion = roles[name] == "champion"
        colour = (
            ACCENT if champion
            else NAIVE if name == "seasonal_naive"
            else TWIN if name == "twin"
            else next(others)
        )  # fmt: skip
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": html.escape(name),
                "x": [str(h) for h in horizons], "y": [values.get(h) for h in horizons],
                "line": {"color": colour, "width": 3 if champion else 1.6,
                         "dash": "solid" if champion else "dash"},
                "marker": {"size": 8 if champion else 6, "color": colour},
                "hovertemplate": f"%{{y:{form}}}",
            }
        )  # fmt: skip
    return _figure(
        data, metric,
        xaxis={"type": "category", "title": {"text": f"{bucket}s ahead".capitalize()}},
        yaxis={"tickformat": form, "title": {"text": title}},
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"},
        margin={"l": 60, "r": 10, "t": 34, "b": 48},
    )  # fmt: skip


def calibration(rows: Sequence[dict[str, Any]]) -> Figure:
    """Share of demand below each level, by horizon, beside what it should be."""
    levels = sorted({level for row in rows for level in row["hits"]}, key=float)
    data = [
        {
            "type": "scatter", "mode": "lines", "name": "As it should be",
            "x": [0, 1], "y": [0, 1], "line": {"color": BAR, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        },
        *(
            {
                "type": "scatter", "mode": "lines+markers", "name": f"{row['horizon']} ahead",
                "x": [float(one) for one in levels], "y": [row["hits"][one] for one in levels],
                "line": {"color": (ACCENT, *_OTHERS)[at % 5], "width": 1.6},
                "marker": {"size": 7, "color": (ACCENT, *_OTHERS)[at % 5]},
                "hovertemplate": "%{y:.1%}",
            }
            for at, row in enumerate(rows)
        ),
    ]  # fmt: skip
    return _figure(
        data, "calibration",
        xaxis={"range": [0, 1.02], "tickformat": ".0%", "title": {"text": "Quantile"}},
        yaxis={"range": [0, 1.02], "tickformat": ".0%", "title": {"text": "Demand below it"}},
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"},
        margin={"l": 60, "r": 10, "t": 34, "b": 48},
    )  # fmt: skip
