"""Forecasts of many slots held against what came, as many at once as fit the processor's cache.

A close judges each model at each horizon, and each kind of group besides: slots by the dozen, and
with few series each of them is over before it has begun. So slots with few forecasts are judged
together, each by its own tables; the sums of a slot are those that it would have alone. Leaves
out: how a forecast is judged (``intervals``), and what is learned of it (``spread``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from learner.intervals import Tables, Traits, Verdict, judge

Floats = npt.NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

#: Forecasts judged at once.
BLOCK = 8192


class Piece(NamedTuple):
    """Forecasts of one slot, and what came, (n,) each, in units; finite.

    ``place``: where they are among all of their slot's.
    """

    slot: tuple[int, ...]
    mean: Floats
    actual: Floats
    traits: Traits
    place: slice = slice(None)


class Bundle(NamedTuple):
    """Pieces judged together: ``spans`` are their places, one after the other, in ``verdict``.

    ``verdict`` counts a slot for each piece, in their order.
    """

    spans: Sequence[tuple[Piece, slice]]
    verdict: Verdict


def judged(pieces: Iterable[Piece], tables: Tables, z: Floats) -> Iterator[Bundle]:
    """Judge pieces, in their order.

    Parameters
    ----------
    tables, z
        Of all slots, see ``intervals.scores_at``: (*slots, CLASSES, ...).
    """
    for some in _together(pieces):
        sizes = [len(piece.mean) for piece in some]
        at = tuple(np.array(axis) for axis in zip(*(piece.slot for piece in some), strict=True))
        verdict = judge(
            tables.at(*at), z[at],
            join([piece.mean for piece in some]),
            join([piece.actual for piece in some]),
            Traits(*(join(one) for one in zip(*(piece.traits for piece in some), strict=True))),
            np.repeat(np.arange(len(some)), sizes) if len(some) > 1 else None,
        )  # fmt: skip
        ends = np.cumsum(sizes).tolist()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        yield Bundle(list(zip(some, spans, strict=True)), verdict)


def _together(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces that follow each other, as many as are no more than ``BLOCK`` forecasts."""
    some: list[Piece] = []
    size = 0
    for piece in pieces:
        if some and size + len(piece.mean) > BLOCK:
            yield some
            some, size = [], 0
        some.append(piece)
        size += len(piece.mean)
    if some:
        yield some


def join(arrays: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    """Arrays one after the other; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
