"""What is usual of a number, and how far from it is unusual: levels and deviations that follow.

A band is a multiple of the tracked deviation, and at least somewhat more than the furthest that
the number has been out before, which fades. What is learned of one bucket is cut, so that no
single one teaches much. Leaves out: which numbers are judged (``guard``, ``watch``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.buckets import Calendar

Floats = npt.NDArray[np.float64]

#: Seasons, and at least buckets, of a past before anything is judged by it.
WARM_SEASONS, WARM = 4, 8
#: A band is at least so much wider than the furthest that the past went out, which fades.
MARGIN, FADE = 1.5, 0.995
#: Share of a new bucket in a level, and in a deviation; deviations to which it is cut.
LEVEL, SPREAD, CUT = 0.05, 0.03, 3.0
#: Mean absolute deviation to standard deviation, of a normal distribution.
NORMAL = 1.2533


def warm_after(calendar: Calendar) -> int:
    """Buckets of a past before anything is judged by it."""
    return max(WARM_SEASONS * calendar.season, WARM)


class Step(NamedTuple):
    """What a bucket teaches, all of one shape.

    ``cut``: distance from the level, bounded; ``far``: distance that widens the band, faults left
    aside; ``rate`` and ``narrow``: shares of the bucket in level and deviation.
    """

    cut: Floats
    far: Floats
    rate: Floats
    narrow: Floats


def step(off: Floats, width: Floats, deviation: Floats, count: Floats, warm: int) -> Step:
    """What is learned of distances from the level.

    Parameters
    ----------
    off, width
        Distances, finite, and the bands' widths.
    deviation
        Tracked deviations, at least what chance makes.
    count
        Buckets learned before.
    """
    early = count < warm / 2
    far = np.where(~early & ((np.abs(off) < width) | (count < warm)), np.abs(off), 0.0)
    return Step(
        cut=bounded(off, deviation, early),
        far=far,
        rate=np.maximum(LEVEL, 1.0 / (count + 1)),
        narrow=np.maximum(SPREAD, 1.0 / (count + 1)),
    )


def bounded(off: Floats, deviation: Floats, early: npt.NDArray[np.bool_]) -> Floats:
    """Distances cut to some deviations, but in the first buckets."""
    return np.where(early, off, np.clip(off, -CUT * deviation, CUT * deviation))


def furthest(before: Floats, far: Floats) -> Floats:
    """The furthest that a past went out, a bucket later."""
    further: Floats = np.maximum(before * FADE, far)
    return further
