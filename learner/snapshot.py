"""A shard in parts: how it is laid down, and how it is taken up again.

Facts are raw columns, readable without unpickling anything; only models are pickled, and the
unpickler knows no class but the models' own and River's. Leaves out: the signed manifest over the
parts (``manifest``), how a part is cut into chunks (``parts``), where they are kept (``store``),
and when (``worker``).
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from learner import wholes
from learner.evaluation import MOST_SLICES, VOLUME_NAMES
from learner.groups import Groups
from learner.manifest import FORMAT, Manifest, check_settings, outdated, read_parts, versions
from learner.names import named
from learner.open_bucket import OpenBucket
from learner.panel import Panel
from learner.parts import Array, Part, Pieces, joined, pack, unpack
from learner.pickles import load_models
from learner.replay import Promotion, Replay, Rule
from learner.returns import Returns
from learner.served import PROFILES, take_up_panel
from learner.shard import Shard
from learner.spread import ARRAYS as SPREAD
from learner.spread import Spread
from learner.store import SnapshotStore
from learner.totals import Totals
from stream.brought import Brought, Open
from stream.buckets import Calendar
from stream.settings import Settings, ring_length
from stream.window import OUTCOMES, Orphan

#: Name of all stores, or categories, that have no scores of their own.
OTHERS = "(others)"


# -- a shard's parts -----------------------------------------------------------------------


def lay_down(shard: Shard) -> dict[str, Pieces]:
    """A shard as named parts. Parts that few events change are apart from those that many do.

    The pieces are views of the shard: they are to be cut, or joined, before it folds on.
    """
    panel, window = shard.panel, shard.window
    categories = panel.categories.texts
    remembered = [
        (bucket, source, ones)
        for bucket in sorted(window.seen_in)
        for source, ones in window.seen_in[bucket].items()
    ]
    order = [one for _, _, ones in remembered for one in ones]
    entries = np.fromiter(map(window.seen.__getitem__, order), np.uint64, len(order))
    parts: dict[str, Pieces] = {
        "window": pack(_window(shard)),
        "identities": pack(
            [(bucket, len(ones), source) for bucket, source, ones in remembered],
            {"entry": entries, "identity": np.frombuffer(b"".join(order), np.uint8)},
        ),
        "keys": pack(
            {
                "stores": [store for store, _ in panel.keys],
                "products": [product for _, product in panel.keys],
                "categories": categories,
            }
        ),
        "columns": pack(None, panel.columns),
        "returns": pack(None, panel.returns.arrays()),
        "knowledge": pack(
            {
                "first": panel.first,
                "last": panel.last,
                "products": [msgspec.json.encode(one) for one in panel.products.told.values()],
                "awaited": [[*key, at] for key, at in panel.products.awaited.items()],
                "week": panel.profiles.week,
                "first_week": panel.profiles.first_week,
                "stockouts": [[*key, spans] for key, spans in sorted(panel.stockouts.items())],
                "plans": [
                    msgspec.json.encode(one)
                    for versions in panel.plans.kept.values()
                    for one in versions
                ],
            },
            {name: getattr(panel.profiles, name) for name in PROFILES},
        ),
        "models": [pickle.dumps(shard.models, protocol=5)],
        "scores": pack(
            {"last": shard.evaluation.last, "slices": _slices(panel)}, shard.evaluation.slices
        ),
        "accuracy": pack(None, shard.accuracy.columns),
        "losses": pack(None, shard.losses.arrays()),
        "spread": pack(None, {name: getattr(shard.spread, name) for name in SPREAD}),
        "forecast": pack(
            None, {"mean": shard.forecast(), "basis": shard.basis(), **_distributions(shard)}
        ),
        "open": pack(None, shard.open_part()._asdict()),
        "wholes": pack(None, wholes.tables(shard.totals, shard.groups)),
        "open_bucket": pack(None, shard.open_bucket.arrays()),
        "totals": pack(None, shard.totals.arrays()),
        "groups": pack(None, shard.groups.arrays()),
        "watch": pack(None, shard.watch.arrays),
        "guard": pack(
            {"sources": list(shard.guard.rows)},
            {"owner": shard.guard.owner, **shard.guard.arrays},
        ),
    }
    for name, ring in panel.rings.items():
        parts[f"ring.{name}"] = pack(None, {name: ring})
    for horizon, waiting in shard.evaluation.pending.items():
        parts[f"pending.{horizon}"] = pack(None, {"waiting": waiting})
    return parts


def _slices(panel: Panel) -> dict[str, Sequence[str]]:
    """Names of the values that scores are told by, each at its number."""
    names = {"store": panel.stores.texts, "category": panel.categories.texts}
    out: dict[str, Sequence[str]] = {
        kind: texts if len(texts) <= MOST_SLICES else [*texts[: MOST_SLICES - 1], OTHERS]
        for kind, texts in names.items()
    }
    return out | {"volume_class": VOLUME_NAMES}


def _distributions(shard: Shard) -> dict[str, Array]:
    """What the champion's distributions are made of."""
    place = shard.evaluation.models.index(shard.champion)
    tables, traits = shard.spread.tables().at(place), shard.traits(shard.champion)
    return {
        "dispersion": tables.dispersion,
        "below": tables.below,
        "grain": traits.grain.astype(np.float32),
        "whole": traits.whole,
        "factor": traits.factor.astype(np.float32),
    }


