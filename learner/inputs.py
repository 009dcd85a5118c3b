"""What a source's part of a bucket comes to, in a few numbers that have a usual value.

Logarithms of amounts, and arcsines of roots of shares: on these scales deviations are about the
same for small and large, and the least that chance alone makes of them is known from the number
of sales. Leaves out: what is usual, and what is not (``guard``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learner.evaluation import NAIVE
from learner.panel import Panel
from stream.brought import Brought, Open
from stream.event import MICRO
from stream.settings import TWIN
from stream.window import STATE_BITS, Window

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

#: What is held against its past, and how many deviations its band is wide. ``volume``: units;
#: ``sales``: their number; ``model``: units of the touched series against the champion's
#: forecast; ``size``: units a sale; ``price``: paid against usual; ``stuck``: share of series
#: whose price is exactly the last one; ``twice``: share of sales that repeat another's content
#: under a new id; ``again``: share of known ids; ``drift``: recent units a sale against earlier.
BANDS = {
    "volume": 6.0, "sales": 6.0, "model": 6.0, "size": 12.0, "price": 8.0, "stuck": 6.0,
    "twice": 7.0, "again": 8.0, "drift": 6.0,
}  # fmt: skip
STATISTICS = tuple(BANDS)
VOLUME, SALES, MODEL, SIZE, PRICE, STUCK, TWICE, AGAIN, DRIFT = range(len(STATISTICS))
#: Statistics with a course over the season.
SEASONAL = (VOLUME, SALES)
#: Those of identity, which no season moves: nothing in common is taken off.
IDENTITY = (TWICE, AGAIN)
#: Those that do no harm: known ids are not learned again. Nothing is withheld for them.
HARMLESS = (AGAIN,)
#: Those that are a fault only above their band.
ABOVE = (STUCK, TWICE, AGAIN)
#: Least deviation of anything: a source that never varies does so at last.
LEAST = 0.02


class Measured(NamedTuple):
    """Statistics of sources, shape (n, K), ``nan`` where there is none; the least deviations of
    them; and the number of sales, shape (n,)."""

    values: Floats
    least: Floats
    sales: Floats


def measure(
    bucket: int,
    names: Sequence[str],
    here: Open,
    window: Window,
    panel: Panel,
    expected: Floats | None,
    owned: Sequence[Rows],
) -> Measured:
    """Measure what sources brought to a bucket that is about to close.

    Parameters
    ----------
    owned
        Rows of the series that each source usually sends.
    expected
        The champion's forecast of the bucket, shape (S,), in units; ``nan`` where none.
    """
    n = len(names)
    values, least = np.full((n, len(STATISTICS)), np.nan), np.ones((n, len(STATISTICS)))
    sales, total, last = np.zeros(n), np.zeros(panel.size, np.int64), _last_prices(panel)
    for one in here.by.values():
        rows, cells = rows_of(one, panel)
        total[rows] += cells[:, 0]
    again = window.again.get(bucket, {})
    for at, name in enumerate(names):
        mine = here.by.get(name)
        rows, own = (owned[at], None) if mine is None else rows_of(mine, panel)
        touched = np.union1d(rows, owned[at])
        if expected is not None and np.isfinite(expected[touched]).any():
            known = touched[np.isfinite(expected[touched])]
            said = max(expected[known].sum(), 0.0)
            values[at, MODEL] = np.log((total[known].sum() / MICRO + 1) / (said + 1))
            least[at, MODEL] = 1.0 / np.sqrt(said + 1)
        if mine is None or own is None:
            values[at, SALES] = 0.0
            continue
        cells = np.array(list(mine.cells.values()), np.int64)
        units, sales[at] = cells[:, 0].sum() / MICRO, cells[:, 4].sum()
        few = 1.0 / np.sqrt(sales[at] + 1)
        least[at, [VOLUME, SALES]] = few
        values[at, VOLUME], values[at, SALES] = np.log(units + 1), np.log(sales[at] + 1)
        if units > 0 and sales[at] > 0:
            values[at, SIZE] = np.log(units / sales[at])
        _prices(values[at], least[at], rows, own, panel, last)
        known_ids = again.get(name, 0)
        values[at, TWICE] = np.arcsin(np.sqrt(_repeated(mine, window)))
        values[at, AGAIN] = np.arcsin(np.sqrt(known_ids / (known_ids + sales[at] + 1)))
        least[at, [TWICE, AGAIN, SIZE]] = 0.5 * few
        least[at, DRIFT] = 0.25 * few
    return Measured(values, np.maximum(least, LEAST), sales)


def _prices(
    values: Floats, least: Floats, rows: Rows, cells: Ints, panel: Panel,
    last: Floats,
) -> None:  # fmt: skip
    """A source's prices against the usual ones, and against the last."""
    priced = cells[:, 3] > 0
    rows, cells = rows[priced], cells[priced]
    paid = cells[:, 2] / cells[:, 3]
    usual, before = panel.column("usual_price")[rows], last[rows]
    judged = np.isfinite(usual) & (usual > 0) & (paid > 0)
    if judged.any():
        values[PRICE] = np.median(np.log(paid[judged] / usual[judged]))
        least[PRICE] = 0.5 / np.sqrt(judged.sum())
    judged = np.isfinite(before)
    if judged.any():
        same = paid[judged].astype(np.float32) == before[judged].astype(np.float32)
        values[STUCK] = np.arcsin(np.sqrt(same.mean()))
        least[STUCK] = 0.5 / np.sqrt(judged.sum())


