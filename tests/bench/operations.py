"""What operations take where a partition is large: freeze, rollback, replay, its sibling meanwhile.

Two partitions on the embedded log, one learner and the API as a user starts them; the large one
is operated on, and the small one goes on selling. What is timed ends where the API serves it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx

from learner.store import Pointer
from stream.event import Sale, encode
from stream.log import Entry, partition_of
from tests.bench.measure import Options, Row, Series
from tests.chaos.rig import Rig
from tests.integration.deployment import free_port

LARGE, SMALL = 0, 1
STORES, PACKED = 20, 100
#: Days sold before anything is timed, and those of them before the cut that is gone back to.
DAYS, CUT = 8, 4
#: Of so many series of the large partition one sells on a day, but on the first, when all do.
SELLS = 3
FIRST = datetime(2024, 1, 1, 12, tzinfo=UTC)
WAIT_S = 900.0
T = TypeVar("T")


def run(options: Options) -> list[Row]:
    """A partition of 100,000 series."""
    series = 5_000 if options.quick else 100_000
    rounds = 1 if options.quick else 3
    with _deployed() as one:
        speed = one.learn(series)
        freezes = [one.freeze() for _ in range(rounds)]
        closes = [one.close() for _ in range(rounds)]
        kept = [one.roll_back() for _ in range(rounds)]
        again, waits, failed = one.replay()
    name = f"a partition of {series:,} series"
    return [
        Row(what=f"freeze, {name}: until it is answered", figure=Series(tuple(freezes)), unit="s",
            goal=1.0),
        Row(what=f"rollback that keeps facts, {name}: until served", figure=Series(tuple(kept)),
            unit="s", limit="a bucket's close, until served", bare=Series(tuple(closes))),
        Row(what=f"rollback with replay, {name}: learned again", figure=Series((again,)),
            unit="events/s", limit="the same learned first", bare=Series((speed,))),
        Row(what="  meanwhile, a sale of its sibling until published", figure=Series(tuple(waits)),
            unit="s"),
        Row(what="  meanwhile, requests that failed", figure=Series((float(failed),)), unit="",
            goal=0.0),
    ]  # fmt: skip


@contextmanager
def _deployed() -> Iterator[_Deployed]:
    with tempfile.TemporaryDirectory(prefix="salescast-operations-") as folder:
        port = free_port()
        rig = Rig(
            Path(folder), partitions=2, port=port, max_series=1_000_000, snapshot_interval_s=1.0,
            snapshots_kept=30, aside_series=5000, guard="off",
        )  # fmt: skip
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as api:
            try:
                yield _Deployed(rig, api)
            finally:
                rig.close()


class _Deployed:
    """A deployment, its API, and the stores of the large partition and the small one."""

    def __init__(self, rig: Rig, api: httpx.Client) -> None:
        self.rig, self.api = rig, api
        self.stores: dict[int, list[str]] = {LARGE: [], SMALL: []}
        for n in count():
            if all(len(stores) == STORES for stores in self.stores.values()):
                break
            home = self.stores[partition_of(f"s{n}", 2)]
            if len(home) < STORES:
                home.append(f"s{n}")
        self.day, self.ids = 0, count()
        self.cut = Pointer("", 0, 0)

    def learn(self, series: int) -> float:
        """Events of the large partition learned a second, after the cut that is gone back to."""
        self._days(range(CUT), series)
        self.rig.start("learner")
        self.rig.start("api", command="api")
        self.rig.settle(WAIT_S)
        self.cut = self.rig.store.pointers(LARGE).head or self.cut
        self._until(lambda: self.answer(LARGE))
        self._days(range(CUT, DAYS), series)
        started = time.monotonic()
        self.rig.settle(WAIT_S)
        return (
            (self.rig.position(LARGE) - self.cut.position) * PACKED / (time.monotonic() - started)
        )

    def _days(self, days: range, series: int) -> None:
        """Let days be sold; a tenth of the series sells too much on each after the cut."""
        products = series // STORES
        for self.day in days:
            self._sell(LARGE, range(0, products, SELLS if self.day else 1))
            self._sell(SMALL, range(20))
            if self.day >= CUT:
                self._sell(LARGE, range(0, products, 10), source="bad", quantity=12.0)

    def _sell(self, partition: int, products: range, source: str = "till",
              quantity: float = 2.0) -> None:  # fmt: skip
        """Let products be sold in all stores of a partition, on the day that it is."""
        waiting, entries = [], []
        for store in self.stores[partition]:
            for n in products:
                waiting.append(
                    encode(Sale(id=f"{next(self.ids)}", source=source, store=store,
                                product=f"p{n}", quantity=quantity, price=1.0,
                                time=FIRST + timedelta(days=self.day)))
                )  # fmt: skip
                if len(waiting) == PACKED:
                    entries.append(Entry(partition, None, b"[" + b",".join(waiting) + b"]"))
                    waiting = []
        if waiting:
            entries.append(Entry(partition, None, b"[" + b",".join(waiting) + b"]"))
        self.rig.send(entries)

    def answer(self, partition: int) -> dict[str, Any] | None:
        """A forecast of the partition; ``None`` where there is none."""
        answer = self.api.get(f"/v1/forecasts/{self.stores[partition][0]}/p0")
        return answer.json() if answer.status_code == 200 else None

    def _until(self, ask: Callable[[], T | None]) -> T:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            self.rig.alive()
            with suppress(httpx.TransportError):  # it starts
                found = ask()
                if found is not None:
                    return found
            time.sleep(0.005)
        raise AssertionError(f"waited {WAIT_S:g} s; {self.rig.tails()}")

    def _operate(self, kind: str, **more: Any) -> str:
        """Ask for an operation on the large partition; its id."""
        answer = self.api.post(
            "/v1/operations", json={"kind": kind, "who": "bench", "reason": "timed", **more}
        )
        assert answer.status_code < 300, answer.text
        return str(answer.json()["id"])

    def freeze(self) -> float:
        """Seconds from the request until an answer says that it is frozen."""
        started = time.monotonic()
        self._operate("freeze")
        self._until(lambda: self._answered("frozen") or None)
        took_s = time.monotonic() - started
        self._operate("resume")
        self._until(lambda: not self._answered("frozen") or None)
        return took_s

    def close(self) -> float:
        """Seconds from the sale that ends a day until forecasts of the next one are served."""
        before = self._answered("origin")
        self.day += 2  # sales of an hour earlier are waited for
        started = time.monotonic()
        self._sell(LARGE, range(1))
        self._until(lambda: self._answered("origin") != before or None)
        return time.monotonic() - started

    def roll_back(self) -> float:
        """Seconds from the request until what is served has learned on from the cut."""
        started = time.monotonic()
        id = self._operate("rollback", snapshots=[self.cut.snapshot])

        def served() -> bool | None:
            outcomes = self.api.get(f"/v1/operations/{id}").json()["outcomes"]
            offsets = [one["offset"] for one in outcomes if one["partition"] == LARGE]
            at = int(self._answered("snapshot").split("-")[2].removeprefix("o"))
            return (offsets and offsets[0] is not None and at > offsets[0]) or None

        self._until(served)
        return time.monotonic() - started

    def replay(self) -> tuple[float, list[float], int]:
        """Events learned again a second; a sale of the sibling's waits; requests that failed."""
        waits, failed = [], 0
        until = self.rig.events.end()[LARGE]
        started = time.monotonic()
        id = self._operate(
            "rollback", snapshots=[self.cut.snapshot], replay=True, exclude={"sources": ["bad"]}
        )
        while self.api.get(f"/v1/operations/{id}").json()["state"] == "pending":
            self._sell(SMALL, range(1))
            sent, end = time.monotonic(), self.rig.events.end()[SMALL]
            while self.rig.position(SMALL) < end:
                failed += self.answer(LARGE) is None
                self.rig.alive()
                time.sleep(0.02)
            waits.append(time.monotonic() - sent)
        took_s = time.monotonic() - started
        return (until - self.cut.position) * PACKED / took_s, waits, failed

    def _answered(self, field: str) -> Any:
        """A field of the large partition's answer."""
        return self._until(lambda: self.answer(LARGE))[field]
