"""What each source has brought to a bucket that is not closed.

Kept by source, so that a source's part can be taken out again before anything is learned from
it. Leaves out: when a bucket closes (``window``), and who is at fault (``learner.guard``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

Key = tuple[str, str]
#: gross, returns, revenue and priced quantity in millionths, the number of live sales, and what
#: of gross came in the bucket's early slots.
Cell = list[int]
CELL = 6  # figures in a cell
K = TypeVar("K")


@dataclass(slots=True)
class Brought:
    """One source's part of an open bucket.

    ``heard`` counts each store's live sales by slot of the bucket; ``identities`` are all that
    are remembered of the source in this bucket, the window's own list.
    """

    cells: dict[Key, Cell] = field(default_factory=dict)
    heard: dict[str, list[int]] = field(default_factory=dict)
    identities: list[bytes] = field(default_factory=list)

    @property
    def sales(self) -> int:
        """Number of live sales."""
        return sum(cell[4] for cell in self.cells.values())


@dataclass(slots=True)
class Open:
    """What a bucket that is not closed has collected, by source.

    ``places`` says, for series that may turn out to be one too many, where their live sales
    are in the log: identity → (offset, item, source).
    """

    by: dict[str, Brought] = field(default_factory=dict)
    places: dict[Key, dict[bytes, tuple[int, int, str]]] = field(default_factory=dict)

    @property
    def cells(self) -> dict[Key, Cell]:
        """Sums by series, over all sources. Not to be changed."""
        return _merged([one.cells for one in self.by.values()])

    @property
    def heard(self) -> dict[str, list[int]]:
        """Each store's live sales by slot, over all sources. Not to be changed."""
        return _merged([one.heard for one in self.by.values()])

    def take_out(self, source: str) -> Brought | None:
        """Take a source's part out, and the places of its sales."""
        mine = self.by.pop(source, None)
        for key in mine.cells if mine is not None else ():
            if key in self.places:
                places = self.places[key]
                left = {one: at for one, at in places.items() if at[2] != source}
                if left:
                    self.places[key] = left
                else:
                    del self.places[key]
        return mine


def _merged(parts: list[dict[K, list[int]]]) -> dict[K, list[int]]:
    """Lists of equal keys added up, element by element."""
    if len(parts) == 1:
        return parts[0]
    merged: dict[K, list[int]] = {}
    for part in parts:
        shared: Iterable[K] = merged.keys() & part.keys()
        if shared:
            both = {key: [a + b for a, b in zip(merged[key], part[key], strict=True)]
                    for key in shared}  # fmt: skip
            merged.update(part)
            merged.update(both)
        else:
            merged.update(part)
    return merged


def add(
    cells: dict[Key, Cell], key: Key, amounts: tuple[int, int, int, int], sign: int,
    early: bool = False,
) -> None:  # fmt: skip
    """Add to a cell, or take out; a cell in which nothing is left is no longer there."""
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = [0, 0, 0, 0, 0, 0]
    gross, returns, revenue, priced = amounts
    cell[0] += sign * gross
    cell[1] += sign * returns
    cell[2] += sign * revenue
    cell[3] += sign * priced
    cell[4] += sign
    if early:
        cell[5] += sign * gross
    if cell[4] == 0 and not any(cell):
        del cells[key]


#: Judges a bucket before it closes: sources whose part of it is to be withheld.
Judge = Callable[[int, Open], Iterable[str]]
