"""Predictive distributions: a gamma of the right mean and variance, bent by what came before.

Demand is counted in *grains*: units, or what is usually sold at once of goods sold by weight. A
count of y is the cell (y, y + 1] of a gamma with mean ``m + 1/2`` and the variance of a negative
binomial, ``m + a m² + 1/12``; the last term is the cell's own. Dispersion ``a`` is tracked by
model, horizon and volume class, times a factor of the series' own (``spread``). The cube root of
a gamma is all but normal, so cells and quantiles are closed forms.

The *normal scores* of what came, each count spread over its cell, are counted in histograms that
forget. A quantile is read back through them, so that calibration returns after a shift and for
any shape of tail. Quantiles cannot cross, since one histogram gives them all, and demand is never
negative. Leaves out: sums over buckets, and what is learned (``spread``).

Reference: E. B. Wilson, M. M. Hilferty, "The distribution of chi-square", 1931; C. Czado,
T. Gneiting, L. Held, "Predictive model assessment for count data", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

#: Edges of the histogram's bins, in normal scores.
STEP, LOWEST, HIGHEST = 0.1, -4.0, 6.0
EDGES: Floats = np.linspace(LOWEST, HIGHEST, 101)
BINS = len(EDGES) + 1
#: Volume classes: a mean's log2 in grains on [-4, 8], one class a unit step.
CLASS_LOW, CLASSES = -4, 13
#: Bounds of dispersion, and the bound of a series' own factor, either way.
DISPERSION, FACTOR = (2e-4, 20.0), 8.0
#: Grains of a mean of goods sold by weight whose grain nobody told.
UNTOLD = 16.0
#: Share of a class's neighbours in its own table: what it has not seen, it borrows.
BORROWED = 0.125
#: Levels of the grid on which a distribution is reweighted.
GRID: Floats = (np.arange(64) + 0.5) / 64


class Traits(NamedTuple):
    """How the demand of n series comes.

    ``grain`` (n,): units of what is sold at once, 0 where nobody told; ``whole`` (n,): whether
    demand is whole grains; ``factor`` (..., n): dispersion of its own, as a multiple, of one model
    or of several.
    """

    grain: Floats
    whole: npt.NDArray[np.bool_]
    factor: Floats

    def take(self, rows: Ints | slice) -> Traits:
        """Those of some series."""
        return Traits(self.grain[rows], self.whole[rows], self.factor[..., rows])


class Tables(NamedTuple):
    """What has been learned, ready to be looked up: of any number of slots.

    ``dispersion`` (..., CLASSES); ``below`` (..., CLASSES, len(EDGES)): share of normal scores
    below each edge.
    """

    dispersion: Floats
    below: Floats

    def at(self, *slot: int | Ints) -> Tables:
        """Those of one slot, of one axis's entry, or of several slots, (n, ...)."""
        return Tables(self.dispersion[slot], self.below[slot])


class Gauge(NamedTuple):
    """The gammas of n forecasts, each (n,): grain in units, centre in grains, and ``s``.

    The cube root of demand over the centre is normal with mean ``1 - s²`` and deviation ``s``.
    """

    grain: Floats | float
    centre: Floats
    s: Floats

    def upright(self) -> Gauge:
        """The same as columns, (n, 1)."""
        grain = self.grain if isinstance(self.grain, float) else self.grain[:, None]
        return Gauge(grain, self.centre[:, None], self.s[:, None])


def volume_class(mean: Floats) -> Floats:
    """Position of a mean, in grains, among the classes: fractional, in [0, CLASSES - 1]."""
    position: Floats = np.log2(np.maximum(mean, 2.0**CLASS_LOW)) - CLASS_LOW
    return np.minimum(position, CLASSES - 1.0)


def grains(mean: Floats, grain: Floats) -> Floats:
    """Units of a grain where it is known; a small part of the mean, at most 1, where not."""
    untold = np.clip(mean / UNTOLD, 1e-6, 1.0)
    return np.where(grain > 0, grain, untold)


