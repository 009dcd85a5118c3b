"""Dead letters keep the bytes and the reason, and are found again by where they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream import dead_letters
from stream.dead_letters import DeadLetter, DeadLetters, Index
from stream.event import MAX_ITEMS, MAX_RECORD_BYTES, decode, item_values
from stream.log import Entry, read_at
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
    assert item_values(b' [ {"a":  1},2 ]') == [b'{"a":  1}', b"2"]
    assert item_values(b'{"a": 1}') == [b'{"a": 1}']
    assert item_values(b"[1, 2") == [b"[1, 2"]
    assert item_values(b"\xff") == [b"\xff"]


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
    assert item_values(value) == [value]


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


def counted(monkeypatch: pytest.MonkeyPatch, part: object, name: str) -> list[tuple[object, ...]]:
    """The calls of a function from now on, by their arguments."""
    inner, calls = getattr(part, name), list[tuple[object, ...]]()

    def call(*args: object) -> object:
        calls.append(args)
        return inner(*args)

    monkeypatch.setattr(part, name, call)
    return calls


def test_a_record_of_many_letters_is_read_and_split_once(
    logs: tuple[SqliteLog, SqliteLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, dead = logs
    items = [b'{"id": "%d"}' % n for n in range(MAX_ITEMS)]
    value = b"[" + b",".join(items) + b"]"
    events.append([Entry(0, None, value) for _ in range(4)])
    at_hand = events.read(0, 3)
    letters = [
        Letter(offset, item, "late", "l") for item in range(MAX_ITEMS) for offset in (3, 0, 2)
    ]
    splits = counted(monkeypatch, dead_letters, "item_values")
    reads = counted(monkeypatch, events, "read")
    found = DeadLetters(dead, events).collect(0, letters, at_hand)
    assert [(one.offset, one.item) for one in found] == [one[:2] for one in letters]
    assert [one.value for one in found] == [items[one.item] for one in letters]
    assert (len(splits), len(reads)) == (3, 1)


def test_records_at_some_offsets_are_read_with_their_neighbours(
    logs: tuple[SqliteLog, SqliteLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, _ = logs
    events.append([Entry(0, None, b"%d" % n) for n in range(500)])
    reads = counted(monkeypatch, events, "read")
    asked = [499, 3, 7, 3, 450, *range(100, 300), 1000]
    found = [record.offset for record in read_at(events, 0, asked)]
    assert found == sorted(set(asked) - {1000})
    assert reads == [(0, 3, 100), (0, 103, 100), (0, 203, 97), (0, 450, 50), (0, 1000, 1)]
    assert list(read_at(events, 0, [])) == []


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
