"""The demo: what it says while it runs and at its end, from parts that run here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from scripts import demo
from scripts.demo_watch import Watch
from scripts.journey import ZONE, Facts
from stream.settings import Settings

FIRST = datetime(2017, 1, 1, 14, tzinfo=UTC)
KNOWN = Facts(
    events=9, sales=9, plans=0, stores=2, categories=2, departments=1, series=4,
    first=FIRST, last=FIRST + timedelta(days=364),
)  # fmt: skip


@contextmanager
def answering(told: dict[str, str]) -> Iterator[int]:
    """A server of this machine that answers each path with a text; its port."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = told[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def partition(days: float, lag: int = 0) -> dict[str, Any]:
    as_of = datetime(2017, 1, 1, tzinfo=ZONE) + timedelta(days=days)
    return {"partition": 0, "snapshot": "p0", "as_of": as_of.isoformat(), "lag": lag, "series": 3}


def test_what_was_counted_survives_a_learner_killed_and_a_demo_stopped(tmp_path: Path) -> None:
    told = {
        "/v1/status": json.dumps({"partitions": [partition(31.5), partition(30.5)]}),
        "/v1/quality": json.dumps({"rows": [{"horizon": 1, "role": "champion"}]}),
        "/v1/snapshots/p0": json.dumps({"counts": {"a": {"learned": 7, "quarantined": 1}}}),
    }
    with answering(told) as port:
        settings = Settings(port=port, timezone=str(ZONE))

        def watch() -> Watch:
            made = Watch(settings, port, tmp_path, KNOWN, [], 75)
            made._before = (made._before[0] - 2.0, 0)  # as if it had looked two seconds ago
            return made

        one = watch()
        for taken in (8, 3, 4):  # the learner was killed after eight
            told["/metrics"] = f"salescast_snapshots_total {taken}\n"
            one.look()
            one._before = (one._before[0] - 2.0, 0)
        one.look()
        first = one.first_score_s
        again = watch()
        told["/metrics"] = "salescast_snapshots_total 2\n"
        again.look()
        assert again._taken.total == 8 + 4 + 2
        assert again.closed == 31 + 30
        assert again.first_score_s == first
        assert dict(again.outcomes()) == {"learned": 14, "quarantined": 2}


def test_the_time_left_is_told_by_the_pace_of_the_last_while(tmp_path: Path) -> None:
    watch = Watch(Settings(timezone=str(ZONE)), 1, tmp_path, KNOWN, [], 75)
    assert watch.left == ""
    start = FIRST.timestamp()
    watch._pace.extend([(0.0, start), (10.0, start + 86400)])
    assert watch.left == "not known yet"
    watch._pace.append((30.0, start + 15 * 86400))
    assert watch.left == "about 2 min"  # sixty days, at one day in two seconds


def test_a_stopped_demo_says_what_becomes_of_it() -> None:
    assert demo.stopped(Settings()).endswith("goes on from here")
    assert demo.stopped(replace(Settings(), log="kafka")).endswith("begins anew")
