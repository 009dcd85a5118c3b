"""The worker on a real log and a real store: what it survives, and what it says of the rest."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner import publishing
from learner import worker as module
from learner.file_store import FileStore
from learner.keys import ensure_keys, load_signer
from learner.manifest import read_manifest, read_parts
from learner.operations import Operation
from learner.ownership import Owned
from learner.pickles import load_models
from learner.probes import Probes
from learner.replay import START, Exclusion
from learner.shard import Shard
from learner.snapshot import read_shard
from learner.spread import ARRAYS as SPREAD
from learner.store import Pointer
from learner.telemetry import Telemetry
from learner.worker import Worker
from stream.adapters import open_log
from stream.dead_letters import DeadLetters
from stream.errors import (
    AlreadyOwned,
    FingerprintMismatch,
    LogUnavailable,
    OffsetExpired,
    SalescastError,
    StoreError,
    StoreUnavailable,
    TopicMismatch,
)
from stream.event import AnyEvent, Marker, Sale, Tick, decode, encode
from stream.log import Consumer, Entry, EventLog, Moves, Record, partition_of
from stream.settings import Settings
from stream.sqlite_log import SqliteLog
from tests.learner_parts import chosen, day, market, plan, sale

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries, and snapshots of a shard whose buckets close, wait hundredths of a second."""
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.005)


@dataclass(slots=True)
class Place:
    """A data folder with the logs, the store and the keys of a deployment."""

    settings: Settings
    events: EventLog
    control: EventLog
    letters: EventLog
    store: FileStore

    @classmethod
    def at(cls, folder: Path, **changed: Any) -> Place:
        settings = chosen(**{"data_dir": str(folder), "partitions": 2, "metrics_port": 0,
                             "snapshot_interval_s": 0.05, **changed})  # fmt: skip
        ensure_keys(settings)
        return cls(
            settings,
            open_log(settings, "events"),
            open_log(settings, "control"),
            open_log(settings, "dead_letters"),
            FileStore(folder / "snapshots"),
        )

    def close(self) -> None:
        for log in (self.events, self.control, self.letters):
            log.close()

    def worker(self, **changed: Any) -> Worker:
        parts = {
            "events": self.events,
            "control": self.control,
            "dead_letters": DeadLetters(self.letters, self.events),
            "store": self.store,
            "signer": load_signer(self.settings),
            "telemetry": Telemetry(),
        }
        return Worker(self.settings, **{**parts, **changed})

    def put(self, *events: AnyEvent, partition: int | None = None) -> list[int]:
        """Append events where they belong; their offsets."""
        return self.events.append([
            Entry(partition_of(e.store, 2) if partition is None else partition, None, encode(e))
            for e in events
        ])  # fmt: skip

    def folded(self, worker: Worker) -> bool:
        """Whether all that is in the log is folded and published."""
        ends = self.events.end()
        heads = {p: self.store.pointers(p).head for p in ends}
        return all(
            ends[p] == 0 or (head is not None and head.position == ends[p])
            for p, head in heads.items()
        )

    def fold(self, **changed: Any) -> Worker:
        """Run a worker until all is folded and published, then stop it."""
        worker = self.worker(**changed)
        with running(worker):
            until(lambda: self.folded(worker), "the whole log to be published")
        return worker

    def undisturbed(self, partition: int) -> Shard:
        """The shard of one process that read the whole log and nothing else."""
        shard = Shard(self.settings, partition)
        shard.fold(self.records(partition))
        return shard

    def records(self, partition: int) -> list[Record]:
        out: list[Record] = []
        while more := self.events.read(partition, len(out)):
            out += more
        return out

    def head(self, partition: int) -> Pointer:
        head = self.store.pointers(partition).head
        assert head is not None
        return head

    def shard(self, partition: int, snapshot: str | None = None) -> Shard:
        """A published shard; by default the head's."""
        verifier = load_signer(self.settings).verifier
        name = snapshot or self.head(partition).snapshot
        manifest = read_manifest(self.store, partition, name, verifier)
        return read_shard(self.store, manifest, self.settings)

    def models(self, partition: int, snapshot: str) -> list[bytes]:
        verifier = load_signer(self.settings).verifier
        manifest = read_manifest(self.store, partition, snapshot, verifier)
        return said(load_models(read_parts(self.store, manifest, ["models"])["models"]))

    def operate(self, kind: Any, cut: dict[int, str], id: str = "op") -> Operation:
        operation = Operation(id=id, kind=kind, who="tester", reason="a test", time=day(0), cut=cut)
        self.control.append([Entry(0, None, msgspec.json.encode(operation))])
        return operation

    def outcomes(self) -> list[tuple[str, int, str, str]]:
        read: list[Any] = []
        while more := self.control.read(0, len(read)):
            read += [json.loads(record.value) for record in more]
        return [(x["operation"], x["partition"], x["outcome"], x.get("detail", ""))
                for x in read if x["type"] == "outcome"]  # fmt: skip

    def kept_aside(self) -> list[tuple[int, str, bytes]]:
        """Dead letters as (offset, reason, bytes)."""
        out = []
        for partition in range(2):
            for record in self.letters.read(partition, 0):
                about = dict(record.headers)
                offset = int(about["__connect.errors.offset"])
                out.append((offset, about["salescast.reason"].decode(), record.value))
        return out


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path)
    yield one
    one.close()


