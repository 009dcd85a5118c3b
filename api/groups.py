"""Forecasts of groups of series, put together from all partitions; pure.

Steps begin after the newest origin of the partitions that have any of the series asked for; one
that is behind says the same buckets from its own, older origin, so means are sums of forecasts of
one span, and one that has no forecast of them is left out. Quantiles are each partition's own for
its part of a group, put together as ``learner.groups`` says. A group that a filter cuts into has no
dispersion of its own, only that of its kind and volume. Leaves out: HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from api.asked import Asked
from learner import intervals, lead_time
from learner.groups import PartOf, put_together
from learner.intervals import Tables, Traits
from learner.serving import Scatter, Serving, Total

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

#: Levels one standard deviation below and above the middle of a normal.
_SIGMA = (0.1587, 0.8413)


class Wanted(NamedTuple):
    """Which groups: one a store, a category, a product, or one of all that the filters leave."""

    kind: str
    store: str | None = None
    category: str | None = None
    product: str | None = None

    @property
    def filters(self) -> dict[str, str]:
        """Filters by kind of what they name."""
        found = {"store": self.store, "category": self.category, "product": self.product}
        return {kind: name for kind, name in found.items() if name is not None}

    @property
    def scatter(self) -> str:
        """Kind of group whose scatter is taken: one filter names a group as the kind does."""
        only = list(self.filters) if self.kind == "all" else []
        return only[0] if len(only) == 1 else self.kind

    @property
    def whole(self) -> bool:
        """Whether groups are all of a kind's series, and not cut into by a filter."""
        return not self.filters.keys() - {self.scatter}


class Piece(NamedTuple):
    """A partition's series that were asked for: ``place`` (n,) is each one's group.

    ``behind``: buckets that its origin is older than the newest.
    """

    serving: Serving
    rows: Ints
    place: Ints
    behind: int


class Gathered(NamedTuple):
    """Groups by name with their pieces; ``series`` (groups,) counts them.

    ``left_out`` are partitions whose series were asked for, and whose forecasts are all of buckets
    that have closed elsewhere.
    """

    names: list[str]
    pieces: list[Piece]
    series: Ints
    left_out: tuple[int, ...] = ()


def gather(servings: Sequence[Serving], wanted: Wanted) -> Gathered:
    """Find the series of each group."""
    chosen = [(one, rows) for one in servings if len(rows := _chosen(one, wanted))]
    origin = max((one.origin for one, _ in chosen), default=0)
    places: dict[str, int] = {}
    pieces, left_out = [], []
    for serving, rows in chosen:
        if origin - serving.origin >= len(serving.mean):
            left_out.append(serving.partition)
            continue
        scatter = serving.groups[wanted.kind]
        code = scatter.code[rows]
        used = np.unique(code)
        place = np.zeros(len(scatter.names), np.intp)
        place[used] = [places.setdefault(scatter.names[at], len(places)) for at in used.tolist()]
        pieces.append(Piece(serving, rows, place[code], origin - serving.origin))
    series = np.zeros(len(places), np.intp)
    for piece in pieces:
        series += np.bincount(piece.place, minlength=len(places))
    return Gathered(list(places), pieces, series, tuple(left_out))


def _chosen(serving: Serving, wanted: Wanted) -> Ints:
    """Rows of one partition that the filters leave."""
    rows = np.arange(len(serving.stores))
    for kind, name in wanted.filters.items():
        scatter = serving.groups[kind]
        if name not in scatter.names:
            return rows[:0]
        rows = rows[scatter.code[rows] == scatter.names.index(name)]
    return rows


def volume(found: Gathered, first: int, last: int) -> Floats:
    """Mean of each group over some steps, shape (groups,), in units; to order them by."""
    out = np.zeros(len(found.names))
    for piece in found.pieces:
        span = slice(first - 1 + piece.behind, last + piece.behind)
        means = piece.serving.mean[span, piece.rows]
        out += np.bincount(piece.place, means.sum(axis=0, dtype=np.float64), len(out))
    return out


def some(found: Gathered, chosen: Sequence[int]) -> Gathered:
    """Some of the groups, in the order chosen."""
    new = np.full(len(found.names), -1, np.intp)
    new[list(chosen)] = np.arange(len(chosen))
    pieces = []
    for piece in found.pieces:
        keep = new[piece.place] >= 0
        if keep.any():
            pieces.append(piece._replace(rows=piece.rows[keep], place=new[piece.place[keep]]))
    names, series = [found.names[at] for at in chosen], found.series[list(chosen)]
    return found._replace(names=names, pieces=pieces, series=series)


