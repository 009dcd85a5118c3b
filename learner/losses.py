"""What each model lost, block by block: the evidence that a promotion is judged on.

A block is a span of buckets at least as long as the horizon, and no shorter than a season of days
or hours, so that what one forecast and the next have in common stays within it. Of every scored
horizon the last ``BLOCKS`` blocks are kept, over all series by volume class, and by category:
sums over the block's buckets and series, of every model on the same forecasts. Sums of several
shards may be added up: blocks are numbered by the calendar. Leaves out: what is made of it
(``gates``), and scores that forget (``evaluation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from learner.evaluation import SUMS, VOLUME_NAMES, Scored

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Blocks kept, and the shortest one, in buckets.
BLOCKS: Final = 32
LEAST_BLOCK: Final = {"hour": 24, "day": 7, "week": 4}
#: Categories whose losses are kept: the first that were listed.
MOST_CATEGORIES: Final = 256
KINDS: Final = ("volume_class", "category")
#: Sums that all models share, and those of each: what a loss is divided by stands at its place.
SHARED: Final = ("n", "difference", "scale")
OWN: Final = ("squared", "pinball")
_SHARED, _OWN = ([SUMS.index(name) for name in names] for names in (SHARED, OWN))


class Losses:
    """Losses by block. Mutable; all of it is state.

    ``number`` (horizons, BLOCKS): which block is in a slot, -1: none; ``buckets`` (horizons,
    BLOCKS): how many of it were scored; ``last`` (horizons,): the last bucket that was, -1: none.
    ``shared[kind]`` (values, horizons, BLOCKS, len(SHARED)) and ``own[kind]`` (values, horizons,
    BLOCKS, models, len(OWN)): sums, values by code.

    Parameters
    ----------
    models
        How many.
    scored
        Horizons.
    bucket
        ``hour``, ``day`` or ``week``.
    """

    def __init__(self, models: int, scored: tuple[int, ...], bucket: str) -> None:
        self.scored = scored
        self.lengths = tuple(max(h, LEAST_BLOCK[bucket]) for h in scored)
        count = len(scored)
        self.number: Ints = np.full((count, BLOCKS), -1, np.int64)
        self.buckets: Ints = np.zeros((count, BLOCKS), np.int64)
        self.last: Ints = np.full(count, -1, np.int64)
        sizes = {"volume_class": len(VOLUME_NAMES), "category": 0}
        self.shared: dict[str, Floats] = {
            kind: np.zeros((sizes[kind], count, BLOCKS, len(SHARED))) for kind in KINDS
        }
        self.own: dict[str, Floats] = {
            kind: np.zeros((sizes[kind], count, BLOCKS, models, len(OWN))) for kind in KINDS
        }

    def learn(self, bucket: int, scored: Scored) -> None:
        """Add what a horizon's forecasts of a bucket came to."""
        at = self.scored.index(scored.horizon)
        block = bucket // self.lengths[at]
        slot = block % BLOCKS
        if self.number[at, slot] != block:
            self.number[at, slot], self.buckets[at, slot] = block, 0
            for kind in KINDS:
                self.shared[kind][:, at, slot] = 0.0
                self.own[kind][:, at, slot] = 0.0
        self.buckets[at, slot] += 1
        self.last[at] = bucket
        for kind in KINDS:
            sums = scored.sums[kind]
            if kind == "category":
                sums = sums[:MOST_CATEGORIES]
                self._grow(kind, len(sums))
            self.shared[kind][: len(sums), at, slot] += sums[:, 0, _SHARED]
            self.own[kind][: len(sums), at, slot] += sums[:, :, _OWN]

    def _grow(self, kind: str, size: int) -> None:
        more = size - len(self.shared[kind])
        if more > 0:
            for held in (self.shared, self.own):
                held[kind] = np.pad(held[kind], [(0, more)] + [(0, 0)] * (held[kind].ndim - 1))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of its state, by name."""
        kept: dict[str, npt.NDArray[Any]] = {
            "number": self.number, "buckets": self.buckets, "last": self.last,
        }  # fmt: skip
        for kind in KINDS:
            kept[f"{kind}.shared"], kept[f"{kind}.own"] = self.shared[kind], self.own[kind]
        return kept

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what ``arrays`` gave."""
        self.number, self.buckets, self.last = (
            arrays[name] for name in ("number", "buckets", "last")
        )
        for kind in KINDS:
            self.shared[kind], self.own[kind] = arrays[f"{kind}.shared"], arrays[f"{kind}.own"]

    def digest(self, order: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
        """All of its state.

        Parameters
        ----------
        order
            Codes of categories, in an order that arrival does not decide.
        """
        yield from (self.number, self.buckets, self.last)
        known = [code for code in order if code < len(self.shared["category"])]
        for kind in KINDS:
            codes = known if kind == "category" else slice(None)
            yield from (self.shared[kind][codes], self.own[kind][codes])
