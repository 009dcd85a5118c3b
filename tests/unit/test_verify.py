"""A snapshot made again from the log is the same; one that is not what the log says is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from learner import worker as module
from learner.ensemble import Ensemble
from learner.keys import load_signer
from learner.operations import Operation, decode_control
from learner.ownership import take
from learner.replay import START, Exclusion
from learner.shard import Shard
from learner.verify import USUAL, Verification, Verified
from stream.dead_letters import DeadLetters
from tests.learner_parts import day, sale
from tests.unit.test_worker import Place, home, two_stores
from tests.unit.test_worker_replay import heads, operate, poison


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries, and snapshots of a shard whose buckets close, wait hundredths of a second."""
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path)
    yield one
    one.close()


def verify(place: Place, snapshot: str, *, from_start: bool = False) -> Verified:
    verification = Verification(
        settings=place.settings, events=place.events, control=place.control,
        dead_letters=DeadLetters(place.letters, place.events), store=place.store,
        verifier=load_signer(place.settings).verifier,
    )  # fmt: skip
    return verification.verify(home(), snapshot, from_start=from_start)


def test_every_snapshot_is_made_again_from_its_ancestor_and_from_nothing(place: Place) -> None:
    """Through a rollback that keeps facts, a quarantine, and two replays, one with late items."""
    place.settings = replace(place.settings, revise_buckets=0, snapshots_kept=1000)
    place.put(*two_stores(20))
    place.fold()
    first = heads(place)
    place.put(*poison(3, first=20), *two_stores(2, first=23))
    place.fold()
    operate(place, "keep", first)
    place.put(*two_stores(2, first=25), sale(21, 2, id="late"))
    place.fold()
    second = heads(place)
    operate(place, "q", second, kind="quarantine", exclude=Exclusion(sources=("odd",)))
    place.put(*two_stores(2, first=27))
    place.fold()
    operate(place, "r1", first, replay=True, exclude=Exclusion(sources=("bad",)), admit_late=True)
    place.put(*two_stores(2, first=29))
    place.fold()
    third = heads(place)
    place.put(*two_stores(2, first=31))
    place.fold()
    operate(place, "r2", third, replay=True)
    place.put(*two_stores(1, first=33))
    place.fold()
    names = place.store.snapshots(home())
    assert len({verify(place, name).origin for name in names}) > 3
    for name in names:
        assert verify(place, name).verdict == "identical", name
        again = verify(place, name, from_start=True)
        assert (again.verdict, again.origin) == ("identical", START), name
        assert again.digest == again.manifest.digest
    # The store need not lead to the cuts of its replays.
    newest = place.head(home()).snapshot
    place.store.delete(home(), [name for name in names if name != newest])
    for from_start in (False, True):
        again = verify(place, newest, from_start=from_start)
        assert (again.verdict, again.origin) == ("identical", START)


def published(place: Place, spoil: float) -> str:
    """A snapshot with one of its scores off by a factor."""
    place.put(*two_stores(20))
    place.fold()
    worker = place.worker()
    owned = take(place.settings, place.events, place.store, worker.signer.verifier, home())
    worker.owned[home()] = owned
    place.put(sale(20))
    owned.shard.fold(place.records(home())[owned.shard.position :])
    owned.shard.evaluation.slices["store"] *= spoil
    assert worker.publish(owned)
    return place.head(home()).snapshot


def test_what_differs_in_the_last_bits_is_close(place: Place) -> None:
    found = verify(place, published(place, 1 + 1e-12))
    assert found.verdict == "close"
    assert found.digest != found.manifest.digest


def test_what_was_learned_otherwise_is_different(place: Place) -> None:
    assert verify(place, published(place, 1.001)).verdict == "different"


def test_a_fact_that_the_log_does_not_hold_is_different(place: Place) -> None:
    place.put(*two_stores(5))
    place.fold()
    worker = place.worker()
    owned = take(place.settings, place.events, place.store, worker.signer.verifier, home())
    worker.owned[home()] = owned
    place.put(sale(6, 1.0))
    (record,) = place.records(home())[owned.shard.position :]
    owned.shard.fold(
        [record._replace(value=record.value.replace(b'"quantity":1.0', b'"quantity":2.0'))]
    )
    assert worker.publish(owned)
    assert verify(place, place.head(home()).snapshot).verdict == "different"


def test_versions_that_differ_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(*two_stores(5))
    place.fold()
    monkeypatch.setattr("learner.verify.versions", lambda: {"numpy": "0.0", "river": "0.26.1"})
    found = verify(place, place.head(home()).snapshot)
    assert found.verdict == "identical"
    assert found.versions["numpy"][1] == "0.0" and "river" not in found.versions


def test_an_operation_is_written_as_it_was_before_there_were_replays() -> None:
    """So a control log reads the same to the release before, as long as nothing new is used."""
    one = Operation(id="a", kind="freeze", who="w", reason="r", time=day(0), cut={0: "s"})
    value = msgspec.json.encode(one)
    assert set(msgspec.json.decode(value)) == {"type", "id", "kind", "who", "reason", "time", "cut"}
    assert decode_control(value) == one