@contextmanager
def running(worker: Worker) -> Iterator[None]:
    """A worker in a thread, stopped at the end; what it raised is raised here."""
    stop, raised = threading.Event(), []

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


@contextmanager
def stepping(worker: Worker) -> Iterator[Consumer]:
    """A worker that has restored and is stepped by hand."""
    consumer = worker.events.consume(dict.fromkeys(range(2), 0))
    try:
        for partition in range(2):
            worker._restore(partition, consumer)
        worker.started = True
        yield consumer
    finally:
        consumer.close()


def step_until(worker: Worker, consumer: Consumer, true: Callable[[], bool], what: str) -> None:
    def step() -> bool:
        worker.step(consumer, 0.01)
        return true()

    until(step, what)


def said(models: Mapping[str, Any]) -> list[bytes]:
    return [array.tobytes() for name in models for array in models[name].digest()]


def two_stores(days: int, first: int = 0) -> list[Sale]:
    """Sales of two stores, one a partition."""
    away = next(name for name in "abcdefgh" if partition_of(name, 2) != partition_of("s", 2))
    here = market(days, first=first)
    there = [msgspec.structs.replace(one, store=away, id=f"away {one.id}") for one in here]
    return [one for pair in zip(here, there, strict=True) for one in pair]


def home() -> int:
    return partition_of("s", 2)


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
            return int(answer.status), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


# -- taking up -----------------------------------------------------------------------------


def test_it_goes_on_where_it_left_and_ends_as_if_it_had_never_stopped(place: Place) -> None:
    whole = two_stores(40)
    for at in range(0, len(whole), 60):
        place.put(*whole[at : at + 60], *whole[:3])
        place.fold()
    for partition in range(2):
        plain, published = place.undisturbed(partition), place.shard(partition)
        assert published.digest() == plain.digest()
        assert published.counts() == plain.counts()
        assert published.position == place.events.end()[partition]
        assert published.forecast().tobytes() == plain.forecast().tobytes()


def test_what_was_folded_and_not_published_is_folded_again(place: Place) -> None:
    place.put(*two_stores(20))
    place.fold()
    place.put(*two_stores(5, first=20))
    worker = place.worker()
    with stepping(worker) as consumer:  # and killed before it publishes
        worker.publish = lambda owned: pytest.fail("published")  # type: ignore[method-assign]
        worker._publish_if_due = lambda owned, consumer: None  # type: ignore[method-assign]
        ends = place.events.end()
        step_until(
            worker, consumer,
            lambda: all(o.shard.position == ends[p] for p, o in worker.owned.items()), "a fold",
        )  # fmt: skip
    place.fold()
    for partition in range(2):
        assert place.shard(partition).digest() == place.undisturbed(partition).digest()
        assert place.shard(partition).counts() == place.undisturbed(partition).counts()


def test_a_stop_publishes_what_was_folded(place: Place) -> None:
    place.settings = replace(place.settings, snapshot_interval_s=3600.0)
    place.put(sale(0), sale(0, 2))
    worker = place.worker()
    with running(worker):
        until(lambda: worker.started and worker.owned[home()].shard.position == 2, "a fold")
        assert place.store.pointers(home()).head is None
    assert place.head(home()).position == 2


def test_one_owner_folds_a_log_and_another_is_told_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAVING_S", 0.05)
    with running(place.worker()):
        until(lambda: bool(place.events.owners()), "the owner")
        with pytest.raises(AlreadyOwned, match="folded already by process"):
            place.worker().run(threading.Event())


# -- snapshots put aside ---------------------------------------------------------------------


def test_what_a_forked_process_puts_is_what_the_loop_would_have_put(place: Place) -> None:
    place.settings = replace(place.settings, aside_series=0)
    whole = two_stores(30)
    for at in range(0, len(whole), 60):
        place.put(*whole[at : at + 60])
        worker = place.fold()
    assert "salescast_snapshot_pause_seconds_count 0.0" not in worker.telemetry.render().decode()
    for partition in range(2):
        plain, published = place.undisturbed(partition), place.shard(partition)
        assert published.digest() == plain.digest()
        assert published.counts() == plain.counts()
        assert published.forecast().tobytes() == plain.forecast().tobytes()


def test_the_loop_folds_on_while_a_snapshot_is_put_aside(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.settings = replace(place.settings, aside_series=0)
    place.put(*two_stores(3))
    worker = place.worker()
    ready = place.settings.data_dir + "/ready"
    slow = publishing.put

    def late(*given: Any, **named: Any) -> Any:
        until(lambda: os.path.exists(ready), "leave to go on")  # noqa: PTH110
        return slow(*given, **named)

    monkeypatch.setattr(module, "put", late)
    with stepping(worker) as consumer:
        owned = worker.owned[home()]
        step_until(worker, consumer, lambda: owned.aside is not None, "a fork")
        forked_at = owned.shard.position
        place.put(*two_stores(2, first=3))
        step_until(worker, consumer, lambda: owned.shard.position > forked_at, "a fold")
        assert place.store.pointers(home()).head is None
        Path(ready).touch()
        step_until(worker, consumer, lambda: owned.head is not None, "a head")
        assert place.head(home()).position == forked_at
        assert owned.folded == owned.shard.position - forked_at


def test_a_snapshot_whose_process_dies_is_put_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.settings = replace(place.settings, aside_series=0)
    place.put(*two_stores(3))
    died = place.settings.data_dir + "/died"
    real = publishing.put

    def once(*given: Any, **named: Any) -> Any:
        if not os.path.exists(died):  # noqa: PTH110
            Path(died).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    monkeypatch.setattr(module, "put", once)
    place.fold()
    assert Path(died).exists()
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_a_learner_without_room_for_a_process_puts_snapshots_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.settings = replace(place.settings, aside_series=0)

    def no_room() -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_room)
    worker, files = place.worker(), []
    with stepping(worker) as consumer:
        for n in range(3):
            place.put(*two_stores(2, first=2 * n))
            step_until(worker, consumer, lambda: place.folded(worker), "a snapshot")
            files.append(len(list(Path("/proc/self/fd").iterdir())))
    assert files[0] == files[-1], "no end of a pipe is left open"
    said = [one.message for one in caplog.records if "folding waits" in one.message]
    assert len(said) == 1 and "Cannot allocate memory" in said[0]
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


