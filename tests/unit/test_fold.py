"""The fold against the oracle, and against itself: whatever the order, packing or interruption."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from learner.serving import CENSORED, MISSING, OBSERVED
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from stream.event import AnyEvent, Sale, decode, encode, time_us
from stream.log import Record
from stream.settings import Settings
from stream.window import OUTCOMES
from tests import oracle
from tests.strategies import World, logs, one_fact_two_orders, voided

# Each log is folded up to three times with every model: minutes where the processor is shared.
pytestmark = pytest.mark.timeout(900)
#: Logs that are folded whole more than once: they cost most of the suite. `make fuzz` draws more.
LOGS = int(os.environ.get("FOLD_LOGS", "50"))

STATUS = {"missing": MISSING, "observed": OBSERVED, "censored": CENSORED}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def fold(
    chosen: Settings, partition: int, records: list[Record]
) -> tuple[Shard, list[tuple[int, int, str]]]:
    """A log folded whole: of each item there is exactly one outcome, whatever is tested beside."""
    shard = Shard(chosen, partition)
    letters = shard.fold(records).letters
    counts = shard.counts()
    assert sum(counts.values()) == sum(len(decode(record.value)) for record in records)
    assert all(n >= 0 for line in shard.window.counts.values() for n in line)
    assert len(letters) == counts["refused"] + counts["late"]
    return shard, sorted((one.offset, one.item, one.reason) for one in letters)


def counted(shard: Shard) -> dict[tuple[str, str], int]:
    return {
        (source, outcome): n
        for source, line in shard.window.counts.items()
        for outcome, n in zip(OUTCOMES, line, strict=True)
        if n
    }


@given(logs())
def test_the_fold_reads_a_log_as_the_oracle_does(drawn: tuple[World, list[Record]]) -> None:
    world, records = drawn
    # The oracle knows of no quarantine, nor of the guard that makes one.
    compare(replace(world.settings, guard="off"), world.partition, records)


def test_a_gram_voided_after_its_close_leaves_no_residue() -> None:
    """Units are kept as float32: taking .001 out again must not leave 5e-11 behind."""
    chosen = Settings(partitions=1, bucket="hour", grace_s=0, revise_buckets=1)
    start = datetime(2024, 3, 1, tzinfo=UTC)
    gram = Sale(id="0", source="till", store="s", product="p", time=start, quantity=0.001)
    later = [
        msgspec.structs.replace(gram, id=str(n), time=start + timedelta(minutes=40 * n), quantity=0)
        for n in range(1, 6)
    ]
    events: list[AnyEvent] = [gram, *later[:2], voided(gram, "void"), *later[2:]]
    now = (start + timedelta(days=1) - EPOCH) // timedelta(microseconds=1)
    records = [Record(0, n, now, None, encode(event)) for n, event in enumerate(events)]
    shard = compare(chosen, 0, records)
    assert shard.counts()["void"] == 2
    bucket = shard.calendar.index(time_us(start))
    assert shard.panel.units(bucket).tolist() == [0.0]


def compare(chosen: Settings, partition: int, records: list[Record]) -> Shard:
    """Fold and oracle say the same of a log: counts, refusals, facts, what is open, time."""
    said = oracle.read(chosen, records)
    shard, letters = fold(chosen, partition, records)
    assert counted(shard) == said.counts
    assert letters == said.refusals
    if said.watermark is not None:
        assert shard.window.watermark_us == (said.watermark - EPOCH) // timedelta(microseconds=1)
    assert sorted(shard.panel.keys) == sorted(said.facts)
    for key, facts in said.facts.items():
        row = shard.panel.rows[key]
        for start, fact in facts.items():
            bucket = shard.calendar.index((start - EPOCH) // timedelta(microseconds=1))
            if not shard.panel.kept(bucket):
                continue
            assert shard.panel.status(bucket)[row] == STATUS[fact.status], (key, start)
            if fact.status != "missing":
                assert shard.panel.units(bucket)[row] == np.float32(fact.gross / 1e6), (key, start)
            came_back = shard.panel.returns.of(row, np.array([bucket]))
            assert came_back.tolist() == [fact.returns / 1e6]
    for key, sold in said.open_sold.items():
        for start, gross in sold.items():
            bucket = shard.calendar.index((start - EPOCH) // timedelta(microseconds=1))
            assert shard.window.open[bucket].cells[key][0] == gross
    return shard


@hypothesis_settings(max_examples=LOGS)
@given(one_fact_two_orders())
def test_order_within_grace_and_packing_leave_no_trace(
    drawn: tuple[World, list[Record], list[Record]],
) -> None:
    world, first, second = drawn
    a, _ = fold(world.settings, world.partition, first)
    b, _ = fold(world.settings, world.partition, second)
    assert a.digest() == b.digest()
    assert a.forecast().tobytes() == b.forecast().tobytes()
    assert a.open_part().sold.tobytes() == b.open_part().sold.tobytes()
    assert counted(a) == counted(b)


@hypothesis_settings(max_examples=LOGS)
@given(logs(), st.data())
def test_a_snapshot_and_restore_at_any_record_changes_nothing(
    drawn: tuple[World, list[Record]], data: st.DataObject
) -> None:
    world, records = drawn
    whole, letters = fold(world.settings, world.partition, records)
    at = data.draw(st.integers(0, len(records)))
    half, before = fold(world.settings, world.partition, records[:at])
    again = take_up(world.settings, world.partition, lay_down(half))
    after = [(one.offset, one.item, one.reason) for one in again.fold(records[at:]).letters]
    assert sorted([*before, *after]) == letters
    assert again.digest() == whole.digest()
    assert again.forecast().tobytes() == whole.forecast().tobytes()
    assert counted(again) == counted(whole)
    assert again.position == whole.position
