"""What all subcommands share at the terminal: settings, logs, complaints, the API's address."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.measure import Measurement
from rich.progress import ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from scripts.client import Client
from stream.errors import SalescastError
from stream.settings import Loaded, Settings, load

#: Nothing that is printed is read as markup: names and reasons are other people's.
out = Console(highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)
#: Columns of ids.
IDS = ("id", "operation", "snapshot", "last snapshot", "serving")
#: Longer texts are folded, wherever they are printed to.
WIDEST = 400
#: Exit status of a named error, and of one that may be over when it is tried again (sysexits.h).
FAILED, TRY_AGAIN = 2, 75

Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Settings file (TOML)", show_default=False)
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of the API; default: from `host` and `port`",
                 show_default=False),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")]


def loaded(config: str | None = None, **overrides: Any) -> Loaded:
    """Settings of this process, with where each came from."""
    return load(os.environ, config=config, overrides=overrides)


def settings(config: str | None = None, **overrides: Any) -> Settings:
    """Settings of this process."""
    return loaded(config, **overrides).settings


def address(config: Settings, url: str | None) -> str:
    """Where the API is."""
    return (url or f"http://{reached(config.host)}:{config.port}").rstrip("/")


def reached(host: str) -> str:
    """How a URL of this machine names an address that is listened on.

    Examples
    --------
    >>> reached("0.0.0.0"), reached("::"), reached("api")
    ('127.0.0.1', '[::1]', 'api')
    """
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{here}]" if ":" in here else here


@contextmanager
def api_of(config: str | None, url: str | None) -> Iterator[Client]:
    """The API that the settings or the option ``--url`` name, to be asked."""
    chosen = settings(config)
    with Client(address(chosen, url), chosen.api_key or None) as client:
        yield client


def complain(message: str) -> None:
    """Say what went wrong, on standard error."""
    err.print(Text("salescast:", style="bold red"), message, soft_wrap=True)


def run(app: typer.Typer) -> None:
    """Run a command; errors that Salescast names are shown without a traceback."""
    try:
        app()
    except SalescastError as error:
        # Who goes on trying is a learner or an API process; a command has ended.
        complain(str(error).replace("Salescast goes on trying", "then try again"))
        sys.exit(TRY_AGAIN if error.retriable else FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


def when(text: str | None) -> str:
    """An ISO time for people: to the second, with its offset.

    Examples
    --------
    >>> when("2026-03-01T09:00:00.25+00:00"), when("2026-03-01T09:00:00+01:00")
    ('2026-03-01 09:00:00Z', '2026-03-01 09:00:00+01:00')
    """
    if text is None:
        return ""
    return datetime.fromisoformat(text).isoformat(" ", "seconds").replace("+00:00", "Z")


def table_of(*names: str) -> Table:
    """An empty table with these columns; ids stay whole in theirs, so that they can be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in IDS)
    return table


def print_whole(what: Table | Tree | Group) -> None:
    """Print something no narrower than its longest word; in a pipe, so that nothing is folded."""
    room = Measurement.get(out, out.options.update(width=WIDEST), what)
    least = room.minimum if out.is_terminal else room.maximum
    wide = Console(highlight=False, markup=False, emoji=False, width=max(least, out.width))
    wide.print(what)


def times() -> tuple[ProgressColumn, ...]:
    """How long a progress bar has taken, and what is left: each says which it is."""
    return TextColumn("in"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class _Ecs(logging.Formatter):
    """ECS JSON, one object a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "@timestamp": f"{at}.{int(record.msecs):03d}Z",
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": "8.11.0",
            "service.name": self._service,
            "log.logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error.type"] = record.exc_info[0].__name__
            line["error.message"] = str(record.exc_info[1])
            line["error.stack_trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(config: Settings, service: str) -> None:
    """Set up the logs of a long-running process."""
    handler = logging.StreamHandler()
    if config.log_format == "json":
        handler.setFormatter(_Ecs(service))
    else:
        text = f"%(asctime)s {service} %(levelname)s %(message)s"
        handler.setFormatter(logging.Formatter(text, "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for quiet in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    # Twenty lines a second while no broker answers, and advice to kafka-python's own authors; what
    # fails for good is raised, and said by us.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