@pytest.mark.parametrize("series", [0, 1_000_000], ids=["aside", "in the loop"])
@pytest.mark.parametrize(
    ("raised", "ends"),
    [
        (StoreUnavailable("the store does not answer"), None),
        (StoreError("the store refuses", remedy="Check user and password"), StoreError),
        (ZeroDivisionError("a fault"), Exception),
    ],
    ids=["unavailable", "refused", "no reason"],
)
def test_what_cannot_be_put_ends_the_loop_wherever_it_is_put_unless_it_may_pass(
    place: Place, monkeypatch: pytest.MonkeyPatch, series: int, raised: Exception,
    ends: type[Exception] | None,
) -> None:  # fmt: skip
    place.settings = replace(place.settings, aside_series=series)
    place.put(*two_stores(3))
    tried = Path(place.settings.data_dir) / "tried"
    real = publishing.put

    def once(*given: Any, **named: Any) -> Any:
        if ends is None and tried.exists():
            return real(*given, **named)
        tried.touch()
        raise raised

    monkeypatch.setattr(module, "put", once)
    worker = place.worker()
    with stepping(worker) as consumer:
        if ends is None:
            step_until(worker, consumer, lambda: place.folded(worker), "a snapshot")
            return
        with pytest.raises(ends, match=str(raised.args[0])) as found:
            step_until(worker, consumer, lambda: False, "the loop's end")
        assert not isinstance(found.value, StoreUnavailable)
        # What no reason names ends with another status than what starting again cannot mend.
        assert isinstance(found.value, SalescastError) == isinstance(raised, SalescastError)
        assert getattr(found.value, "remedy", "") == getattr(raised, "remedy", "")
        for owned in worker.owned.values():
            owned.let_go()


def test_pointers_damaged_meanwhile_hold_their_partition_and_no_other(place: Place) -> None:
    place.put(*two_stores(5))
    place.fold()
    pointers = Path(place.settings.data_dir) / "snapshots" / f"p{home()}" / "pointers.json"
    whole, worker = pointers.read_bytes(), place.worker()
    with stepping(worker) as consumer:
        pointers.write_bytes(b"{")
        place.put(*two_stores(3, first=5))
        end = place.events.end()[1 - home()]
        step_until(worker, consumer, lambda: home() in worker.held, "the partition to be held")
        step_until(worker, consumer, lambda: place.head(1 - home()).position == end, "the other")
        pointers.write_bytes(whole)
        worker.waiting[home()] = 0.0
        step_until(worker, consumer, lambda: place.folded(worker), "both")
    for partition in range(2):
        assert place.shard(partition).digest() == place.undisturbed(partition).digest()


def test_chunks_that_somebody_deleted_are_put_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNE_EVERY", 1)
    place.put(*two_stores(10))
    worker = place.worker()
    with running(worker):
        until(lambda: place.folded(worker), "a snapshot")
        for chunk in (Path(place.settings.data_dir) / "snapshots" / "chunks").rglob("*"):
            if chunk.is_file():
                chunk.unlink(missing_ok=True)
        for n in range(10, 14):
            place.put(*two_stores(1, first=n))
            until(lambda: place.folded(worker), "another")
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_a_snapshot_on_its_way_does_not_name_chunks_that_somebody_deleted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNE_EVERY", 1 / 2)  # at each publication of the two
    place.settings = replace(place.settings, aside_series=0)
    place.put(*two_stores(10))
    worker = place.worker()
    with stepping(worker) as consumer:
        step_until(worker, consumer, lambda: place.folded(worker), "a snapshot")
        one, other = worker.owned[home()], worker.owned[1 - home()]
        place.put(*two_stores(1, first=10))
        step_until(worker, consumer, lambda: bool(one.folded and other.folded), "sales of both")
        assert one.aside is not None or worker._publish_aside(one) is None
        for chunk in (Path(place.settings.data_dir) / "snapshots" / "chunks").rglob("*"):
            if chunk.is_file():
                chunk.unlink(missing_ok=True)
        # The other is published, and sees what is gone: after it, none of the two names that.
        assert worker.publish(other)
        step_until(worker, consumer, lambda: place.folded(worker), "another")
    assert not place.store.missing(one.chunks)
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


# -- partitions that come and go -------------------------------------------------------------


