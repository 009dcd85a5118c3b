"""A whole deployment as a user starts it: processes, ports, and a client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx

from infra.ports import free_ports

WAIT_S = 60.0
T = TypeVar("T")


def free_port() -> int:
    """A port nobody listens on now, nor will by chance."""
    return free_ports(1)[0]


def until(ask: Callable[[], T | None], what: str, wait_s: float = WAIT_S) -> T:
    """The first answer that is not ``None``; fails after ``wait_s``."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        try:
            found = ask()
        except httpx.HTTPError:
            found = None
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {wait_s:g} s for {what}")


class Deployment:
    """Processes of one deployment, each started with the same settings."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.metrics_port = free_port()
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SALESCAST_")},
            "SALESCAST_DATA_DIR": str(folder / "data"),
            "SALESCAST_PORT": str(self.port),
            "SALESCAST_METRICS_PORT": str(self.metrics_port),
            "SALESCAST_CONSOLE_PORT": "0",
            "SALESCAST_SNAPSHOT_INTERVAL_S": "0.3",
            "SALESCAST_REPLICA_POLL_S": "0.05",
            **{f"SALESCAST_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=10.0, trust_env=False
        )
        self.learner = httpx.Client(
            base_url=f"http://127.0.0.1:{self.metrics_port}", timeout=10.0, trust_env=False
        )
        self.sent: dict[int, int] = {}  # the last offset by partition
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        """Start subcommands, and wait for what they answer."""
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "scripts.cli", name],
                    env=self.environ, stdout=log, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
        if "learner" in names or "up" in names:
            until(lambda: self._ok(self.learner, "/readyz"), "the learner")
        if "api" in names or "up" in names:
            until(lambda: self._ok(self.api, "/livez"), "the API")

    def _ok(self, client: httpx.Client, path: str) -> bool | None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
        return True if client.get(path).status_code == 200 else None

    def end(self, name: str, how: signal.Signals) -> int:
        """Send a signal, and wait for the end; the exit status."""
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(40)

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """End what still runs."""
        for name in list(self.processes):
            if self.processes[name].poll() is None:
                self.end(name, signal.SIGTERM)
        self.api.close()
        self.learner.close()

    def send(self, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Send events as NDJSON; all must be accepted."""
        lines = b"\n".join(json.dumps(event).encode() for event in events)
        answer = self.api.post(
            "/v1/events", content=lines, headers={"Content-Type": "application/x-ndjson"}
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["refused"] == 0
        for item in found["items"]:
            partition, offset, _ = map(int, item["receipt"].split("-"))
            self.sent[partition] = max(offset, self.sent.get(partition, -1))
        return found

    def note(self, sent: Any) -> None:
        """Remember what kafka-python acknowledged."""
        self.sent[sent.partition] = max(sent.offset, self.sent.get(sent.partition, -1))

    def settle(self) -> list[dict[str, Any]]:
        """Wait until all that was sent is folded and served; the partitions' status.

        What is served during a replay had been so before it, and its outcome is told before its
        last snapshot is put: as long as one is on, it is waited for.
        """

        def settled() -> list[dict[str, Any]] | None:
            parts: list[dict[str, Any]] = self.api.get("/v1/status").json()["partitions"]
            served = {part["partition"]: part["position"] or 0 for part in parts}
            folded = all(served.get(p, 0) > at for p, at in self.sent.items())
            return parts if folded and not any(part["replaying"] for part in parts) else None

        return until(settled, "everything to be served")

    def digests(self) -> dict[int, str]:
        """Digest of each partition's head."""
        items = self.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]
        return {one["partition"]: one["digest"] for one in items if one["head"]}

    def cli(self, *arguments: str, status: int = 0) -> str:
        """Run a subcommand; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "scripts.cli", *arguments],
            env={**self.environ, "COLUMNS": "200"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


def poisoned(events: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The same sales again under other ids, twelvefold, by a source gone wrong."""
    return [
        {**one, "id": f"{source}-{one['id']}", "source": source, "quantity": 12 * one["quantity"]}
        for one in events
    ]


@contextmanager
def deployment(folder: Path, *names: str, **settings: Any) -> Iterator[Deployment]:
    """A running deployment, ended afterwards."""
    one = Deployment(folder, **settings)
    try:
        one.start(*names)
        yield one
    finally:
        one.close()


def days_of_sales(days: range, stores: int = 6, products: int = 4) -> list[dict[str, Any]]:
    """Sales of each store and product on some days, always the same ones."""
    first = datetime(2024, 1, 1, 9, tzinfo=UTC)
    return [
        {
            "type": "sale",
            "id": f"{day}-{store}-{product}",
            "source": f"till-{store}",
            "store": f"store-{store}",
            "product": f"product-{product}",
            "time": (first + timedelta(days=day, minutes=7 * store + product)).isoformat(),
            "quantity": 1 + (day * 3 + store * 5 + product * 7 + day % 7 * product) % 6,
            "price": 2.5 + product,
        }
        for day in days
        for store in range(stores)
        for product in range(products)
    ]
