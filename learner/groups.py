"""Groups of series: stores, categories, products, and all; with a calibration of their own.

A group's mean is the sum of its series'. How its demand scatters about it is learned from the
group's own sums at each close, as for single series (``spread``): by kind of group, horizon or
length of a total, and volume class, with each group's own dispersion as a factor of its class's.

Stores are whole in one partition; other groups have a part in each. What parts have in common
(promotions, weather) no shard can see of another, but it can see it between two halves of its
own stores, and stores are spread over partitions as over halves. So each shard keeps the common
variance of halves, relative to their means; where parts are put together, it is what they share,
and the rest of each is taken as its own. Leaves out: which series are asked for (``api``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.intervals import Tables, Traits
from learner.judging import Bundle, Piece, join, judged
from learner.names import Places
from learner.panel import Panel
from learner.spread import Spread, gain, own_dispersion

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

KINDS: Final = ("store", "category", "product", "all")
#: Groups of a kind that have a dispersion of their own; more share that of their class.
MOST_GROUPS: Final = 20_000
#: Share of the halves' common variance that survives a bucket.
COMMON_KEPT: Final = 0.97
#: Standard deviations at which a residual of a half is cut off: an outlier is nothing in common.
MOST_COMMON: Final = 4.0


class Came(NamedTuple):
    """Forecasts of one slot and what came, shape (S,) each, in units; ``nan``: not known."""

    slot: int
    mean: Floats
    actual: Floats


class Groups:
    """How groups' demand scattered. Mutable; all of it is state.

    ``spreads[kind]`` has a slot for each scored horizon, then for each tracked length of totals;
    its series are the groups, by code. ``common`` (kinds, slots, 2): the halves' common squared
    residuals, and what they would be if all of their means were common; both standardised.

    Parameters
    ----------
    slots
        Scored horizons and tracked lengths.
    bucket
        ``hour``, ``day`` or ``week``.
    """

    def __init__(self, slots: int, bucket: str) -> None:
        self.spreads = {kind: Spread((slots,), bucket) for kind in KINDS}
        self.common: Floats = np.zeros((len(KINDS), slots, 2))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of its state, by name."""
        kept = {
            f"{kind}.{name}": getattr(spread, name)
            for kind, spread in self.spreads.items()
            for name in ("moments", "counts", "own")
        }
        return {**kept, "common": self.common}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what ``arrays`` gave."""
        for kind, spread in self.spreads.items():
            for name in ("moments", "counts", "own"):
                setattr(spread, name, arrays[f"{kind}.{name}"])
            spread.parted = np.zeros(spread.own.shape[1], np.bool_)
        self.common = arrays["common"]

    def return_to(self, before: Groups, known: Mapping[str, Places] | None = None) -> None:
        """Take back what was learned since; ``before`` is left as it is.

        Parameters
        ----------
        known
            By kind the code that each group had in ``before``; kinds left out have the same.
        """
        for kind, spread in self.spreads.items():
            spread.return_to(before.spreads[kind], known.get(kind) if known else None)
        self.common = before.common.copy()

    def digest(self, order: Mapping[str, Sequence[int]]) -> Iterator[npt.NDArray[Any]]:
        """All of its state.

        Parameters
        ----------
        order
            Codes of kinds whose codes came by arrival, in an order that arrival does not decide.
        """
        for kind, spread in self.spreads.items():
            size = spread.own.shape[1]
            own = [code for code in order.get(kind, range(size)) if code < size]
            yield from (spread.moments, spread.counts, spread.own[:, own])
        yield self.common

    def learn(self, panel: Panel, came: Sequence[Came], whole: npt.NDArray[np.bool_]) -> None:
        """Hold groups' sums against what came, over the series that both are known of.

        Parameters
        ----------
        whole
            Whether a series is sold in whole units, shape (S,).
        """
        found: dict[tuple[int, ...], _Summed] = {
            (at, one.slot): one
            for at, kind in enumerate(KINDS)
            for one in self._summed(panel, kind, came, whole)
        }
        tables = [self.spreads[kind].tables() for kind in KINDS]
        all_tables = Tables(*(np.stack(one) for one in zip(*tables, strict=True)))
        nothing = np.zeros((*all_tables.dispersion.shape, 0))
        pieces = (
            Piece(slot, one.means.sum(axis=1), one.actuals.sum(axis=1), one.traits)
            for slot, one in found.items()
        )
        for bundle in judged(pieces, all_tables, nothing):
            self._learn_some(bundle, [found[piece.slot] for piece, _ in bundle.spans])

    def _summed(
        self, panel: Panel, kind: str, came: Sequence[Came], whole: npt.NDArray[np.bool_]
    ) -> Iterator[_Summed]:
        """What came of groups of a kind, slot by slot; of nothing that was forecast, nothing."""
        half = panel.column("store").astype(np.intp) % 2
        spread, code = self.spreads[kind], codes(panel, kind)
        count = int(code.max(initial=-1)) + 1
        spread.grow(min(count, MOST_GROUPS))
        counted = np.bincount(code[~whole], minlength=count) == 0
        traits, place = traits_of(spread, np.arange(count), counted), 2 * code + half
        # Categories' codes came by arrival; sums are made in an order that it leaves alone.
        order = np.argsort(panel.categories.texts) if kind == "category" else np.arange(count)
        order = order[order < count]
        for one in came:
            rows = np.flatnonzero(np.isfinite(one.mean) & np.isfinite(one.actual))
            means, actuals = (
                np.bincount(place[rows], values[rows], 2 * count).reshape(count, 2)
                for values in (one.mean, one.actual)
            )
            there = order[means.sum(axis=1)[order] > 0]
            if len(there):
                yield _Summed(one.slot, there, means[there], actuals[there], traits.take(there))

    def _learn_some(self, bundle: Bundle, summed: Sequence[_Summed]) -> None:
        """Learn some slots' sums, and how far the halves miss alike."""
        verdict, gained = bundle.verdict, gain(bundle.verdict)
        own = own_dispersion(verdict)
        means = join([one.means for one in summed])
        actuals = join([one.actuals for one in summed])
        # Each half misses by the relative deviation of the whole.
        relative = np.sqrt(verdict.variance) / verdict.counted
        deviation = np.sqrt(means + (relative[:, None] * means) ** 2)
        bound = MOST_COMMON * deviation
        both = np.logical_and(*(means > 0).T)
        deviation[~both] = 1.0
        error = (np.clip(actuals - means, -bound, bound) / deviation).prod(axis=1)
        share = (means / deviation).prod(axis=1)
        for number, ((piece, here), one) in enumerate(zip(bundle.spans, summed, strict=True)):
            kind, slot = piece.slot
            spread = self.spreads[KINDS[kind]]
            spread.learn((slot,), gained.at(number))
            if slot == 0:
                known = one.groups < MOST_GROUPS
                spread.learn_own(one.groups[known], own[:, here][:, known])
            halves = both[here]
            if halves.any():
                self.common[kind, slot] *= COMMON_KEPT
                self.common[kind, slot] += (error[here][halves].sum(), share[here][halves].sum())


