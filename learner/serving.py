"""What the API answers from: the part of a snapshot that is served, read-only, in memory.

A forecast is a pure function of it. Rings are time-major, with room for more series than there
are: bucket ``b`` is in slot ``b % len(ring)``; a bucket before ``origin - len(ring) + 1`` is no
longer kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.intervals import Tables, Traits
from stream.buckets import Calendar

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

#: Status of a closed bucket of a series.
MISSING, OBSERVED, CENSORED = 0, 1, 2
#: What a forecast stands on: the series' own demand, its category's, or it is over.
OWN, GROUP, RETIRED = 0, 1, 2
BASIS = ("own", "group", "retired")


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
    sold: Singles  # (K, S): sold so far in origin + 1 … origin + K, K ≤ H
    tables: Tables  # the champion's; first axis: scored horizons
    traits: Traits  # of all series, (S,)
    units: Singles  # ring (R, S)
    returns: Singles  # ring (R, S)
    price: Singles  # ring (R, S)
    promotion: Singles  # ring (R, S)
    status: npt.NDArray[np.int8]  # ring (R, S)
    # Parts as they were read, by name: what a newer snapshot shares is not read again.
    parts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rows(self) -> dict[tuple[str, str], int]:
        """Row of each (store, product)."""
        keys = zip(self.stores, self.products, strict=True)
        return {key: row for row, key in enumerate(keys)}

    def past(self, row: int, limit: int) -> Past:
        """The last ``limit`` closed buckets of a series, as far as the ring and it reach back."""
        ring = len(self.units)
        first = max(self.origin - min(limit, ring) + 1, int(self.listed[row]))
        bucket = np.arange(first, self.origin + 1)
        slot = bucket % ring
        return Past(
            bucket=bucket,
            units=self.units[slot, row].astype(np.float64),
            returns=self.returns[slot, row].astype(np.float64),
            price=self.price[slot, row].astype(np.float64),
            promotion=self.promotion[slot, row].astype(np.float64),
            status=self.status[slot, row],
        )


def bucket_times(calendar: Calendar, index: int) -> tuple[str, str]:
    """Start and end of a bucket as ISO 8601 in the deployment's zone."""
    return calendar.start(index).isoformat(), calendar.end(index).isoformat()