def rows_of(one: Brought, panel: Panel) -> tuple[Rows, Ints]:
    """Rows of the series that a source touched, ascending, with their cells, (n, 6)."""
    known = [(row, cell) for key, cell in one.cells.items()
             if (row := panel.rows.get(key)) is not None]  # fmt: skip
    known.sort()
    return (
        np.array([row for row, _ in known], np.intp),
        np.array([cell for _, cell in known], np.int64).reshape(-1, 6),
    )


def _last_prices(panel: Panel) -> Floats:
    """Mean price of each series in the last bucket it was sold in, up to a season back, (S,)."""
    found = np.full(panel.size, np.nan)
    if panel.last is None or panel.first is None:
        return found
    for back in range(min(panel.season, 7, panel.last - panel.first + 1)):
        price = np.asarray(panel.of("price", panel.last - back), np.float64)
        found = np.where(np.isfinite(found), found, price)
    return found


def _repeated(mine: Brought, window: Window) -> float:
    """Share of a source's identities whose content another one has."""
    if not mine.identities:
        return 0.0
    found = map(window.seen.__getitem__, mine.identities)
    contents = np.fromiter(found, np.uint64, len(mine.identities)) >> np.uint64(STATE_BITS)
    return float(1.0 - len(np.unique(contents)) / len(contents))


def amounts(cause: int, seen: Measured, usual: Floats, at: int) -> tuple[float, float]:
    """What was found and what is usual, as people read it."""
    value, level = float(seen.values[at, cause]), float(usual[at, cause])
    level = level if np.isfinite(level) else 0.0
    if cause in ABOVE:
        return float(np.sin(value) ** 2), float(np.sin(level) ** 2)
    if cause in (VOLUME, SALES):
        return float(max(np.expm1(value), 0.0)), float(max(np.expm1(level), 0.0))
    return float(np.exp(value)), float(np.exp(level))


_WORDS = {
    "volume": "units", "sales": "sales", "size": "units a sale", "price": "price against usual",
    "model": "units against the forecast", "stuck": "share of prices that do not move",
    "twice": "share of sales sent twice under new ids", "again": "share of ids sent again",
    "drift": "recent units a sale against earlier",
    TWIN: "error over that of the twin", NAIVE: "error over that of seasonal naive",
    "champion": "error over that of the twin, or of seasonal naive where there is none",
}  # fmt: skip


def said(state: str, statistic: str, found: float, usual: float) -> str:
    """What was found of a source, in words.

    Examples
    --------
    >>> said("suspect", "volume", 1200.0, 100.0)
    'units 1200, usually 100'
    >>> said("silent", "sales", 0.0, 40.2)
    'silent, usually 40.2 sales'
    """
    if state == "silent":
        return f"silent, usually {usual:.3g} sales"
    return f"{_WORDS[statistic]} {_short(found)}, usually {_short(usual)}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
