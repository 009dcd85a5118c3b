"""What a Kafka log does while no broker answers: on Tansu, killed or stopped in the middle."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream import kafka_log
from stream.errors import LogUnavailable
from stream.kafka_log import KafkaLog
from stream.log import Entry
from tests.kafka_fixtures import tansu

#: Sockets whose connection was refused kafka-python leaves to the garbage collector, which warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning",
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Wait for brokers as long as a test may; and keep no errors, which hold on to sockets."""
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")
    for name in ("CONNECT_S", "APPEND_S", "ASK_S"):
        monkeypatch.setattr(kafka_log, name, 1.0)


@pytest.fixture
def broker() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A broker of this test's own, and its process."""
    with tansu() as (address, process):
        yield address, process
        process.send_signal(signal.SIGCONT)


def hang(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, and wait until none of its threads runs any more."""
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 10
    while any(_runs(one) for one in Path(f"/proc/{process.pid}/task").iterdir()):
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.005)


def _runs(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] != "T"


def held() -> tuple[int, int]:
    """File handles and threads of this process.

    Sockets whose connection was refused kafka-python leaves to the garbage collector.
    """
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def held_after(times: int, failing: Callable[[], Any]) -> list[tuple[int, int]]:
    found = []
    for _ in range(times):
        with pytest.raises(LogUnavailable):
            failing()
        found.append(held())
    return found


def test_a_log_that_cannot_be_opened_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "CONNECT_S", 0.1)
    before = held()
    found = held_after(4, lambda: KafkaLog("127.0.0.1:1", "sales.events", partitions=1))
    assert found == [before] * 4


@pytest.mark.parametrize("ask", ["end", "join", "append"])
def test_a_question_without_an_answer_leaves_nothing_open(
    ask: str, broker: tuple[str, subprocess.Popen[bytes]], unique_topic: str
) -> None:
    address, process = broker
    log = KafkaLog(address, unique_topic, partitions=1)
    process.kill()
    process.wait()
    asked = {"end": log.end, "join": log.join, "append": lambda: log.append([Entry(0, None, b"")])}
    found = held_after(4, asked[ask])
    assert found[3][0] <= found[0][0] + 1  # what stays open is connecting again, or is not
    assert {threads for _, threads in found} == {found[0][1]}
    log.close()


def test_an_append_to_a_broker_that_hangs_is_unavailable_and_leaves_no_thread(
    broker: tuple[str, subprocess.Popen[bytes]], unique_topic: str
) -> None:
    address, process = broker
    log = KafkaLog(address, unique_topic, partitions=1)
    _, threads = held()
    log.append([Entry(0, None, b"before")])
    hang(process)
    with pytest.raises(LogUnavailable):
        log.append([Entry(0, None, b"meanwhile")])
    assert held()[1] == threads
    process.send_signal(signal.SIGCONT)
    log.append([Entry(0, None, b"after")])
    log.close()


def test_a_log_is_closed_whole_while_its_broker_hangs(
    broker: tuple[str, subprocess.Popen[bytes]], unique_topic: str
) -> None:
    address, process = broker
    before = held()
    log = KafkaLog(address, unique_topic, partitions=1)
    log.append([Entry(0, None, b"one")])
    log.end()
    hang(process)
    log._producer.send(unique_topic, b"under way", partition=0)
    log.close()
    after = held()
    assert after[0] <= before[0]
    assert after[1] == before[1]


def test_a_read_gives_what_there_is_when_the_broker_goes_silent_in_its_middle(
    broker: tuple[str, subprocess.Popen[bytes]],
    unique_topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, process = broker
    log = KafkaLog(address, unique_topic, partitions=1)
    for _ in range(30):  # more than can be under way at once
        log.append([Entry(0, None, os.urandom(900_000))])
    assert len(log.read(0, 0, 1)) == 1
    poll = log._reader.poll

    def silent_after_some(*asked: Any) -> Any:
        polled = poll(*asked)
        if polled:
            hang(process)
        return polled

    monkeypatch.setattr(log._reader, "poll", silent_after_some)
    assert 1 <= len(log.read(0, 1)) < 29
    process.send_signal(signal.SIGCONT)
    log.close()


def test_a_broker_that_goes_away_fills_no_log(broker: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, process = broker
    program = f"""
import time
from scripts.console import log_to_stderr
from stream import kafka_log
from stream.errors import LogUnavailable
from stream.settings import Settings
log_to_stderr(Settings(), "learner")
kafka_log.CONNECT_S = kafka_log.ASK_S = 1.0
log = kafka_log.KafkaLog({address!r}, "sales.events", partitions=1)
consumer = log.consume({{0: 0}})
consumer.poll(1, 0.1)
print("there", flush=True)
input()
end = time.monotonic() + 1.5
while time.monotonic() < end:
    for ask in (lambda: consumer.poll(1, 0.1), log.end):
        try:
            ask()
        except LogUnavailable:
            pass
"""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "there\n"
    process.kill()
    assert child.communicate("\n", timeout=30)[1] == ""
