"""What came back: rare, so only buckets and series that had returns are kept.

One whole number says both, the bucket first, so that all are in order: a new bucket's are put at
the end, old ones fall off at the beginning, and one series' are found by bisection. Sixteen bytes a
series and bucket with returns; a ring costs less from a quarter of all on. Leaves out: what
returns do to demand (``panel``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from stream.event import MICRO

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Rows that a bucket has places for.
_ROWS = 2**32


class Returns:
    """Returns by bucket and row. Mutable; all of it is state.

    ``returned_at`` (n,), ascending: the bucket times 2**32, plus the row; ``returned`` (n,), in
    millionths of units, never 0.

    Examples
    --------
    >>> returns = Returns()
    >>> returns.put(7, np.array([0, 2_500_000]))
    >>> returns.of(1, np.array([6, 7]))
    array([0. , 2.5])
    """

    def __init__(self, arrays: Mapping[str, Ints] | None = None) -> None:
        nothing: Ints = np.zeros(0, np.int64)
        arrays = arrays or {"returned_at": nothing, "returned": nothing}
        self.returned_at, self.returned = arrays["returned_at"], arrays["returned"]

    def arrays(self) -> dict[str, Ints]:
        """All of its state, by name: what it may be made of again."""
        return {"returned_at": self.returned_at, "returned": self.returned}

    def put(self, bucket: int, units: Ints) -> None:
        """Take in what came back in a bucket, in millionths, (S,), the newest so far."""
        rows = np.flatnonzero(units)
        self.returned_at = np.append(self.returned_at, bucket * _ROWS + rows)
        self.returned = np.append(self.returned, units[rows])

    def add(self, bucket: int, row: int, units: int) -> None:
        """Amend what came back in a bucket of a series by millionths of units."""
        key = bucket * _ROWS + row
        at = int(np.searchsorted(self.returned_at, key))
        there = at < len(self.returned_at) and self.returned_at[at] == key
        total = units + (int(self.returned[at]) if there else 0)
        old = slice(at, at + there)
        self.returned_at = _replaced(self.returned_at, old, [key] if total else [])
        self.returned = _replaced(self.returned, old, [total] if total else [])

    def forget(self, bucket: int) -> None:
        """Drop what came back before a bucket."""
        start = np.searchsorted(self.returned_at, bucket * _ROWS)
        self.returned_at, self.returned = self.returned_at[start:], self.returned[start:]

    def of(self, row: int, buckets: Ints) -> Floats:
        """What came back of one series in some buckets, in units; the shape of ``buckets``."""
        if not len(self.returned):
            return np.zeros(np.shape(buckets))
        keys = np.asarray(buckets, np.int64) * _ROWS + row
        at = np.minimum(np.searchsorted(self.returned_at, keys), len(self.returned) - 1)
        return np.where(self.returned_at[at] == keys, self.returned[at] / MICRO, 0.0)


def _replaced(values: Ints, old: slice, new: list[int]) -> Ints:
    """Some values in the place of others."""
    return np.concatenate([values[: old.start], np.array(new, np.int64), values[old.stop :]])
