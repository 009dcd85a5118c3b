"""How demand scatters about its forecasts: what is learned of it, for every model.

For each slot (a model at a horizon) and volume class: dispersion by moments, and a histogram of
normal scores (``intervals``), both of which forget. For each series and model: a dispersion of
its own, as a factor of its class's, drawn towards 1 by as much as little was seen of it, learned
at the first scored horizon. And whether a series was ever sold in parts of a unit, which is a
fact and no opinion. Leaves out: what distributions are made of it (``intervals``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped]

from learner.intervals import (
    BINS,
    BORROWED,
    CLASS_LOW,
    CLASSES,
    DISPERSION,
    EDGES,
    FACTOR,
    Tables,
    Traits,
    Verdict,
    binned,
)
from learner.names import Places, placed

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Singles = npt.NDArray[np.float32]

#: Share of what was learned of a class that survives a bucket in which more was.
KEPT: Final = {"hour": 0.995, "day": 0.98, "week": 0.98}
#: Share of a series' own dispersion that survives a bucket.
OWN_KEPT: Final = {"hour": 0.9975, "day": 0.99, "week": 0.99}
#: Prior: normal scores' weight in forecasts, dispersion and its weight in squared grains.
PRIOR, PRIOR_DISPERSION, PRIOR_GRAINS = 20.0, 0.3, 4.0
#: Weight of a factor of 1, in forecasts whose scatter is all beyond a count's.
OWN_PRIOR = 10.0
#: Most squared error that counts, as a multiple of the variance: an outlier is no dispersion.
MOST_ERROR, MOST_OWN_ERROR = 25.0, 9.0

#: Squared mean of each class's middle, in grains: moments are kept as multiples of it.
_MIDDLES: Floats = np.power(4.0, np.arange(CLASSES) + CLASS_LOW)


#: Arrays that are the state of a ``Spread``, the last two by series.
ARRAYS = ("moments", "counts", "own", "parted")


class Gained(NamedTuple):
    """What forecasts add to their slots: ``seen`` (..., CLASSES), the rest as in ``Spread``."""

    seen: npt.NDArray[np.bool_]
    moments: Floats
    counts: Floats

    @classmethod
    def nothing(cls, slots: tuple[int, ...]) -> Gained:
        """What no forecast at all adds."""
        return cls(
            np.zeros((*slots, CLASSES), np.bool_),
            np.zeros((*slots, CLASSES, 2)),
            np.zeros((*slots, CLASSES, BINS)),
        )

    def at(self, *slot: int) -> Gained:
        """What it is of one slot, or of one axis's entry."""
        return Gained(*(one[slot] for one in self))

    def add(self, more: Gained) -> None:
        """Add what others add."""
        self.seen[:] |= more.seen
        self.moments[:] += more.moments
        self.counts[:] += more.counts


def gain(verdict: Verdict) -> Gained:
    """What the spread learns of forecasts held against what came: by slot, (slots, ...)."""
    klass, size = verdict.klass, verdict.slots * CLASSES
    excess = np.minimum(verdict.excess, MOST_ERROR * (verdict.variance + 1.0))
    moments = np.stack(
        [np.bincount(klass, excess, size), np.bincount(klass, verdict.counted**2, size)], axis=1
    ).reshape(-1, CLASSES, 2)
    seen = np.bincount(klass, minlength=size).reshape(-1, CLASSES) > 0
    return Gained(seen, moments / _MIDDLES[:, None], binned(verdict))


def own_dispersion(verdict: Verdict) -> Floats:
    """Error beyond a count's own, and what its class has of it, (2, n); shares of the variance."""
    variance = np.maximum(verdict.variance, 1e-9)
    beyond = np.maximum(np.minimum(verdict.excess / variance, MOST_OWN_ERROR), -MOST_OWN_ERROR)
    return np.stack([beyond, 1.0 - verdict.counted / variance])


