"""The API as ``salescast api`` runs it, beside bare Starlette served the same way; wall time.

Each server is a process of its own; the load generator shares the machine with them.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from infra.kafka.cluster import die_with_parent
from infra.ports import free_ports
from learner.adapters import open_store
from learner.keys import ensure_keys, load_signer
from learner.parts import cut
from learner.snapshot import describe, lay_down
from learner.store import Pointer
from stream.adapters import open_log
from stream.settings import Settings
from tests.bench import load, sales
from tests.bench.close import Closing
from tests.bench.measure import Options, Row, Series, rate, turns

CLIENTS = 16
SERIES = 10_000
START_S = 60.0


@contextmanager
def server(arguments: list[str], port: int, path: str, environ: dict[str, str]) -> Iterator[int]:
    """A Python process that answers 200 at ``path`` from now on, and is gone afterwards: its id."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                if ask(port, "GET", path)[0] == 200:
                    break
            except OSError:
                pass
            assert process.poll() is None, f"{arguments} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{arguments} did not serve within {START_S:g} s"
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_s(process: int) -> float:
    """CPU seconds a process has used so far; 0 where there is no /proc."""
    about = Path(f"/proc/{process}/stat")
    if not about.exists():
        return 0.0
    fields = about.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(
    port: int, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def publish(settings: Settings) -> Closing:
    """A data folder with the snapshot of a shard that has learned a month."""
    Path(settings.data_dir).mkdir(parents=True, exist_ok=True)
    ensure_keys(settings)
    closing = Closing(SERIES)
    log = open_log(settings, "events")
    store = open_store(settings)
    tables, chunks = cut(lay_down(closing.shard))
    manifest = describe(
        closing.shard, tables, topic_id=log.topic_id, lineage=0, parent=None,
        created_us=round(time.time() * 1e6),
    )  # fmt: skip
    for digest, chunk in chunks.items():
        store.put_chunk(digest, bytes(chunk))
    store.put_manifest(0, manifest.snapshot, load_signer(settings).seal(manifest))
    assert store.move_head(0, None, Pointer(manifest.snapshot, 0, 0))
    store.close()
    log.close()
    return closing


def run(options: Options) -> list[Row]:
    """One forecast, many in a call, and events taken in."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="salescast-bench-"))
        settings = Settings(data_dir=folder, partitions=1)
        keys = publish(settings).keys
        ours, bare = free_ports(2)
        path = f"/v1/forecasts/{keys[0][0]}/{keys[0][1]}"
        environ = {
            "SALESCAST_DATA_DIR": folder, "SALESCAST_PARTITIONS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        api = ["-m", "scripts.cli", "api", "--port", str(ours)]
        api_id = stack.enter_context(server(api, ours, path, environ))
        bare_id = stack.enter_context(
            server(["-m", "tests.bench.bare_server", str(bare)], bare, path, environ)
        )
        both = (ours, api_id), (bare, bare_id)
        return [
            *_one(options, both, keys[:2_000]),
            *_one(options, both, keys),
            *_many(options, ours, bare, keys),
            *_events(options, ours, bare),
        ]


def _one(
    options: Options, both: tuple[tuple[int, int], tuple[int, int]], keys: list[tuple[str, str]]
) -> list[Row]:
    count = max(len(keys), 3_000 if options.quick else 15_000)
    requests = [
        b"GET /v1/forecasts/%b/%b HTTP/1.1\r\nHost: bench\r\n\r\n" % (s.encode(), p.encode())
        for s, p in (keys * (count // len(keys) + 1))[:count]
    ]
    used: dict[int, list[float]] = {port: [] for port, _ in both}

    def closed_loop(port: int, process: int) -> float:
        before = cpu_s(process)
        found = load.closed_loop(port, requests, CLIENTS)
        used[port].append(count / max(cpu_s(process) - before, 1e-3))
        return found

    for port, _ in both:
        load.closed_loop(port, requests[: len(keys)], CLIENTS)  # each series once, unmeasured
    asked, limit = turns(options.rounds, *(partial(closed_loop, *one) for one in both))
    per_cpu_s, bare_per_cpu_s = (Series(tuple(values)) for values in used.values())
    ours = both[0][0]
    among = f"of {len(keys):,} in turn"

    middle, late = [], []
    for _ in range(options.rounds):
        took = load.paced(ours, requests[: count // 3], asked.median / 2)
        cuts = statistics.quantiles(took, n=100)
        middle.append(cuts[49] * 1e3)
        late.append(cuts[98] * 1e3)
    return [
        Row(what=f"one forecast {among}, {CLIENTS} clients", figure=asked, unit="requests/s",
            limit="Starlette route", bare=limit, goal=0.8, goal_of="ratio"),
        Row(what="  by CPU time of the server", figure=per_cpu_s, unit="requests/CPU s",
            limit="Starlette route", bare=bare_per_cpu_s),
        Row(what="  at half that rate, p50", figure=Series(tuple(middle)), unit="ms"),
        Row(what="  at half that rate, p99", figure=Series(tuple(late)), unit="ms",
            goal=10.0),
    ]  # fmt: skip


def _call(port: int, path: str, body: bytes, kind: str = "application/json") -> bytes:
    status, answer = ask(port, "POST", path, body, kind)
    assert status == 200, (status, answer[:200])
    return answer


def _many(options: Options, ours: int, bare: int, keys: list[tuple[str, str]]) -> list[Row]:
    rows = []
    for count in (1_000, 10_000):
        body = json.dumps({"series": keys[:count]}).encode()
        size = len(_call(ours, "/v1/forecasts:batch", body))
        repeat = 10_000 // count

        def calls(port: int, path: str, body: bytes = body, repeat: int = repeat) -> None:
            for _ in range(repeat):
                _call(port, path, body)

        asked, limit = turns(
            options.rounds,
            rate(count * repeat, partial(calls, ours, "/v1/forecasts:batch")),
            rate(count * repeat, partial(calls, bare, f"/take?bytes={size}")),
        )
        rows.append(
            Row(what=f"{count:,} forecasts a call", figure=asked, unit="series/s",
                limit=f"{size / 1e6:.1f} MB by Starlette", bare=limit, goal=300_000)
        )  # fmt: skip
    return rows


def _events(options: Options, ours: int, bare: int) -> list[Row]:
    count = 5_000 if options.quick else 20_000
    values = [value for value, _ in sales.values(count)]
    bodies = [b"\n".join(values[at : at + 1000]) for at in range(0, count, 1000)]

    def calls(port: int, path: str) -> None:
        for body in bodies:
            _call(port, path, body, "application/x-ndjson")

    taken, limit = turns(
        options.rounds,
        rate(count, partial(calls, ours, "/v1/events?brief=true")),
        rate(count, partial(calls, bare, "/take")),
    )
    return [
        Row(what="events taken in, 1,000 lines a call, durable", figure=taken, unit="events/s",
            limit="body read by Starlette", bare=limit)
    ]  # fmt: skip
