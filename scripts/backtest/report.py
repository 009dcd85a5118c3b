"""A backtest's report: one HTML file with everything in it, to be looked at and passed on.

Error by horizon and by slice, error and calibration over time, and the best and worst series
with their bands. Plotly's script comes from its Python package and is in the file.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from scripts.backtest.output import of_series, part_of
from scripts.backtest.replay import Replay
from scripts.backtest.tally import ABSOLUTE, DEMAND, SUMS, VOLUMES, N, Tally
from stream.window import Key

#: Slices of a kind that are shown, the largest by demand.
SLICES = 12
#: Series shown at each end.
SHOWN = 3
#: Target buckets that are a point in the plots over time.
POINT = {"hour": 168, "day": 7, "week": 4}
COLOURS = ("#0b6e66", "#c9821a", "#4a6fb5", "#9d241f", "#7b5aa6", "#2a8f3c")
NAIVE, NAIVE_COLOUR = "seasonal_naive", "#84919d"

_STYLE = """
body { margin: 0; background: #fafaf8; color: #1a1f24;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -.015em; }
h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 0 0 12px; max-width: 80ch; color: #57616b; }
section { background: #fff; border: 1px solid #d9dee2; border-radius: 6px; padding: 8px;
  overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { text-align: right; padding: 5px 7px; border-bottom: 1px solid #eceff1;
  white-space: nowrap; }
th { color: #57616b; font-weight: 600; }
th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.champion td { font-weight: 650; color: #0b6e66; }
tr.first td { border-top: 1px solid #c3cad0; }
"""


def write_report(
    path: Path, replay: Replay, tally: Tally, forecasts: Path, files: Sequence[str]
) -> None:
    """Draw the report of a backtest.

    Parameters
    ----------
    forecasts
        The Parquet file of all forecasts, of which the series' plots are made.
    files
        Names of the files of events, to be told.
    """
    parts = [
        _head(replay, tally, files),
        _section("Scores", _SCORES, _table(replay, tally)),
        _section("Error by horizon", _HORIZON, _drawn(_by_horizon(tally))),
    ]
    for kind, about, names in _slices(replay, tally):
        parts.append(_section(f"Error by {kind}", about, _drawn(_by_slice(tally, names))))
    parts.append(_section("Error over time", _TIME, _drawn(_over_time(replay, tally))))
    parts.append(
        _section("Calibration over time", _CALIBRATION, _drawn(_calibrated(replay, tally)))
    )
    best, worst = _extremes(replay, tally)
    if best:
        figure = _of_series(replay, tally, forecasts, best, worst)
        parts.append(_section("Best and worst series", _EXTREMES, _drawn(figure)))
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Salescast backtest</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>{''.join(parts)}</main></body></html>"
    )
    part = part_of(path)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


_SCORES = (
    "RMSSE and bias judge the mean: each series' root mean squared error over that of its own "
    "seasonal difference, averaged over series; and the sum of errors over demand. WAPE judges "
    "the median. Pinball judges all quantiles. Under PIT stands how often demand fell below each "
    "level of its distribution, a count in part; last, the share that was not above the highest "
    "quantile."
)
_HORIZON = "Left the error, right the bias: above 0 the mean is too high."
_TIME = "Absolute error of the median as a share of demand (WAPE), by target."
_CALIBRATION = (
    "How often demand fell below each level of the champion's distribution, by target (hit rates "
    "of the non-randomised probability integral transform); dashed: how often it should."
)
_EXTREMES = (
    "The champion's best (left) and worst (right) series by RMSSE, among the quarter that sells "
    "most. Points are demand, the line is the mean, the band reaches from the lowest to the "
    "highest quantile, the dotted line is seasonal naive's."
)


# -- text --------------------------------------------------------------------------------------


def _head(replay: Replay, tally: Tally, files: Sequence[str]) -> str:
    settings = replay.settings
    targets = sorted(tally.by_bucket)
    first, last = replay.calendar.start(targets[0]), replay.calendar.end(targets[-1])
    series = sum(panel.size for panel in replay.panels)
    said = (
        f"{series:,} series in buckets of a {settings.bucket} ({settings.timezone}); targets from "
        f"{first:%d %B %Y} up to {last:%d %B %Y}; events of {', '.join(files)}. "
        f"Champion: {settings.champion}. {replay.seconds:.1f} CPU seconds in all."
    )
    return f"<h1>Salescast backtest</h1><p>{html.escape(said)}</p>"


def _section(title: str, about: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(about)}</p><section>{body}</section>"


def _table(replay: Replay, tally: Tally) -> str:
    scores, seconds = tally.scores(), replay.model_seconds()
    heads = ["h", "model", "forecasts", "RMSSE", "to naive", "bias", "WAPE (median)", "pinball",
             *(f"PIT {level:g}" for level in tally.levels), f"≤ q{tally.levels[-1]:g}",
             "CPU s"]  # fmt: skip
    rows = []
    for horizon in tally.horizons:
        naive = scores[NAIVE, horizon].rmsse
        for at, model in enumerate(_ordered(tally)):
            one = scores[model, horizon]
            cells = [str(horizon), model, f"{one.n:,}", f"{one.rmsse:.4f}",
                     f"{one.rmsse / naive:.3f}", f"{one.bias:+.2%}", f"{one.wape:.4f}",
                     f"{one.pinball:.4f}", *(f"{share:.3f}" for share in one.hits),
                     f"{one.covered[-1]:.3f}",
                     f"{seconds[model]:.2f}" * (horizon == tally.horizons[0])]  # fmt: skip
            kinds = ["champion"] * (model == tally.models[0]) + ["first"] * (at == 0)
            rows.append(
                f'<tr class="{" ".join(kinds)}">'
                + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
                + "</tr>"
            )
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


# -- figures -----------------------------------------------------------------------------------


def _ordered(tally: Tally) -> list[str]:
    """Models with seasonal naive last."""
    return sorted(tally.models, key=lambda name: name == NAIVE)


def _colour(tally: Tally, model: str) -> str:
    if model == NAIVE:
        return NAIVE_COLOUR
    return COLOURS[_ordered(tally).index(model) % len(COLOURS)]


def _styled(figure: Any, height: int) -> Any:
    """Shape and fonts; the legend is below the axes' own texts."""
    top = 88 if figure.layout.updatemenus else 48
    figure.update_layout(
        template="plotly_white", height=height, margin={"l": 64, "r": 24, "t": top, "b": 88},
        legend={"orientation": "h", "x": 0, "y": -56 / (height - top - 88), "yanchor": "top"},
        hovermode="closest", font={"size": 13},
    )  # fmt: skip
    return figure


def _drawn(figure: Any) -> str:
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displayModeBar": False, "responsive": True},
    )
    return text


def _by_horizon(tally: Tally) -> Any:
    figure = make_subplots(cols=2, subplot_titles=("RMSSE", "bias"))
    scores = tally.scores()
    for model in _ordered(tally):
        for col, values in enumerate(
            (
                [scores[model, h].rmsse for h in tally.horizons],
                [scores[model, h].bias for h in tally.horizons],
            ),
            start=1,
        ):
            figure.add_scatter(
                x=list(tally.horizons), y=values, name=model, mode="lines+markers",
                line={"color": _colour(tally, model)}, legendgroup=model, showlegend=col == 1,
                row=1, col=col,
            )  # fmt: skip
    figure.update_xaxes(title_text="horizon, buckets", tickvals=list(tally.horizons))
    figure.update_yaxes(tickformat=".1%", zerolinecolor="#84919d", row=1, col=2)
    return _styled(figure, 380)


def _slices(
    replay: Replay, tally: Tally
) -> list[tuple[str, str, dict[str, npt.NDArray[np.bool_]]]]:
    """Kinds of slices: what they are, and each one's series, (S,); kinds of one are left out."""
    stores, categories = [], []
    for panel in replay.panels:
        stores += [store for store, _ in panel.keys]
        texts = panel.categories.texts
        categories += [texts[code] or "(none)" for code in panel.column("category").tolist()]
    volumes = tally.volumes()
    bounds = [0.0, *VOLUMES, np.inf]
    classes = {
        f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more":
        (volumes >= low) & (volumes < high)
        for low, high in pairwise(bounds)
    }  # fmt: skip
    demand = tally.sums[0].sum(axis=0)[DEMAND]
    kinds = [
        ("store", f"The {SLICES} stores that sell most.", _largest(stores, demand)),
        ("category", f"The {SLICES} categories that sell most.", _largest(categories, demand)),
        ("volume class", "By units sold a bucket.",
         {name: chosen for name, chosen in classes.items() if chosen.any()}),
    ]  # fmt: skip
    return [kind for kind in kinds if len(kind[2]) > 1]


def _largest(
    names: Sequence[str], demand: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.bool_]]:
    size = len(demand)
    texts, codes = np.unique(np.asarray(names[:size], dtype=str), return_inverse=True)
    totals = np.bincount(codes, demand, len(texts))
    chosen = np.argsort(-totals, kind="stable")[:SLICES]
    return {str(texts[one]): codes == one for one in chosen.tolist()}


def _by_slice(tally: Tally, names: dict[str, npt.NDArray[np.bool_]]) -> Any:
    scores = {name: tally.scores(chosen) for name, chosen in names.items()}
    shown = list(names)[::-1]  # the axis goes up
    figure = make_subplots(cols=2, subplot_titles=("RMSSE", "bias"), shared_yaxes=True)

    def of(horizon: int) -> list[Any]:
        traces = []
        for model in _ordered(tally):
            for col in (1, 2):
                values = [
                    scores[name][model, horizon].rmsse if col == 1
                    else scores[name][model, horizon].bias for name in shown
                ]  # fmt: skip
                trace = go.Scatter(
                    x=values, y=shown, mode="markers", name=model, legendgroup=model,
                    showlegend=col == 1, marker={"color": _colour(tally, model), "size": 10},
                )  # fmt: skip
                traces.append((trace, col))
        return traces

    _per_horizon(figure, tally, of)
    figure.update_xaxes(tickformat=".0%", zerolinecolor="#84919d", row=1, col=2)
    figure.update_yaxes(type="category", automargin=True)
    return _styled(figure, 200 + 26 * len(names))


def _over_time(replay: Replay, tally: Tally) -> Any:
    figure = make_subplots(cols=1)
    starts, sums = _points(replay, tally)

    def of(horizon: int) -> list[Any]:
        at = tally.horizons.index(horizon)
        return [
            (
                go.Scatter(
                    x=starts, y=_ratio(sums[:, m, at, ABSOLUTE], sums[:, m, at, DEMAND]),
                    name=model, mode="lines+markers", line={"color": _colour(tally, model)},
                ),
                1,
            )
            for model in _ordered(tally)
            for m in [tally.models.index(model)]
        ]  # fmt: skip

    _per_horizon(figure, tally, of)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return _styled(figure, 380)


def _calibrated(replay: Replay, tally: Tally) -> Any:
    figure = make_subplots(cols=1)
    starts, sums = _points(replay, tally)

    def of(horizon: int) -> list[Any]:
        at = tally.horizons.index(horizon)
        count = sums[:, 0, at, N]
        return [
            (
                go.Scatter(
                    x=starts, y=_ratio(sums[:, 0, at, len(SUMS) + q], count), name=f"{level:g}",
                    mode="lines+markers", line={"color": COLOURS[q % len(COLOURS)]},
                ),
                1,
            )
            for q, level in enumerate(tally.levels)
        ]  # fmt: skip

    _per_horizon(figure, tally, of)
    for q, level in enumerate(tally.levels):
        figure.add_hline(y=level, line={"color": COLOURS[q % len(COLOURS)], "dash": "dash",
                                        "width": 1})  # fmt: skip
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return _styled(figure, 420)


def _per_horizon(figure: Any, tally: Tally, of: Callable[[int], list[Any]]) -> None:
    """Add each horizon's traces, with buttons that show one horizon's at a time."""
    groups = []
    for horizon in tally.horizons:
        for trace, col in of(horizon):
            trace.visible = horizon == tally.horizons[0]
            figure.add_trace(trace, row=1, col=col)
            groups.append(horizon)
    if len(tally.horizons) < 2:
        return
    buttons = [
        {"label": f"h = {horizon}", "method": "restyle",
         "args": [{"visible": [group == horizon for group in groups]}]}
        for horizon in tally.horizons
    ]  # fmt: skip
    figure.update_layout(
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, "x": 0,
                      "xanchor": "left", "y": 1.0, "yanchor": "bottom", "showactive": True,
                      "pad": {"b": 32}}],
    )  # fmt: skip


def _points(replay: Replay, tally: Tally) -> tuple[list[datetime], npt.NDArray[np.float64]]:
    """Sums of stretches of target buckets, and where each stretch starts."""
    targets = sorted(tally.by_bucket)
    length = POINT[replay.settings.bucket]
    place = [(target - targets[0]) // length for target in targets]
    out = np.zeros((place[-1] + 1, *tally.by_bucket[targets[0]].shape))
    for target, at in zip(targets, place, strict=True):
        out[at] += tally.by_bucket[target]
    starts = [replay.calendar.start(targets[0] + at * length) for at in range(len(out))]
    return [start.replace(tzinfo=None) for start in starts], out


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> list[float | None]:
    return [a / b if b > 0 else None for a, b in zip(part.tolist(), whole.tolist(), strict=True)]


# -- series ------------------------------------------------------------------------------------


def _extremes(replay: Replay, tally: Tally) -> tuple[list[Key], list[Key]]:
    """The champion's best and worst series at the first horizon, of those that sell most."""
    keys = [key for panel in replay.panels for key in panel.keys]
    rmsse, volumes = tally.rmsse()[0, 0], tally.volumes()
    known = np.flatnonzero(np.isfinite(rmsse) & np.isfinite(volumes))
    known = known[volumes[known] >= np.quantile(volumes[known], 0.75)] if len(known) else known
    order = known[np.argsort(rmsse[known], kind="stable")]
    few = min(SHOWN, len(order) // 2)
    best = [keys[at] for at in order[:few].tolist()]
    worst = [keys[at] for at in order[len(order) - few :][::-1].tolist()]
    return best, worst


def _of_series(
    replay: Replay, tally: Tally, forecasts: Path, best: list[Key], worst: list[Key]
) -> Any:
    horizon, champion = tally.horizons[0], tally.models[0]
    said = of_series(forecasts, [*best, *worst], horizon, champion)
    naive = of_series(forecasts, [*best, *worst], horizon, NAIVE)
    titles = [" / ".join(key) for pair in zip(best, worst, strict=True) for key in pair]
    figure = make_subplots(
        rows=len(best), cols=2, subplot_titles=titles, vertical_spacing=0.3 / len(best)
    )
    low, high = f"q{tally.levels[0]:g}", f"q{tally.levels[-1]:g}"
    for col, keys in enumerate((best, worst), start=1):
        for row, key in enumerate(keys, start=1):
            table, first = said[key], row == col == 1
            x = [_target(replay, origin, horizon) for origin in table["origin"].to_pylist()]
            band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
            traces = [
                {"y": table[high].to_pylist(), "showlegend": False, **band},
                {"y": table[low].to_pylist(), "fill": "tonexty", "name": f"{low} to {high}",
                 "fillcolor": "rgba(11, 110, 102, .17)", "showlegend": first, **band},
                {"y": naive[key]["mean"].to_pylist(), "name": NAIVE, "mode": "lines",
                 "line": {"color": NAIVE_COLOUR, "dash": "dot", "width": 1},
                 "showlegend": first},
                {"y": table["mean"].to_pylist(), "name": f"{champion}, mean", "mode": "lines",
                 "line": {"color": COLOURS[0], "width": 2}, "showlegend": first},
                {"y": table["actual"].to_pylist(), "name": "demand", "mode": "markers",
                 "marker": {"color": "#1a1f24", "size": 4}, "showlegend": first},
            ]  # fmt: skip
            for trace in traces:
                figure.add_scatter(x=x, row=row, col=col, **trace)
    figure.update_yaxes(rangemode="tozero")
    return _styled(figure, 130 + 280 * len(best))


def _target(replay: Replay, origin: datetime, horizon: int) -> datetime:
    bucket = replay.calendar.index(round(origin.astimezone(UTC).timestamp() * 1e6)) + horizon
    return replay.calendar.start(bucket).replace(tzinfo=None)
