"""The archive: what it keeps, what it refuses, and a lineage made again from it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import (  # type: ignore[import-untyped]
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
)
from typer.testing import CliRunner, Result

from learner import worker as module
from learner.file_store import FileStore
from learner.keys import load_signer, make_keys
from learner.replay import START, Exclusion
from learner.verify import Verification
from scripts.cli import make
from stream import archive
from stream.adapters import open_log
from stream.archive import ArchivedTopic, File, keep
from stream.archived_log import ArchivedLog
from stream.dead_letters import DeadLetters
from stream.errors import (
    AlreadyOwned,
    LogError,
    LogUnavailable,
    OffsetExpired,
    SettingsError,
    TopicMismatch,
)
from stream.log import Entry, EventLog, Record
from stream.settings import Settings
from stream.sqlite_log import SqliteLog
from tests.unit.test_worker import Place, home, two_stores
from tests.unit.test_worker_replay import operate, poison

DAY_S = 86_400.0


class Shop:
    """A log in a file, whose clock is told, and an archive of it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.now = 1_700_000_000.0
        self.log = SqliteLog(folder / "log.db", "t", 2, clock=lambda: self.now)
        self.url = url

    @property
    def kept(self) -> ArchivedTopic:
        return ArchivedTopic(self.url, self.log.topic, self.log.topic_id)

    def sell(self, count: int, later_s: float = 0.0) -> None:
        self.now += later_s
        start = sum(self.log.end().values())
        self.log.append(
            [
                Entry(
                    n % 2, b"k%d" % n if n % 3 else None, b"v%d" % n, (("n", b"%d" % n),) * (n % 2)
                )
                for n in range(start, start + count)
            ]
        )

    def archived(self) -> list[list[Record]]:
        kept = self.kept
        found: list[list[Record]] = [[], []]
        for partition, records in enumerate(found):
            while more := kept.read(partition, records[-1].offset + 1 if records else 0, 10_000):
                records += more
        return found

    def logged(self) -> list[list[Record]]:
        return [self.log.read(partition, 0, 10_000) for partition in range(2)]


