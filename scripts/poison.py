"""`salescast demo --poison`: one source goes wrong while the guard only warns, and is undone.

A till begins to count twelvefold in mid-stream, and is learned from. The guard names it and says
what mends it; that is carried out, by whoever watches or by the demo itself; and at the end the
scores are held against those of a fold of the same log that never saw what went wrong. Forecasts
are asked for all the while, and none may fail. Leaves out: the guard (``learner.guard``).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from rich.live import Live
from rich.text import Text

from learner.evaluation import summary
from learner.replay import Exclusion, Rule
from learner.shard import Shard
from scripts import journey
from scripts.client import Line
from scripts.console import address, err, out
from scripts.demo import demo_environ
from scripts.demo_watch import Watch
from scripts.supervise import Child
from scripts.up import Stopping, console_address, look_after, make_children, stop_all
from stream.adapters import open_log
from stream.event import Sale, encode
from stream.settings import Settings

#: The till that goes wrong: that of the store with most sales; by how much; and after how many
#: days, when the guard has known it for more than four weeks.
SOURCE, FACTOR, AFTER = "till-367", 12, 45
#: Most days that the stream lasts, when what came of it is clear, and fewest.
DAYS, LEAST_DAYS = 75, 58
#: How long whoever watches may carry the command out before the demo does.
PAUSE_S = 15.0
#: How long anything may take that is waited for.
WAIT_S = 300.0
#: How often it is said how far it is, where there is no terminal to show it on.
SAID_S = 10.0
#: By how much the scores may differ in the end.
WITHIN = 0.05
READ = 1000
_sale = msgspec.json.Decoder(Sale)


def lines(folder: Path, stores: int) -> Iterator[Line]:
    """The journey of the largest stores, of which one counts twelvefold after some days."""
    first = journey.facts(folder).first
    since = first + timedelta(days=AFTER)
    volume: Counter[str] = Counter()
    for _, data in journey.events(folder, end=(first + timedelta(days=30)).date()):
        if data.startswith(b'{"type":"sale"'):
            volume[_sale.decode(data).store] += 1
    chosen = {name for name, _ in volume.most_common(stores)}
    for at, data in journey.events(folder):
        if data.startswith(b'{"type":"sale"'):
            sale = _sale.decode(data)
            if sale.store not in chosen:
                continue
            if sale.source == SOURCE and at >= since:
                data = encode(msgspec.structs.replace(sale, quantity=sale.quantity * FACTOR))
        yield Line(at, data)


def prepared(chosen: Settings, config: str | None) -> tuple[Settings, dict[str, str]]:
    """Settings of the story, its folder emptied, and the environment of what it starts."""
    folder = Path(chosen.data_dir) / "demo-poison"
    for one in folder.glob("*") if folder.exists() else ():
        if one.name != "journey":  # the sales need not be prepared again
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    chosen = replace(
        chosen, data_dir=str(folder), guard="warn", timezone=str(journey.ZONE),
        snapshots_kept=max(chosen.snapshots_kept, 4 * DAYS),
    )  # fmt: skip
    environ = demo_environ(chosen, dict(os.environ), config)
    for name in ("guard", "timezone", "snapshots_kept"):
        environ[f"SALESCAST_{name.upper()}"] = str(getattr(chosen, name))
    return chosen, environ


class Asker:
    """Asks for a forecast over and over, and counts what was answered and what failed."""

    def __init__(self, base: str) -> None:
        self.asked = self.failed = 0
        self._api = httpx.Client(base_url=base, timeout=10.0, trust_env=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="asker", daemon=True)

    def begin(self) -> None:
        """Start asking."""
        self._thread.start()

    def end(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        path = ""
        while not self._stop.wait(0.05):
            try:
                if not path:
                    items = self._api.get("/v1/series", params={"limit": 1}).json()["items"]
                    path = f"/v1/forecasts/{items[0]['store']}/{items[0]['product']}"
                self.asked += 1
                self.failed += self._api.get(path).status_code != 200
            except httpx.HTTPError:
                self.failed += 1


def story(
    chosen: Settings,
    environ: dict[str, str],
    speed: float,
    days: int,
    stores: int,
    exit_after: bool,
) -> None:
    """Play it from the beginning to the comparison at its end."""
    folder = Path(chosen.data_dir)
    children = make_children(chosen, environ, logs=True)
    known = journey.facts(folder / "journey")
    base = address(chosen, None)
    out.print(Text.assemble(("Salescast demo", "bold"),
                            ": one till goes wrong, and the guard only warns"))  # fmt: skip
    out.print(f"{stores} stores of 2017; after {AFTER} days {SOURCE} counts {FACTOR} for each")
    out.print(f"page     {base}/")
    shown = console_address(chosen, environ)
    out.print(f"console  {shown}/")
    producer = Child(
        name="producer",
        arguments=["demo-producer", "--days-per-second", str(speed), "--days", str(min(days, DAYS)),
                   "--poison-stores", str(stores)],
        environ=environ, log=folder / "producer.log", once=True,
    )  # fmt: skip
    children.append(producer)
    stopping, asker = Stopping(), Asker(base)
    port = int(environ["SALESCAST_METRICS_PORT"])
    watch = Watch(chosen, port, folder, known, children, min(days, DAYS))
    wrong = (known.first + timedelta(days=AFTER)).astimezone(journey.ZONE)
    out.print(f"that is on {wrong:%a %d %b %Y}; until then the guard learns what is usual",
              style="dim")  # fmt: skip
    try:
        row = _wait(lambda: _suspect(watch.api), watch, stopping, "a suspect")
        if row is None:
            return
        asker.begin()
        out.print(Text.assemble("\n", ("suspect", "bold yellow"),
                                f": {row['source']} in partition {row['partition']}, "
                                f"since {row['since']}: {row['text']}"))  # fmt: skip
        spoilt = _rmsse(watch)
        out.print("what mends it:")
        for command in row["commands"]:
            out.print(f"  {command}", soft_wrap=True)
        if not exit_after:
            out.print(f"run it in another terminal, or go to {shown}/inputs; "
                      f"in {PAUSE_S:.0f} s the demo does", style="dim")  # fmt: skip
        _repair(row, watch, stopping, environ, 0.0 if exit_after else PAUSE_S)
        _wait(lambda: _over(watch), watch, stopping, "the stream's end")
        if stopping.asked:
            return
        asker.end()
        _compare(chosen, watch, row, spoilt, asker)
    finally:
        if stopping.asked:
            out.print("stopping ...", style="dim")
        stop_all(children)


def _wait(true: Callable[[], Any], watch: Watch, stopping: Stopping, what: str) -> Any:
    """Look after all, and show how far it is, until something is so; ``None``: Ctrl-C came."""
    moved, at, said = time.monotonic(), (-1, -1), time.monotonic()
    with Live(console=out, auto_refresh=False, transient=out.is_terminal) as live:
        while not stopping.asked:
            look_after(watch.children)
            watch.look()
            found = true()
            if found:
                return found
            now = time.monotonic()
            line = f"waiting for {what}: {watch.line()}"
            if out.is_terminal:
                live.update(Text(line, style="dim"), refresh=True)
            elif now - said > SAID_S:
                said = now
                out.print(line)
            if (watch.progress["sent"], watch.lag) != at:
                at, moved = (watch.progress["sent"], watch.lag), now
            if now - moved > WAIT_S:
                err.print(f"waited {WAIT_S:.0f} s for {what}; see the logs")
                sys.exit(1)
            time.sleep(0.2)
    return None


def _suspect(api: httpx.Client) -> dict[str, Any] | None:
    """The source that the guard names first."""
    try:
        rows = api.get("/v1/guard").raise_for_status().json()["sources"]
    except httpx.HTTPError:
        return None
    return next((row for row in rows if row["state"] == "suspect" and row["commands"]), None)


def _repair(
    row: dict[str, Any], watch: Watch, stopping: Stopping, environ: dict[str, str], pause_s: float
) -> None:
    """Let whoever watches run the commands; then run what was not."""
    until = time.monotonic() + pause_s
    while time.monotonic() < until and not stopping.asked:
        look_after(watch.children)
        if _done(watch.api, "rollback"):
            return
        time.sleep(0.3)
    for command in row["commands"]:
        if stopping.asked:
            return
        out.print(f"the demo runs: salescast {command.split()[1]}")
        _run(command, watch, stopping, environ)


def _run(command: str, watch: Watch, stopping: Stopping, environ: dict[str, str]) -> None:
    """Run a command of ours, and show how far all is until it has ended."""
    program = [sys.executable, "-m", "scripts.cli", *shlex.split(command)[1:]]
    with tempfile.TemporaryFile("w+") as told:
        running = subprocess.Popen(program, env=environ, stdout=told, stderr=told)
        try:
            _wait(lambda: running.poll() is not None, watch, stopping, command.split()[1])
        finally:
            running.terminate()
            running.wait()
        told.seek(0)
        text = told.read().strip()
    if stopping.asked:
        return
    out.print(text)
    if running.returncode:
        err.print(f"this failed: {command}")
        sys.exit(1)


def _done(api: httpx.Client, kind: str) -> bool:
    """Whether somebody has asked for an operation of a kind."""
    try:
        items = api.get("/v1/operations").raise_for_status().json()["items"]
    except httpx.HTTPError:
        return False
    return any(one["kind"] == kind for one in items)


def _over(watch: Watch) -> bool:
    """Whether the stream has ended, and all of it is learned, replays too."""
    parts = watch.status["partitions"]
    return watch.settled and all(part["replaying"] is None for part in parts)


def _rmsse(watch: Watch) -> dict[int, float]:
    """The champion's RMSSE by horizon, as the API has it."""
    watch.look()
    return {
        row["horizon"]: row["rmsse"]
        for row in watch.quality
        if row["role"] == "champion" and row["rmsse"] is not None
    }


