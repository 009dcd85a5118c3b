"""Dead letters keep the bytes and the reason, and are found again by where they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.dead_letters import DeadLetter, DeadLetters, Index, item_bytes
from stream.event import MAX_ITEMS, MAX_RECORD_BYTES, decode
from stream.log import Entry
from stream.sqlite_log import SqliteLog
from stream.window import Letter


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[SqliteLog, SqliteLog]]:
    events = SqliteLog(tmp_path / "log.db", "sales.events", 2)
    dead = SqliteLog(tmp_path / "log.db", "sales.dead_letters", 2)
    yield events, dead
    events.close()
    dead.close()


def test_an_item_keeps_its_bytes_and_a_torn_record_is_one_item() -> None:
    assert item_bytes(b' [ {"a":  1},2 ]', 0) == b'{"a":  1}'
    assert item_bytes(b' [ {"a":  1},2 ]', 1) == b"2"
    assert item_bytes(b'{"a": 1}', 0) == b'{"a": 1}'
    assert item_bytes(b"[1, 2", 0) == b"[1, 2"
    assert item_bytes(b"\xff", 0) == b"\xff"


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b",".join([b'{"id": "%d"}' % n for n in range(MAX_ITEMS + 1)]) + b"]",
        b'[{"id": "0"}, {"x": "' + b"x" * MAX_RECORD_BYTES + b'"}]',
        b"[]",
    ],
    ids=["items", "bytes", "nothing"],
)
def test_a_record_that_is_refused_whole_keeps_all_its_bytes(value: bytes) -> None:
    assert len(decode(value)) == 1
    assert item_bytes(value, 0) == value


def test_a_letter_says_where_it_was_and_why_as_kafka_connect_does(
    logs: tuple[SqliteLog, SqliteLog],
) -> None:
    events, dead = logs
    DeadLetters(dead, events).append([DeadLetter(1, 7, 2, "late", "too late", b'{"x": 1}')])
    (record,) = dead.read(1, 0)
    assert record.value == b'{"x": 1}'
    assert record.key == f"{events.topic_id}/1/7/2".encode()
    assert dict(record.headers) == {
        "__connect.errors.topic": b"sales.events",
        "__connect.errors.partition": b"1",
        "__connect.errors.offset": b"7",
        "__connect.errors.stage": b"TRANSFORMATION",
        "__connect.errors.class.name": b"stream.window",
        "__connect.errors.exception.class.name": b"stream.event.Refusal",
        "__connect.errors.exception.message": b"too late",
        "salescast.reason": b"late",
        "salescast.item": b"2",
    }


def test_bytes_come_from_the_records_at_hand_and_else_from_the_log(
    logs: tuple[SqliteLog, SqliteLog],
) -> None:
    events, dead = logs
    events.append([Entry(0, None, b'[{"old": 1}, {"old": 2}]'), Entry(0, None, b'{"new": 1}')])
    at_hand = events.read(0, 1)
    letters = [
        Letter(1, 0, "malformed", "m"),
        Letter(0, 1, "past_max_series", "p"),
        Letter(99, 0, "late", "its record is gone"),
    ]
    found = DeadLetters(dead, events).collect(0, letters, at_hand)
    assert [letter.value for letter in found] == [b'{"new": 1}', b'{"old": 2}', b""]
    assert [letter.reason for letter in found] == ["malformed", "past_max_series", "late"]


def test_the_index_follows_the_log_and_finds_reasons(logs: tuple[SqliteLog, SqliteLog]) -> None:
    events, dead = logs
    letters, index = DeadLetters(dead, events), Index(dead, events)
    assert index.step() == 0
    letters.append([DeadLetter(1, 7, 2, "late", "too late", b"{}")])
    assert index.find(1, 7, 2) is None
    assert index.step() == 1
    found = index.find(1, 7, 2)
    assert found is not None
    assert (found.reason, found.detail) == ("late", "too late")
    assert "replay" in found.remedy
    assert index.find(1, 7, 1) is None
    assert index.find(0, 7, 2) is None


def test_the_index_keeps_the_newest_only(logs: tuple[SqliteLog, SqliteLog]) -> None:
    events, dead = logs
    index = Index(dead, events, kept=3)
    index.step()
    DeadLetters(dead, events).append(
        [DeadLetter(0, offset, 0, "late", "", b"{}") for offset in range(10)]
    )
    assert index.step() == 10
    assert [offset for offset in range(10) if index.find(0, offset, 0)] == [7, 8, 9]


def test_letters_of_a_recreated_topic_are_nobodys(
    logs: tuple[SqliteLog, SqliteLog], tmp_path: Path
) -> None:
    events, dead = logs
    other = SqliteLog(tmp_path / "other.db", "sales.events", 2)
    DeadLetters(dead, other).append([DeadLetter(0, 0, 0, "late", "", b"{}")])
    dead.append([Entry(0, b"not/a/key", b""), Entry(0, None, b"")])
    index = Index(dead, events)
    assert index.step() == 3
    assert index.find(0, 0, 0) is None
    other.close()
