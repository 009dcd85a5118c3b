"""`salescast freeze`, `resume`, `rollback`: operations, each with its reason."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from scripts.client import Client
from scripts.console import AsJson, Config, Url, address, out, print_json, settings

#: How long to wait for an operation's outcome, s.
WAIT_S = 30.0

Reason = Annotated[
    str, typer.Option("--reason", "-r", help="Why; kept in the audit trail", show_default=False)
]
Who = Annotated[str | None, typer.Option(help="Who; default: your login name", show_default=False)]
Snapshots = Annotated[
    list[str] | None,
    typer.Argument(help="Snapshots of the cut, one a partition", show_default=False),
]
To = Annotated[
    str | None,
    typer.Option("--to", help="Take each partition's newest snapshot that knows nothing after "
                 "this time (ISO 8601 with zone)", show_default=False),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; do nothing")]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command()(freeze)
    app.command()(resume)
    app.command()(rollback)


def freeze(
    reason: Reason,
    snapshots: Snapshots = None,
    to: To = None,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Serve a cut and stay there; learning goes on behind. Default: what is served now."""
    _operate("freeze", reason, snapshots, to, who, dry_run, config, url, json)


def resume(
    reason: Reason,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Serve the newest snapshots again."""
    _operate("resume", reason, None, None, who, dry_run, config, url, json)


def rollback(
    reason: Reason,
    snapshots: Snapshots = None,
    to: To = None,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Return the models to a cut; every fact that came after is kept. Name snapshots, or --to."""
    if not snapshots and to is None:
        raise typer.BadParameter(
            "name the snapshots to return to, or a time with --to; see: salescast snapshots"
        )
    _operate("rollback", reason, snapshots, to, who, dry_run, config, url, json)


def _operate(
    kind: str,
    reason: str,
    snapshots: list[str] | None,
    to: str | None,
    who: str | None,
    dry_run: bool,
    config: str | None,
    url: str | None,
    json: bool,
) -> None:
    chosen = settings(config)
    client = Client(address(chosen, url), chosen.api_key or None)
    asked: dict[str, Any] = {"kind": kind, "reason": reason, "who": who or getpass.getuser(),
                             "dry_run": dry_run}  # fmt: skip
    if snapshots:
        asked["snapshots"] = snapshots
    if to is not None:
        asked["to"] = to
    done = client.post("/v1/operations", json=asked)
    until = time.monotonic() + WAIT_S
    while done["state"] == "pending" and not dry_run and time.monotonic() < until:
        time.sleep(0.2)
        done = client.get(f"/v1/operations/{done['id']}")
    if json:
        print_json(done)
    else:
        _show(done, dry_run)
    if done["state"] == "refused":
        raise typer.Exit(1)


def _show(done: dict[str, Any], dry_run: bool) -> None:
    said = "would be done (nothing was)" if dry_run else done["state"]
    out.print(f"[bold]{done['kind']}[/] {said}", f"  id {done['id']}" if not dry_run else "")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("partition", "snapshot", "outcome"):
        table.add_column(name)
    outcomes = {one["partition"]: one for one in done["outcomes"]}
    for partition, snapshot in sorted(done["cut"].items(), key=lambda pair: int(pair[0])):
        one = outcomes.get(int(partition))
        text = "" if one is None else f"{one['outcome']} {one['detail']}".strip()
        table.add_row(partition, snapshot, text)
    out.print(table)
    if done["state"] == "pending" and not dry_run:
        out.print("No learner has come to it yet; it takes effect when one runs. "
                  "See: salescast operations", style="yellow")  # fmt: skip