def forecast(found: Gathered, wanted: Wanted, asked: Asked, first: int, last: int) -> Total:
    """The total of each group over steps ``first`` to ``last``, from the newest origin on.

    One step is a total of one bucket.
    """
    count = len(found.names)
    levels = np.asarray((0.5, *asked.levels, *_SIGMA), np.float64)
    parts, sold = [], np.zeros(count)
    for piece in found.pieces:
        one, done = _part(piece, wanted, count, levels, first + piece.behind, last + piece.behind)
        parts.append(one)
        sold += done
    mean, quantiles = put_together(parts)
    quantiles = np.where(_counted(found), np.rint(quantiles), quantiles) + sold
    return Total(mean=mean + sold, median=quantiles[0], quantiles=quantiles[1:-2], sold=sold)


def is_open(found: Gathered, first: int) -> bool:
    """Whether a step is of a bucket in which sales may have come already."""
    return any(first + piece.behind <= len(piece.serving.sold) for piece in found.pieces)


def _part(
    piece: Piece, wanted: Wanted, count: int, levels: Floats, first: int, last: int
) -> tuple[PartOf, Floats]:
    """One partition's part of each group, and what of it is sold, shape (groups,)."""
    serving, rows, place = piece.serving, piece.rows, piece.place
    scatter = serving.groups[wanted.scatter]

    def by_group(values: npt.NDArray[np.floating]) -> Floats:
        return np.bincount(place, values, count).astype(np.float64)

    mean, sold, passed = np.zeros(count), np.zeros(count), np.zeros(count)
    for step in range(first, last + 1):
        mean += by_group(serving.ahead(step, rows))
        if step <= len(serving.sold):
            sold += by_group(np.fmax(serving.sold[step - 1, rows], 0.0))
            whole = serving.mean[step - 1, rows].astype(np.float64)
            passed += by_group(whole * serving.passed[step - 1, rows]) / np.maximum(
                by_group(whole), 1e-9
            )
    here = np.flatnonzero(np.bincount(place, minlength=count))
    factor = np.ones(len(here))
    if wanted.whole:
        code = np.zeros(count, np.intp)
        code[place] = scatter.code[rows]
        own = code[here] < len(scatter.factor)
        factor[own] = scatter.factor[code[here][own]]
    counted = _counted_in(piece, count)[here]
    # Parts are put together as if they were measured: roundings would add up.
    traits = Traits(counted.astype(np.float64), np.zeros(len(here), np.bool_), factor)
    scored = len(serving.scored)
    known = lead_time.Known(
        serving.scored, _slots(scatter, slice(scored)), serving.lengths,
        _slots(scatter, slice(scored, None)),
    )  # fmt: skip
    if first == last:
        tables = intervals.horizon_tables(known.single, known.scored, first)
        found = intervals.quantiles(tables, mean[here], levels, traits)
        found = np.where(mean[here] > 0, found, 0.0)
    else:
        ahead = lead_time.Ahead(first, last, (last - first + 1) - passed[here])
        found = lead_time.quantiles(known, mean[here], ahead, levels, traits)
    deviations = np.zeros((len(levels), count))
    deviations[:, here] = found - mean[here]
    width = (deviations[-1] - deviations[-2]) / 2
    common = scatter.common[_slot(serving, first, last)]
    return PartOf(mean, deviations, width, common), sold


def _counted(found: Gathered) -> npt.NDArray[np.bool_]:
    """Whether all of a group's series are sold in whole units, (groups,)."""
    counted: npt.NDArray[np.bool_] = np.all(
        [_counted_in(piece, len(found.names)) for piece in found.pieces], axis=0
    )
    return counted


def _counted_in(piece: Piece, count: int) -> npt.NDArray[np.bool_]:
    parts = np.bincount(piece.place, ~piece.serving.traits.whole[piece.rows], count)
    counted: npt.NDArray[np.bool_] = parts == 0
    return counted


def _slots(scatter: Scatter, some: slice) -> Tables:
    return Tables(scatter.tables.dispersion[some], scatter.tables.below[some])


def _slot(serving: Serving, first: int, last: int) -> int:
    """The slot nearest to a horizon, or to a total's length."""
    length = last - first + 1
    if length == 1 or not serving.lengths:
        return int(np.argmin(np.abs(np.array(serving.scored) - first)))
    apart = np.abs(np.log(np.array(serving.lengths) / length))
    return len(serving.scored) + int(np.argmin(apart))
