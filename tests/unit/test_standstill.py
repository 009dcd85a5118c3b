"""A record that no fold gets past: a partition stands still, is told to skip it, and goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.catalog import Catalog
from api.control import Control
from api.cuts import Request
from api.problems import Problem
from learner import telling
from learner import worker as module
from learner.file_store import FileStore
from learner.keys import load_signer
from learner.manifest import read_manifest
from learner.operations import Outcome
from learner.ownership import Owned
from learner.probes import Probes
from learner.replay import Exclusion
from learner.shard import Shard
from learner.verify import Verification
from learner.worker import Worker
from stream.dead_letters import DeadLetters
from stream.errors import StoreError
from stream.log import Entry
from tests.learner_parts import day, plan
from tests.unit.test_worker import Place, get, home, running, two_stores, until
from tests.unit.test_worker_replay import operate

KNOW = Shard._know


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path)
    yield one
    one.close()


@pytest.fixture
def bad(place: Place, monkeypatch: pytest.MonkeyPatch) -> int:
    """Offset of a record in the midst of others that no fold gets past."""

    def faulty(shard: Shard, event: Any) -> bool:
        if event.id == "bad":
            raise ZeroDivisionError("a fault nobody thought of")
        return KNOW(shard, event)

    monkeypatch.setattr(Shard, "_know", faulty)
    place.put(*two_stores(4))
    (at,) = place.put(plan("bad", 12, 13, promotion=1.0, store="s"), partition=home())
    place.put(*two_stores(5, first=4))
    return at


def control(place: Place) -> Control:
    catalog = Catalog(place.store, load_signer(place.settings).verifier, read_manifest)
    return Control(place.control, place.events, catalog, lambda: 1e9)


def skip(place: Place, first: int, last: int) -> str:
    """Ask for it as the command does; the operation's id."""
    what = Exclusion(offsets={home(): (first, last + 1)})
    return control(place).submit(Request("skip", "ada", "a test", exclude=what)).operation.id


def state(place: Place, id: str) -> str:
    return control(place).entries()[id].state


def without(place: Place, *offsets: int) -> str:
    """Digest of a shard that never met what is at some offsets, nor any marker."""
    shard = Shard(place.settings, home())
    for one in place.records(home()):
        if one.offset not in offsets:
            shard.fold([one])
    return shard.digest()


@contextmanager
def standing_still(place: Place, at: int, **parts: Any) -> Iterator[Worker]:
    worker = place.worker(**parts)
    with running(worker):
        until(lambda: bool((one := worker.owned.get(home())) and one.stopped), "a standstill")
        assert worker.owned[home()].stopped_at == at
        yield worker


