"""Predictive distributions from residuals, by horizon and volume.

A residual is standardised by what a count of that mean would scatter, ``z = (y - mean) /
sqrt(mean + 1/4)``, and counted in a histogram that forgets. A quantile of demand is read back
as ``mean + z_q sqrt(mean + 1/4)``, never below zero. Quantiles cannot cross, since one
histogram gives them all. Leaves out: sums over buckets, and parametric distributions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Edges of the histogram's bins in z: fine near zero, coarse in the tails.
EDGES: Floats = np.concatenate(
    [np.linspace(-8.0, -3.0, 21)[:-1], np.linspace(-3.0, 4.0, 141)[:-1], np.linspace(4.0, 20.0, 33)]
)
BINS = len(EDGES) + 1
#: Volume classes: a mean's log2 on [-4, 8], one class a unit step.
CLASS_LOW, CLASSES = -4, 13
#: Share of a histogram that survives a bucket in which it was updated.
DECAY = 0.98
#: Levels at which the table of quantiles is kept.
LEVELS: Floats = np.concatenate(
    [[0.001, 0.005, 0.01, 0.025], np.arange(1, 20) / 20.0, [0.975, 0.99, 0.995, 0.999]]
)
#: Prior weight, in residuals, of the standard shape a histogram starts from.
PRIOR = 20.0


def _prior_histogram() -> Floats:
    """A skewed bell: what residuals of counts look like before any was seen."""
    mids = np.concatenate([[-9.0], (EDGES[1:] + EDGES[:-1]) / 2, [21.0]])
    widths = np.concatenate([[0.0], np.diff(EDGES), [0.0]])
    spread = np.where(mids < 0, 1.0, 1.4)
    density = np.exp(-0.5 * (mids / spread) ** 2) * widths
    prior: Floats = PRIOR * density / density.sum()
    return prior


def empty(horizons: int) -> Floats:
    """Histograms before any residual, shape (horizons, CLASSES, BINS)."""
    return np.broadcast_to(_prior_histogram(), (horizons, CLASSES, BINS)).copy()


def volume_class(mean: Floats) -> Floats:
    """Position of a mean among the classes, fractional, in [0, CLASSES - 1]."""
    position: Floats = np.log2(np.maximum(mean, 2.0**CLASS_LOW)) - CLASS_LOW
    return np.minimum(position, CLASSES - 1.0)


def learn(histogram: Floats, mean: Floats, actual: Floats) -> None:
    """Count the residuals of one horizon in place.

    Parameters
    ----------
    histogram
        Shape (CLASSES, BINS).
    mean, actual
        Forecast and demand, shape (n,), in units; finite.
    """
    z = (actual - mean) / np.sqrt(mean + 0.25)
    klass = np.rint(volume_class(mean)).astype(np.intp)
    flat = klass * BINS + np.searchsorted(EDGES, z, side="right")
    counts = np.bincount(flat, minlength=CLASSES * BINS).reshape(CLASSES, BINS)
    seen = counts.sum(axis=1) > 0
    histogram[seen] *= DECAY
    histogram += counts


def table(histogram: Floats) -> Floats:
    """Quantiles in z at ``LEVELS``, shape (horizons, CLASSES, len(LEVELS)).

    A class borrows from its neighbours what it has not seen itself: counts are smoothed over
    classes with weights 1/8, 3/4, 1/8.
    """
    padded = np.pad(histogram, ((0, 0), (1, 1), (0, 0)), mode="edge")
    smooth = 0.125 * padded[:, :-2] + 0.75 * padded[:, 1:-1] + 0.125 * padded[:, 2:]
    cdf = np.cumsum(smooth, axis=2)
    cdf /= cdf[:, :, -1:]
    out = np.empty((*histogram.shape[:2], len(LEVELS)))
    for h in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[h, k] = np.interp(LEVELS, cdf[h, k, :-1], EDGES)
    return out


def quantiles(
    tables: Floats, scored: tuple[int, ...], mean: Floats, horizon: int, levels: Floats
) -> Floats:
    """Quantiles of demand at one horizon.

    Parameters
    ----------
    tables
        What ``table`` gave, shape (len(scored), CLASSES, len(LEVELS)).
    scored
        Scored horizons, ascending, in buckets; others are interpolated between them.
    mean
        Forecasts, shape (n,), in units.
    horizon
        Buckets ahead.
    levels
        Probabilities in (0, 1), shape (q,).

    Returns
    -------
    Shape (q, n), in units; ascending along q where ``levels`` ascend.
    """
    at = float(np.interp(horizon, scored, np.arange(len(scored))))
    low = int(at)
    high = min(low + 1, len(scored) - 1)
    by_class = (1 - (at - low)) * tables[low] + (at - low) * tables[high]
    z = np.stack([np.interp(levels, LEVELS, row) for row in by_class])
    position = volume_class(mean)
    left = position.astype(np.intp)
    right = np.minimum(left + 1, CLASSES - 1)
    share = position - left
    mixed = z[left] * (1 - share)[:, None] + z[right] * share[:, None]
    out: Floats = np.maximum(mean[:, None] + mixed * np.sqrt(mean + 0.25)[:, None], 0.0).T
    return out
