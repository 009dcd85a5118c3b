"""`salescast learner` and `salescast api`: the two long-running processes."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from contextlib import ExitStack, closing
from types import FrameType
from typing import Annotated

import typer

from scripts.console import Config, log_to_stderr, settings
from scripts.supervise import leave_with_parent
from scripts.up import check_port
from stream.errors import LogUnavailable, StoreUnavailable
from stream.settings import Settings

logger = logging.getLogger(__name__)

RETRY_S = 2.0

LeaveWithParent = Annotated[bool, typer.Option("--leave-with-parent", hidden=True)]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command()(learner)
    app.command()(api)


def learner(
    config: Config = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics and probes")] = None,
    with_parent: LeaveWithParent = False,
) -> None:
    """Fold the log: learn, forecast, score, publish snapshots. SIGTERM publishes and leaves."""
    chosen = settings(config, metrics_port=metrics_port)
    if with_parent:
        leave_with_parent()
    log_to_stderr(chosen, "learner")
    run_learner(chosen)


def api(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on")] = None,
    with_parent: LeaveWithParent = False,
) -> None:
    """Serve forecasts, take events, carry out operations."""
    from api.server import serve

    chosen = settings(config, host=host, port=port)
    if with_parent:
        leave_with_parent()
    else:  # the parent has looked
        check_port(chosen.host, chosen.port, "port")
    log_to_stderr(chosen, "api")
    raise typer.Exit(serve(chosen))


def collect_seldom() -> None:
    """Look for cycles seldom: what the fold keeps is kept for long and holds none (10 % of CPU)."""
    gc.set_threshold(200_000, 20, 100)


def run_learner(chosen: Settings) -> None:
    """Run the worker until SIGTERM or Ctrl-C."""
    from learner.adapters import open_store
    from learner.keys import ensure_keys, load_signer
    from learner.probes import Probes
    from learner.telemetry import Telemetry
    from learner.telling import Dependencies
    from learner.worker import Worker
    from stream.adapters import open_log
    from stream.dead_letters import DeadLetters

    collect_seldom()
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        stop.set()

    def told() -> None:  # not in the signal's frame, which may have interrupted a log line
        stop.wait()
        logger.info("stopping: publishing what was folded")

    threading.Thread(target=told, name="stopping", daemon=True).start()
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    ensure_keys(chosen)
    signer = load_signer(chosen)
    telemetry = Telemetry()
    dependencies = Dependencies(telemetry)
    with ExitStack() as stack:
        probes = stack.enter_context(Probes(chosen, telemetry))
        opened: ExitStack | None = None
        while opened is None:
            try:
                with ExitStack() as opening:
                    events = opening.enter_context(closing(open_log(chosen, "events")))
                    control = opening.enter_context(closing(open_log(chosen, "control")))
                    dead = opening.enter_context(closing(open_log(chosen, "dead_letters")))
                    store = opening.enter_context(closing(open_store(chosen)))
                    opened = stack.enter_context(opening.pop_all())
            except (LogUnavailable, StoreUnavailable) as error:
                dependencies.fails(error)
                if stop.wait(RETRY_S):
                    return
        worker = Worker(
            chosen,
            events=events,
            control=control,
            dead_letters=DeadLetters(dead, events),
            store=store,
            signer=signer,
            telemetry=telemetry,
        )
        probes.worker = worker
        logger.info(
            "folding %d partitions of %s; metrics on port %d",
            events.partitions, events.topic, probes.port,
        )  # fmt: skip
        started = time.monotonic()
        worker.run(stop)
        logger.info("left after %.0f s; all that was folded is published",
                    time.monotonic() - started)  # fmt: skip