class Learned(NamedTuple):
    """What a snapshot's shard has learned beside its models, and whose it is: ``names.named``."""

    spread: Spread
    open_bucket: OpenBucket
    totals: Totals
    groups: Groups
    named: Mapping[str, Sequence[Hashable]]


#: Parts that ``take_up_learned`` reads.
LEARNED = ("spread", "open_bucket", "totals", "groups", "keys")


def take_up_learned(settings: Settings, parts: Mapping[str, bytearray | Pieces]) -> Learned:
    """What ``lay_down`` was given of what was learned beside the models."""
    return Learned(*_learned(settings, parts), named(**unpack(parts["keys"])[0]))


def _learned(
    settings: Settings, parts: Mapping[str, bytearray | Pieces]
) -> tuple[Spread, OpenBucket, Totals, Groups]:
    spread = Spread((0, 0), settings.bucket)
    for name, array in unpack(parts["spread"])[1].items():
        setattr(spread, name, array)
    open_bucket = OpenBucket(Calendar(settings))
    totals = Totals(settings.scored_horizons[1:], settings.bucket)
    groups = Groups(0, settings.bucket)
    for name, one in (("open_bucket", open_bucket), ("totals", totals), ("groups", groups)):
        one.restore(unpack(parts[name])[1])
    return spread, open_bucket, totals, groups


def _window(shard: Shard) -> dict[str, Any]:
    window = shard.window
    return {
        "position": shard.position,
        "operations": shard.operations,
        "order": shard.order,
        "champion": shard.champion,
        "promotions": msgspec.to_builtins(shard.promotions),
        "rules": msgspec.to_builtins(shard.rules),
        "replay": msgspec.to_builtins(shard.replay),
        "gaps": window.gaps.laid_down(),
        "watermark_us": window.watermark_us,
        "open_from": window.open_from,
        "next_end_us": window.next_end_us,
        "live": window.live,
        "last_day": window.alive.last_day,
        "complete_us": window.alive.complete_us,
        "counts": window.counts,
        "refused": window.refused,
        "orphans": [list(one) for one in window.orphans],
        "revisions": [
            [bucket, [[*key, cell] for key, cell in sorted(cells.items())]]
            for bucket, cells in sorted(window.revisions.items())
        ],
        "open": [
            [
                bucket,
                [
                    [source, [[*key, cell] for key, cell in sorted(mine.cells.items())], mine.heard]
                    for source, mine in sorted(one.by.items())
                ],
                [[*key, list(places.items())] for key, places in sorted(one.places.items())],
            ]
            for bucket, one in sorted(window.open.items())
        ],
        "again": sorted(window.again.items()),
    }