def gauge(mean: Floats, grain: Floats | float, dispersion: Floats) -> Gauge:
    """The gamma of each forecast.

    Parameters
    ----------
    mean
        In units, shape (n,).
    grain
        In units, above 0, (n,); or one of all.
    dispersion
        Of the series in that class: tracked, times its factor, (n,).
    """
    counted = mean / grain
    centre = counted + 0.5
    bounded = np.minimum(np.maximum(dispersion, DISPERSION[0]), DISPERSION[1])
    s = np.sqrt(counted * (1.0 + bounded * counted) + 1 / 12)
    s /= 3.0 * centre
    return Gauge(grain, centre, s)


def demand(gauge: Gauge, z: Floats, whole: npt.NDArray[np.bool_] | np.bool_) -> Floats:
    """Demand at normal scores, in units; shapes broadcast.

    Of counts it is the least one whose probability of not being passed is as high.
    """
    root = z - gauge.s
    root *= gauge.s
    root += 1.0
    np.maximum(root, 0.0, out=root)
    at = root * root
    at *= root
    at *= gauge.centre
    if isinstance(whole, np.bool_):
        at = np.ceil(at) - 1.0 if whole else at - 0.5
    else:
        at = np.where(whole, np.ceil(at) - 1.0, at - 0.5)
    np.maximum(at, 0.0, out=at)
    at *= gauge.grain
    return at


