"""What came of each source: counts of the newest snapshots, and rates from two of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from api.console.client import Api
from api.console.formats import number, table, text

#: What becomes of an item, in the order of the identity that adds them up.
OUTCOMES = ("learned", "revised", "duplicate", "void", "late", "quarantined", "excluded",
            "refused", "applied")  # fmt: skip
#: Rates are over at least so long, where snapshots reach back so far, s.
SPAN_S = 60.0
#: A rate over less says nothing, s.
LEAST_S = 5.0

Counts = Mapping[str, Mapping[str, int]]


async def latest(api: Api) -> list[dict[str, Any]]:
    """The served snapshot of every partition, with all that its manifest says."""
    status = await api.get("/v1/status")
    ids = [one["snapshot"] for one in status["partitions"] if one["snapshot"]]
    return list(await asyncio.gather(*(api.get(f"/v1/snapshots/{one}") for one in ids)))


async def known_sources(api: Api) -> list[str]:
    """Names of the sources that were ever heard of."""
    return sorted(total([one["counts"] for one in await latest(api)]))


async def measured(api: Api) -> dict[str, Any]:
    """Counts of every source, and items a second over the last while.

    Returns
    -------
    ``counts``: source → outcome → items; ``rates``: source → items a second, where two snapshots
    of one lineage are kept; ``span_s``: the shortest span they are over.
    """
    newest = await latest(api)
    before = await asyncio.gather(*(_before(api, one) for one in newest))
    rates: Counter[str] = Counter()
    spans = []
    for now, then in zip(newest, before, strict=True):
        if then is None:
            continue
        span_s = (_at(now) - _at(then)).total_seconds()
        if span_s < LEAST_S:
            continue
        spans.append(span_s)
        for source, items in rates_of(now["counts"], then["counts"], span_s).items():
            rates[source] += items  # type: ignore[assignment]
    return {
        "counts": total([one["counts"] for one in newest]),
        "rates": dict(rates) if spans else None,
        "span_s": min(spans, default=None),
    }


async def _before(api: Api, now: Mapping[str, Any]) -> dict[str, Any] | None:
    """An earlier snapshot of the same lineage, ``SPAN_S`` before or as far back as is kept."""
    found = await api.get("/v1/snapshots", partition=now["partition"], limit=200)
    older = [
        one
        for one in found["items"]
        if one["lineage"] == now["lineage"] and one["position"] < now["position"]
    ]
    if not older:
        return None
    far = [one for one in older if (_at(now) - _at(one)).total_seconds() >= SPAN_S]
    chosen = far[0] if far else older[-1]
    detail: dict[str, Any] = await api.get(f"/v1/snapshots/{chosen['id']}")
    return detail


def _at(snapshot: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(snapshot["published_at"])


def rates_of(now: Counts, then: Counts, span_s: float) -> dict[str, float]:
    """Items a second by source, between two counts.

    >>> rates_of({"a": {"learned": 30, "late": 2}}, {"a": {"learned": 12}}, 10.0)
    {'a': 2.0}
    """
    return {
        source: (sum(items.values()) - sum(then.get(source, {}).values())) / max(span_s, 1e-3)
        for source, items in now.items()
    }


def total(counts: list[Counts]) -> dict[str, dict[str, int]]:
    """Counts of several partitions as one.

    >>> total([{"a": {"learned": 2}}, {"a": {"learned": 1, "late": 1}}])
    {'a': {'learned': 3, 'late': 1}}
    """
    whole: dict[str, Counter[str]] = {}
    for one in counts:
        for source, items in one.items():
            whole.setdefault(source, Counter()).update(items)
    return {source: dict(items) for source, items in whole.items()}


def shown_outcomes(counts: Counts) -> list[str]:
    """Outcomes that occur, in the order of the identity; learned always."""
    there = {name for items in counts.values() for name, n in items.items() if n}
    return [one for one in OUTCOMES if one in there or one == "learned"] + sorted(
        there.difference(OUTCOMES)
    )


def counts_of(counts: Counts) -> str:
    """Counts as a table, by source."""
    outcomes = shown_outcomes(counts)
    rows = [
        [text(source or "(Salescast)"), *(number(items.get(one, 0), 0) for one in outcomes)]
        for source, items in sorted(counts.items())
    ]
    heads = ["Source", *(one.capitalize() for one in outcomes)]
    return table(heads, rows, label="Items by source", numbers=range(1, len(heads)))
