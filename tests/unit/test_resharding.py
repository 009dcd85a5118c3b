"""Resharding: what is copied where, once, and that a fold of it is what a fresh log's would be."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from learner import worker as module
from learner.replay import Exclusion
from learner.shard import Shard
from scripts import reshard
from scripts.cli import make
from scripts.reshard import check_apart
from stream import resharding
from stream.adapters import open_live, open_log, open_target
from stream.errors import (
    AlreadyOwned,
    FingerprintMismatch,
    LogUnavailable,
    OperationRefused,
    SettingsError,
    TopicMismatch,
)
from stream.event import AnyEvent, Product, decode, encode
from stream.log import Entry, EventLog, Record, partition_of
from stream.resharding import ALL, At, Copy, last_progress, pieces, route, survey
from stream.settings import Settings, load
from stream.sqlite_log import SqliteLog
from tests.learner_parts import day, market, plan, sale, tick, void
from tests.unit.test_worker import Place, home, two_stores
from tests.unit.test_worker_replay import operate

NAMES = tuple("abcdefgh")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr(resharding, "BATCH", 8)
    monkeypatch.setattr(reshard, "QUIET_S", 0.0)


def shops(days: int, first: int = 0) -> list[AnyEvent]:
    """Sales of eight stores, with voids and returns among them."""
    out: list[AnyEvent] = []
    for one in market(days, series=1, first=first):
        for at, store in enumerate(NAMES):
            sold = msgspec.structs.replace(one, store=store, id=f"{store} {one.id}")
            out.append(sold)
            if at == 3:
                out.append(void(sold))
    return out


def told(log: EventLog, events: Sequence[AnyEvent], packed: int = 1) -> None:
    """Append events where they belong, so many a record; what is about all stores, everywhere."""
    waiting: dict[int, list[bytes]] = {}
    entries = []
    for event in events:
        everywhere = event.store == "*"
        homes = range(log.partitions) if everywhere else [partition_of(event.store, log.partitions)]
        for partition in homes:
            items = waiting.setdefault(partition, [])
            items.append(encode(event))
            if len(items) >= packed:
                entries.append(Entry(partition, None, pack(waiting.pop(partition))))
    log.append(entries + [Entry(p, None, pack(items)) for p, items in waiting.items()])


def pack(items: list[bytes]) -> bytes:
    return items[0] if len(items) == 1 else b"[" + b",".join(items) + b"]"


def story() -> list[list[AnyEvent]]:
    """What is appended one after the other."""
    milk = Product(id="p0", source="hq", time=day(2), product="p0", category="dairy")
    offer = plan("offer", 6, 9, said=4, product="p0", promotion=1.0)
    return [shops(4), [milk, offer], shops(6, first=4), [sale(4, 3, store="a", id="late")],
            shops(1)]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path / "old")
    yield one
    one.close()


def toml(path: Path, **values: Any) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"guard": "off", **values}.items()]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def config(place: Place, tmp_path: Path) -> str:
    return toml(tmp_path / "old.toml", data_dir=place.settings.data_dir, partitions=2, grace_s=0)


@pytest.fixture
def to(tmp_path: Path) -> str:
    return toml(tmp_path / "new.toml", data_dir=str(tmp_path / "new"), partitions=3, grace_s=3600)


def run(*words: str) -> Any:
    return CliRunner().invoke(make(), ["reshard", *words])


def folded(settings: Settings, log: EventLog) -> list[Shard]:
    shards = [Shard(settings, partition) for partition in range(log.partitions)]
    for shard in shards:
        while records := log.read(shard.partition, shard.position):
            shard.fold(records)
    return shards


def all_of(log: EventLog) -> list[list[Record]]:
    return [log.read(partition, 0, 100_000) for partition in range(log.partitions)]


def test_a_fold_of_the_copy_is_the_fold_of_a_fresh_log(
    place: Place, config: str, to: str, tmp_path: Path
) -> None:
    for one in story():
        told(place.events, one, packed=3)
    place.put(tick(40), partition=0)
    told(place.events, shops(2, first=10))
    ran = run("--to", to, "--config", config, "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["finished"] and said["items"]["ticks and markers"] == 1

    new = load({}, config=to).settings
    fresh = open_log(replace(new, data_dir=str(tmp_path / "fresh")), "events")
    for one in story():
        told(fresh, one)
    told(fresh, shops(2, first=10))
    copied = open_log(new, "events")
    assert copied.partitions == 3
    found, expected = folded(new, copied), folded(new, fresh)
    assert [shard.counts() for shard in found] == [shard.counts() for shard in expected]
    assert [shard.digest() for shard in found] == [shard.digest() for shard in expected]
    assert sum(shard.panel.size for shard in found) == len(NAMES) - 1, "one store voids all"
    times = {record.append_us for records in all_of(place.events) for record in records}
    assert {record.append_us for records in all_of(copied) for record in records} <= times
    copied.close()
    fresh.close()


def test_a_deployment_learns_from_the_copy_and_knows_what_it_has_seen(
    place: Place, config: str, to: str, tmp_path: Path
) -> None:
    told(place.events, shops(8))
    before = all_of(place.events)
    assert run("--to", to, "--config", config).exit_code == 0
    assert all_of(place.events) == before, "the old one is the way back"
    new = load({}, config=to).settings
    with_two = Place.at(tmp_path / "new", partitions=3, grace_s=3600)
    assert with_two.settings.fingerprint() == new.fingerprint()
    told(with_two.events, shops(8)[-12:])
    with_two.fold()
    shards = [with_two.shard(p) for p in range(3) if with_two.store.pointers(p).head]
    counts = [shard.counts() for shard in shards]
    assert sum(one["duplicate"] for one in counts) == 12
    assert sum(one["learned"] for one in counts) == 8 * (len(NAMES) - 1)
    with_two.close()


@pytest.mark.parametrize("spoil", ["load", "note"])
def test_a_copy_that_broke_off_is_gone_on_with_and_nothing_is_there_twice(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    """Cut off before and after each step's effect, over and over; the whole is as undisturbed."""
    told(place.events, [one for part in story() for one in part], packed=2)
    calm = replace(place.settings, data_dir=str(tmp_path / "calm"), partitions=3)
    rough = replace(calm, data_dir=str(tmp_path / "rough"))
    logs = open_target(calm)
    Copy(place.events, *logs, grace_s=0).run()
    expected = all_of(logs[0])
    runs = 0
    while True:
        target, notes = open_target(rough)
        copy, name = (
            Copy(place.events, target, notes, grace_s=0),
            {"load": "load", "note": "append"}[spoil],
        )
        victim = target if spoil == "load" else notes
        whole, runs = getattr(victim, name), runs + 1

        def failing(*args: Any, whole: Any = whole, after: bool = runs % 2 == 0) -> Any:
            if failing.left == 0:  # type: ignore[attr-defined]
                if after:
                    whole(*args)
                raise LogUnavailable("cut off")
            failing.left -= 1  # type: ignore[attr-defined]
            return whole(*args)

        failing.left = 1  # type: ignore[attr-defined]
        monkeypatch.setattr(victim, name, failing)
        try:
            copy.run()
        except LogUnavailable:
            continue
        finally:
            target.close()
            notes.close()
        break
    assert runs > 4
    target, notes = open_target(rough)
    assert [[r[4:] for r in one] for one in all_of(target)] == [
        [r[4:] for r in one] for one in expected
    ]
    assert (
        Copy(place.events, target, notes, grace_s=0).progress.counts
        == Copy(place.events, *logs, grace_s=0).progress.counts
    )
    for log in (*logs, target, notes):
        log.close()


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_sales_that_came_in_since_a_copy_broke_off_cost_nothing_twice(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Killed between the records and the note of them, then given earlier sales to copy."""
    monkeypatch.setattr(resharding, "BATCH", 4)
    away = next(name for name in NAMES if partition_of(name, 2) != home())

    def killed() -> None:
        target, notes = open_target(new)
        with monkeypatch.context() as patched:
            patched.setattr(notes, "append", unavailable)
            with pytest.raises(LogUnavailable):
                Copy(place.events, target, notes, grace_s=0).run()
        target.close()
        notes.close()

    def unavailable(entries: Sequence[Entry]) -> list[int]:
        raise LogUnavailable("killed")

    new = replace(place.settings, data_dir=str(tmp_path / "new"), partitions=3)
    sales = [sale(n, store="s", id=f"s {n}") for n in (0, 0.01)]
    sales += [sale(n, store=away, id=f"away {n}") for n in range(10, 16)]
    told(place.events, sales)
    killed()
    later = [sale(5, store="s", id=f"later {n}") for n in range(4)]
    told(place.events, later)
    if again:
        killed()
    target, notes = open_target(new)
    Copy(place.events, target, notes, grace_s=0).run()
    found = [event for one in all_of(target) for r in one for event in decode(r.value)]
    assert Counter(found) == Counter([*sales, *later])
    target.close()
    notes.close()


def test_a_copy_begun_with_another_grace_is_not_gone_on_with(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ten_minutes = [sale(day, hour=10 + n / 6, id=f"{day} {n}") for day in range(3) for n in (0, 1)]
    told(place.events, ten_minutes, packed=2)
    new = replace(place.settings, data_dir=str(tmp_path / "new"), partitions=3)
    target, notes = open_target(new)
    with monkeypatch.context() as patched:
        patched.setattr(Copy, "_note", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Copy(place.events, target, notes, grace_s=450).run()
    with pytest.raises(TopicMismatch, match=r"Set `grace_s` back"):
        Copy(place.events, target, notes, grace_s=0).run()
    target.close()
    notes.close()


def test_what_comes_in_while_it_copies_is_copied_by_a_later_run(
    place: Place, config: str, to: str
) -> None:
    told(place.events, shops(3))
    assert "run it again" in run("--to", to, "--config", config, "--unfinished").output
    new = load({}, config=to).settings
    told(place.events, shops(3, first=3))
    assert "finished" in run("--to", to, "--config", config).output
    log = open_log(new, "events")
    assert sum(map(len, all_of(log))) == len(shops(3)) * 2
    log.close()
    again = run("--to", to, "--config", config)
    assert isinstance(again.exception, TopicMismatch)
    assert "has a topic sales.events already" in str(again.exception)


def test_a_copy_is_not_finished_while_sales_come_in_now_and_then(
    place: Place, config: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reshard, "QUIET_S", 0.4)
    monkeypatch.setattr(reshard, "MOST_RUNS", 2)
    stopped = threading.Event()

    def now_and_then() -> None:
        at = 0
        while not stopped.wait(0.1):
            told(place.events, [sale(at := at + 1, id=f"now {at}")])

    producer = threading.Thread(target=now_and_then)
    producer.start()
    try:
        refused = run("--to", to, "--config", config).exception
    finally:
        stopped.set()
        producer.join()
    assert isinstance(refused, OperationRefused) and "sales keep coming in" in str(refused)
    assert "finished" in run("--to", to, "--config", config).output


def test_a_topic_that_was_given_more_partitions_is_copied_whole(
    place: Place, tmp_path: Path
) -> None:
    """Stores stay where they were, and producers that hash over all send some elsewhere."""
    before = shops(2)
    told(place.events, before)
    grown = SqliteLog(tmp_path / "grown.db", "sales.events", 5)
    for partition in range(place.settings.partitions):
        records = place.events.read(partition, 0)
        grown.append([Entry(partition, record.key, record.value) for record in records])
    after = shops(2, first=2)
    told(grown, after)
    lost = survey(grown, 3)[0]
    assert lost["misrouted"]
    found = survey(grown, 3, placed=place.settings.partitions)[0]
    assert (found["misrouted"], found["copied"]) == (0, len(before) + len(after))
    grown.close()


def test_the_old_partitions_are_those_it_has_learned_with(
    place: Place, to: str, tmp_path: Path
) -> None:
    told(place.events, shops(3))
    place.fold()
    wrong = toml(tmp_path / "wrong.toml", data_dir=place.settings.data_dir, partitions=5)
    refused = run("--to", to, "--config", wrong).exception
    assert isinstance(refused, SettingsError) and "back to 2" in str(refused)


def test_an_unfinished_copy_is_no_log(place: Place, config: str, to: str) -> None:
    told(place.events, shops(2))
    run("--to", to, "--config", config, "--unfinished")
    log = open_log(load({}, config=to).settings, "events")
    assert not any(log.end().values())
    log.close()


def test_a_dry_run_writes_nothing(place: Place, config: str, to: str, tmp_path: Path) -> None:
    told(place.events, [one for part in story() for one in part])
    place.put(tick(3), partition=1)
    place.events.append([Entry(0, None, b"torn ["), Entry(1 - home(), None, encode(sale(1)))])
    ran = run("--to", to, "--config", config, "--dry-run", "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    sales = len([one for part in story() for one in part if one.store != "*"])
    assert said["items"] == {"copied": sales, "for all stores": 4, "ticks and markers": 1,
                             "refused": 1, "misrouted": 1}  # fmt: skip
    assert sum(said["partitions"]) == sales and len(said["partitions"]) == 3
    assert not (tmp_path / "new").exists()


def test_a_dry_run_says_what_would_be_and_what_would_be_refused(
    place: Place, config: str, to: str, tmp_path: Path
) -> None:
    told(place.events, shops(2))
    words = ("--to", to, "--config", config)
    assert f"{len(shops(2))}  items would be copied" in run(*words, "--dry-run").output
    run(*words, "--unfinished")
    assert run(*words, "--dry-run").exit_code == 0, "an unfinished copy is gone on with"
    run(*words)
    assert "has a topic sales.events already" in str(run(*words, "--dry-run").exception)
    (tmp_path / "file").touch()
    nowhere = toml(tmp_path / "nowhere.toml", data_dir=str(tmp_path / "file" / "new"))
    said = str(run("--to", nowhere, "--config", config, "--dry-run").exception)
    assert "cannot make the folder" in said


def test_where_the_old_one_is_nothing_new_is_put(place: Place, config: str, tmp_path: Path) -> None:
    same = toml(tmp_path / "same.toml", data_dir=place.settings.data_dir, partitions=5)
    ran = run("--to", same, "--config", config)
    assert "`data_dir` of the deployment to be must be another folder" in str(ran.exception)
    old = Settings(log="kafka", store="redis", data_dir=str(tmp_path))
    new = old
    for name in ("topic_prefix", "kafka_group", "redis_prefix"):
        with pytest.raises(SettingsError, match=f"`{name}` of the deployment to be"):
            check_apart(old, new)
        new = Settings(**{**asdict(new), name: "b"})
    check_apart(old, new)


def test_what_is_kept_out_is_not_learned_by_the_way(place: Place, config: str, to: str) -> None:
    place.put(*two_stores(3))
    place.fold()
    operate(
        place, "keep-out", {p: place.head(p).snapshot for p in range(2)}, kind="quarantine",
        exclude=Exclusion(sources=("odd",)),
    )  # fmt: skip
    place.put(*two_stores(1, first=3))
    place.fold()
    ran = run("--to", to, "--config", config)
    assert "items are kept out by keep-out" in str(ran.exception)
    assert run("--to", to, "--config", config, "--learn-excluded").exit_code == 0


def test_what_was_readmitted_is_kept_out_no_more(place: Place, config: str, to: str) -> None:
    place.put(*two_stores(3))
    place.fold()
    cut = {p: place.head(p).snapshot for p in range(2)}
    what = Exclusion(sources=("odd",))
    operate(place, "keep-out", cut, kind="quarantine", exclude=what)
    place.fold()
    operate(place, "sorry", cut, kind="readmit", replay=True, readmits="keep-out")
    place.fold()
    ran = run("--to", to, "--config", config)
    assert ran.exit_code == 0, ran.exception


def test_two_copies_at_once_are_told_of_each_other(place: Place, to: str) -> None:
    told(place.events, shops(2))
    new = load({}, config=to).settings
    one, other = open_target(new), open_target(new)
    first, second = Copy(place.events, *one, grace_s=0), Copy(place.events, *other, grace_s=0)
    first.run()
    with pytest.raises(AlreadyOwned, match="another process copies"):
        second.run()
    told(place.events, shops(1, first=2))
    first.run()
    assert sum(map(len, all_of(one[0]))) == len(shops(3))
    for log in (*one, *other):
        log.close()


def test_a_copy_of_another_log_is_not_gone_on_with(place: Place, to: str, tmp_path: Path) -> None:
    told(place.events, shops(1))
    logs = open_target(load({}, config=to).settings)
    Copy(place.events, *logs, grace_s=0).run()
    other = open_live(replace(place.settings, data_dir=str(tmp_path / "other")), "events")
    with pytest.raises(TopicMismatch, match="a copy of another log"):
        Copy(other, *logs, grace_s=0)
    progress = last_progress(logs[1])
    assert progress is not None and progress.topic_id == place.events.topic_id
    for log in (*logs, other):
        log.close()


def test_a_mismatch_names_the_command(place: Place) -> None:
    place.put(*two_stores(2))
    place.fold()
    place.settings = replace(place.settings, grace_s=60)
    with pytest.raises(FingerprintMismatch, match=r"grace_s: 0, now 60.*salescast reshard"):
        place.shard(home())
    with pytest.raises(TopicMismatch, match="salescast reshard"):
        open_log(replace(place.settings, partitions=7), "events")


@given(st.lists(st.sampled_from([*NAMES, "*", "tick", "torn"]), min_size=1, max_size=12))
def test_every_item_of_a_record_goes_home_in_its_order(stores: list[str]) -> None:
    def item(n: int, store: str) -> bytes:
        if store == "tick":
            return encode(tick(n))
        if store == "torn":
            return b'{"type": "sale"}'
        if store == "*":
            return encode(plan(str(n), 1, 2, promotion=1.0))
        return encode(sale(n, id=str(n), store=store))

    items = [item(n, store) for n, store in enumerate(stores)]
    counts: Counter[str] = Counter()
    record = Record(0, 7, 10**18, None, pack(items))
    cut = pieces(record, At(7), 0)
    found = [one for _, piece in cut for one in route(piece, range(1, 2), 3, counts)]
    assert sum(counts.values()) == len(items)
    assert [quarter for quarter, _ in cut] == sorted({quarter for quarter, _ in cut})
    assert cut[-1][1].after.offset == 8
    for partition in range(3):
        expected = [
            one for one, store in zip(items, stores, strict=True)
            if store == "*" or (store in NAMES and partition_of(store, 3) == partition)
        ]  # fmt: skip
        got = [raw for place, raws in found if place in (partition, ALL) for raw in raws]
        assert got == expected


def test_times_of_all_partitions_are_merged(place: Place) -> None:
    for n in range(6):
        place.put(sale(n, store=NAMES[n % 3]))
    starts = {0: At(0), 1: At(0)}
    found = resharding.merged(place.events, starts, place.events.end(), 0)
    order = [json.loads(piece.record.value)["time"] for piece in found]
    assert order == sorted(order)
    assert survey(place.events, 4)[0] == {"copied": 6}
