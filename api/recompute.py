"""Any answer again, from its snapshot and its request: a forecast is a pure function of the two.

The clock's fields (age, staleness, whether it was frozen) are no part of it. Leaves out: whether
the snapshot itself is right (``learner.verify``).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from api import answers, sums
from api.asked import Asked, named, parse
from api.problems import Problem
from api.replica import View, view_of
from learner.manifest import Verifier, read_manifest, settings_of
from learner.recall import read_continued
from learner.served import read_serving
from learner.serving import BASIS
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.settings import Settings

#: Fields of an answer that depend on when it was given.
CLOCK = ("age_s", "stale", "frozen")
PREFIX = b"/v1/forecasts/"


def answer(
    view: View, row: int, settings: Settings, asked: Asked, clock: Mapping[str, object]
) -> bytes:
    """The answer about a series: what it stands on, the total where one is asked for, the steps.

    Parameters
    ----------
    clock
        The clock's fields; empty: they are left out.
    """
    serving = view.serving
    found: dict[str, object] = {
        "store": serving.stores[row],
        "product": serving.products[row],
        "category": serving.categories[row],
        "origin": view.origin,
        "bucket": settings.bucket,
        "timezone": settings.timezone,
        "model": serving.champion,
        "basis": BASIS[serving.basis[row]],
        "snapshot": serving.snapshot,
        "as_of": view.as_of,
    }
    if asked.point is not None:
        found["metric"] = answers.METRICS[asked.point]
    head, steps = answers.encode({**found, **clock}), view.steps(row, asked)
    if asked.total is None:
        return b'%b,"steps":%b}' % (head[:-1], steps)
    total = answers.encode(sums.one(serving, row, asked, view.times))
    return b'%b,"sum":%b,"steps":%b}' % (head[:-1], total, steps)


def forecast(
    store: SnapshotStore, verifier: Verifier, partition: int, snapshot: str, request: str
) -> bytes:
    """The answer to ``GET /v1/forecasts/{store}/{product}`` from a snapshot, without the clock's
    fields.

    Parameters
    ----------
    request
        Path and query, as it was sent.

    Raises
    ------
    Problem
        The request is none, or the snapshot knows no such series.
    SnapshotMissing, SnapshotCorrupt
    """
    path, _, query = request.encode().partition(b"?")
    frozen, plus, later = snapshot.partition("+")
    settings = settings_of(read_manifest(store, partition, frozen, verifier))
    if plus:
        serving, _ = read_continued(store, partition, frozen, later, verifier)
    else:
        serving = read_serving(store, partition, snapshot, verifier)
    view = view_of(serving, Calendar(settings))
    asked = parse(query, settings.horizons)._replace(as_of=None)
    key = named(path, PREFIX)
    row = view.serving.rows.get(key)
    if row is None:
        raise Problem(
            404, "unknown-series", "Unknown series",
            f"{snapshot} knows no product `{key[1]}` in the store `{key[0]}`", field="product",
            remedy="name a snapshot of the store's partition",
        )  # fmt: skip
    return answer(view, row, settings, asked, {})


def without_clock(given: bytes) -> bytes:
    """An answer that was given, without the clock's fields."""
    fields = msgspec.json.decode(given)
    return answers.encode({name: fields[name] for name in fields if name not in CLOCK})