def _compare(
    chosen: Settings, watch: Watch, row: dict[str, Any], spoilt: dict[int, float], asker: Asker
) -> None:
    """Hold the scores against those of a fold that never saw what the source sent since the cut."""
    items = watch.api.get("/v1/operations").json()["items"]
    cut = next(one["cut"] for one in items if one["kind"] == "rollback")
    mended = _rmsse(watch)
    out.print("folding the same log once more, without what went wrong ...", style="dim")
    clean = never_saw(chosen, row["source"], {int(p): s for p, s in cut.items()}, watch.api)
    out.print("days ahead   poisoned   mended   never saw it")
    worst = 0.0
    for horizon, wanted in sorted(clean.items()):
        got = mended[horizon]
        worst = max(worst, abs(got / wanted - 1.0))
        out.print(f"{horizon:10}   {spoilt.get(horizon, float('nan')):8.3f}   {got:6.3f}   "
                  f"{wanted:12.3f}")  # fmt: skip
    out.print(f"{asker.asked:,} forecasts were asked for meanwhile, {asker.failed} failed")
    if worst > WITHIN or asker.failed:
        err.print(f"RMSSE differs by {worst:.1%}: that is not mended")
        sys.exit(1)
    out.print(f"mended: RMSSE within {worst:.1%} of a run that never saw it")


def never_saw(
    chosen: Settings, source: str, cut: dict[int, str], api: httpx.Client
) -> dict[int, float]:
    """RMSSE by horizon of a fold of the whole log that passes a source over from a cut on."""
    settings, sums = replace(chosen, guard="off"), []
    log = open_log(settings, "events")
    try:
        for partition, end in log.end().items():
            start = 0
            if cut[partition] != "start":
                start = api.get(f"/v1/snapshots/{cut[partition]}").json()["position"]
            shard = Shard(settings, partition)
            what = Exclusion(sources=(source,))
            shard.rules = [Rule(operation="", kind="excluded", what=what, start=start)]
            while shard.position < end:
                shard.fold(log.read(partition, shard.position, READ))
            sums.append(shard.evaluation.sums)
    finally:
        log.close()
    names, scored = shard.evaluation.models, shard.evaluation.scored
    rows = summary(names, scored, np.sum(sums, axis=0), settings.champion)
    return {
        row["horizon"]: row["rmsse"]
        for row in rows
        if row["model"] == settings.champion and row["rmsse"] is not None
    }