class Moving:
    """The log's own consumer, with moves as a group would make them."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.coming = Moves()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def moves(self) -> Moves:
        coming, self.coming = self.coming, Moves()
        return coming


@contextmanager
def moving(place: Place) -> Iterator[tuple[Worker, Moving]]:
    """A worker that has folded two days and published neither."""
    place.settings = replace(place.settings, snapshot_interval_s=3600.0)
    place.put(sale(0), sale(1))
    worker = place.worker()
    worker._publish_if_due = lambda owned, consumer: None  # type: ignore[method-assign]
    with stepping(worker) as consumer:
        moved = Moving(consumer)
        step_until(worker, moved, lambda: worker.owned[home()].shard.position == 2, "a fold")
        yield worker, moved


def test_a_revoked_partition_is_published_and_dropped(place: Place) -> None:
    with moving(place) as (worker, consumer):
        consumer.coming = Moves(revoked=(home(),))
        worker.step(consumer, 0)
        assert home() not in worker.owned
        assert place.head(home()).position == 2
        assert f'log_end_offset{{partition="{home()}"}}' not in worker.telemetry.render().decode()


def test_a_lost_partition_is_neither_published_nor_committed(place: Place) -> None:
    with moving(place) as (worker, consumer):
        consumer.coming = Moves(lost=(home(),))
        consumer.commit = lambda positions: pytest.fail("committed")  # type: ignore[attr-defined]
        worker.step(consumer, 0)
        assert home() not in worker.owned
        assert place.store.pointers(home()).head is None


def test_a_partition_that_goes_before_it_is_taken_up_leaves_no_metrics(place: Place) -> None:
    line = f'restore_progress_ratio{{partition="{home()}"}}'
    with moving(place) as (worker, consumer):
        worker._postpone(home(), consumer)
        assert line in worker.telemetry.render().decode()
        consumer.coming = Moves(lost=(home(),))
        worker.step(consumer, 0)
        assert line not in worker.telemetry.render().decode()
        assert not worker.waiting


def test_records_of_a_partition_that_went_and_came_back_are_polled_again(place: Place) -> None:
    """They may begin behind what its head has folded: folding them would leave a gap."""
    with moving(place) as (worker, consumer):
        place.put(sale(2))
        consumer.coming = Moves(lost=(home(),), gained=(home(),))
        worker.step(consumer, 0)  # polls offset 2, and takes up a shard that stands at 0
        assert worker.owned[home()].shard.position == 0
        step_until(worker, consumer, lambda: worker.owned[home()].shard.position == 3, "a fold")
        assert worker.owned[home()].shard.digest() == place.undisturbed(home()).digest()


def test_a_partition_that_is_taken_back_while_it_waits_is_not_taken_up(place: Place) -> None:
    with moving(place) as (worker, consumer):
        worker._postpone(home(), consumer)
        assert list(worker.waiting) == [home()]
        consumer.coming = Moves(revoked=(home(),))
        time.sleep(0.03)
        worker.step(consumer, 0)
        assert worker.waiting == {}
        assert home() not in worker.owned


def test_one_partition_is_taken_up_a_step(place: Place) -> None:
    worker = place.worker()
    consumer = place.events.join()
    try:
        worker.step(consumer, 0)
        assert len(worker.owned) == 1
        assert not worker.started
        assert _not_ready(worker) == [
            f"partition {one} is being restored" for one in sorted(worker.waiting)
        ]
        worker.step(consumer, 0)
        worker.step(consumer, 0)
        assert sorted(worker.owned) == [0, 1]
        assert worker.started
        assert _not_ready(worker) == []
    finally:
        consumer.close()


def _not_ready(worker: Worker) -> list[str]:
    probes = Probes(worker.settings, worker.telemetry)
    probes.worker = worker
    reasons = json.loads(probes.answer("/readyz")[2])["reasons"]
    probes._server.server_close()
    return [reason for reason in reasons if reason != "restoring"]


# -- a log that is not the one -------------------------------------------------------------


def test_a_recreated_topic_is_not_taken_for_the_old_one(place: Place, tmp_path: Path) -> None:
    place.put(*two_stores(3))
    place.fold()
    place.close()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    again = Place.at(tmp_path)
    again.put(*two_stores(3))
    with pytest.raises(TopicMismatch, match=r"belongs to another topic.*Restore the topic"):
        again.worker().run(threading.Event())
    again.close()


def test_partitions_keep_abreast_while_they_catch_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 10)
    apart = []

    class Watched(Worker):
        def _fold(self, owned: Owned, records: Sequence[Record], consumer: Consumer) -> bool:
            folded = super()._fold(owned, records, consumer)
            position = {p: one.shard.position for p, one in self.owned.items()}
            apart.append(abs(position.get(0, 0) - position.get(1, 0)))
            return folded

    some = two_stores(1)
    place.put(
        *(msgspec.structs.replace(one, id=f"{n} {one.id}") for n in range(40) for one in some)
    )
    assert set(place.events.end().values()) == {120}
    monkeypatch.setattr(f"{__name__}.Worker", Watched)
    place.fold()
    # One record comes while the other is taken up, which is first then: a piece of each in turn.
    assert len(apart) >= 24 and max(apart) == 9


def test_a_log_that_lost_records_is_not_folded(place: Place, tmp_path: Path) -> None:
    place.put(*two_stores(3))
    place.close()
    shutil.copy(tmp_path / "log.db", tmp_path / "yesterday.db")
    later = Place.at(tmp_path)
    later.put(*two_stores(3, first=3))
    later.fold()
    later.close()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    shutil.move(tmp_path / "yesterday.db", tmp_path / "log.db")
    restored = Place.at(tmp_path)
    with pytest.raises(TopicMismatch, match=r"ends at offset 9.*folded up to 18"):
        restored.worker().run(threading.Event())
    restored.close()


class Trimmed(SqliteLog):
    """A log that no longer keeps its first records."""

    def begin(self) -> Mapping[int, int]:
        return dict.fromkeys(range(self.partitions), 7)


def test_an_expired_offset_is_loud(place: Place, tmp_path: Path) -> None:
    place.put(*two_stores(1))
    place.fold()
    place.put(*two_stores(3, first=1))
    trimmed = Trimmed(tmp_path / "log.db", "sales.events", 2)
    with pytest.raises(OffsetExpired, match=r"begins at offset 7.*ends at 3"):
        place.worker(events=trimmed).run(threading.Event())
    shutil.rmtree(tmp_path / "snapshots")
    place.store = FileStore(tmp_path / "snapshots")
    with pytest.raises(OffsetExpired, match="no snapshot covers what came before"):
        place.worker(events=trimmed).run(threading.Event())
    trimmed.close()


def test_another_number_of_partitions_is_refused_with_the_setting_to_change(place: Place) -> None:
    place.settings = replace(place.settings, partitions=3)
    with pytest.raises(TopicMismatch, match=r"has 2 partitions.*Set `partitions` to 2"):
        place.worker().run(threading.Event())


# -- a snapshot that is not the one --------------------------------------------------------


def test_where_no_snapshot_can_be_trusted_that_partition_stands_still_and_no_other(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_S", 0.02)
    place.put(*two_stores(3))
    place.fold()
    head, other = place.head(home()), 1 - home()
    manifests = list((tmp_path / "snapshots" / f"p{home()}").glob("*.manifest"))
    for manifest in manifests:
        manifest.write_bytes(manifest.read_bytes()[:-1] + b"?")
    place.put(*two_stores(3, first=3))
    worker = place.worker()
    with running(worker):
        end = place.events.end()[other]
        until(lambda: place.head(other).position == end, "the other partition")
        until(lambda: worker.started, "the start, in spite of one that stands still")
        (reason,) = _not_ready(worker)
        assert re.fullmatch(
            rf"partition {home()} stands still: .*{head.snapshot} is not signed by the key .*, nor "
            r"is any older one.*Check `verify_key_file`.*", reason
        ), reason  # fmt: skip
        said = f'salescast_shard_stopped{{partition="{home()}"}} 1.0'
        assert said.encode() in worker.telemetry.render()
        assert place.head(home()) == head
        told = place.store.standstills()[home()]
        assert told.offset is None and told.why in reason and told.remedy in reason
        for manifest in manifests:
            manifest.unlink()  # a person has looked, and lets it learn again from the log
        until(lambda: place.head(home()).position == place.events.end()[home()], "all of it again")
        assert _not_ready(worker) == []
        assert said.encode() not in worker.telemetry.render()
        until(lambda: not place.store.standstills(), "the store to say that it is over")
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_settings_that_change_the_state_are_refused_by_name(place: Place) -> None:
    place.put(*two_stores(3))
    place.fold()
    place.settings = replace(place.settings, grace_s=1, week_start="sunday")
    with pytest.raises(FingerprintMismatch, match=r"grace_s: 0, now 1, week_start"):
        place.worker().run(threading.Event())


# -- a store or a log that is away ---------------------------------------------------------


def test_learning_goes_on_while_the_store_is_away_and_is_published_later(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="learner.telling")
    place.put(*two_stores(5))
    place.fold()
    there, away = tmp_path / "snapshots", tmp_path / "away"
    worker = place.worker()
    with running(worker):
        until(lambda: worker.started, "the start")
        caplog.clear()
        there.rename(away)
        there.write_text("a file where the folder was")
        place.put(*two_stores(30, first=5))
        ends = place.events.end()
        until(
            lambda: all(o.shard.position == ends[p] for p, o in worker.owned.items()),
            "learning without a store",
        )
        until(
            lambda: b'salescast_dependency_up{dependency="store"} 0.0' in worker.telemetry.render(),
            "the metric that says so",
        )
        there.unlink()
        away.rename(there)
        until(lambda: place.folded(worker), "what was learned to be published")
        assert b'salescast_dependency_up{dependency="store"} 1.0' in worker.telemetry.render()
    # Not a line a partition and attempt.
    said = [one.message for one in caplog.records if "snapshot store" in one.message]
    assert len(said) == 2 and "nothing is published" in said[0] and "well again" in said[1]
    for partition in range(2):
        assert place.shard(partition).digest() == place.undisturbed(partition).digest()


class Deaf(DeadLetters):
    """A dead-letter topic that cannot be reached."""

    def append(self, letters: Collection[Any]) -> None:
        if letters:
            raise LogUnavailable("the dead letters are away")


def test_nothing_is_published_before_its_dead_letters_are_kept(place: Place) -> None:
    place.put(sale(0))
    place.events.append([Entry(home(), None, b"no event at all")])
    worker = place.worker(dead_letters=Deaf(place.letters, place.events))
    with running(worker):
        until(lambda: worker.started and worker.owned[home()].shard.position == 2, "a fold")
        until(
            lambda: worker.owned[home()].published_s > worker.owned[home()].last_record_s, "a try"
        )
    assert place.store.pointers(home()).head is None
    place.fold()
    assert place.kept_aside() == [(1, "malformed", b"no event at all")]


def test_each_dead_letter_holds_its_items_own_bytes(place: Place) -> None:
    good, odd = encode(sale(0)), b'{"type": "sail"}'
    place.events.append([Entry(home(), None, b"[" + good + b"," + odd + b"]")])
    place.fold()
    assert place.kept_aside() == [(0, "unknown_type", odd)]


# -- what no reason names ------------------------------------------------------------------


def test_an_unforeseen_error_stops_its_partition_alone_and_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(*two_stores(10))
    place.fold()
    before = place.head(home())
    close = Shard._close

    def faulty(shard: Shard, closed: Any) -> Any:
        if shard.partition == home() and closed.bucket >= shard.calendar.index(_us(day(15))):
            raise ZeroDivisionError("a fault nobody thought of")
        return close(shard, closed)

    monkeypatch.setattr(Shard, "_close", faulty)
    place.put(*two_stores(20, first=10))
    other, worker = 1 - home(), place.worker()
    with Probes(place.settings, worker.telemetry) as probes:
        status, said = get(probes.port, "/readyz")
        assert (status, said["reasons"]) == (503, ["restoring"])
        probes.worker = worker
        with running(worker), caplog.at_level(logging.CRITICAL):
            until(lambda: bool(worker.owned.get(home()) and worker.owned[home()].stopped), "a stop")
            end = place.events.end()[other]
            until(lambda: place.head(other).position == end, "the other partition")
            status, said = get(probes.port, "/readyz")
            assert status == 503
            at = worker.owned[home()].stopped_at
            assert said["reasons"] == [
                f"partition {home()} stands still at offset {at}: ZeroDivisionError: a fault "
                "nobody thought of. The record is kept; report it with the traceback. To go on "
                f"without it: salescast skip {home()}:{at} --reason ..."
            ]
            assert get(probes.port, "/livez") == (200, {"status": "ok"})
            assert get(probes.port, "/startupz")[0] == 200
    stopped = place.head(home())
    assert before.position <= stopped.position < place.events.end()[home()]
    assert place.shard(home(), stopped.snapshot).panel.last == _bucket(place, stopped), (
        "nothing half folded was published"
    )
    monkeypatch.undo()
    place.fold()
    for partition in range(2):
        assert place.shard(partition).digest() == place.undisturbed(partition).digest()
        assert place.shard(partition).counts() == place.undisturbed(partition).counts()


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6)


def _bucket(place: Place, at: Pointer) -> int | None:
    shard = Shard(place.settings, home())
    shard.fold(place.records(home())[: at.position])
    return shard.panel.last


def test_what_a_stopped_partition_has_half_folded_is_never_published(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MIN_INTERVAL_S", 3600.0)
    place.settings = replace(place.settings, snapshot_interval_s=3600.0)
    know = Shard._know

    def faulty(shard: Shard, event: Any) -> bool:
        raise ZeroDivisionError("a fault nobody thought of")

    monkeypatch.setattr(Shard, "_know", faulty)
    place.put(*two_stores(30), plan("x", 40, 50, promotion=1.0, store="s"))
    worker = place.worker()
    with running(worker), caplog.at_level(logging.CRITICAL):
        until(lambda: bool(worker.owned.get(home()) and worker.owned[home()].stopped), "a stop")
        assert worker.owned[home()].folded == module.SLICE
    assert place.store.pointers(home()).head is None
    assert place.head(1 - home()).position == place.events.end()[1 - home()]
    monkeypatch.setattr(Shard, "_know", know)
    monkeypatch.setattr(module, "MIN_INTERVAL_S", 0.02)
    place.settings = replace(place.settings, snapshot_interval_s=0.05)
    place.fold()
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_readiness_says_ok_once_all_is_restored(place: Place) -> None:
    worker = place.worker()
    with Probes(place.settings, worker.telemetry) as probes:
        probes.worker = worker
        assert get(probes.port, "/readyz")[0] == 503
        with running(worker):
            until(lambda: worker.started, "the start")
            assert get(probes.port, "/readyz") == (200, {"status": "ok", "reasons": []})
            assert get(probes.port, "/nothing")[0] == 404


# -- ticks ---------------------------------------------------------------------------------


def ticks(place: Place) -> list[Tick]:
    items = [one for p in range(2) for r in place.records(p) for one in decode(r.value)]
    return [one for one in items if isinstance(one, Tick)]


def test_history_alone_is_no_reason_to_tick(place: Place) -> None:
    place.put(*two_stores(3))
    worker = place.worker()
    with stepping(worker) as consumer:
        step_until(worker, consumer, lambda: place.folded(worker), "a fold")
        for owned in worker.owned.values():
            worker._tick(owned, time.monotonic() + 1e6)
    assert ticks(place) == []


def test_a_live_partition_ticks_when_it_is_idle_and_only_then(place: Place) -> None:
    now = datetime.now(UTC)
    place.put(msgspec.structs.replace(sale(0), time=now))
    worker = place.worker(clock=lambda: (now + timedelta(minutes=5)).timestamp())
    with stepping(worker) as consumer:
        step_until(worker, consumer, lambda: place.folded(worker), "a fold")
        last = worker.owned[home()].last_record_s
        for after in (1.0, 59.9, 60.0, 61.0, 119.0, 120.5):
            for owned in worker.owned.values():
                owned_last = owned.last_record_s if owned.shard.window.live else last
                assert owned_last >= last
                worker._tick(owned, last + after)
    found = ticks(place)
    assert [one.time for one in found] == [now + timedelta(minutes=5)] * 2
    assert len(place.records(1 - home())) == 0, "the other partition was never live"


def test_a_tick_lets_time_pass_without_a_sale(place: Place) -> None:
    then = datetime.now(UTC) - timedelta(hours=30)
    place.put(msgspec.structs.replace(sale(0), time=then))
    worker = place.worker()
    with stepping(worker) as consumer:
        step_until(worker, consumer, lambda: place.folded(worker), "a fold")
        owned = worker.owned[home()]
        assert owned.shard.panel.last is None
        worker._tick(owned, time.monotonic() + 61)
        step_until(worker, consumer, lambda: place.folded(worker), "the tick")
        assert owned.shard.panel.last is not None
        assert owned.shard.counts()["applied"] == 1


# -- operations ----------------------------------------------------------------------------


def marker(id: str = "op") -> Marker:
    return Marker(id=id, source="salescast", time=day(0))


def test_a_marker_of_no_operation_is_refused_and_said_so(place: Place) -> None:
    place.put(sale(0))
    place.put(marker("nobody asked"), partition=home())
    place.fold()
    assert [(offset, reason) for offset, reason, _ in place.kept_aside()] == [
        (1, "unknown_operation")
    ]
    until(lambda: bool(place.outcomes()), "the outcome")
    assert place.outcomes() == [
        ("nobody asked", home(), "refused", "the control log holds no such operation")
    ]


def test_an_operation_that_no_snapshot_can_hold_is_refused_and_learning_goes_on(
    place: Place,
) -> None:
    place.put(*two_stores(3))
    asked = Operation(
        id="huge", kind="rollback", who="tester", reason="a test", time=day(0),
        cut={home(): START}, replay=True, exclude=Exclusion(offsets={home(): (0, 7)}),
    )  # fmt: skip
    value = msgspec.json.encode(asked).replace(b"[0,7]", b"[0,%d]" % 10**22)
    place.control.append([Entry(0, None, value)])
    place.put(marker("huge"), partition=home())
    place.put(*two_stores(1, first=3))
    place.fold()
    assert [one[:3] for one in place.outcomes()] == [("huge", home(), "refused")]


def test_a_marker_of_another_partitions_operation_is_refused(place: Place) -> None:
    place.put(sale(0))
    place.operate("rollback", {1 - home(): "p1-l1-o5-00000000"})
    place.operate("freeze", {home(): "p1-l1-o5-00000000"}, id="freeze")
    place.put(marker(), marker("freeze"), partition=home())
    place.fold()
    assert {(x[0], x[2], x[3]) for x in place.outcomes()} == {
        (name, "refused", "the operation does not concern this partition")
        for name in ("op", "freeze")
    }


def test_a_rollback_to_a_snapshot_that_neither_store_nor_log_leads_to_is_refused(
    place: Place,
) -> None:
    place.put(*two_stores(3))
    place.operate("rollback", {home(): f"p{home()}-l1-o99-00000000"})
    place.put(marker(), partition=home())
    place.put(*two_stores(1, first=3))
    place.fold()
    ((_, _, outcome, detail),) = place.outcomes()
    assert outcome == "refused" and "no snapshot" in detail
    assert place.shard(home()).operations == {}


def test_a_rollback_returns_to_the_cuts_models_and_keeps_the_facts(place: Place) -> None:
    place.put(*two_stores(30))
    place.fold()
    good = place.head(home()).snapshot
    place.put(*(msgspec.structs.replace(one, quantity=40.0 + one.quantity)
                for one in two_stores(20, first=30)))  # fmt: skip
    place.fold()
    poisoned = place.shard(home())
    assert place.models(home(), good) != said(poisoned.models)
    place.operate("rollback", {home(): good})
    (at,) = place.put(marker(), partition=home())
    place.fold()
    after = place.shard(home())
    assert said(after.models) == place.models(home(), good)
    before = place.shard(home(), good).spread
    assert poisoned.spread.own.tobytes() != before.own.tobytes()
    for name in SPREAD:
        assert getattr(after.spread, name).tobytes() == getattr(before, name).tobytes(), name
    for name, values in poisoned.accuracy.columns.items():
        assert after.accuracy.columns[name].tobytes() == values.tobytes(), name
    for ring, held in poisoned.panel.rings.items():
        assert after.panel.rings[ring].tobytes() == held.tobytes(), ring
    for column, values in poisoned.panel.columns.items():
        assert after.panel.columns[column].tobytes() == values.tobytes(), column
    assert after.window.open == poisoned.window.open
    assert after.position == poisoned.position + 1
    assert after.operations == {"op": at}
    assert after.forecast().tobytes() != poisoned.forecast().tobytes()
    assert place.outcomes() == [("op", home(), "applied", "")]
    assert place.shard(1 - home()).operations == {}, "the other partition was not concerned"


def test_a_marker_repeated_does_nothing(place: Place) -> None:
    place.put(*two_stores(30))
    place.fold()
    good = place.head(home()).snapshot
    place.operate("rollback", {home(): good})
    place.put(marker(), partition=home())
    place.put(*two_stores(5, first=30))
    place.fold()
    before = place.shard(home())
    place.put(marker(), marker(), partition=home())
    place.fold()
    after = place.shard(home())
    assert after.digest() == before.digest()
    assert after.operations == before.operations
    assert after.counts()["duplicate"] == before.counts()["duplicate"] + 2
    assert len(place.outcomes()) == 1


def test_a_rollback_folded_twice_by_a_crash_is_carried_out_as_once(place: Place) -> None:
    place.put(*two_stores(30))
    place.fold()
    good = place.head(home()).snapshot
    place.operate("rollback", {home(): good})
    place.put(marker(), partition=home())
    place.put(*two_stores(5, first=30))
    crashed = place.worker()
    with stepping(crashed) as consumer:
        crashed._publish_if_due = lambda owned, consumer: None  # type: ignore[method-assign]
        end = place.events.end()[home()]
        step_until(crashed, consumer, lambda: crashed.owned[home()].shard.position == end, "a fold")
        digest = crashed.owned[home()].shard.digest()
    place.fold()
    assert place.shard(home()).digest() == digest


class OnceAway:
    """A control log whose first append fails."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.failed = 0

    def append(self, entries: Any) -> list[int]:
        if not self.failed:
            self.failed += 1
            raise LogUnavailable("the control log is away")
        return self.log.append(entries)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


