"""Which stores, products and categories are served, and how many series each has.

Counted once for a set of series, not at every question. Leaves out: what was declared of
products without sales (``facts``).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from api.replica import Replica
from api.search import Names
from learner.serving import Serving


@dataclass(frozen=True, slots=True)
class Census:
    """Series by store, by product and by category, and each product's category as served."""

    stores: Mapping[str, int]
    products: Mapping[str, int]
    categories: Mapping[str, int]
    category_of: Mapping[str, str]


def take(names: Names) -> Census:
    """Count the series of an index."""
    stores: Counter[str] = Counter()
    products: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    category_of: dict[str, str] = {}
    for in_stores, of_products, of_categories in names.lists:
        stores.update(in_stores)
        products.update(of_products)
        categories.update(of_categories)
        category_of.update(zip(of_products, of_categories, strict=True))
    del categories[""]
    return Census(stores, products, categories, category_of)


class Censuses:
    """The census of what is served, kept until other series are; safe to ask from threads."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._kept: tuple[Names, Census] | None = None
        self._lock = threading.Lock()

    def now(self) -> Census:
        """Of what is served now."""
        names = self._replica.state.index.names
        with self._lock:
            if self._kept is None or self._kept[0] is not names:
                self._kept = (names, take(names))
            return self._kept[1]


def series_of(
    census: Census,
    servings: Iterable[Serving],
    store: str,
    product: str | None,
    category: str | None,
) -> int:
    """How many series a plan is about; ``store`` is a store or ``*``."""
    if store == "*":
        if product is not None:
            return census.products.get(product, 0)
        if category is not None:
            return census.categories.get(category, 0)
        return sum(census.stores.values())
    if product is None and category is None:
        return census.stores.get(store, 0)
    if product is not None:
        return sum((store, product) in one.rows for one in servings)
    return sum(
        (there, of) == (store, category)
        for one in servings
        for there, of in zip(one.stores, one.categories, strict=True)
    )