def test_an_operator_lets_a_partition_pass_the_record_that_stops_it(
    place: Place, bad: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with standing_still(place, bad) as worker, Probes(place.settings, worker.telemetry) as probes:
        probes.worker = worker
        said = f"salescast skip {home()}:{bad} --reason ..."
        assert said in get(probes.port, "/readyz")[1]["reasons"][0]
        until(lambda: said in caplog.text, "the line in the log")
        until(lambda: home() in place.store.standstills(), "the store to say it")
        told = place.store.standstills()[home()]
        assert told.offset == bad and said in told.remedy
        assert told.why == "ZeroDivisionError: a fault nobody thought of"
        wrong = skip(place, bad + 1, bad + 2)
        id = skip(place, bad, bad)
        until(lambda: place.folded(worker), "the rest of the log")
        assert get(probes.port, "/readyz")[0] == 200
        until(lambda: state(place, id) == "applied", "an outcome")
        until(lambda: not place.store.standstills(), "the store to say that it is over")
        until(lambda: state(place, wrong) == "refused", "an outcome")
    # By the same worker, one that starts again, an audit, and one that has the logs alone.
    shard = place.shard(home())
    assert shard.digest() == without(place, bad)
    assert shard.counts()["excluded"] == 1 and shard.counts()["applied"] == 0
    place.put(*two_stores(2, first=9))
    place.fold()
    assert place.shard(home()).digest() == without(place, bad)
    verification = Verification(
        settings=place.settings, events=place.events, control=place.control,
        dead_letters=DeadLetters(place.letters, place.events), store=place.store,
        verifier=load_signer(place.settings).verifier,
    )  # fmt: skip
    for from_start in (False, True):
        one = verification.verify(home(), place.head(home()).snapshot, from_start=from_start)
        assert one.verdict == "identical"
    shutil.rmtree(tmp_path / "snapshots")
    place.store = FileStore(tmp_path / "snapshots")
    place.fold()
    assert place.shard(home()).digest() == without(place, bad)


def test_a_skip_that_was_asked_for_while_nobody_ran_takes_effect_at_the_standstill(
    place: Place, bad: int
) -> None:
    with standing_still(place, bad):
        pass
    id = skip(place, bad, bad)
    worker = place.fold()
    assert not worker.owned[home()].stopped and state(place, id) == "applied"
    assert place.shard(home()).digest() == without(place, bad)


def test_what_is_skipped_is_learned_after_all_once_its_fault_is_mended(
    place: Place, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_still(place, bad) as worker:
        id = skip(place, bad, bad)
        until(lambda: place.folded(worker), "the rest of the log")
    monkeypatch.setattr(Shard, "_know", KNOW)
    control(place).submit(Request("readmit", "ada", "it is mended", readmits=id))
    place.fold()
    assert place.shard(home()).replay is None
    assert place.shard(home()).digest() == without(place)


def test_an_operator_lets_a_partition_pass_an_operation_that_nothing_leads_back_to(
    place: Place, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    place.put(*two_stores(4))
    at = operate(place, "op", {home(): f"p{home()}-l1-o99-abcdef12"}, replay=True)
    told = Outcome(operation="op", partition=home(), outcome="applied", time=day(0), offset=at)
    place.control.append([Entry(0, None, msgspec.json.encode(told))])
    place.put(*two_stores(5, first=4))
    with standing_still(place, at) as worker:
        until(lambda: home() in place.store.standstills(), "the store to say it")
        said = place.store.standstills()[home()]
        assert said.why.startswith("the operation op was carried out here, and cannot be again")
        assert "`archive`" in said.remedy and f"salescast skip {home()}:{at} " in said.remedy
        id = skip(place, at, at)
        until(lambda: place.folded(worker), "the rest of the log")
    assert "Traceback" not in caplog.text
    assert state(place, id) == "applied"
    for _ in ("as it is", "anew, from the logs alone"):
        shard = place.shard(home())
        assert shard.digest() == without(place)
        assert shard.counts()["excluded"] == 1 and "op" not in shard.operations
        place.store.close()
        shutil.rmtree(tmp_path / "snapshots")
        place.store = FileStore(tmp_path / "snapshots")
        place.fold()


@pytest.mark.parametrize(
    "what",
    [
        {"offsets": {home(): (0, 1)}},
        {"offsets": {home(): (10**6, 10**6 + 1)}},
        {"sources": ("till",)},
        {},
    ],
)
def test_a_skip_of_what_is_learned_or_not_there_is_refused(
    place: Place, what: dict[str, Any]
) -> None:
    place.put(*two_stores(3))
    place.fold()
    with pytest.raises(Problem):
        control(place).submit(Request("skip", "ada", "a test", exclude=Exclusion(**what)))


def test_since_when_a_partition_stands_still_outlives_its_worker(
    place: Place, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now in (1e9, 2e9):
        with standing_still(place, bad, clock=lambda now=now: now):
            until(lambda: home() in place.store.standstills(), "the store to say it")
            assert place.store.standstills()[home()].since_us == 10**15
    monkeypatch.setattr(Shard, "_know", KNOW)
    worker = place.worker()
    with running(worker):
        until(lambda: place.folded(worker), "the rest of the log")
        until(lambda: not place.store.standstills(), "the store to say that it is over")


def test_a_store_that_cannot_be_told_of_a_standstill_stops_nothing_else(
    place: Place, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "AGAIN_S", 0.02)
    put, tries = place.store.put_standstill, []

    def refused(partition: int, standstill: Any) -> None:
        tries.append(partition)
        if len(tries) < 3:
            raise StoreError("not permitted")
        put(partition, standstill)

    monkeypatch.setattr(place.store, "put_standstill", refused)
    with standing_still(place, bad):
        other = 1 - home()
        until(lambda: place.store.pointers(other).head is not None, "the other")
        until(lambda: place.head(other).position == place.events.end()[other], "the other")
        until(lambda: home() in place.store.standstills(), "the store to say it")


def test_what_counters_owe_is_forgotten_with_a_partition_that_goes(place: Place) -> None:
    worker = place.worker()
    worker._owed = {(0, "learned"): -1, (1, "learned"): -2}
    worker._let_go(Owned(shard=Shard(place.settings, 0), head=None, lineage=1), publish=False)
    assert worker._owed == {(1, "learned"): -2}
