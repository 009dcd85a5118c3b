"""`salescast up`: the embedded mode, learner and API in one go."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from infra.ports import free_ports
from scripts.console import Config, address, out, settings
from scripts.supervise import Child
from stream.adapters import made
from stream.errors import SettingsError
from stream.settings import Settings

#: How long an API that is being replaced may take to leave.
LEAVING_S = 8.0


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(up)


def up(config: Config = None) -> None:
    """Run learner, API and console together until Ctrl-C; whichever dies is started again."""
    chosen = settings(config)
    environ = dict(os.environ)
    if config is not None:
        environ["SALESCAST_CONFIG"] = config
    children = make_children(chosen, environ)
    stopping = Stopping()
    out.print(f"Salescast: page {address(chosen, None)}/   API {address(chosen, None)}/docs")
    out.print(f"console    {console_address(chosen, environ)}/")
    out.print("Ctrl-C stops it; started again, it goes on where it was.", style="dim")
    try:
        while not stopping.asked:
            look_after(children)
            time.sleep(0.2)
        out.print("stopping: the learner publishes what was folded", style="dim")
    finally:
        stop_all(children)


class Stopping:
    """Whether Ctrl-C or SIGTERM came."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def make_children(chosen: Settings, environ: dict[str, str], *, logs: bool = False) -> list[Child]:
    """Learner, API and console, not started yet; with ``logs`` they write to files in the data
    folder. The console's port is put into ``environ`` where any will do.

    Raises
    ------
    SettingsError
        The API's or the console's port is taken.
    """
    folder = made(Path(chosen.data_dir))
    check_port(chosen.host, chosen.port, "port")
    if chosen.console_port == 0:
        environ["SALESCAST_CONSOLE_PORT"] = str(free_port(chosen.host))
    else:
        check_port(chosen.host, chosen.console_port, "console_port")
    return [
        Child(
            name=name,
            arguments=arguments,
            module=module,
            environ=environ,
            log=folder / f"{name}.log" if logs else None,
        )
        for name, arguments, module in (
            ("learner", ["learner"], "scripts.cli"),
            ("api", ["api"], "scripts.cli"),
            ("console", [], "scripts.web_console"),
        )
    ]


def console_address(chosen: Settings, environ: dict[str, str]) -> str:
    """Where the console of ``make_children`` is."""
    port = int(environ.get("SALESCAST_CONSOLE_PORT", chosen.console_port))
    return address(replace(chosen, port=port), None)


def free_port(host: str) -> int:
    """A port that nobody listens on just now, kept for our children."""
    family, address = _listened_on(host, 0)
    (port,) = free_ports(1, address, family)
    return port


def _listened_on(host: str, port: int) -> tuple[int, Any]:
    """Family and address of a host of this machine, to listen on.

    Raises
    ------
    SettingsError
        There is no such host.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _no_host(host, getattr(error, "strerror", None) or str(error)) from None
    return found[0][0], found[0][4]


def _no_host(host: str, why: str) -> SettingsError:
    return SettingsError(
        f"cannot listen on {host}: {why}", remedy="Set `host` to an address of this machine"
    )


def check_port(host: str, port: int, name: str) -> None:
    """Say so when somebody else listens on the port of the setting ``name``."""
    family, address = _listened_on(host, port)
    end = time.monotonic() + LEAVING_S
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
                return
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise _no_host(host, "it is not of this machine") from None
                if time.monotonic() > end:
                    raise SettingsError(
                        f"cannot listen on {host}:{port}: {error.strerror}",
                        remedy="Choose another port, for example "
                        f"SALESCAST_{name.upper()}={port + 10}",
                    ) from None
        time.sleep(0.2)


def look_after(children: list[Child]) -> None:
    """Start what must run.

    Raises
    ------
    SettingsError
        A child ended for a reason that starting it again cannot mend.
    """
    for child in children:
        child.look()
        if child.failed is not None:
            tail = child.tail()
            raise SettingsError(
                f"the {child.name} cannot run" + (f":\n{tail}" if tail else ""),
                remedy="" if tail else "It said why above",
            )


def stop_all(children: list[Child]) -> None:
    """Stop in the reverse order of starting."""
    for child in reversed(children):
        child.stop()