def test_what_became_of_an_operation_is_told_though_the_control_log_was_away(
    place: Place,
) -> None:
    place.put(*two_stores(3))
    place.put(marker("nobody asked"), partition=home())
    control = OnceAway(place.control)
    worker = place.worker(control=control)
    with running(worker):
        until(lambda: bool(place.outcomes()), "the outcome")
    assert control.failed == 1
    assert [(x[0], x[2]) for x in place.outcomes()] == [("nobody asked", "refused")]


# -- publishing ----------------------------------------------------------------------------


def test_who_finds_that_another_has_published_goes_back_to_the_head(place: Place) -> None:
    """A zombie: both fold the same records, one publishes first."""
    place.put(*two_stores(5))
    zombie = place.worker()
    with stepping(zombie) as consumer:
        step_until(zombie, consumer, lambda: place.folded(zombie), "a fold")
        owned = zombie.owned[home()]
        place.put(*two_stores(1, first=5))
        consumer.close()
        place.fold()
        head = place.head(home())
        owned.shard.fold(place.records(home())[owned.shard.position :][:2])
        with stepping(zombie) as again:
            zombie.owned[home()] = owned
            zombie._publish_if(owned, again, due=True)
            assert zombie.owned[home()] is not owned
            assert zombie.owned[home()].head == head.snapshot
    assert place.head(home()) == head
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def test_pruning_keeps_the_newest_the_pinned_the_head_and_the_active(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNE_EVERY", 1)
    place.settings = replace(place.settings, snapshots_kept=2, snapshots_kept_days=0)
    names: list[str] = []
    place.put(*two_stores(1))
    for n in range(8):
        place.put(*two_stores(1, first=n + 1))
        place.fold()
        names.append(place.head(home()).snapshot)
        if n == 1:
            place.operate("freeze", {home(): names[1]})
        if n == 3:
            head = place.head(home())
            assert place.store.move_active(home(), head, "op", control_offset=1)
        _age(tmp_path / "snapshots")
    kept = place.store.snapshots(home())
    assert {names[1], names[3], *names[-2:]} <= set(kept)
    assert names[0] not in kept and names[2] not in kept and names[4] not in kept
    assert len(kept) < 8
    verifier = load_signer(place.settings).verifier
    for partition in range(2):
        for snapshot in place.store.snapshots(partition):
            manifest = read_manifest(place.store, partition, snapshot, verifier)
            assert place.store.missing(manifest.chunks) == set(), "chunks in use stay"
            read_shard(place.store, manifest, place.settings)
    assert place.shard(home()).digest() == place.undisturbed(home()).digest()


def _age(folder: Path) -> None:
    """Make every chunk older than those that may belong to a snapshot being written."""
    for path in (folder / "chunks").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 7200, time.time() - 7200))