class _Summed(NamedTuple):
    """Sums of a kind's groups in one slot: the groups (n,), by half of their stores (n, 2)."""

    slot: int
    groups: Ints
    means: Floats
    actuals: Floats
    traits: Traits


def codes(panel: Panel, kind: str) -> Ints:
    """Group of each series, by number, shape (S,)."""
    if kind == "all":
        return np.zeros(panel.size, np.intp)
    found: Ints = panel.column(kind).astype(np.intp)
    return found


def traits_of(spread: Spread, groups: Ints, whole: npt.NDArray[np.bool_]) -> Traits:
    """Traits of some groups: counted in units if all of their series are."""
    known = factors(spread)
    factor = np.ones(len(groups))
    own = groups < len(known)
    factor[own] = known[groups[own]]
    return Traits(whole.astype(np.float64), whole, factor)


def factors(spread: Spread) -> Floats:
    """The groups' own dispersion, as a factor of their class's, by code."""
    return spread.traits(np.ones(len(spread.parted), np.float32)).factor


# -- putting parts together ----------------------------------------------------------------


class PartOf(NamedTuple):
    """A partition's part of n groups: ``mean`` (n,), and distances of its quantiles from it.

    ``deviations`` (q, n) and ``width`` (n,): a standard deviation; all in units. ``common`` (2,):
    as in ``Groups``, of the kind and slot.
    """

    mean: Floats
    deviations: Floats
    width: Floats
    common: Floats


def put_together(parts: Sequence[PartOf]) -> tuple[Floats, Floats]:
    """Mean (n,) and quantiles (q, n) of groups whose parts are in several partitions.

    Deviations are added up and drawn together by what is not common: with deviations ``s_k`` of
    the parts and a common relative variance ``c``, the variance of the whole is that of the
    parts and ``min(c m_j m_k, s_j s_k)`` for each pair. Where no shard has seen two halves, parts
    are taken to miss alike.
    """
    mean = np.sum([part.mean for part in parts], axis=0)
    if len(parts) == 1:
        return mean, np.maximum(mean + parts[0].deviations, 0.0)
    alike, if_all = np.sum([part.common for part in parts], axis=0)
    common = max(alike / if_all, 0.0) if if_all > 0 else np.inf
    variance = np.sum([part.width**2 for part in parts], axis=0)
    for j, one in enumerate(parts):
        for other in parts[:j]:
            most = one.width * other.width
            both = one.mean * other.mean
            shared = most if np.isinf(common) else np.minimum(common * both, most)
            variance = variance + 2 * shared
    width = np.sum([part.width for part in parts], axis=0)
    drawn = np.where(width > 0, np.sqrt(variance) / np.where(width > 0, width, 1.0), 1.0)
    deviations = np.sum([part.deviations for part in parts], axis=0)
    return mean, np.maximum(mean + drawn * deviations, 0.0)
