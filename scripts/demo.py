"""`salescast demo`: a year of real grocery sales, learned, served and scored while one watches."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from scripts import journey
from scripts.client import Client, Line, stream
from scripts.console import Config, address, err, log_to_stderr, out, reached, settings
from scripts.demo_watch import PROGRESS, Watch, about, read_progress, summary, write_progress
from scripts.serve import LeaveWithParent
from scripts.supervise import Child, leave_with_parent
from scripts.up import (
    Stopping,
    console_address,
    free_port,
    look_after,
    make_children,
    stop_all,
)
from stream.adapters import made
from stream.errors import SettingsError
from stream.settings import Settings

#: Days of 2017 that pass in a second.
DAYS_PER_S = 2.0
#: How long all must have been folded to be over; and how long nothing may move before that, s.
SETTLED_S, SETTLE_S = 3.0, 120.0
#: What learning a day of the year takes on two cores, s.
DAY_S = 2.5


def register(app: typer.Typer) -> None:
    """Add the subcommands: what a user starts, and the producer that it starts."""
    app.command()(demo)
    app.command("demo-producer", hidden=True)(producer)


def demo(
    config: Config = None,
    days_per_second: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Speed of the demo's clock")
    ] = DAYS_PER_S,
    days: Annotated[int, typer.Option(min=1, help="Stop the stream after so many days")] = 365,
    exit_after: Annotated[
        bool, typer.Option("--exit", help="Leave after the stream, with a summary",
                           envvar="DEMO_EXIT")
    ] = False,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="On Apache Kafka and Redis, started for the demo")
    ] = False,
    poison: Annotated[
        bool,
        typer.Option("--poison", help="Let one till count twelvefold, and see it named and undone"),
    ] = False,
    poison_stores: Annotated[
        int, typer.Option(min=1, help="With --poison: how many of the largest stores take part")
    ] = 40,
) -> None:  # fmt: skip
    """Stream a year of real sales through producer, log, learner and API, and watch it learn.

    Ctrl-C stops it; started again, it goes on where it stopped. With --kafka, Apache Kafka (from
    Maven's jars) and Redis run for as long as the demo does, and begin anew with it. With --poison
    a shorter stream begins anew in a folder of its own.
    """
    if poison:
        from scripts.poison import LEAST_DAYS, prepared, story

        if days < LEAST_DAYS:
            raise SettingsError(
                f"with --poison, --days must be at least {LEAST_DAYS}: what goes wrong does so "
                "after the guard has known it for weeks"
            )
        if kafka:
            raise SettingsError("--poison and --kafka do not go together", remedy="Leave one out")
        chosen, environ = prepared(settings(config), config)
        story(chosen, environ, days_per_second, days, poison_stores, exit_after)
        return
    with backends(settings(config), kafka) as chosen:
        environ = demo_environ(chosen, dict(os.environ), config)
        _demo(chosen, environ, days_per_second, days, exit_after)


@contextmanager
def backends(chosen: Settings, kafka: bool) -> Iterator[Settings]:
    """Settings of the demo, with Kafka and Redis running behind them if asked for.

    Raises
    ------
    SettingsError
        Java, Maven or a Redis server is missing; the message says what to install.
    """
    if not kafka:
        # Apart from the user's own sales, which are of another time zone.
        yield replace(chosen, data_dir=str(Path(chosen.data_dir) / "demo"))
        return
    from infra.kafka.cluster import Cluster, KafkaMissingError
    from infra.redis_server import RedisServer
    from learner.keys import key_files, make_keys

    folder = Path(chosen.data_dir) / "demo-kafka"
    shutil.rmtree(folder, ignore_errors=True)
    made(folder)
    out.print("starting Apache Kafka and Redis (the first time, Maven fetches Kafka) ...",
              style="dim")  # fmt: skip
    with ExitStack() as stack:
        try:
            redis = stack.enter_context(RedisServer(folder / "redis"))
            cluster = stack.enter_context(Cluster())
            cluster.start()
        except (KafkaMissingError, RuntimeError) as error:
            raise SettingsError(str(error)) from None
        there = replace(
            chosen,
            data_dir=str(folder),
            log="kafka",
            store="redis",
            kafka_bootstrap=cluster.bootstrap,
            redis_url=redis.url,
        )
        make_keys(*key_files(there))
        out.print(f"Kafka    {cluster.bootstrap}")
        out.print(f"Redis    {redis.url}")
        yield there


def _demo(
    chosen: Settings,
    environ: dict[str, str],
    days_per_second: float,
    days: int,
    exit_after: bool,
) -> None:
    folder = Path(chosen.data_dir)
    children = make_children(chosen, environ, logs=True)
    out.print(Text.assemble(("Salescast demo", "bold"),
                            ": the Complete Journey, real grocery sales of 2017"))  # fmt: skip
    out.print("preparing the sales ...", style="dim")
    known = journey.facts(folder / "journey")
    out.print(
        f"{known.sales:,} sales and {known.plans:,} planned promotions in {known.stores} stores "
        f"and {known.categories} categories: {known.series:,} series"
    )
    out.print(f"page     {address(chosen, None)}/")
    out.print(f"console  {console_address(chosen, environ)}/")
    out.print(f"API      {address(chosen, None)}/docs")
    metrics = f"http://{reached(chosen.host)}:{environ['SALESCAST_METRICS_PORT']}/metrics"
    out.print(f"metrics  {address(chosen, None)}/metrics  and  {metrics}")
    out.print("logs     " + "  ".join(str(child.log) for child in children))
    children.append(
        Child(
            name="producer",
            arguments=["demo-producer", "--days-per-second", str(days_per_second),
                       "--days", str(days)],
            environ=environ,
            log=folder / "producer.log",
            once=True,
        )
    )  # fmt: skip
    stopping = Stopping()
    watch = Watch(chosen, int(environ["SALESCAST_METRICS_PORT"]), folder, known, children, days)
    if not watch.progress["done"]:
        out.print(expected(min(days, 365), days_per_second))
    try:
        _watch(watch, children, stopping, exit_after)
    finally:
        if stopping.asked:
            out.print("stopping ...", style="dim")
        stop_all(children)
    if stopping.asked:
        out.print(stopped(chosen))


def expected(days: int, days_per_second: float) -> str:
    """How long it will take, before anything is known of this machine.

    Examples
    --------
    >>> expected(365, 2.0)
    'the 365 days are sent in about 3 min; learning them takes about 15 min on two cores'
    """
    sent_s = days / days_per_second
    return (f"the {days} days are sent in {about(sent_s)}; learning them takes "
            f"{about(max(sent_s, days * DAY_S))} on two cores")  # fmt: skip


def stopped(chosen: Settings) -> str:
    """What becomes of a demo that was stopped when it is started again."""
    if chosen.log == "kafka":
        return "stopped, and Kafka and Redis with it: started again, the demo begins anew"
    return "stopped; started again, the demo goes on from here"


def demo_environ(chosen: Settings, environ: dict[str, str], config: str | None) -> dict[str, str]:
    """The children's environment: the data's time zone, and a free port for the metrics."""
    if config is not None:
        environ["SALESCAST_CONFIG"] = config
    environ.setdefault("SALESCAST_TIMEZONE", str(journey.ZONE))
    for name in ("data_dir", "log", "store", "kafka_bootstrap", "redis_url"):
        environ[f"SALESCAST_{name.upper()}"] = getattr(chosen, name)
    if "SALESCAST_METRICS_PORT" not in environ:
        environ["SALESCAST_METRICS_PORT"] = str(free_port(chosen.host))
    return environ


def producer(
    days_per_second: float = DAYS_PER_S,
    days: int = 365,
    poison_stores: int = 0,
    config: Config = None,
    with_parent: LeaveWithParent = False,
) -> None:
    """Send the demo's events to the API, on the demo's clock, from where it was acknowledged."""
    chosen = settings(config)
    if with_parent:
        leave_with_parent()
    log_to_stderr(chosen, "producer")
    folder = Path(chosen.data_dir)
    progress = folder / PROGRESS
    state = read_progress(progress)
    client = Client(address(chosen, None), chosen.api_key or None, patience_s=3600.0)
    cache = folder / "journey"
    until = journey.facts(cache).first.timestamp() + days * 86400

    def every() -> Iterator[Line]:
        if poison_stores:
            from scripts.poison import lines as spoilt

            return spoilt(cache, poison_stores)
        return (Line(at, data) for at, data in journey.events(cache))

    def lines() -> Iterator[Line]:
        for number, line in enumerate(every()):
            if line.time is not None and line.time.timestamp() >= until:
                return
            if number >= state["sent"]:
                yield line

    pace = stream(lines(), client, batch=1000, linger_s=0.1, speedup=days_per_second * 86400)
    for delivered in pace:
        state["sent"] += len(delivered.lines)
        state["refused"] += len(delivered.refused)
        last = delivered.lines[-1].time
        state["at"] = None if last is None else last.timestamp()
        write_progress(progress, state)
    state["done"] = True
    write_progress(progress, state)


def _watch(watch: Watch, children: list[Child], stopping: Stopping, exit_after: bool) -> None:
    """Show what happens until the stream is served, or Ctrl-C; then go on serving."""
    ended: float | None = None
    said = moved = 0.0
    lag = -1
    terminal = out.is_terminal
    with Live(console=out, auto_refresh=False, transient=terminal) as live:
        while not stopping.asked:
            look_after(children)
            watch.look()
            if terminal:
                live.update(watch.render(), refresh=True)
            elif time.monotonic() - said > 10.0:
                said = time.monotonic()
                out.print(watch.render())
            if watch.progress["done"] and ended is None:
                ended = time.monotonic()
            if watch.lag != lag:
                lag, moved = watch.lag, time.monotonic()
            # What the API knows of the log's end is a moment old.
            if ended is not None and time.monotonic() - max(ended, moved) > (
                SETTLED_S if watch.settled else SETTLE_S
            ):
                break
            time.sleep(0.3)
    out.print(watch.render())
    if watch.first_score_s is not None:
        out.print(f"first scored forecast after {watch.first_score_s:.1f} s")
    if stopping.asked:
        return
    if not watch.settled:
        err.print("the stream's end was not served in time; see the logs")
        stop_all(children)
        sys.exit(1)
    out.print(summary(watch.progress["sent"], watch.outcomes()))
    if not exit_after:
        out.print("still serving; Ctrl-C stops")
        while not stopping.asked:
            look_after(children)
            time.sleep(0.3)
