"""Finding series by words, and names near one that nobody knows.

The index is built when a snapshot is swapped in, off the request's path; a query then scans
texts that are lower-case and in order already.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.serving import Serving

#: How many candidates the (slow) comparison of names may look at.
CANDIDATES = 500
NEAR = 5


@dataclass(frozen=True, slots=True)
class Names:
    """What only changes when series come: (partition, row), key and text of every series.

    ``rank`` is the place of each key in alphabetical order.
    """

    lists: tuple[tuple[Sequence[str], Sequence[str], Sequence[str]], ...]
    partition: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    keys: list[tuple[str, str]]
    texts: list[str]
    rank: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Index:
    """All series by recent volume, descending; ties by key.

    ``partition``, ``row`` and ``recent`` (units a bucket of the last season) are of shape (n,).
    """

    names: Names
    partition: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    recent: npt.NDArray[np.float64]
    keys: list[tuple[str, str]]
    texts: list[str]

    def search(self, query: str) -> Sequence[int]:
        """Places in the index of the series whose text has all words of the query."""
        words = query.lower().split()
        if not words:
            return range(len(self.texts))
        texts = self.texts
        # The longest word first: it leaves the fewest to look at.
        first, *others = sorted(words, key=len, reverse=True)
        found = [place for place, text in enumerate(texts) if first in text]
        for word in others:
            found = [place for place in found if word in texts[place]]
        return found

    def near(self, store: str, product: str) -> list[str]:
        """Known series close to an unknown one, as ``store/product``, the likeliest first."""
        elsewhere = [key for key in self.keys if key[1] == product]
        in_store = [key for key in self.keys if key[0] == store]
        found: list[tuple[str, str]] = []
        if in_store:
            names = [name for _, name in in_store]
            found += [(store, name) for name in close_names(product, names)]
            found += elsewhere[: NEAR - 2]
        elif elsewhere:
            stores = [name for name, _ in elsewhere]
            found += [(name, product) for name in close_names(store, stores)] or elsewhere
        else:
            stores = close_names(store, list(dict.fromkeys(name for name, _ in self.keys)))
            for name in stores:
                products = [key[1] for key in self.keys if key[0] == name]
                found += [
                    (name, one) for one in (close_names(product, products) or products[:1])[:2]
                ]
        return ["/".join(key) for key in dict.fromkeys(found)][:NEAR]


def close_names(name: str, names: Sequence[str]) -> list[str]:
    """Names like this one; at most ``CANDIDATES`` are compared, those that start alike first."""
    if len(names) > CANDIDATES:
        start = name[:2].lower()
        alike = [one for one in names if one[:2].lower() == start]
        names = [*alike, *names[:CANDIDATES]][:CANDIDATES]
    folded: dict[str, str] = {}
    for one in names:
        folded.setdefault(one.lower(), one)
    hits = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    return [folded[hit] for hit in hits]


def recent(serving: Serving, season: int) -> npt.NDArray[np.float64]:
    """Units of the last season over its buckets, shape (S,); what is missing counts for none.

    So one good day among missing ones makes no busy series. Buckets that nothing is known of at
    all are left out: those before the first sale, and days of rest.
    """
    ring = len(serving.units)
    slot = np.arange(serving.origin - min(season, ring) + 1, serving.origin + 1) % ring
    series = len(serving.stores)
    units = np.abs(serving.units[slot, :series])
    known = ~np.isnan(units)
    units = np.where(known, units, 0.0).sum(axis=0, dtype=np.float64)
    mean: npt.NDArray[np.float64] = units / max(int(known.any(axis=1).sum()), 1)
    return mean


def build(servings: Mapping[int, Serving], season: int, previous: Index | None = None) -> Index:
    """Index what is served; names that did not change are taken over from ``previous``."""
    partitions = sorted(servings)
    ordered = [servings[partition] for partition in partitions]
    lists = tuple((one.stores, one.products, one.categories) for one in ordered)
    if previous is not None and previous.names.lists == lists:
        names = previous.names
    else:
        names = _names(partitions, lists)
    volume = np.concatenate([recent(one, season) for one in ordered]) if ordered else np.zeros(0)
    order = np.lexsort((names.rank, -volume))
    places = order.tolist()
    return Index(
        names=names,
        partition=names.partition[order],
        row=names.row[order],
        recent=volume[order],
        keys=[names.keys[place] for place in places],
        texts=[names.texts[place] for place in places],
    )


def _names(
    partitions: Sequence[int],
    lists: tuple[tuple[Sequence[str], Sequence[str], Sequence[str]], ...],
) -> Names:
    sizes = [len(stores) for stores, _, _ in lists]
    keys = [key for stores, products, _ in lists for key in zip(stores, products, strict=True)]
    texts = [
        f"{store} {product} {category}".lower()
        for columns in lists
        for store, product, category in zip(*columns, strict=True)
    ]
    rank = np.empty(len(keys), dtype=np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return Names(
        lists=lists,
        partition=np.repeat(np.asarray(partitions, dtype=np.int64), sizes),
        row=np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, np.int64),
        keys=keys,
        texts=texts,
        rank=rank,
    )
