"""Forecasts as the columns and bytes that are answered: pure functions of what is served.

One series costs tens of microseconds, since what does not depend on it is worked out once per
(snapshot, levels): normal scores by horizon and volume class. The rest is a closed form of the
mean (``learner.intervals``).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from learner import intervals
from learner.serving import Serving

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Levels = tuple[float, ...]

#: Points that can be asked for, and the metric that each is best judged by.
METRICS = {"mean": "RMSSE", "median": "WAPE", "mape": "MAPE"}
DECIMALS = 4
#: Series whose distributions are reweighted together: 64 levels of each, 60 MB at 28 buckets.
SLAB = 4096
encode = msgspec.json.Encoder().encode


def spread(serving: Serving, levels: Levels) -> Floats:
    """What the distributions of each horizon and volume class are made of.

    Shape (H, CLASSES, 2 + len(levels)): dispersion, then normal scores, the median's first.
    """
    wanted = np.asarray((0.5, *levels))
    out = np.empty((len(serving.mean), intervals.CLASSES, 1 + len(wanted)))
    for step in range(len(out)):
        # Mixed first, then inverted, as totals of one step are.
        tables = intervals.horizon_tables(serving.tables, serving.scored, step + 1)
        out[step, :, 0] = tables.dispersion
        out[step, :, 1:] = intervals.scores_at(tables, wanted)
    return out


class Columns(NamedTuple):
    """Forecasts of n series: ``mean`` and ``median`` (H, n), ``quantiles`` (q, H, n)."""

    mean: Floats
    median: Floats
    quantiles: Floats


def columns(serving: Serving, rows: Ints, horizons: int, z: Floats) -> Columns:
    """Forecast some series over the first ``horizons`` buckets after the origin.

    Parameters
    ----------
    rows
        Series, shape (n,).
    z
        What ``spread`` gave for the levels wanted.
    """
    mean = serving.mean[:horizons].take(rows, axis=1).astype(np.float64)
    grain, whole, factor = serving.traits.take(rows)
    known = min(horizons, len(serving.sold))
    # Of an open bucket only what remains is uncertain.
    mean[:known] = serving.remains[:known].take(rows, axis=1)
    out = np.empty((z.shape[-1] - 1, *mean.shape))
    for step in range(horizons):
        units = intervals.grains(mean[step], grain)
        position = intervals.volume_class(mean[step] / units)
        found = intervals.between(z[step], position)
        own = serving.open_factor[step].take(rows) if step < known else factor
        gauge = intervals.gauge(mean[step], units, found[0] * own)
        for level, scores in enumerate(found[1:]):
            out[level, step] = intervals.demand(gauge, scores, whole)
    out *= mean > 0  # of a bucket that is over, or closed, nothing more is to come
    sold = np.fmax(serving.sold[:known].take(rows, axis=1), 0.0)
    mean[:known] += sold
    out[:, :known] += sold
    return Columns(mean, out[0], out[1:])


def points(serving: Serving, rows: Ints, point: str, found: Columns, grid: Floats) -> Floats:
    """The point that was asked for, shape (H, n), in units.

    Parameters
    ----------
    point
        One of ``METRICS``.
    found
        Forecasts of the same series and horizons.
    grid
        What ``spread`` gave for ``intervals.GRID``; needed for ``mape`` only.
    """
    if point == "mean":
        return found.mean
    if point == "median":
        return found.median
    out = np.empty(found.mean.shape)
    for start in range(0, len(rows), SLAB):
        some = slice(start, start + SLAB)
        by_level = columns(serving, rows[some], len(found.mean), grid).quantiles
        smallest = least(serving, rows[some], found.mean[:, some])
        out[:, some] = intervals.relative_median(by_level, smallest)
    return out


def least(serving: Serving, rows: Ints, mean: Floats) -> Floats:
    """The least demand there is above none, (H, n): a grain."""
    return intervals.grains(mean, serving.traits.grain[rows])


class Sheet(NamedTuple):
    """All of an answer's steps that does not depend on the series.

    ``table`` is laid out so that one look-up gives all of a series: row ``h * CLASSES + class``
    holds what ``spread`` has of the class, and what the next class has more of each; ``first`` is
    the first row of each horizon. ``text`` is the steps' JSON with a ``%b`` for each number.
    ``point`` is the one asked for, if any is, and ``grid`` the table that ``mape`` is worked out
    from.
    """

    table: Floats
    first: Ints
    text: bytes
    point: str | None
    grid: Floats | None


def sheet(
    z: Floats,
    horizons: int,
    times: list[tuple[str, str]],
    names: tuple[str, ...],
    point: str | None = None,
    grid: Floats | None = None,
) -> Sheet:
    """Prepare the answers of one snapshot to requests of one kind.

    Parameters
    ----------
    z
        What ``spread`` gave for the levels wanted.
    times
        Start and end of the buckets after the origin, at least ``horizons`` of them.
    names
        The levels as they are written.
    point, grid
        The point wanted, if any is; see ``points``.
    """
    quantiles = ",".join(f'"{name}":%b' for name in names)
    asked = "" if point is None else '"point":%b,'
    steps = [
        f'{{"start":"{start}","end":"{end}",{asked}"mean":%b,"median":%b,'
        f'"quantiles":{{{quantiles}}},"sold":%b,"remains":%b}}'
        for start, end in times[:horizons]
    ]
    first = np.arange(horizons) * intervals.CLASSES
    text = f"[{','.join(steps)}]".encode()
    return Sheet(_laid_out(z), first, text, point, None if grid is None else _laid_out(grid))


def _laid_out(z: Floats) -> Floats:
    more = np.diff(z, axis=1, append=z[:, -1:])
    return np.concatenate([z, more], axis=2).reshape(-1, 2 * z.shape[2])


def one(serving: Serving, row: int, sheet: Sheet) -> bytes:
    """Forecast one series, all horizons at once: its steps as JSON, the numbers of ``columns``."""
    horizons, count = len(sheet.first), sheet.table.shape[1] // 2
    mean = serving.mean[:horizons, row].astype(np.float64)
    known = min(horizons, len(serving.sold))
    for step in range(known):  # one or two: numbers are faster than arrays here
        # Of an open bucket only what remains is uncertain.
        mean[step] = serving.remains[step, row]
    asked = int(sheet.point is not None)
    out = np.full((horizons, asked + count + 2), np.nan)
    units = out[:, asked:-2]
    units[:, 0] = mean
    units[:, 1:] = _of_one(serving, row, mean, sheet.first, sheet.table)
    for step in range(known):
        sold = float(serving.sold[step, row])
        out[step, -2:] = sold, mean[step]
        # What cannot be sold yet is not a number, and is written as null.
        if sold > 0:
            units[step] += sold
    if sheet.point == "mape" and sheet.grid is not None:
        by_level = _of_one(serving, row, mean, sheet.first, sheet.grid)[:, 1:].T
        by_level[:, :known] += np.fmax(out[:known, -2], 0.0)
        grain = intervals.grains(units[:, 0], serving.traits.grain[row])
        out[:, 0] = intervals.relative_median(by_level, grain)
    elif asked:
        out[:, 0] = units[:, 0 if sheet.point == "mean" else 1]
    return sheet.text % tuple(encode(out.round(DECIMALS).ravel().tolist())[1:-1].split(b","))


def _of_one(serving: Serving, row: int, mean: Floats, first: Ints, table: Floats) -> Floats:
    """Demand of one series at all normal scores of a table, shape (H, q)."""
    count = table.shape[1] // 2
    traits = serving.traits
    whole = traits.whole[row]
    grain: Floats | float = 1.0 if whole else intervals.grains(mean, traits.grain[row])
    position = intervals.volume_class(mean / grain)
    left = position.astype(np.intp)
    found = table.take(left + first, axis=0)
    learned = found[:, count:]
    learned *= (position - left)[:, None]
    learned += found[:, :count]
    dispersion = learned[:, 0] * float(traits.factor[row])
    known = range(min(len(mean), len(serving.sold)))
    for step in known:
        dispersion[step] = learned[step, 0] * serving.open_factor[step, row]
    gauge = intervals.gauge(mean, grain, dispersion)
    found = intervals.demand(gauge.upright(), learned[:, 1:], whole)
    found[~(mean > 0)] = 0.0  # of a bucket that is over, or closed, nothing more is to come
    return found
