"""Learners that are killed, stopped, joined and left: an accepted event is learned exactly once."""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import time

import pytest

from infra.redis_server import RedisServer
from tests.chaos.corpus import days
from tests.chaos.proxy import Proxy
from tests.chaos.rig import PARTITIONS, SHORT, Rig, long, seed_of, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_kill_9_at_random_points(rig: Rig) -> None:
    seed = seed_of("kill -9")
    drawn, rounds = random.Random(seed), 6 if SHORT else 50
    world = days(seed, 2 * rounds + 10, PARTITIONS)
    rig.start("a", "b")
    rig.shared("a", "b")
    for _ in range(rounds):
        rig.send(next(world))
        time.sleep(drawn.uniform(0, 2))
        victim = drawn.choice("ab")
        rig.end(victim, signal.SIGKILL)
        rig.send(next(world))
        # Some put their snapshots by a forked process, some in the loop.
        rig.start(victim, aside_series=drawn.choice((0, 1_000_000)))
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


#: What a publication says to Redis, step by step, as it is seen on the wire.
STEPS = (b"TOUCH", rb"SET\r\n\$\d+\r\n\S+chunk", b"HSET", rb"EVAL\r\n", b"WAITAOF")


class Strike:
    """Kills a process by -9 when a step of publishing passes the proxy before its store.

    Parameters
    ----------
    step
        What a request of this step looks like.
    after
        Once the reply is there; else before the request is passed on.
    """

    def __init__(self, proxy: Proxy, step: bytes, *, after: bool) -> None:
        self._step = re.compile(step)
        self._after = after
        self.victim: subprocess.Popen[bytes] | None = None
        self.struck = False
        proxy.watch, proxy.answered = self._asked, self._replied

    def _asked(self, data: bytes) -> None:
        if self._step.search(data):
            self.struck = True
            if not self._after:
                self._kill()

    def _replied(self, data: bytes) -> None:
        if self.struck:
            self._kill()

    def _kill(self) -> None:
        if self.victim is not None:
            self.victim.kill()
            time.sleep(0.05)  # nothing is passed on before it is dead


@pytest.mark.parametrize(
    "aside", [0, pytest.param(1_000_000, marks=long)], ids=["aside", "in the loop"]
)
def test_kill_9_before_and_after_each_step_of_publishing(
    rig: Rig, redis_server: RedisServer, aside: int
) -> None:
    world = days(seed_of("steps"), 2 * len(STEPS) + 12, PARTITIONS)
    strikes = list(itertools.product(STEPS, (False, True)))
    for step, after in strikes[:: 3 if SHORT else 1]:
        rig.send(next(world))
        with Proxy(redis_server.port) as proxy:
            strike = Strike(proxy, step, after=after)
            url = f"redis://127.0.0.1:{proxy.port}/0"
            strike.victim = rig.start("victim", redis_url=url, aside_series=aside)
            until(
                lambda: rig.running["victim"].poll() is not None,
                lambda: f"a kill: {rig.trace('victim')}",
            )
            rig.running.pop("victim")
    rig.start("b", aside_series=aside)
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


def test_learners_join_and_leave_every_two_seconds(rig: Rig) -> None:
    seed = seed_of("join and leave")
    drawn, rounds = random.Random(seed), 5 if SHORT else 40
    world = days(seed, 3 * rounds + 5, PARTITIONS)
    rig.start("stays")
    rig.shared("stays")
    for n in range(rounds):
        rig.start(f"guest-{n}", aside_series=drawn.choice((0, 1_000_000)))
        for _ in range(3):
            rig.send(next(world))
            time.sleep(2 / 3)
        if n >= 2:
            # By now it has joined, or is about to, or restores what it was given.
            assert rig.end(f"guest-{n - 2}", signal.SIGTERM) in (0, -signal.SIGTERM)
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


def test_zombies_do_no_harm(rig: Rig) -> None:
    seed = seed_of("zombies")
    rounds = 1 if SHORT else 6
    world = days(seed, 8 * rounds + 4, PARTITIONS)
    rig.start("a", "b")
    rig.shared("a", "b")
    for n in range(rounds):
        stopped, other = ("a", "b") if n % 2 else ("b", "a")
        for _ in range(3):
            rig.send(next(world))
        before = rig.heads()
        rig.tell(stopped, signal.SIGSTOP)
        for _ in range(5):
            rig.send(next(world))
        until(lambda name=other: rig.owners()[name] == PARTITIONS, f"{other} to take over")  # type: ignore[misc]
        rig.tell(stopped, signal.SIGCONT)
        rig.shared("a", "b")
        assert all(now >= before.get(p, (0, 0)) for p, now in rig.heads().items())
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()