def take_up(
    settings: Settings, partition: int, parts: Mapping[str, bytearray | Pieces], *,
    relearn: bool = False,
) -> Shard:  # fmt: skip
    """The shard that ``lay_down`` was given.

    The caller has verified where the parts come from: this unpickles the models, or with
    ``relearn`` makes new ones from the facts.
    """
    shard = Shard(settings, partition)
    window = shard.window
    take_up_panel(shard.panel, parts)
    shard.panel.returns = Returns(unpack(parts["returns"])[1])
    scores, shard.evaluation.slices = unpack(parts["scores"])
    shard.evaluation.last = scores["last"]
    state, _ = unpack(parts["window"])
    shard.crown(state["champion"])
    shard.promotions = msgspec.convert(state["promotions"], list[Promotion])
    _, shard.accuracy.columns = unpack(parts["accuracy"])
    shard.losses.restore(unpack(parts["losses"])[1])
    shard.spread, shard.open_bucket, shard.totals, shard.groups = _learned(settings, parts)
    for horizon in shard.scored:
        shard.evaluation.pending[horizon] = unpack(parts[f"pending.{horizon}"])[1]["waiting"]
    known, shard.guard.arrays = unpack(parts["guard"])
    shard.guard.owner = shard.guard.arrays.pop("owner")
    shard.guard.rows = {source: row for row, source in enumerate(known["sources"])}
    _, shard.watch.arrays = unpack(parts["watch"])
    if relearn:
        shard.relearn()
    else:
        shard.models = load_models(joined(parts["models"]), settings.models)
        shard.restore_forecast(unpack(parts["forecast"])[1]["mean"])

    shard.position, shard.operations = state["position"], state["operations"]
    shard.order = state["order"]
    shard.rules = msgspec.convert(state["rules"], list[Rule], str_keys=True)
    shard.replay = msgspec.convert(state["replay"], Replay | None)
    window.gaps.take_up(*state["gaps"])
    for name in ("watermark_us", "open_from", "next_end_us", "live", "counts", "refused"):
        setattr(window, name, state[name])
    window.alive.last_day, window.alive.complete_us = state["last_day"], state["complete_us"]
    window.revisions = {bucket: _cells(cells) for bucket, cells in state["revisions"]}
    window.orphans = [Orphan(*one) for one in state["orphans"]]
    window.again = dict(state["again"])
    spans, found = unpack(parts["identities"])
    identities, entries = found["identity"].tobytes(), found["entry"].tolist()
    at = 0
    for bucket, count, source in spans:
        ones = [identities[16 * i : 16 * i + 16] for i in range(at, at + count)]
        window.seen_in.setdefault(bucket, {})[source] = ones
        window.seen.update(zip(ones, entries[at : at + count], strict=True))
        at += count
    for bucket, by, places in state["open"]:
        there = window.seen_in[bucket]
        window.open[bucket] = Open(
            by={source: Brought(_cells(c), heard, there[source]) for source, c, heard in by},
            places={
                (store, product_name): {one: tuple(place) for one, place in items}
                for store, product_name, items in places
            },
        )
    return shard


def _cells(rows: list[list[Any]]) -> dict[tuple[str, str], list[int]]:
    return {(store, product): cell for store, product, cell in rows}


# -- in and out of a store -----------------------------------------------------------------


def describe(
    shard: Shard, parts: dict[str, Part], *, topic_id: str, lineage: int, parent: str | None,
    created_us: int,
) -> Manifest:  # fmt: skip
    """The manifest of a shard as it stands."""
    digest = shard.digest()
    head = f"{shard.partition}/{lineage}/{shard.position}/{parent}/{digest}"
    name = hashlib.sha256(head.encode()).hexdigest()[:8]
    return Manifest(
        format=FORMAT,
        snapshot=f"p{shard.partition}-l{lineage}-o{shard.position}-{name}",
        partition=shard.partition,
        topic_id=topic_id,
        position=shard.position,
        watermark_us=shard.window.watermark_us,
        origin=shard.panel.last,
        lineage=lineage,
        parent=parent,
        created_us=created_us,
        digest=digest,
        champion=shard.champion,
        scores=shard.evaluation.summary(shard.champion),
        counts={
            source: {name: n for name, n in zip(OUTCOMES, line, strict=True) if n}
            for source, line in shard.window.counts.items()
        },
        operations=dict(shard.operations),
        settings=shard.settings.fingerprint(),
        versions=versions(),
        series=shard.panel.size,
        parts=parts,
        rules=tuple(shard.rules),
        promotions=tuple(shard.promotions),
        replay=shard.replay,
    )


def read_shard(store: SnapshotStore, manifest: Manifest, settings: Settings) -> Shard:
    """The shard of a verified manifest; its models are made anew if another River made them.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    FingerprintMismatch
        It was made under other settings.
    """
    check_settings(manifest, settings)
    parts = read_parts(store, manifest, list(manifest.parts))
    return take_up(settings, manifest.partition, parts, relearn=bool(outdated(manifest)))


def reaches_back(store: SnapshotStore, manifest: Manifest, settings: Settings) -> bool:
    """Whether a snapshot's facts reach back to its first bucket: models made anew miss none."""
    known, _ = unpack(read_parts(store, manifest, ["knowledge"])["knowledge"])
    return known["first"] is None or known["last"] - known["first"] < ring_length(settings) - 1
