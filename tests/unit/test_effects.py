"""The owner's side of the control log is read on, and not anew for each thing it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from learner import worker as module
from learner.effects import AuditTrail
from learner.operations import Operation
from stream.errors import LogUnavailable
from stream.log import Entry, Record
from tests.learner_parts import day
from tests.unit.test_worker import Place, home, marker, two_stores


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path)
    yield one
    one.close()


@pytest.fixture
def offsets(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each reading of the control log begins."""
    began: list[int] = []
    read = place.control.read

    def noted(partition: int, offset: int, max_records: int = 2) -> list[Record]:
        began.append(offset)
        return read(partition, offset, max_records)

    monkeypatch.setattr(place.control, "read", noted)
    return began


def ask(place: Place, *ids: str) -> None:
    place.control.append([
        Entry(0, None, msgspec.json.encode(
            Operation(id=id, kind="suspect", who="t", reason="a test", time=day(0), cut={})
        )) for id in ids
    ])  # fmt: skip


def test_the_control_log_is_read_on_from_where_it_was_read_up_to(
    place: Place, offsets: list[int]
) -> None:
    trail = AuditTrail(place.control)
    assert trail.operations() == {}
    ask(place, "a", "b", "c")
    assert list(trail.operations()) == list(trail.operations()) == ["a", "b", "c"]
    ask(place, "d", "a")
    assert {id: one.offset for id, one in trail.operations().items()} == {
        "a": 0, "b": 1, "c": 2, "d": 3
    }  # fmt: skip
    assert offsets == [0, 0, 2, 3, 3, 3, 5]


def test_what_was_read_before_the_log_was_away_counts(
    place: Place, offsets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(place, "a", "b", "c")
    trail, noted = AuditTrail(place.control), place.control.read

    def away(partition: int, offset: int) -> list[Record]:
        if offset == 3:
            raise LogUnavailable("away")
        return noted(partition, offset)

    with monkeypatch.context() as patched:
        patched.setattr(place.control, "read", away)
        with pytest.raises(LogUnavailable):
            trail.operations()
    assert list(trail.operations()) == ["a", "b", "c"]
    assert offsets == [0, 2, 3]


def test_a_learner_reads_the_control_log_once_however_many_markers_come(
    place: Place, offsets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)
    names = [f"op{n}" for n in range(5)]
    ask(place, *names)
    place.put(*two_stores(2))
    place.put(*[marker(name) for name in names], partition=home())
    place.fold()
    assert (offsets.count(0), max(offsets)) == (1, 10), "five operations, five outcomes"
