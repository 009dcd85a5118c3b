"""A shard's values in canonical order: what is known to the bit, what is learned as arrays.

Not position, counts, operations, rules or lineage: the same sales, in any order within grace and
any packing, give the same values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from learner.shard import Shard


def digest_of(shard: Shard) -> str:
    """SHA-256 over all of it."""
    sha = hashlib.sha256()
    for part in facts(shard):
        sha.update(part)
    for name, array in learned(shard):
        sha.update(name.encode())
        sha.update(array.tobytes())
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
    yield "", shard.evaluation.sums
    for horizon in shard.scored:
        waiting = shard.evaluation.pending[horizon]
        yield "", np.ascontiguousarray(waiting[:, :, : shard.panel.size])
    yield "", shard.histogram


def facts(shard: Shard) -> Iterator[bytes]:
    """What a shard knows, in an order that no arrival decides."""
    window, panel = shard.window, shard.panel
    yield repr((window.watermark_us, window.open_from)).encode()
    for bucket in sorted(window.seen_in):
        entries = sorted((one, window.seen[one]) for one in window.seen_in[bucket])
        yield repr(bucket).encode()
        yield b"".join(one + entry.to_bytes(8, "big") for one, entry in entries)
    for bucket in sorted(window.open):
        yield repr((bucket, sorted(window.open[bucket].cells.items()))).encode()
    for bucket in sorted(window.revisions):
        yield repr((bucket, sorted(window.revisions[bucket].items()))).encode()
    yield repr((sorted(window.last_day.items()), sorted(window.complete_us.items()))).encode()
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
    for name in sorted(panel.rings):
        yield np.ascontiguousarray(panel.rings[name][:, : panel.size]).tobytes()
    for name in sorted(panel.columns):
        if name not in ("category", "store", "product"):
            yield panel.column(name).tobytes()