def cells(gauge: Gauge, actual: Floats, whole: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Normal scores of the lower and the upper end of what came, (n,) each.

    A count fills its cell; what is measured is a point, but for nothing at all.
    """
    counted = actual / gauge.grain
    lower = np.where(whole, counted, np.where(counted > 0, counted + 0.5, 0.0))
    upper = np.where(whole, counted + 1.0, counted + 0.5)
    with np.errstate(divide="ignore"):
        usual = 1.0 - gauge.s * gauge.s
        low = np.where(lower > 0, (np.cbrt(lower / gauge.centre) - usual) / gauge.s, -np.inf)
    return low, (np.cbrt(upper / gauge.centre) - usual) / gauge.s


def between(values: Floats, position: Floats, first: Ints | int = 0) -> Floats:
    """Values by class at fractional classes: (CLASSES, q) at (n,) gives (q, n), linear.

    Of several slots' values, one after the other, ``first`` is where each one's begin, (n,).
    """
    left = position.astype(np.intp)
    share = position - left
    left += first
    steps = np.zeros(values.shape)
    np.subtract(values[1:], values[:-1], out=steps[:-1])
    steps[CLASSES - 1 :: CLASSES] = 0.0  # the last class has no next one
    out = np.empty((values.shape[1], len(position)))
    for row, column, step in zip(out, values.T, steps.T, strict=True):
        np.multiply(step.take(left), share, out=row)
        row += column.take(left)
    return out


def scores_at(tables: Tables, levels: Floats) -> Floats:
    """Normal scores at probabilities: of Tables (..., CLASSES), shape (..., CLASSES, q)."""
    below, last = tables.below, len(EDGES) - 1
    passed = np.count_nonzero(below[..., None, :] <= levels[:, None], axis=-1)
    left = np.clip(passed - 1, 0, last - 1)
    low, high = (np.take_along_axis(below, left + one, axis=-1) for one in (0, 1))
    inside = (passed > 0) & (passed <= last)
    steps = np.divide(np.diff(EDGES)[left], high - low, out=np.zeros(left.shape), where=inside)
    z: Floats = np.where(passed <= last, steps * (levels - low) + EDGES[left], EDGES[-1])
    return z


class Place(NamedTuple):
    """Where normal scores are among the bins: the bin, and how far in it, (n,) each."""

    bin: Ints
    share: Floats

    @classmethod
    def of(cls, z: Floats) -> Place:
        """Places of normal scores, which may be infinite."""
        at = z * (1.0 / STEP)
        at += 1.0 - LOWEST / STEP
        np.minimum(np.maximum(at, 0.0, out=at), BINS - 1e-9, out=at)
        left = at.astype(np.intp)
        at -= left
        return cls(left, at)

    def read(self, table: Floats, first: Ints | int = 0) -> Floats:
        """Read off tables of len(EDGES) + 2 values, one after the other, from a ``first`` one."""
        at = self.bin + first
        low = table.take(at)
        at += 1
        high = table.take(at)
        high -= low
        high *= self.share
        high += low
        return high


def probability(below: Floats, position: Floats, place: Place, first: Ints | int = 0) -> Floats:
    """Probability of demand below normal scores, (n,).

    Parameters
    ----------
    below
        Of one slot's ``Tables``, shape (CLASSES, len(EDGES)); or of several.
    position
        Fractional classes, (n,).
    first
        Where each one's slot begins among all classes.
    """
    rows = below.reshape(-1, len(EDGES))
    # The last class has no next one: its share is 0, and what follows is there to be read.
    table = np.zeros((len(rows) + 1, len(EDGES) + 2))
    table[:-1, 1:-1] = rows
    table[:, -1] = 1.0
    width, flat = table.shape[1], table.ravel()
    left = position.astype(np.intp)
    share = position - left
    left += first
    left *= width
    low = place.read(flat, left)
    left += width
    high = place.read(flat, left)
    high -= low
    high *= share
    high += low
    return high


def horizon_tables(tables: Tables, scored: tuple[int, ...], horizon: int) -> Tables:
    """Tables of a horizon: those of the scored ones on both sides, mixed by nearness.

    Parameters
    ----------
    tables
        First axis: scored horizons, ascending.
    """
    at = float(np.interp(horizon, scored, np.arange(len(scored))))
    low = int(at)
    high = min(low + 1, len(scored) - 1)
    share = at - low
    return Tables(*((1 - share) * one[low] + share * one[high] for one in tables))


def quantiles(tables: Tables, mean: Floats, levels: Floats, traits: Traits) -> Floats:
    """Quantiles of demand from one slot's tables.

    Parameters
    ----------
    tables
        Of one slot: ``dispersion`` (CLASSES,).
    mean
        Forecasts, (n,), in units.
    levels
        Probabilities in (0, 1), (q,).

    Returns
    -------
    Shape (q, n), in units; ascending along q where ``levels`` ascend.
    """
    grain = grains(mean, traits.grain)
    position = volume_class(mean / grain)
    learned = np.concatenate([tables.dispersion[:, None], scores_at(tables, levels)], axis=1)
    found = between(learned, position)
    return demand(gauge(mean, grain, found[0] * traits.factor), found[1:], traits.whole)


def relative_median(quantiles: Floats, least: Floats) -> Floats:
    """The point of least expected absolute *percentage* error, in units.

    It is the median once the density is reweighted by 1/y, and so lies below the median: who is
    judged by MAPE is best served too low. Where nothing is sold the percentage is undefined, so
    the point is that of the buckets in which something is.

    Parameters
    ----------
    quantiles
        At ``GRID``, in units, the levels on the first axis.
    least
        Least demand there is above none, in units: the point where no quantile is above 0.
    """
    sold = quantiles > 0
    weight = np.where(sold, 1.0 / np.where(sold, quantiles, 1.0), 0.0)
    reached = np.cumsum(weight, axis=0)
    half = reached[-1] / 2
    at = np.argmax(reached >= half, axis=0)
    point = np.take_along_axis(quantiles, at[None], axis=0)[0]
    return np.where(half > 0, point, least)


# -- what came -----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """Forecasts of one slot, or of several, held against what came, n of them.

    ``quantiles`` (q, n), in units; ``lower`` and ``upper`` (n,): probability of less than what
    came, and of no more; then what ``spread`` learns: class, counted on from slot to slot, ends of
    the cell, mean, squared error beyond a count's own, and variance, in grains; how many ``slots``.
    """

    quantiles: Floats
    lower: Floats
    upper: Floats
    klass: Ints
    low: Place
    high: Place
    counted: Floats
    excess: Floats
    variance: Floats
    slots: int


def judge(
    tables: Tables, z: Floats, mean: Floats, actual: Floats, traits: Traits,
    slot: Ints | None = None,
) -> Verdict:  # fmt: skip
    """Hold forecasts against what came, by one slot's tables, or each by its own slot's.

    Parameters
    ----------
    tables
        Of one slot, ``dispersion`` (CLASSES,), or of several, (slots, CLASSES).
    z
        What ``scores_at`` gave of these tables, (..., CLASSES, q).
    mean, actual
        In units, (n,); finite.
    slot
        Of each forecast, (n,); ``None``: there is one slot.
    """
    grain = grains(mean, traits.grain)
    counted = mean / grain
    position = volume_class(counted)
    first = 0 if slot is None else slot * CLASSES
    learned = np.concatenate([tables.dispersion[..., None], z], axis=-1)
    learned = learned.reshape(-1, learned.shape[-1])
    found = between(learned, position, first)
    scale = gauge(mean, grain, found[0] * traits.factor)
    low, high = map(Place.of, cells(scale, actual, traits.whole))
    error = (actual - mean) / grain
    return Verdict(
        quantiles=demand(scale, found[1:], traits.whole),
        lower=probability(tables.below, position, low, first),
        upper=probability(tables.below, position, high, first),
        klass=np.rint(position).astype(np.intp) + first,
        low=low,
        high=high,
        counted=counted,
        excess=error * error - counted,
        variance=counted * (1.0 + found[0] * counted),
        slots=len(learned) // CLASSES,
    )


def cells_of(tables: Tables, mean: Floats, actual: Floats, traits: Traits) -> Floats:
    """Probability of less than what came and of no more, by one slot's tables, (2, n)."""
    verdict = judge(tables, np.zeros((CLASSES, 0)), mean, actual, traits)
    return np.stack([verdict.lower, verdict.upper])


def hits(verdict: Verdict, levels: Sequence[float]) -> list[Floats]:
    """How much of what came lies below each level, (n,) each, in [0, 1]: in the mean, the level.

    Not randomised: a count that straddles the level is below it by the part that is.
    """
    density = 1.0 / np.maximum(verdict.upper - verdict.lower, 1e-12)
    shift = verdict.lower * density
    return [np.minimum(np.maximum(level * density - shift, 0.0), 1.0) for level in levels]


def binned(verdict: Verdict) -> Floats:
    """Normal scores counted by class and bin, each spread over its cell: (slots, CLASSES, BINS)."""
    low, high = verdict.low, verdict.high
    classes = verdict.slots * CLASSES
    row = verdict.klass * BINS
    size = classes * BINS
    within = low.bin == high.bin
    out = np.bincount((row + low.bin)[within], minlength=size).astype(np.float64)
    wide = np.flatnonzero(~within)
    if len(wide):
        first, last = low.read(_SHARES)[wide], high.read(_SHARES)[wide]
        density = 1.0 / (last - first)
        row = row[wide]
        start, end = row + low.bin[wide], row + high.bin[wide]
        # Mass below an edge e: of each cell (e - first) density, less (e - last) density past it.
        slope = np.bincount(start, density, size) - np.bincount(end, density, size)
        shift = np.bincount(start, density * first, size) - np.bincount(end, density * last, size)
        slope, shift = (
            np.cumsum(one.reshape(classes, BINS), axis=1)[:, :-1] for one in (slope, shift)
        )
        mass = np.zeros((classes, BINS + 1))
        mass[:, 1:-1] = slope * _SHARES[1:-1] - shift
        mass[:, -1] = np.bincount(verdict.klass[wide], minlength=classes)
        out += np.maximum(np.diff(mass, axis=1), 0.0).ravel()
    return out.reshape(verdict.slots, CLASSES, BINS)


#: The normal distribution at the edges, with both its ends.
_SHARES: Floats = np.concatenate([[0.0], ndtr(EDGES), [1.0]])