@pytest.mark.parametrize("back", ["to one that knew more", "to one that knew less"])
def test_a_rollback_across_lineages_gives_each_series_its_own(place: Place, back: str) -> None:
    """A replay without a source lists one series less, so that all others have other rows."""
    odd = [
        msgspec.structs.replace(one, id=f"odd {one.id}", source="odd", product="a", quantity=9.0)
        for one in two_stores(12)
    ]
    usual = [
        sale(n, 1.0 + (n * at) % 5, product=name, store="s", hour=9 + at)
        for n in range(12)
        for at, name in enumerate("bc", start=1)
    ]
    place.put(*sorted([*odd, *usual], key=lambda one: one.time))
    place.fold()
    old = heads(place)
    what = Exclusion(sources=("odd",))
    operate(place, "replay", dict.fromkeys(range(2), START), replay=True, exclude=what)
    place.fold()
    new = heads(place)
    rows = {name: place.shard(home(), cut[home()]).panel.rows for name, cut in
            (("old", old), ("new", new))}  # fmt: skip
    assert [name for _, name in rows["old"]] == ["a", "b", "c"]
    assert [name for _, name in rows["new"]] == ["b", "c"]
    cut, here = old, new
    if back == "to one that knew less":
        start = dict.fromkeys(range(2), START)
        operate(place, "sorry", start, kind="readmit", replay=True, readmits="replay")
        place.fold()
        cut, here = new, heads(place)
    operate(place, "back", cut)
    place.fold()
    now, then = place.shard(home()), place.shard(home(), cut[home()])
    assert place.shard(home(), here[home()]).panel.keys == now.panel.keys
    for key in (("s", "b"), ("s", "c")):
        at, was = now.panel.rows[key], then.panel.rows[key]
        assert now.spread.own[..., at].any()
        assert (now.spread.own[..., at] == then.spread.own[..., was]).all()
        code, before = (one.panel.product_codes.codes[key[1]] for one in (now, then))
        ours, theirs = (one.groups.spreads["product"].own for one in (now, then))
        assert (ours[:, code] == theirs[:, before]).all()
        mine, cuts = (one.models["ensemble"] for one in (now, then))
        assert isinstance(mine, Ensemble) and isinstance(cuts, Ensemble)
        assert mine.variance[..., at].any()
        assert (mine.loss[..., at] == cuts.loss[..., was]).all()
        assert (mine.variance[..., at] == cuts.variance[..., was]).all()
    if ("s", "a") in now.panel.rows:
        row = now.panel.rows["s", "a"]
        assert not now.spread.own[..., row].any(), "the cut never knew it"
    assert verify(place, heads(place)[home()]).verdict == "identical"


def flipped(values: np.ndarray[Any, Any]) -> None:
    """Let every last bit have come out otherwise, as on another processor."""
    if values.dtype.kind == "f":
        values[...] = np.nextafter(values, np.asarray(np.inf, values.dtype))
    else:
        values[...] = values + (values < np.iinfo(values.dtype).max)


def other_processor(shard: Shard) -> None:
    """Spoil the last bit of all that is learned and kept in less than double precision."""
    for ring in (*shard.evaluation.pending.values(), *shard.totals.waiting.values()):
        flipped(ring)
    for name in ("demand", "squared", "error", "absolute", "inside"):
        flipped(shard.accuracy.columns[name])
    champion = shard.models["ensemble"]
    assert isinstance(champion, Ensemble)
    panel = shard.panel
    learned: list[np.ndarray[Any, Any]] = [
        champion.loss, champion.variance, shard.spread.own, panel.profiles.past,
        panel.profiles.phases, panel.profiles.weeks, panel.rings["usual_units"],
        *(panel.columns[name] for name in USUAL),
    ]  # fmt: skip
    for array in learned:
        flipped(array)


def spoilt(place: Place, spoil: Callable[[Shard], None], days: int = 0) -> Verified:
    """What is found of a snapshot whose shard was spoilt some days before it was published."""
    place.put(*two_stores(20))
    place.fold()
    worker = place.worker()
    owned = take(place.settings, place.events, place.store, worker.signer.verifier, home())
    worker.owned[home()] = owned
    spoil(owned.shard)
    place.put(*two_stores(days, first=20), sale(20 + days))
    owned.shard.fold(place.records(home())[owned.shard.position :])
    assert worker.publish(owned)
    return verify(place, place.head(home()).snapshot)


@pytest.mark.parametrize("days", [0, 6])
def test_a_last_bit_in_single_precision_is_close_and_so_is_what_is_learned_from_it(
    place: Place, days: int
) -> None:
    assert spoilt(place, other_processor, days).verdict == "close"


def tampered(name: str, by: float) -> Callable[[Shard], None]:
    def spoil(shard: Shard) -> None:
        panel = shard.panel
        arrays = {
            "usual_units": panel.rings["usual_units"], "phases": panel.profiles.phases,
            "own": shard.spread.own, "count": shard.accuracy.columns["count"],
            "seen": panel.columns["seen"], "units": panel.rings["units"],
        }  # fmt: skip
        known = np.nan_to_num(arrays[name])
        arrays[name][...] = known + np.asarray(by).astype(known.dtype)

    return spoil


@pytest.mark.parametrize(
    ("name", "by"),
    [("usual_units", 1e-3), ("phases", 1e-3), ("own", 1e-3), ("count", 1), ("seen", 1),
     ("units", 1e-6)],
)  # fmt: skip
def test_more_than_a_last_bit_and_any_fact_is_different(place: Place, name: str, by: float) -> None:
    assert spoilt(place, tampered(name, by)).verdict == "different"
