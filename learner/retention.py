"""Which snapshots are kept: the newest, then one an hour, then one a day. Pure.

They are thinned out by event time, their watermark: operators name times of sales (``--to``,
``as_of``), a year that is replayed in minutes leaves what a year would, and a clock that jumps
ages nothing. The last of an hour or a day stays, so a cut up to midnight is what was known at
midnight. Leaves out: what is never deleted, head, active and the pinned (``store``, ``pruning``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

#: How far back one an hour is kept.
HOURLY_US = 48 * 3_600_000_000
_HOUR_US = 3_600_000_000


class Aged(NamedTuple):
    """A snapshot with the event time it knows, in µs since 1970 UTC, and its lineage.

    A replay has a lineage of its own, which does not thin out the one before. One that cannot be
    verified is of none, ``UNSIGNED``, for what it says of itself may be wrong.
    """

    snapshot: str
    lineage: int
    time_us: int


UNSIGNED = -1


def kept(
    snapshots: Sequence[Aged], *, newest: int, days: int, day_of: Callable[[int], int]
) -> set[str]:
    """Snapshots of a partition that stay.

    Parameters
    ----------
    snapshots
        In the order they were put.
    newest
        How many of the last ones put stay, whatever they hold.
    days
        Days before that of the newest, of each of which the last one stays, and the last of each
        hour of ``HOURLY_US``; 0: none of either.
    day_of
        The day that a time is in.

    Returns
    -------
    All of them if none is verified: the key here is more likely wrong than all of theirs.

    Examples
    --------
    >>> hour = 3_600_000_000
    >>> taken = [Aged(f"{n}:00", 1, n * hour) for n in range(0, 24 * 4, 12)]
    >>> sorted(kept(taken, newest=1, days=3, day_of=lambda us: us // (24 * hour)))
    ['12:00', '36:00', '48:00', '60:00', '72:00', '84:00']
    """
    now_us = max((one.time_us for one in snapshots if one.lineage != UNSIGNED), default=None)
    if now_us is None:
        return {one.snapshot for one in snapshots}
    stay = {one.snapshot for one in snapshots[-newest:]}
    last: dict[tuple[str, int, int], str] = {}
    today = day_of(now_us)
    for one in snapshots if days else ():
        age_us = now_us - one.time_us
        if age_us < 0:
            continue  # an unsigned one that says it is of the future
        if age_us < HOURLY_US:
            last["hour", one.lineage, one.time_us // _HOUR_US] = one.snapshot
        if today - (day := day_of(one.time_us)) <= days:
            last["day", one.lineage, day] = one.snapshot
    return stay | set(last.values())