def test_chunks_that_no_snapshot_names_are_swept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNE_EVERY", 1)
    orphan = b"of a snapshot that was never published"
    digest = hashlib.sha256(orphan).hexdigest()
    place.store.put_chunk(digest, orphan)
    _age(tmp_path / "snapshots")
    place.put(*two_stores(2))
    place.fold()
    place.put(*two_stores(2, first=2))
    place.fold()
    assert place.store.missing({digest}) == {digest}


def test_a_snapshot_names_the_one_it_follows(place: Place) -> None:
    place.put(*two_stores(3))
    place.fold()
    first = place.head(home())
    place.put(*two_stores(3, first=3))
    place.fold()
    verifier = load_signer(place.settings).verifier
    chain, name = [], place.head(home()).snapshot
    while name:
        chain.append(name)
        name = read_manifest(place.store, home(), name, verifier).parent or ""
    assert first.snapshot in chain[1:]
    assert chain[::-1] == place.store.snapshots(home())


def test_nothing_new_is_no_reason_for_a_snapshot(place: Place) -> None:
    place.put(*two_stores(3))
    place.fold()
    kept = place.store.snapshots(home())
    worker = place.worker()
    with stepping(worker) as consumer:
        owned: Owned = worker.owned[home()]
        owned.published_s -= 1e6
        for _ in range(5):
            worker.step(consumer, 0.0)
    assert place.store.snapshots(home()) == kept
