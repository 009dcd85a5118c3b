"""Texts as whole numbers: what columns hold in the place of names.

And whose the places of a shard's arrays are: another lineage may have listed the same series in
another order, or not all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.intp]

#: Place of what has none.
UNKNOWN = 2**31


@dataclass(slots=True)
class Names:
    """Texts with the whole numbers they are stored as, in order of first use."""

    texts: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)

    def code(self, text: str) -> int:
        """The text's number; a new one if it is new."""
        code = self.codes.get(text)
        if code is None:
            code = self.codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def take(self, texts: Iterable[str]) -> None:
        """Number those of some texts that are new, in their order."""
        for text in dict.fromkeys(texts):
            self.code(text)


def named(
    stores: Sequence[str], products: Sequence[str], categories: Sequence[str]
) -> dict[str, Sequence[Hashable]]:
    """What a shard's arrays are of, each at its place, by kind.

    Parameters
    ----------
    stores, products
        Of each series, by row.
    categories
        All there are, by code.
    """
    return {
        "series": list(zip(stores, products, strict=True)),
        "store": list(dict.fromkeys(stores)),
        "product": list(dict.fromkeys(products)),
        "category": categories,
    }


def known_as(now: Iterable[Hashable], before: Iterable[Hashable]) -> Places:
    """The place that each of some names had before; ``UNKNOWN``: none.

    Examples
    --------
    >>> known_as("bcd", "abc").tolist() == [1, 2, UNKNOWN]
    True
    """
    places: Mapping[Hashable, int] = {one: at for at, one in enumerate(before)}
    return np.array([places.get(one, UNKNOWN) for one in now], np.intp)


def placed(values: npt.NDArray[Any], known: Places) -> npt.NDArray[Any]:
    """Values of each place before, (..., n), at the places of now; 0: it was not known.

    Where nothing has moved they are given back as they are.
    """
    width = values.shape[-1]
    if width <= len(known) and (known[:width] == np.arange(width)).all():
        return values
    there = np.flatnonzero(known < width)
    out = np.zeros((*values.shape[:-1], len(known)), values.dtype)
    out[..., there] = values[..., known[there]]
    return out
