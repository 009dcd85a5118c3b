"""Several learners on one topic: they share its partitions, and end as one would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.kafka.cluster import die_with_parent
from tests.chaos.corpus import days
from tests.chaos.rig import PARTITIONS, Rig, on_kafka, rigged, seed_of, until
from tests.integration.deployment import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def rig(tmp_path: Path, apache_kafka: str, redis_url: str) -> Iterator[Rig]:
    with rigged(tmp_path, **on_kafka(apache_kafka, redis_url)) as one:
        yield one


def _told(rig: Rig) -> None:
    """What an operator is told of it."""
    environ = {f"SALESCAST_{name.upper()}": str(value) for name, value in rig.values.items()}
    port = free_port()
    api = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "api", "--port", str(port)],
        env={**os.environ, **environ}, preexec_fn=die_with_parent,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/livez").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "the API")
        found = httpx.get(f"{url}/v1/shards").json()["items"]
        shown = subprocess.run(
            [sys.executable, "-m", "scripts.cli", "shards", "--url", url],
            env={**os.environ, **environ, "COLUMNS": "250"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    finally:
        api.kill()
        api.wait()
    owners = {f"{socket.gethostname()}:{rig.running[name].pid}" for name in ("c", "d")}
    assert {one["owner"] for one in found} == owners
    for one in found:
        assert one["owner"] in shown
        assert one["lag"] == one["log_end"] - one["position"] >= 0
        assert (one["lag_s"] > 0) == (one["lag"] > 0)
        assert one["lineage"] == 1
        assert one["snapshot"] is not None
        assert one["series"] > 0


def test_learners_started_at_one_moment_share_the_partitions_in_seconds(rig: Rig) -> None:
    """As a service manager starts them; once each is up, none may be left without a share."""
    world = days(seed_of("at one moment"), 6, PARTITIONS)
    for _ in range(3):
        rig.send(next(world))
    names = [f"learner-{n}" for n in range(PARTITIONS)]
    rig.start(*names)
    rig.shared(*names, wait_s=40)
    for entries in world:
        rig.send(entries)
    rig.settle(40)
    rig.shared(*names, wait_s=1)
    rig.verify()


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
    _told(rig)
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
