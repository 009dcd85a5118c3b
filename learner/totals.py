"""Totals over several buckets: what users order for, tracked and calibrated directly.

A total's distribution cannot be had from its buckets' quantiles: their sum covers too much,
independence too little (measured: 97 % and 69 % at 80 %). So at every few closes the champion's
totals over the scored horizons' lengths wait for what comes, and how it scattered about them is
learned as for single buckets (``spread``), by length and volume class. A total with a bucket in
it of which nothing is known is not scored; a planned closure is known. Leaves out: what is read
from it (``lead_time``), and totals of several series (``groups``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from learner.intervals import Traits, judge
from learner.panel import Panel
from learner.serving import MISSING
from learner.spread import Spread, gain
from stream.event import MICRO

Floats = npt.NDArray[np.float64]

#: Share of what was learned of a length that survives a total of it: they come seldom.
KEPT: Final = 0.8


class Totals:
    """Totals that wait, and how the past ones scattered. Mutable; all of it is state.

    ``waiting[L]`` has shape (slots, room): the champion's total of the next ``L`` buckets, made
    at every ``stride``-th origin; ``made[L]`` (slots,): those origins, -1 where there is none.

    Parameters
    ----------
    lengths
        Tracked lengths, ascending, in buckets.
    bucket
        ``hour``, ``day`` or ``week``.
    """

    def __init__(self, lengths: tuple[int, ...], bucket: str) -> None:
        self.lengths = lengths
        # One more than the first length, which is a season's or a part of it: so origins come
        # to start at every phase.
        self.stride = lengths[0] + 1 if lengths else 0
        slots = {length: -(-length // self.stride) for length in lengths}
        self.waiting = {at: np.zeros((slots[at], 0), np.float32) for at in lengths}
        self.made = {at: np.full(slots[at], -1, np.int64) for at in lengths}
        self.spread = Spread((len(lengths),), bucket)
        self.spread.kept = KEPT

    def grow(self, room: int) -> None:
        """Make room for as many series; new ones have no total waiting."""
        for length, waiting in self.waiting.items():
            more = room - waiting.shape[1]
            if more > 0:
                self.waiting[length] = np.pad(waiting, ((0, 0), (0, more)), constant_values=np.nan)

    def due(self, origin: int) -> bool:
        """Whether totals are to be made at an origin."""
        return bool(self.lengths) and origin % self.stride == 0

    def put(self, origin: int, means: npt.NDArray[np.float32]) -> None:
        """Let totals wait.

        Parameters
        ----------
        means
            The champion's forecasts of the buckets after ``origin``, shape (H, S), in units.
        """
        for length, waiting in self.waiting.items():
            slot = origin // self.stride % len(waiting)
            self.made[length][slot] = origin
            waiting[slot] = np.nan
            waiting[slot, : means.shape[1]] = means[:length].sum(axis=0, dtype=np.float64)

    def take(self, bucket: int, length: int, size: int) -> Floats | None:
        """Totals of ``length`` buckets up to ``bucket``, shape (S,); ``None``: none was made."""
        origin = bucket - length
        if origin % self.stride:
            return None
        slot = origin // self.stride % len(self.waiting[length])
        if self.made[length][slot] != origin:
            return None
        return np.asarray(self.waiting[length][slot, :size], np.float64)

    def place(self, length: int) -> int:
        """Place of a length among the tracked ones."""
        return self.lengths.index(length)

    def learn(self, length: int, mean: Floats, actual: Floats, traits: Traits) -> None:
        """Learn how totals of a length scattered about their forecasts.

        Parameters
        ----------
        mean, actual
            Shape (S,), in units; ``nan`` where there is none.
        traits
            Of all series.
        """
        rows = np.flatnonzero(np.isfinite(mean) & np.isfinite(actual))
        if len(rows):
            slot = (self.place(length),)
            tables = self.spread.tables().at(*slot)
            nothing = np.zeros((len(tables.dispersion), 0))
            verdict = judge(tables, nothing, mean[rows], actual[rows], traits.take(rows))
            self.spread.learn(slot, gain(verdict))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of its state, by name."""
        waiting = {f"waiting.{length}": one for length, one in self.waiting.items()}
        made = {f"made.{length}": one for length, one in self.made.items()}
        return {**waiting, **made, "moments": self.spread.moments, "counts": self.spread.counts}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what ``arrays`` gave."""
        self.waiting = {length: arrays[f"waiting.{length}"] for length in self.lengths}
        self.made = {length: arrays[f"made.{length}"] for length in self.lengths}
        self.spread.moments, self.spread.counts = arrays["moments"], arrays["counts"]

    def return_to(self, before: Totals) -> None:
        """Take back what was learned since; totals that wait stay, as single forecasts do."""
        self.spread.return_to(before.spread)

    def digest(self, size: int) -> Iterator[npt.NDArray[Any]]:
        """All of its state that is of the first ``size`` series."""
        for length, waiting in self.waiting.items():
            yield self.made[length]
            yield waiting[:, :size]
        yield from (self.spread.moments, self.spread.counts)


def demand(panel: Panel, bucket: int, length: int) -> Floats:
    """Demand over the ``length`` buckets up to ``bucket``, shape (S,), in units.

    ``nan`` where one of them is not known: missing for another reason than a planned closure,
    out of stock, or before the series was listed.
    """
    before = bucket - length
    units = panel.of("sum_units", bucket) - panel.of("sum_units", before)
    seen = panel.of("sum_observed", bucket) - panel.of("sum_observed", before)
    known = seen.astype(np.int64)
    if (known < length).any():
        for one in range(before + 1, bucket + 1):
            closed = panel.plans.closed(panel, one, one)
            known += closed & (panel.status(one) == MISSING) & (panel.column("listed") <= one)
    out: Floats = np.where(known == length, units / MICRO, np.nan)
    return out
