"""Several learners on one topic: they share its partitions, and end as one would."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.corpus import days
from tests.chaos.rig import PARTITIONS, Rig, on_kafka, rigged, seed_of, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def rig(tmp_path: Path, apache_kafka: str, redis_url: str) -> Iterator[Rig]:
    with rigged(tmp_path, **on_kafka(apache_kafka, redis_url)) as one:
        yield one


def test_three_learners_join_leave_die_and_hang_and_end_as_one_undisturbed(rig: Rig) -> None:
    world = days(seed_of("many workers"), 30, PARTITIONS)

    def some(count: int) -> None:
        for _ in range(count):
            rig.send(next(world))
            time.sleep(0.05)

    rig.start("a")
    rig.shared("a")
    some(5)
    rig.start("b", "c")
    some(5)
    rig.shared("a", "b", "c")
    assert rig.end("a", signal.SIGTERM) == 0
    assert "all that was folded is published" in rig.said("a")
    some(5)
    rig.end("b", signal.SIGKILL)
    some(5)
    rig.start("d")
    rig.shared("c", "d")
    before = rig.heads()
    rig.tell("c", signal.SIGSTOP)
    some(5)
    until(lambda: rig.owners()["d"] == PARTITIONS, "d to take over what c held")
    rig.settle()
    rig.tell("c", signal.SIGCONT)  # a zombie: it thinks that it owns what d has folded
    some(5)
    until(lambda: "lost" in rig.said("c"), "c to be told that its share is lost")
    rig.shared("c", "d")
    rig.settle()
    assert all(now > before[partition] for partition, now in rig.heads().items())
    rig.verify()
