"""What the guard says: of whom it found something, what, and where each source stands.

Leaves out: how it is found (``guard``, ``watch``) and what becomes of it (``shard``, ``effects``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from learner.inputs import SALES, STATISTICS, said

OK, SUSPECT, QUARANTINED, SILENT = range(4)
STATES = ("ok", "suspect", "quarantined", "silent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A source that went out of its band at the close of a bucket.

    ``found`` and ``usual`` are shares of ``stuck``, ``twice`` and ``again``, else amounts: units
    a bucket, sales a bucket, units a sale, price over usual price. ``score`` is the distance, 1
    is the band's edge. ``held``: what it brought was withheld. ``sound``, of the champion: the
    newest bucket at which it was no worse than usual.
    """

    id: str
    source: str
    partition: int
    bucket: int
    state: str
    statistic: str
    found: float
    usual: float
    score: float
    held: bool
    sound: int | None = None

    @property
    def champion(self) -> bool:
        """Whether it is about the model, not a source."""
        return not self.source

    @property
    def text(self) -> str:
        """What was found, in words."""
        return said(self.state, self.statistic, self.found, self.usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a source stands with the guard of a partition; numbers as in ``Finding``.

    ``since`` is the bucket that the state began in; ``learning``: its past is too short to judge
    it by.
    """

    source: str
    state: str
    since: int
    statistic: str
    found: float
    usual: float
    score: float
    learning: bool

    @property
    def text(self) -> str:
        """What was found last, in words."""
        return said(self.state, self.statistic, self.found, self.usual)


def standings(
    names: Sequence[str], arrays: Mapping[str, npt.NDArray[Any]], warm: int
) -> list[Standing]:
    """Where sources stand, by name.

    Parameters
    ----------
    names, arrays
        Of a ``Guard``, in the order of its rows.
    warm
        Buckets of past before a source is judged by it.
    """
    return [
        Standing(
            source=name,
            state=STATES[arrays["state"][at]],
            since=int(arrays["since"][at]),
            statistic=STATISTICS[arrays["cause"][at]],
            found=float(arrays["found"][at]),
            usual=float(arrays["usual"][at]),
            score=float(arrays["score"][at]),
            learning=bool(arrays["count"][at, SALES] < warm),
        )
        for name, at in sorted((name, at) for at, name in enumerate(names))
    ]


def identity(partition: int, source: str, bucket: int) -> str:
    """A finding's id: the same fold gives the same one."""
    name = hashlib.sha256(source.encode()).hexdigest()[:12]
    return f"guard-{partition}-{bucket}-{name}"
