"""A soak: learner and API for half an hour at a full rate, with memory, file handles and lag flat.

`python -m tests.bench.soak [--minutes 30] [--rate 10000]`. Days pass as fast as the rate makes
them, each with as many sales of the same series, packed a hundred to a record; the API is asked
all the while. Of each figure the last quarter is held against the second: the first is for
warming up. Exits with 1 if one has grown. The log takes some 130 bytes an event of disk, and is
removed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stream.adapters import open_log
from stream.log import Entry, partition_of
from stream.settings import load
from tests.integration.deployment import deployment

STORES, PRODUCTS, PER_DAY = 20, 50, 10
PACKED = 100
SAMPLE_S = 2.0
#: What may grow between the second quarter and the last: a share, or a count beside it.
MEMORY_SHARE, HANDLES, LAG_S = 0.10, 5, 5.0


def sales(partitions: int) -> Iterator[list[Entry]]:
    """Entries of one day after the other: every series of every store, a few times."""
    first = datetime(2020, 1, 1, 8, tzinfo=UTC)
    day = 0
    while True:
        waiting: dict[int, list[bytes]] = {p: [] for p in range(partitions)}
        entries = []
        for n in range(PER_DAY):
            at = (first + timedelta(days=day, hours=n)).isoformat()
            for store in range(STORES):
                home = partition_of(f"s{store}", partitions)
                for product in range(PRODUCTS):
                    waiting[home].append(
                        b'{"type":"sale","id":"%d-%d-%d-%d","source":"till","store":"s%d",'
                        b'"product":"p%d","time":"%s","quantity":%d,"price":2.5}'
                        % (day, n, store, product, store, product, at.encode(), 1 + product % 4)
                    )
                    if len(waiting[home]) == PACKED:
                        value = b"[" + b",".join(waiting[home]) + b"]"
                        entries.append(Entry(home, None, value))
                        waiting[home] = []
        yield entries + [
            Entry(home, None, b"[" + b",".join(items) + b"]")
            for home, items in waiting.items()
            if items
        ]
        day += 1


class Sample(dict[str, float]):
    """What was seen at one moment, by what it is of."""


def of_process(name: str, pid: int) -> Sample:
    """Resident memory (MB) and open files of a process; a fork beside it is not counted."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    handles = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return Sample(
        {f"{name}, memory, MB": int(resident.split()[1]) / 1024, f"{name}, open files": handles}
    )


def verdicts(samples: list[Sample]) -> list[tuple[str, float, float, bool]]:
    """Of each figure: its median in the second quarter and in the last, and whether it is flat."""
    quarter = len(samples) // 4
    found = []
    for name in samples[-1]:
        early, late = (
            statistics.median(sample[name] for sample in part)
            for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        if "memory" in name:
            flat = late <= early * (1 + MEMORY_SHARE)
        elif "open files" in name:
            flat = late <= early + HANDLES
        elif "lag" in name:
            flat = late <= max(2 * early, LAG_S)
        else:
            flat = True
        found.append((name, early, late, flat))
    return found


def main() -> int:
    """Run, show, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=10_000, help="events/s")
    parser.add_argument("--json", help="file for all samples")
    chosen = parser.parse_args()
    samples: list[Sample] = []
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="salescast-soak-") as name,
        deployment(Path(name), "learner", "api", partitions=2, snapshots_kept=5) as running,
    ):
        log = open_log(load(running.environ).settings, "events")
        end = time.monotonic() + chosen.minutes * 60
        sent = asked = 0
        stop = threading.Event()

        def ask() -> None:
            nonlocal asked, failed
            while not stop.wait(0.02):
                answer = running.api.get(f"/v1/forecasts/s{asked % STORES}/p{asked % PRODUCTS}")
                asked += 1
                failed += asked > 500 and answer.status_code != 200

        def watch() -> None:
            while not stop.wait(SAMPLE_S):
                sample = Sample()
                for one, process in running.processes.items():
                    sample |= of_process(one, process.pid)
                status = running.api.get("/v1/status").json()["partitions"]
                behind = sum(one["lag"] or 0 for one in status) * PACKED
                sample["lag, s"] = behind / chosen.rate
                sample["events/s"] = sent / (time.monotonic() - started)
                samples.append(Sample(sample))
                if len(samples) % 30 == 0:
                    minutes, lag_s = (time.monotonic() - started) / 60, sample["lag, s"]
                    print(f"{minutes:.0f} of {chosen.minutes:g} min: {sent:,} events, "
                          f"lag {lag_s:.1f} s, {failed} requests failed", flush=True)  # fmt: skip

        started = time.monotonic()
        threads = [threading.Thread(target=one) for one in (ask, watch)]
        for thread in threads:
            thread.start()
        try:
            for entries in sales(log.partitions):
                log.append(entries)
                sent += STORES * PRODUCTS * PER_DAY
                ahead = sent / chosen.rate - (time.monotonic() - started)
                if ahead > 0:
                    time.sleep(ahead)
                if time.monotonic() > end:
                    break
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            log.close()
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(samples))
    return _report(samples, sent, asked, failed)


def _report(samples: list[Sample], sent: int, asked: int, failed: int) -> int:
    print(f"{sent:,} events, {asked:,} requests, {failed} failed, {len(samples)} samples")
    print(f"{'':<28}{'2nd quarter':>14}{'last quarter':>14}")
    grown = 0
    rows: list[tuple[str, Any, Any, bool]] = verdicts(samples)
    for name, early, late, flat in rows:
        grown += not flat
        print(f"{name:<28}{early:>14,.1f}{late:>14,.1f}  {'' if flat else 'GROWN'}")
    return 1 if grown or failed else 0


if __name__ == "__main__":
    sys.exit(main())
