"""A real ``salescast up`` on free ports, and sales to send to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from scripts.up import free_port

STORE = "Main Street"


def sale(
    product: str, time_: datetime, quantity: float, number: object, **more: str
) -> dict[str, Any]:
    """One sale of the made-up store; ``more`` changes it."""
    return {
        "type": "sale", "id": f"{product}-{number}", "source": "till", "store": STORE,
        "product": product, "time": time_.isoformat(), "quantity": quantity, "price": 2.5, **more,
    }  # fmt: skip


@cache
def today() -> datetime:
    """Midnight of the day on which the tests began, in UTC, the deployment's zone."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def eventually(what: str, ask: Any) -> Any:
    """The answer, once it is truthy; bounded."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if value := ask():
                return value
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"never: {what}")


def post(url: str, events: list[dict[str, Any]]) -> None:
    """Send events; all must be accepted."""
    answer = httpx.post(f"{url}v1/events", params={"brief": "true"}, json=events, timeout=30)
    assert answer.json()["accepted"] == len(events), answer.text


@contextmanager
def started(folder: Path, *command: str, **settings: object) -> Iterator[Path]:
    """A `salescast` subcommand that runs; the file that it writes to."""
    environ = {name: value for name, value in os.environ.items() if "SALESCAST_" not in name}
    environ |= {f"SALESCAST_{name.upper()}": str(value) for name, value in settings.items()}
    log = folder / f"{command[0]}.log"
    with log.open("wb") as out:
        whole = [sys.executable, "-m", "scripts.cli", *command]
        process = subprocess.Popen(whole, env=environ, stdout=out, stderr=out)
        try:
            yield log
        finally:
            process.terminate()
            process.wait(60)


def said(log: Path, pattern: str) -> str:
    """What a pattern finds in a log, once it is there."""
    found = eventually(pattern, lambda: re.search(pattern, log.read_text()))
    return str(found[1])


@contextmanager
def running_up(folder: Path, **settings: object) -> Iterator[tuple[str, str]]:
    """A ``salescast up``; the addresses of its API, once ready, and of its console."""
    port = free_port("127.0.0.1")
    with started(
        folder, "up", data_dir=folder / "data", port=port, console_port=0, metrics_port=0,
        partitions=1, grace_s=0, snapshot_interval_s=0.2, replica_poll_s=0.1,
        tick_idle_s=86400,  # or a midnight that passes meanwhile would close the day
        **settings,
    ) as log:  # fmt: skip
        url = f"http://127.0.0.1:{port}/"
        eventually("the API is ready", lambda: httpx.get(f"{url}readyz").is_success)
        yield url, said(log, r"console +(http://\S+)")