@pytest.fixture(params=["folder", "object store"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The object store is fsspec's in memory: what is put there appears whole, as in S3."""
    url = str(tmp_path / "kept") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    one = Shop(tmp_path, url)
    yield one
    one.log.close()


def files(shop: Shop) -> list[File]:
    return [file for partition in range(2) for file in shop.kept.index(partition).files]


def test_records_are_kept_byte_for_byte_with_their_times(shop: Shop) -> None:
    shop.sell(50)
    shop.sell(50, later_s=0.000_001)
    assert keep(shop.log, shop.kept) == {0: 50, 1: 50}
    assert shop.archived() == shop.logged()
    assert [shop.kept.check(partition) for partition in range(2)] == [[], []]


def test_only_what_is_new_is_kept_and_a_file_holds_one_day(shop: Shop) -> None:
    shop.sell(10)
    keep(shop.log, shop.kept)
    first = files(shop)
    shop.sell(10, later_s=1)
    shop.sell(10, later_s=DAY_S)
    assert keep(shop.log, shop.kept) == {0: 10, 1: 10}
    assert keep(shop.log, shop.kept) == {0: 0, 1: 0}
    found = files(shop)
    assert set(first) < set(found)
    days = [file.name.partition("/")[0] for file in shop.kept.index(0).files]
    assert days == ["day=2023-11-14", "day=2023-11-14", "day=2023-11-15"]
    assert [(file.begin, file.end, file.records) for file in shop.kept.index(0).files] == [
        (0, 5, 5), (5, 10, 5), (10, 15, 5)
    ]  # fmt: skip
    assert shop.archived() == shop.logged()


def test_large_days_are_several_files(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FILE_RECORDS", 7)
    monkeypatch.setattr(archive, "READ", 3)
    shop.sell(100)
    keep(shop.log, shop.kept)
    assert [file.records for file in shop.kept.index(0).files] == [7] * 7 + [1]
    kept = shop.kept
    assert [kept.read(0, at, 9) for at in range(52)] == [
        shop.log.read(0, at, 9) for at in range(52)
    ]


def test_no_read_holds_much_more_than_a_file_may(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FILE_BYTES", 30)
    shop.sell(100)
    keep(shop.log, shop.kept)
    assert shop.archived() == shop.logged()
    assert len(shop.kept.index(0).files) > 3
    assert max(len(shop.kept.read(0, at, 1000)) for at in range(50)) <= 20


class Interrupted(Exception):
    pass


def test_a_run_that_broke_off_is_gone_on_with(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after each write in turn: a file that no index names, or an index."""
    monkeypatch.setattr(archive, "FILE_RECORDS", 5)
    shop.sell(40)
    write, left = ArchivedTopic._write, 0

    def failing(self: ArchivedTopic, place: str, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise Interrupted
        left -= 1
        write(self, place, data)

    monkeypatch.setattr(ArchivedTopic, "_write", failing)
    for writes in (1, 2, 3, 0, 1):
        left = writes
        with pytest.raises(Interrupted):
            keep(shop.log, shop.kept)
        assert [shop.kept.check(partition) for partition in range(2)] == [[], []]
    left = 1000
    keep(shop.log, shop.kept)
    assert shop.archived() == shop.logged()


def test_two_that_archive_at_once_are_told_of_each_other(shop: Shop) -> None:
    shop.sell(10)
    other = shop.kept
    other.index(0)
    keep(shop.log, shop.kept)
    with pytest.raises(AlreadyOwned, match=r"another process archives t\[0\]"):
        other.add(0, 0, shop.log.read(0, 0))
    assert shop.archived() == shop.logged()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path, str(tmp_path / "kept"))
    one.sell(30)
    one.sell(30, later_s=DAY_S)
    keep(one.log, one.kept)
    yield one
    one.log.close()


def place_of(shop: Shop, at: int = 0) -> Path:
    root = Path(shop.url) / "t" / shop.log.topic_id / "partition=0"
    return root / shop.kept.index(0).files[at].name


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "does not match its digest"),
        (lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]), "does not match its digest"),
    ],
)
def test_a_file_that_is_not_what_was_kept_is_refused(
    folder: Shop, spoil: Callable[[Path], Any], said: str
) -> None:
    spoil(place_of(folder, 1))
    with pytest.raises(LogError, match=said):
        folder.kept.read(0, 20, 10)
    assert [said in text for text in folder.kept.check(0)] == [True]
    assert folder.kept.check(1) == []
    assert folder.kept.read(0, 0, 15) == folder.log.read(0, 0, 15), "the others are still good"


def test_an_index_that_is_cut_short_or_anothers_is_refused(folder: Shop) -> None:
    index = place_of(folder).parent.parent / "_index.json"
    good = index.read_bytes()
    index.write_bytes(good[:-10])
    with pytest.raises(LogError, match="is damaged"):
        folder.kept.read(0, 0, 1)
    index.write_bytes((index.parent.parent / "partition=1" / "_index.json").read_bytes())
    with pytest.raises(LogError, match="another topic, partition or format"):
        keep(folder.log, folder.kept)


def test_what_lacks_a_file_in_between_is_found(folder: Shop) -> None:
    index = place_of(folder).parent.parent / "_index.json"
    last = folder.kept.index(0).files[1]
    gap = replace_begin(last, last.begin + 3)
    text = index.read_text().replace(f'"begin":{last.begin},', f'"begin":{gap.begin},')
    index.write_text(text)
    (found, offsets) = folder.kept.check(0)
    assert f"begins at {gap.begin}, the one before ends at {last.begin}" in found
    assert "holds other offsets" in offsets


def replace_begin(file: File, begin: int) -> File:
    return File(file.name, begin, *[getattr(file, name) for name in file.__struct_fields__[2:]])


def test_the_files_are_plain_parquet_for_others_to_read(folder: Shop) -> None:
    table = pq.read_table(place_of(folder).parent.parent.parent)
    assert table.column_names == [*archive.SCHEMA.names, "partition", "day"]
    assert sorted(table["offset"].to_pylist()) == sorted(2 * list(range(30)))


def test_an_archive_that_needs_another_package_names_it() -> None:
    with pytest.raises(SettingsError, match=r"s3fs"):
        ArchivedTopic("s3://bucket/sales", "t", "i")
    with pytest.raises(SettingsError, match=r"no folder or URL"):
        ArchivedTopic("nowhere://x", "t", "i")


class Shortened(SqliteLog):
    """A log whose retention has dropped what came before these offsets."""

    begins: Mapping[int, int] = MappingProxyType({0: 0, 1: 0})

    def begin(self) -> Mapping[int, int]:
        return self.begins


@pytest.mark.parametrize("begins", [{0: 0, 1: 10}, {0: 10, 1: 10}], ids=["live", "archived"])
def test_an_archive_that_fails_for_one_partition_costs_no_record_of_another(
    tmp_path: Path, begins: dict[int, int]
) -> None:
    log = Shortened(tmp_path / "log.db", "t", 2)
    log.append([Entry(p, None, b"%d" % n) for n in range(20) for p in (0, 1)])
    archived = ArchivedLog(log, str(tmp_path / "kept"))
    keep(log, archived.kept)
    log.begins = begins
    consumer = archived.consume({0: 0, 1: 0})
    (file,) = (tmp_path / "kept").rglob("partition=1/*/*.parquet")
    file.rename(tmp_path / "aside")
    file.mkdir()  # what is no file cannot be read, whoever may read all
    found: dict[int, list[int]] = {0: [], 1: []}
    told: list[int] = []
    for at in range(20):
        if at == 6:
            file.rmdir()
            (tmp_path / "aside").rename(file)
        try:
            for partition, records in consumer.poll(4, 0).items():
                found[partition] += [record.offset for record in records]
        except LogUnavailable:
            told.append(at)
    consumer.close()
    log.close()
    assert found == {0: list(range(20)), 1: list(range(20))}
    assert len(told) >= 3, "it is told of, though others give records"


def test_a_backup_that_holds_nothing_is_no_good_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> Result:
        return CliRunner().invoke(make(), ["archive", *words])

    monkeypatch.setenv("SALESCAST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SALESCAST_PARTITIONS", "1")
    log = SqliteLog(tmp_path / "log.db", "sales.events", 1)
    log.append([Entry(0, None, b"v")] * 3)
    log.close()
    to = ("--to", str(tmp_path / "kept"))
    (tmp_path / "elsewhere").mkdir()
    for place in ("nowhere", "elsewhere"):
        done = run("--to", str(tmp_path / place), "--verify")
        assert f"{tmp_path / place} keeps nothing of this deployment" in str(done.exception)
    assert run(*to).exit_code == run(*to, "--verify").exit_code == 0
    log = SqliteLog(tmp_path / "log.db", "sales.control", 1)
    log.append([Entry(0, None, b"v")])
    log.close()
    done = run(*to, "--verify")
    assert done.exit_code == 1
    assert "sales.control[0]: nothing is kept; the log holds offsets 0 to 0" in done.output


# -- behind Kafka ----------------------------------------------------------------------------


def drop(log: EventLog, until: dict[int, int]) -> None:
    """Have Kafka drop what comes before these offsets, as its retention does."""
    assert isinstance(log, ArchivedLog)
    admin = KafkaAdminClient(bootstrap_servers=log.live._bootstrap)  # type: ignore[attr-defined]
    admin.delete_records(
        {TopicPartition(log.topic, p): at for p, at in until.items() if at}, timeout_ms=20_000
    )
    admin.close()


@pytest.fixture
def kafka_place(
    tmp_path: Path, apache_kafka: str, unique_topic: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A deployment on Kafka with an archive."""
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)
    make_keys(tmp_path / "keys" / "signing.pem", tmp_path / "keys" / "verify.pem")
    one = Place.at(
        tmp_path, log="kafka", kafka_bootstrap=apache_kafka, topic_prefix=unique_topic,
        kafka_group=unique_topic, kafka_session_s=6.0, archive=str(tmp_path / "archive"),
        snapshots_kept=1000,
    )  # fmt: skip
    yield one
    one.close()


@pytest.mark.kafka
def test_a_lineage_is_made_again_once_kafka_has_dropped_its_events(
    kafka_place: Place, tmp_path: Path
) -> None:
    """Restored from the start, verified through a replay, and replayed again from the archive."""
    place = kafka_place
    place.put(*two_stores(20))
    place.fold()
    cut = {p: place.head(p).snapshot for p in range(2)}
    place.put(*poison(2, first=20), *two_stores(4, first=22))
    operate(place, "op", cut, replay=True, exclude=Exclusion(sources=("bad",)))
    place.fold()

    environ = {**os.environ, "SALESCAST_CONFIG": str(config(place.settings, tmp_path))}
    ran = CliRunner().invoke(make(), ["archive", "--json"], env=environ)
    assert ran.exit_code == 0, ran.output
    ends = dict(place.events.end())
    place.put(*two_stores(1, first=26))
    for log, until in (
        (place.events, {p: at - 3 for p, at in ends.items()}),
        (place.control, dict(place.control.end())),
        (place.letters, dict(place.letters.end())),
    ):
        drop(log, until)
    assert CliRunner().invoke(make(), ["archive", "--verify"], env=environ).exit_code == 0

    place.fold()
    verifier = load_signer(place.settings).verifier
    verification = Verification(
        settings=place.settings, events=place.events, control=place.control,
        dead_letters=DeadLetters(place.letters, place.events), store=place.store, verifier=verifier,
    )  # fmt: skip
    again = verification.verify(home(), place.head(home()).snapshot, from_start=True)
    assert (again.verdict, again.origin) == ("identical", START)
    at = operate(place, "op2", cut, replay=True)
    place.fold()
    assert ("op2", home(), "applied") in [one[:3] for one in place.outcomes()]
    assert place.head(home()).lineage == 3
    assert place.shard(home()).position > at > ends[home()]


@pytest.mark.kafka
def test_an_empty_store_is_filled_from_the_archive(kafka_place: Place, tmp_path: Path) -> None:
    place = kafka_place
    place.put(*two_stores(12))
    place.fold()
    told = [place.shard(p).digest() for p in range(2)]
    for log in (place.events, place.control, place.letters):
        assert isinstance(log, ArchivedLog)
        keep(log.live, log.kept)
        drop(log, dict(log.end()))
    anew = replace(place, store=FileStore(tmp_path / "anew"))
    anew.fold()
    assert [anew.shard(p).digest() for p in range(2)] == told


@pytest.mark.kafka
def test_what_was_dropped_before_it_was_archived_is_loud(kafka_place: Place) -> None:
    log = kafka_place.events
    assert isinstance(log, ArchivedLog)
    kafka_place.put(*two_stores(2))
    keep(log.live, log.kept)
    kept = dict(log.end())
    kafka_place.put(*two_stores(2, first=2))
    drop(log, {p: at + 2 for p, at in kept.items()})
    with pytest.raises(OffsetExpired, match=r"ends at offset \d+, and the log has dropped"):
        keep(log.live, log.kept)
    with pytest.raises(OffsetExpired, match=r"is gone: the log begins at \d+, and the archive"):
        log.read(home(), kept[home()])
    assert log.begin()[home()] == kept[home()] + 2, "what is before a gap is of no use"
    consumer = log.consume({home(): kept[home()]})
    with pytest.raises(OffsetExpired):
        for _ in range(20):
            consumer.poll(10, 0.2)
    consumer.close()


@pytest.mark.kafka
def test_records_dropped_while_they_are_read_come_from_the_archive(kafka_place: Place) -> None:
    log = kafka_place.events
    assert isinstance(log, ArchivedLog)
    kafka_place.put(*two_stores(40))
    consumer = log.consume({home(): 0})
    found: list[Record] = []
    while not found:
        found += consumer.poll(3, 0.5).get(home(), ())
    consumer.close()
    keep(log.live, log.kept)
    consumer = log.consume({home(): len(found)})
    drop(log, {home(): len(found) + 20})
    for _ in range(50):
        if len(found) < 120:
            found += consumer.poll(7, 0.3).get(home(), ())
    consumer.close()
    assert [record.offset for record in found] == list(range(120))


@pytest.mark.kafka
def test_retention_may_be_limited_only_where_there_is_an_archive(kafka_place: Place) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka_place.settings.kafka_bootstrap)
    topic, limited = kafka_place.events.topic, {"retention.ms": "86400000"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, limited)])
    admin.close()
    open_log(kafka_place.settings, "events").close()
    with pytest.raises(TopicMismatch, match=r"retention.ms is 86400000"):
        open_log(replace(kafka_place.settings, archive=""), "events")


def config(settings: Settings, folder: Path) -> Path:
    """A settings file that says the same."""
    names = ("data_dir", "log", "kafka_bootstrap", "topic_prefix", "kafka_group", "archive")
    lines = [f'{name} = "{getattr(settings, name)}"' for name in names]
    path = folder / "settings.toml"
    path.write_text("\n".join([*lines, f"partitions = {settings.partitions}", "grace_s = 0"]))
    return path
