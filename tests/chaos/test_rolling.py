"""A rolling restart under query load: all learners and replicas are replaced, no request fails."""

from __future__ import annotations

import signal
import threading
import time

import httpx
import pytest

from tests.chaos.corpus import days
from tests.chaos.rig import PARTITIONS, SHORT, Rig, seed_of, until
from tests.integration.deployment import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


class Balancer:
    """Asks one replica after the other, as what stands before them does.

    One that takes no connection is passed over; what fails once a request was sent is a failure.
    """

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.answered = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=30.0, trust_env=False) as client:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                refused = 0
                for at in range(len(self.ports)):
                    port = self.ports[(turn + at) % len(self.ports)]
                    try:
                        answer = client.get(f"http://127.0.0.1:{port}/v1/series?limit=3")
                    except httpx.ConnectError:
                        refused += 1
                        continue
                    except httpx.HTTPError as error:
                        self.failed.append(repr(error))
                        break
                    if answer.status_code == 200:
                        self.answered += 1
                    else:
                        self.failed.append(answer.text)
                    break
                if refused == len(self.ports):
                    self.failed.append("no replica took a connection")
                self._stop.wait(0.01)


def test_all_is_replaced_while_requests_come_in(rig: Rig) -> None:
    rounds = 1 if SHORT else 3
    world = days(seed_of("rolling"), 6 * rounds + 6, PARTITIONS)
    balancer = Balancer()

    def replica(name: str) -> int:
        port = free_port()
        rig.start(name, command="api", port=port, replica_poll_s=0.1)

        def ready() -> bool:
            rig.alive()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
            except httpx.HTTPError:
                return False

        until(ready, lambda: f"{name}: {rig.said(name)[-2000:]}")
        return port

    rig.start("learner-a")
    rig.shared("learner-a")
    rig.start("learner-b")
    rig.shared("learner-a", "learner-b")
    for _ in range(3):
        rig.send(next(world))
    rig.settle()
    ports = {name: replica(name) for name in ("api-a", "api-b")}
    balancer.ports = list(ports.values())
    balancer.start()
    try:
        for n in range(rounds):
            for name in ("learner-a", "api-a", "learner-b", "api-b"):
                rig.send(next(world))
                if name.startswith("api"):
                    fresh = replica(f"{name}-{n}")
                    balancer.ports = [*balancer.ports, fresh]
                    old = name if n == 0 else f"{name}-{n - 1}"
                    assert rig.end(old, signal.SIGTERM) == 0, rig.said(old)[-2000:]
                    balancer.ports = [port for port in balancer.ports if port != ports[name]]
                    ports[name] = fresh
                else:
                    assert rig.end(name, signal.SIGTERM) == 0
                    rig.start(name)
                    rig.shared("learner-a", "learner-b")
            time.sleep(0.5)
    finally:
        balancer.stop()
    assert balancer.failed == []
    assert balancer.answered > 100
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()
