"""Distributions of totals over a lead time: what was learned of tracked lengths, read for any.

Lengths lie between the tracked ones, and one bucket, on a logarithmic scale; totals that start
later than at the next bucket are as much wider as single buckets are there. Leaves out: what is
learned (``totals``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from learner import intervals
from learner.intervals import Tables, Traits, grains, horizon_tables, volume_class

Floats = npt.NDArray[np.float64]

#: Bounds of how much wider a total is for starting later.
WIDER: Final = (0.8, 1.5)


class Ahead(NamedTuple):
    """What totals of n series are over: steps ``first`` to ``last``, and what is left of them.

    ``length`` (n,): buckets ahead; one that is half over counts for a half.
    """

    first: int
    last: int
    length: Floats


class Known(NamedTuple):
    """What is known of scatter: of single buckets by scored horizon, of totals by length."""

    scored: tuple[int, ...]
    single: Tables
    lengths: tuple[int, ...]
    totals: Tables


def quantiles(known: Known, mean: Floats, ahead: Ahead, levels: Floats, traits: Traits) -> Floats:
    """Quantiles of totals, shape (q, n), in units; ascending where ``levels`` ascend.

    Parameters
    ----------
    mean
        Of the totals, shape (n,), in units.
    levels
        Probabilities in (0, 1), shape (q,).
    traits
        Of the series.
    """
    middle = horizon_tables(known.single, known.scored, (ahead.first + ahead.last) // 2)
    anchors = np.log(np.array([1, *known.lengths], np.float64))
    at = np.interp(np.log(np.maximum(ahead.length, 1.0)), anchors, np.arange(len(anchors)))
    left = at.astype(np.intp)
    share = at - left
    out = np.zeros((len(levels), len(mean)))
    for place in range(len(anchors)):
        weight = np.where(left == place, 1 - share, np.where(left + 1 == place, share, 0.0))
        if not weight.any():
            continue
        if place == 0:
            found = intervals.quantiles(middle, mean, levels, traits)
        else:
            found = intervals.quantiles(known.totals.at(place - 1), mean, levels, traits)
            wider = _wider(known, middle, mean, ahead, traits)
            found = np.maximum(mean + wider * (found - mean), 0.0)
        out += weight * found
    out = np.where(traits.whole & (traits.grain == 1), np.rint(out), out)
    return np.where(mean > 0, out, 0.0)


def _wider(known: Known, middle: Tables, mean: Floats, ahead: Ahead, traits: Traits) -> Floats:
    """How much wider totals are for starting later, as a factor of deviations, shape (n,)."""
    if ahead.first == 1:
        return np.ones(len(mean))
    length = ahead.last - ahead.first + 1
    there = horizon_tables(known.single, known.scored, (1 + length) // 2)
    counted = mean / length / grains(mean, traits.grain)
    position, classes = volume_class(counted), np.arange(len(middle.dispersion))
    here, usual = (
        1.0 + np.interp(position, classes, one.dispersion) * traits.factor * counted
        for one in (middle, there)
    )
    return np.clip(np.sqrt(here / usual), *WIDER)
