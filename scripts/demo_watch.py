"""What one sees of the demo while it runs, and what it says at its end.

From the API, the learner's metrics and the progress file of the producer. Guarantees: what is
counted survives a learner that is killed, and a demo that is stopped and goes on. Leaves out:
who runs what (``demo``).
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scripts import journey
from scripts.console import address, reached
from scripts.supervise import Child
from stream.buckets import Calendar
from stream.settings import Settings

#: What the producer has sent; and what was seen of it, from one start to the next.
PROGRESS, SEEN = "demo-progress.json", "demo-seen.json"
#: What is left is told by the pace of the last so many seconds, once there are so many.
PACE_S, LEAST_PACE_S = 90.0, 20.0
#: Outcomes of items that are not learned from: how it is said, and the command that lists them.
PASSED_OVER = {
    "quarantined": ("in quarantine", "salescast guard"),
    "excluded": ("excluded", "salescast excluded"),
    "late": ("late", "salescast dead-letters show"),
    "refused": ("refused", "salescast dead-letters show"),
}


class Watch:
    """What is looked at while the demo runs.

    Parameters
    ----------
    days
        Of the year, after which the stream ends.
    """

    def __init__(
        self, chosen: Settings, metrics_port: int, folder: Path, known: journey.Facts,
        children: list[Child], days: int = 366,
    ) -> None:  # fmt: skip
        self.known = known
        self.children = children
        self.folder = folder
        self.first_s = known.first.timestamp()
        self.end_s = min(known.last.timestamp(), self.first_s + days * 86400)
        self.api = httpx.Client(base_url=address(chosen, None), timeout=2.0, trust_env=False)
        self.learner = httpx.Client(
            base_url=f"http://{reached(chosen.host)}:{metrics_port}", timeout=1.0, trust_env=False
        )
        self.progress = read_progress(folder / PROGRESS)
        self.quality: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {"partitions": []}
        self.rate = 0.0
        self._calendar = Calendar(chosen)
        self._seen = _read(folder / SEEN, {"snapshots": 0, "s": 0.0, "first_score_s": None})
        self._started = time.monotonic() - self._seen["s"]
        self._taken = Carried(self._seen["snapshots"])
        self._before = (time.monotonic(), self.progress["sent"])
        self._pace: deque[tuple[float, float]] = deque()

    def look(self) -> None:
        """Look at everything once; what does not answer keeps its last value."""
        self.progress = read_progress(self.folder / PROGRESS)
        now, (then, sent) = time.monotonic(), self._before
        if now - then >= 1.0:
            self.rate = (self.progress["sent"] - sent) / (now - then)
            self._before = (now, self.progress["sent"])
            self._keep(now)
        try:
            self.status = self.api.get("/v1/status").raise_for_status().json()
            self.quality = self.api.get("/v1/quality").raise_for_status().json()["rows"]
            if self._seen["first_score_s"] is None and self.quality:
                self._seen["first_score_s"] = now - self._started
            self._pace.append((now, self.folded_s))
            while now - self._pace[0][0] > PACE_S:
                self._pace.popleft()
            text = self.learner.get("/metrics").raise_for_status().text
            self._taken.see(
                sum(
                    sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                    if sample.name == "salescast_snapshots_total"
                )
            )
        except (httpx.HTTPError, ValueError):
            return

    def _keep(self, now: float) -> None:
        """Keep what is counted here alone, for the next start."""
        self._seen |= {"snapshots": self._taken.total, "s": now - self._started}
        write_progress(self.folder / SEEN, self._seen)

    @property
    def first_score_s(self) -> float | None:
        """How long the demo ran until the first forecast was scored, its pauses left out, s."""
        found: float | None = self._seen["first_score_s"]
        return found

    @property
    def lag(self) -> int:
        """Records that are not served yet."""
        return sum(part["lag"] or 0 for part in self.status["partitions"])

    @property
    def settled(self) -> bool:
        """Whether all that was sent is folded and served."""
        parts = self.status["partitions"]
        return (
            bool(self.progress["done"]) and bool(parts) and all(part["lag"] == 0 for part in parts)
        )

    @property
    def folded_s(self) -> float:
        """Event time that is served, the mean of the partitions, s since 1970."""
        parts = self.status["partitions"]
        known = [datetime.fromisoformat(one["as_of"]).timestamp() for one in parts if one["as_of"]]
        known += [self.first_s] * (len(parts) - len(known))
        return max(sum(known) / len(known), self.first_s) if known else self.first_s

    @property
    def closed(self) -> int:
        """Buckets that are closed and served, of all partitions."""
        first = self._calendar.index(round(self.first_s * 1e6))
        return sum(
            max(self._calendar.index(round(datetime.fromisoformat(as_of).timestamp() * 1e6)), first)
            - first
            for one in self.status["partitions"]
            if (as_of := one["as_of"]) is not None
        )

    @property
    def left(self) -> str:
        """How long it will take to learn the rest, at the pace of the last while."""
        if self.settled:
            return "none"
        if not self._pace:
            return ""
        (then, before), (now, at) = self._pace[0], self._pace[-1]
        if now - then < LEAST_PACE_S or at <= before:
            return "not known yet"
        return about((self.end_s - at) * (now - then) / (at - before))

    def outcomes(self) -> Counter[str]:
        """What became of the items that are served: how many ended in which way."""
        found: Counter[str] = Counter()
        for part in self.status["partitions"]:
            if part["snapshot"] is not None:
                answer = self.api.get(f"/v1/snapshots/{part['snapshot']}", timeout=30.0)
                for counts in answer.raise_for_status().json()["counts"].values():
                    found.update(counts)
        return found

    def line(self) -> str:
        """The display in one line."""
        day = "nothing" if self.progress["at"] is None else _day(self.progress["at"])
        return (f"sent up to {day}, learned up to {_day(self.folded_s)}; "
                f"{self.lag:,} records to fold")  # fmt: skip

    def render(self) -> Group:
        """The display."""
        at = self.progress["at"]
        series = sum(part["series"] for part in self.status["partitions"])
        facts = Table.grid(padding=(0, 3))
        sent = f"{self.progress['sent']:,}  ({self.rate:,.0f}/s)"
        facts.add_row("event date", Text("" if at is None else _day(at), style="bold"),
                      "events sent", sent)  # fmt: skip
        facts.add_row("learned up to", _day(self.folded_s), "time left", self.left)
        facts.add_row("series", f"{series:,}", "refused", f"{self.progress['refused']:,}")
        facts.add_row("buckets closed", f"{self.closed:,}",
                      "snapshots", f"{self._taken.total:,.0f}")  # fmt: skip
        facts.add_row("records to fold", f"{self.lag:,}", "restarts",
                      str(sum(child.restarts for child in self.children)))  # fmt: skip
        share = (self.folded_s - self.first_s) / (self.end_s - self.first_s)
        bar = ProgressBar(total=1.0, completed=1.0 if self.settled else min(share, 1.0), width=60)
        return Group(Text(""), bar, Text(""), facts, Text(""), scores(self.quality))


class Carried:
    """A counter of another process, added up over its restarts, at which it begins at 0 again.

    Examples
    --------
    >>> taken = Carried(5)
    >>> for value in (2, 3, 1): taken.see(value)
    >>> taken.total
    9
    """

    def __init__(self, before: float = 0) -> None:
        self._before, self._last = before, 0.0

    def see(self, value: float) -> None:
        """Take in what it is now."""
        if value < self._last:
            self._before += self._last
        self._last = value

    @property
    def total(self) -> int:
        """Of all its lives."""
        return round(self._before + self._last)


def about(seconds: float) -> str:
    """A span of time, roughly.

    Examples
    --------
    >>> about(12), about(80), about(755)
    ('less than a minute', 'about 1 min', 'about 13 min')
    """
    return "less than a minute" if seconds < 45 else f"about {max(round(seconds / 60), 1)} min"


def _day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, journey.ZONE):%a %d %b %Y}"


def summary(sent: int, outcomes: Mapping[str, int]) -> str:
    """What became of the events that were sent, in a sentence and a line a kind passed over.

    Examples
    --------
    >>> summary(1200, {"learned": 1199, "applied": 4})
    'the stream is over: all 1,200 events are learned and served'
    >>> print(summary(1200, {"learned": 1100, "quarantined": 97, "late": 3}))
    the stream is over: of 1,200 events 1,100 are learned and served, 100 were passed over:
      97 in quarantine: salescast guard
      3 late: salescast dead-letters show
    """
    kinds = {kind: n for kind in PASSED_OVER if (n := outcomes.get(kind, 0))}
    if not kinds:
        return f"the stream is over: all {sent:,} events are learned and served"
    passed = sum(kinds.values())
    lines = [f"the stream is over: of {sent:,} events {sent - passed:,} are learned and served, "
             f"{passed:,} were passed over:"]  # fmt: skip
    lines += [
        f"  {n:,} {PASSED_OVER[kind][0]}: {PASSED_OVER[kind][1]}" for kind, n in kinds.items()
    ]
    return "\n".join(lines)


def scores(rows: list[dict[str, Any]]) -> Table | Text:
    """Champion beside seasonal naive, by horizon."""
    best = {row["horizon"]: row for row in rows if row["role"] == "champion"}
    naive = {row["horizon"]: row for row in rows if row["model"] == "seasonal_naive"}
    both = [h for h in sorted(best) if h in naive and naive[h]["rmsse"] and best[h]["rmsse"]]
    if not both:
        return Text("waiting for the first forecasts to be scored ...", style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("days ahead", justify="right")
    for name in ("RMSSE", "seasonal naive", "error less by", "WAPE", "seasonal naive", "bias"):
        table.add_column(name, justify="right")
    for h in both:
        ours, theirs = best[h], naive[h]
        better = 1 - ours["rmsse"] / theirs["rmsse"]
        table.add_row(
            str(h), f"{ours['rmsse']:.3f}", f"{theirs['rmsse']:.3f}",
            Text(f"{better:+.1%}", style="green" if better > 0 else "red"),
            f"{ours['wape']:.3f}", f"{theirs['wape']:.3f}", f"{ours['bias']:+.1%}",
        )  # fmt: skip
    return table


def read_progress(file: Path) -> dict[str, Any]:
    """How far the producer is: events acknowledged and refused, event time, and whether done."""
    return _read(file, {"sent": 0, "refused": 0, "at": None, "done": False})


def _read(file: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**fresh, **json.loads(file.read_text())}
    except (FileNotFoundError, ValueError):
        return dict(fresh)


def write_progress(file: Path, state: dict[str, Any]) -> None:
    """Write it whole or not at all; events sent again are known by their ids."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(state))
    fresh.replace(file)
