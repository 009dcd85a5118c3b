"""What all subcommands share at the terminal: settings, logs, complaints, the API's address."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console

from stream.errors import SalescastError
from stream.settings import Loaded, Settings, load

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

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
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return (url or f"http://{host}:{config.port}").rstrip("/")


def complain(message: str) -> None:
    """Say what went wrong, on standard error."""
    err.print("[bold red]salescast:[/]", message, markup=True, soft_wrap=True)


def run(app: typer.Typer) -> None:
    """Run a command; errors that Salescast names are shown without a traceback."""
    try:
        app()
    except SalescastError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


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
    for quiet in ("kafka", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