class Spread:
    """Dispersion and shapes of any number of slots, and traits of the series. All of it is state.

    ``moments`` (*slots, CLASSES, 2): squared error beyond a count's own, and squared mean;
    ``counts`` (*slots, CLASSES, BINS): normal scores; ``own`` (*slots but the last, 2, room): a
    series' error beyond a count's own, and what its class would have; ``parted`` (room,): ever
    sold in parts of a unit.

    Parameters
    ----------
    slots
        Shape of the slots: (models, horizons), or (horizons,) of one model.
    bucket
        ``hour``, ``day`` or ``week``.
    """

    def __init__(self, slots: tuple[int, ...], bucket: str) -> None:
        self.kept = KEPT[bucket]
        self.own_kept = OWN_KEPT[bucket]
        weight = np.maximum(PRIOR_GRAINS / _MIDDLES, PRIOR_GRAINS)
        moments = np.stack([PRIOR_DISPERSION * weight, weight], axis=1)
        self.moments: Floats = np.broadcast_to(moments, (*slots, CLASSES, 2)).copy()
        shares = np.diff(ndtr(EDGES), prepend=0.0, append=1.0)
        self.counts: Floats = np.broadcast_to(PRIOR * shares, (*slots, CLASSES, BINS)).copy()
        self.own: Singles = np.zeros((*slots[:-1], 2, 0), np.float32)
        self.parted: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)

    def grow(self, room: int) -> None:
        """Make room for as many series; of new ones nothing is known."""
        more = room - len(self.parted)
        if more > 0:
            self.own = np.pad(self.own, [*((0, 0) for _ in self.own.shape[1:]), (0, more)])
            self.parted = np.pad(self.parted, (0, more))

    # -- reading ---------------------------------------------------------------------------

    def tables(self) -> Tables:
        """All slots' tables; each class borrows from its neighbours."""
        moments, counts = _borrowed(self.moments), _borrowed(self.counts)
        below = np.cumsum(counts, axis=-1)
        below /= below[..., -1:]
        return Tables(np.clip(moments[..., 0] / moments[..., 1], *DISPERSION), below[..., :-1])

    def traits(self, unit_size: Singles) -> Traits:
        """Traits of the first series, as each model sees them.

        Parameters
        ----------
        unit_size
            Of their products, in units, shape (S,); 1, the default, tells nothing of goods sold
            by weight.
        """
        size = len(unit_size)
        whole = ~self.parted[:size]
        # Whole units are counted as they are: a case of six may be sold by the bottle.
        told = np.where(unit_size == 1.0, 0.0, unit_size.astype(np.float64))
        grain = np.where(whole, 1.0, told)
        own = np.asarray(self.own[..., :size], np.float64)
        beyond, usual = own[..., 0, :], own[..., 1, :]
        factor = np.clip((beyond + OWN_PRIOR) / (usual + OWN_PRIOR), 1 / FACTOR, FACTOR)
        return Traits(grain, whole, factor)

    # -- learning --------------------------------------------------------------------------

    def see(self, actual: Floats) -> None:
        """Learn which series are sold in parts of a unit, from a bucket's demand (S,)."""
        parts = np.isfinite(actual) & (actual != np.rint(actual))
        self.parted[: len(actual)] |= parts

    def learn(self, slot: tuple[int | slice, ...], gained: Gained) -> None:
        """Learn what came of a slot's forecasts, or of several slots' at once."""
        kept = np.where(gained.seen, self.kept, 1.0)[..., None]
        self.moments[slot] = self.moments[slot] * kept + gained.moments
        self.counts[slot] = self.counts[slot] * kept + gained.counts

    def learn_own(self, rows: Ints, own: Floats) -> None:
        """Learn some series' own dispersion, (..., 2, n); see ``own_dispersion``."""
        self.own[..., rows] = self.own_kept * self.own[..., rows] + own

    def return_to(self, before: Spread, known: Places | None = None) -> None:
        """Take back what was learned since; what is a fact stays. ``before`` is left as it is.

        Series listed since are as if nothing were known of them.

        Parameters
        ----------
        known
            The place that each series had in ``before``, (S,), see ``names.known_as``; ``None``:
            the same as now.
        """
        self.moments, self.counts = before.moments.copy(), before.counts.copy()
        theirs = before.own if known is None else placed(before.own, known)
        own = np.zeros_like(self.own)
        both = min(own.shape[-1], theirs.shape[-1])
        own[..., :both] = theirs[..., :both]
        self.own = own


def _borrowed(values: Floats) -> Floats:
    """Each class with a part of its neighbours', over the last axis but one."""
    last = values.shape[-2] - 1
    at = np.arange(last + 1)
    beside = values[..., np.maximum(at - 1, 0), :] + values[..., np.minimum(at + 1, last), :]
    out: Floats = (1 - 2 * BORROWED) * values
    out += BORROWED * beside
    return out
