"""`salescast console`: the web console, a client of the API.

Also a program of its own (``python -m scripts.web_console``), for `up` and `demo`: without what the
other subcommands load, it starts in a third of the time and needs less than half of the memory.
"""

from __future__ import annotations

from typing import Annotated

import typer

from scripts.console import Config, address, log_to_stderr, out, run, settings
from scripts.serve import LeaveWithParent
from scripts.supervise import leave_with_parent
from scripts.up import check_port


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("console")(console)


def console(
    config: Config = None,
    api: Annotated[
        str | None, typer.Option(help="Address of the API; default: from `host` and `port`",
                                 show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one")] = None,
    with_parent: LeaveWithParent = False,
) -> None:  # fmt: skip
    """Show and operate everything in a browser. It acts with the key that you give it there."""
    chosen = settings(config, console_port=port)
    host = host or chosen.host
    if with_parent:
        leave_with_parent()
    elif chosen.console_port:  # the parent has looked
        check_port(host, chosen.console_port, "console_port")
    from api.console.app import serve

    log_to_stderr(chosen, "console")

    def started(where: str) -> None:
        if not with_parent:  # which has said so itself
            out.print(f"console  {where}")

    raise typer.Exit(serve(address(chosen, api), host, chosen.console_port, started))


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(console)
    run(alone)
