"""A shard's values in canonical order: what is known to the bit, what is learned as arrays.

Not position, counts, operations, rules, lineage or the guard's memory: the same sales, in any
order within grace and any packing, sent twice or not, give the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from learner.spread import ARRAYS as SPREAD

if TYPE_CHECKING:
    from learner.shard import Shard


def digest_of(shard: Shard) -> str:
    """SHA-256 over all of it; of arrays, which are most of it, over a fast hash of each."""
    sha = hashlib.sha256()
    for part in facts(shard):
        sha.update(part)
    for name, array in learned(shard):
        sha.update(name.encode())
        sha.update(xxh3_128_digest(np.ascontiguousarray(array).data))
    return sha.hexdigest()


def learned(shard: Shard) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """What a shard has made of its facts: models, scores, and forecasts that wait for theirs.

    A name stands before the first array of each model, and is empty elsewhere.
    """
    for name, model in shard.models.items():
        text = name
        for array in model.digest():
            yield text, array
            text = ""
    texts = shard.panel.categories.texts
    order = sorted(range(len(texts)), key=texts.__getitem__)
    for kind, sums in shard.evaluation.slices.items():
        known = [code for code in order if code < len(sums)] if kind == "category" else slice(None)
        yield "", sums[known]
    for horizon in shard.scored:
        waiting = shard.evaluation.pending[horizon]
        yield "", np.ascontiguousarray(waiting[:, :, : shard.panel.size])
    size = shard.panel.size
    for column in shard.accuracy.columns.values():
        yield "", column[..., :size]
    for name in SPREAD:
        of_it = getattr(shard.spread, name)
        yield "", of_it if name in ("moments", "counts") else of_it[..., :size]
    rest = (
        shard.losses.digest(order),
        shard.open_bucket.arrays().values(),
        shard.totals.digest(size),
        shard.groups.digest({"category": order}),
        shard.watch.arrays.values(),
    )
    for arrays in rest:
        yield from (("", array) for array in arrays)


def facts(shard: Shard) -> Iterator[bytes]:
    """What a shard knows, in an order that no arrival decides."""
    window, panel = shard.window, shard.panel
    yield repr((window.watermark_us, window.open_from)).encode()
    for bucket in sorted(window.seen_in):
        there = [one for ones in window.seen_in[bucket].values() for one in ones]
        if not there:
            continue
        identities = np.frombuffer(b"".join(there), np.uint64).reshape(-1, 2)
        entries = np.fromiter(map(window.seen.__getitem__, there), np.uint64, len(there))
        ascending = np.lexsort((identities[:, 1], identities[:, 0]))
        yield repr(bucket).encode()
        yield identities[ascending].tobytes() + entries[ascending].tobytes()
    for bucket in sorted(window.open):
        for source, mine in sorted(window.open[bucket].by.items()):
            yield repr((bucket, source, sorted(mine.cells.items()))).encode()
            yield repr(sorted(mine.heard.items())).encode()
    for bucket in sorted(window.revisions):
        yield repr((bucket, sorted(window.revisions[bucket].items()))).encode()
    yield repr(
        (sorted(window.alive.last_day.items()), sorted(window.alive.complete_us.items()))
    ).encode()
    if shard.champion != shard.settings.champion:
        yield repr(shard.champion).encode()
    gaps = window.gaps.laid_down()
    if any(gaps):
        yield repr(gaps).encode()
    yield repr((panel.first, panel.last, panel.keys)).encode()
    texts = panel.categories.texts
    yield repr([texts[code] for code in panel.column("category").tolist()]).encode()
    order = sorted(range(len(texts)), key=texts.__getitem__)
    yield from panel.profiles.digest(order)
    yield repr(sorted(panel.products.told.items())).encode()
    yield repr(sorted(panel.products.awaited.items())).encode()
    yield repr(sorted((key, sorted(spans)) for key, spans in panel.stockouts.items())).encode()
    yield repr(sorted(panel.plans.kept.items())).encode()
    for array in panel.returns.arrays().values():
        yield xxh3_128_digest(np.ascontiguousarray(array).data)
    for name in sorted(panel.rings):
        yield from map(xxh3_128_digest, panel.rings[name][:, : panel.size])
    for name in sorted(panel.columns):
        if name not in ("category", "store", "product"):
            yield panel.column(name).tobytes()
