"""How much of the chaos: all of it, or with ``CHAOS_SHORT`` a part that fits into CI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.redis_server import RedisServer
from tests.chaos.rig import Rig, on_kafka, rigged
from tests.redis_fixtures import redis_folder


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test's own, on a TCP port, so that a proxy can be put before it."""
    with redis_folder() as folder, RedisServer(folder, tcp=True) as server:
        yield server


@pytest.fixture
def rig(tmp_path: Path, apache_kafka: str, redis_server: RedisServer) -> Iterator[Rig]:
    """A distributed deployment without learners yet."""
    with rigged(tmp_path, **on_kafka(apache_kafka, redis_server.url)) as one:
        yield one


@pytest.fixture
def on_cluster(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[[str, int], Rig]]:
    """The same on some cluster of so many brokers."""
    made: list[Rig] = []

    def make(bootstrap: str, replication: int) -> Rig:
        settings = {**on_kafka(bootstrap, redis_server.url), "kafka_replication": replication}
        made.append(Rig(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
