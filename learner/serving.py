"""What the API answers from: the part of a snapshot that is served, read-only, in memory.

A forecast is a pure function of it. Rings are time-major, with room for more series than there
are: bucket ``b`` is in slot ``b % len(ring)``; a bucket before ``origin - len(ring) + 1`` is no
longer kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from learner import intervals, lead_time
from learner.intervals import Tables, Traits
from stream.buckets import Calendar

if TYPE_CHECKING:
    from learner.findings import Standing
    from learner.returns import Returns
    from learner.watch import Watched

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

#: Status of a closed bucket of a series.
MISSING, OBSERVED, CENSORED = 0, 1, 2
#: Planned promotion is summed up in parts of this.
SHARE = 1000
#: What a forecast stands on: the series' own demand, its category's, or it is over.
OWN, GROUP, RETIRED = 0, 1, 2
BASIS = ("own", "group", "retired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Totals of n series over some buckets, in units.

    ``mean``, ``median`` and ``sold`` (n,); ``quantiles`` (q, n). ``sold`` is what of the mean is
    sold already, in buckets that are still open.
    """

    mean: Floats
    median: Floats
    quantiles: Floats
    sold: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """How groups of one kind scatter about their means.

    ``names`` of the groups; ``code`` (S,): each series' group, by number; ``tables`` by scored
    horizon, then by tracked length; ``factor`` (groups,): each group's own dispersion, as a
    multiple; ``common`` (slots, 2): what parts of a group have in common (``learner.groups``).
    """

    names: list[str]
    code: npt.NDArray[np.intp]
    tables: Tables
    factor: Floats
    common: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Closed buckets of one series, oldest first: arrays of shape (n,).

    ``units`` is ``nan`` where status is MISSING; ``price`` is the mean price paid, ``nan``
    where nothing was sold at a known price; ``promotion`` the planned share in force.
    """

    bucket: npt.NDArray[np.int64]
    units: Floats
    returns: Floats
    price: Floats
    promotion: Floats
    status: npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One partition as it is served."""

    partition: int
    snapshot: str
    lineage: int
    position: int
    published_us: int
    watermark_us: int
    origin: int  # index of the last closed bucket; forecasts are for origin + 1 …
    champion: str
    scored: tuple[int, ...]
    models: tuple[str, ...]  # that are scored, champion first
    scores: Mapping[str, Floats]  # by kind of slice, (values, models, horizons, evaluation.SUMS)
    slices: Mapping[str, Sequence[str]]  # names of the values
    accuracy: Mapping[str, npt.NDArray[Any]]  # columns of accuracy.Accuracy
    difference: Floats  # (S,): mean squared seasonal difference, nan where not known
    stores: list[str]  # (S,)
    products: list[str]  # (S,)
    categories: list[str]  # (S,); "" where unknown
    listed: npt.NDArray[np.int64]  # (S,): first bucket of the series
    basis: npt.NDArray[np.int8]  # (S,): OWN, GROUP, RETIRED
    mean: Singles  # (H, S)
    tables: Tables  # the champion's; first axis: scored horizons
    traits: Traits  # of all series, (S,)
    # Of the open buckets origin + 1 … origin + K, K ≤ H, as ``open_bucket.OpenPart``, (K, S):
    sold: Singles
    remains: Singles
    open_factor: Singles
    passed: Singles
    lengths: tuple[int, ...]  # of totals that are tracked, in buckets
    totals: Tables  # by tracked length
    groups: Mapping[str, Scatter]  # by kind of group
    units: Singles  # ring (R, S), with their status (``told``)
    price: Singles  # ring (R, S)
    sum_promotion: npt.NDArray[np.unsignedinteger]  # ring (R, S), running, modulo its type
    returns: Returns
    sources: Sequence[Standing] = ()  # where they stand with the guard, by name
    watched: Watched | None = None  # where the champion stands beside others
    # Parts as they were read, by name: what a newer snapshot shares is not read again.
    parts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rows(self) -> dict[tuple[str, str], int]:
        """Row of each (store, product)."""
        keys = zip(self.stores, self.products, strict=True)
        return {key: row for row, key in enumerate(keys)}

    def step(self, horizon: int, rows: npt.NDArray[np.intp], levels: Floats) -> Floats:
        """Quantiles of what is to come of one bucket, shape (q, n), in units."""
        tables = intervals.horizon_tables(self.tables, self.scored, horizon)
        traits = self.traits.take(rows)
        mean = self.ahead(horizon, rows)
        if horizon <= len(self.sold):
            factor = self.open_factor[horizon - 1, rows].astype(np.float64)
            traits = traits._replace(factor=factor)
        found = intervals.quantiles(tables, mean, levels, traits)
        # Nothing is certain to come of a bucket that is over.
        return np.where(mean > 0, found, 0.0)

    def ahead(self, horizon: int, rows: npt.NDArray[np.intp]) -> Floats:
        """Mean of what is to come of one bucket, shape (n,), in units."""
        known = horizon <= len(self.sold)
        found = self.remains[horizon - 1] if known else self.mean[horizon - 1]
        return np.asarray(found[rows], np.float64)

    def total(
        self, rows: npt.NDArray[np.intp], first: int, last: int, levels: tuple[float, ...]
    ) -> Total:
        """Forecast the total of some series over the buckets ``origin + first … origin + last``.

        Parameters
        ----------
        rows
            Series, shape (n,).
        levels
            Quantile levels in (0, 1).
        """
        wanted = np.asarray((0.5, *levels), dtype=np.float64)
        steps = range(first, last + 1)
        mean = np.sum([self.ahead(step, rows) for step in steps], axis=0)
        opened = slice(first - 1, min(last, len(self.sold)))
        sold = np.fmax(self.sold[opened][:, rows], 0.0).sum(axis=0, dtype=np.float64)
        if first == last:
            found = self.step(first, rows, wanted)
        else:
            passed = self.passed[opened][:, rows].sum(axis=0, dtype=np.float64)
            ahead = lead_time.Ahead(first, last, len(steps) - passed)
            known = lead_time.Known(self.scored, self.tables, self.lengths, self.totals)
            found = lead_time.quantiles(known, mean, ahead, wanted, self.traits.take(rows))
        found += sold
        return Total(mean=mean + sold, median=found[0], quantiles=found[1:], sold=sold)

    def past(self, row: int, limit: int) -> Past:
        """The last ``limit`` closed buckets of a series, as far as the ring and it reach back."""
        ring = len(self.units)
        # Of the oldest bucket the sums before it are gone.
        first = max(self.origin - min(limit, ring - 1) + 1, int(self.listed[row]))
        bucket = np.arange(first, self.origin + 1)
        slot = bucket % ring
        held, sums = self.units[slot, row], self.sum_promotion
        return Past(
            bucket=bucket,
            units=np.abs(held, dtype=np.float64),
            returns=self.returns.of(row, bucket),
            price=self.price[slot, row].astype(np.float64),
            promotion=(sums[slot, row] - sums[slot - 1, row]).astype(np.float64) / SHARE,
            status=status_of(held),
        )


def told(units: npt.ArrayLike, status: npt.ArrayLike) -> Floats:
    """Units that tell their status: ``nan`` where missing, with a minus where censored, 0 too.

    Examples
    --------
    >>> told([3.0, 4.0, 0.0], [OBSERVED, MISSING, CENSORED])
    array([ 3., nan, -0.])
    """
    signed = np.copysign(units, np.where(np.equal(status, CENSORED), -1.0, 1.0))
    return np.where(np.equal(status, MISSING), np.nan, signed)


def status_of(units: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Status that ``told`` has put into units, of the same shape.

    Examples
    --------
    >>> status_of([3.0, np.nan, -0.0]).tolist() == [OBSERVED, MISSING, CENSORED]
    True
    """
    there = np.where(np.signbit(units), CENSORED, OBSERVED)
    return np.where(np.isnan(units), MISSING, there).astype(np.int8)


def bucket_times(calendar: Calendar, index: int) -> tuple[str, str]:
    """Start and end of a bucket as ISO 8601 in the deployment's zone."""
    return calendar.start(index).isoformat(), calendar.end(index).isoformat()
