"""`salescast dead-letters`: list them, look at them, mend and send them again, discard them."""

from __future__ import annotations

import json as json_
from typing import Annotated, Any

import typer

from scripts.console import AsJson, Config, Url, api_of, out, print_json, print_whole, table_of
from scripts.operate import DryRun, Reason, Who, whoever

Receipts = Annotated[list[str] | None, typer.Argument(help="Which, by receipt", show_default=False)]
RefusedFor = Annotated[
    str | None,
    typer.Option("--refused-for", help="All that were kept aside for this reason",
                 show_default=False),
]  # fmt: skip
Source = Annotated[str | None, typer.Option(help="All of this source", show_default=False)]

letters = typer.Typer(
    help="Items that were refused or late: see them, mend them, send them again, discard them.",
    invoke_without_command=True,
    no_args_is_help=False,
)


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    letters.callback()(groups)
    for command in (show, send, discard):
        letters.command()(command)
    app.add_typer(letters, name="dead-letters")


def groups(
    context: typer.Context, config: Config = None, url: Url = None, json: AsJson = False
) -> None:
    """Count dead letters by reason and source."""
    if (command := context.invoked_subcommand) is not None:
        for option, value in (("--config", config), ("--url", url), ("--json", json)):
            if value:  # it would be passed over, and another deployment acted on
                raise typer.BadParameter(
                    f"put {option} after `{command}`: salescast dead-letters {command} {option} …"
                )
        return
    with api_of(config, url) as api:
        found = api.get("/v1/dead-letters", limit=0)["groups"]
    if json:
        print_json(found)
        return
    table = table_of("letters", "reason", "source")
    for one in found:
        table.add_row(f"{one['letters']:,}", one["reason"], one["source"] or "?")
    if found:
        print_whole(table)
    else:
        out.print("no dead letters")


def show(
    refused_for: RefusedFor = None,
    source: Source = None,
    settled: Annotated[
        bool, typer.Option("--settled", help="Those that were dealt with too")
    ] = False,
    limit: Annotated[int, typer.Option(help="How many, newest first")] = 100,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Show dead letters with their original bytes, why, and what to do."""
    with api_of(config, url) as api:
        found = api.get(
            "/v1/dead-letters", reason=refused_for, source=source, limit=limit,
            settled="true" if settled else None,
        )["items"]  # fmt: skip
    if json:
        print_json(found)
        return
    for one in found:
        out.print(f"{one['receipt']}  {one['reason']}: {one['detail']}")
        out.print(f"  {one['settled'] or one['remedy']}", style="dim")
        out.print(f"  {one['value']}", soft_wrap=True)
    if not found:
        out.print("no dead letters")


def send(
    reason: Reason,
    receipts: Receipts = None,
    refused_for: RefusedFor = None,
    source: Source = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="FIELD=VALUE to set first; JSON, or else text", show_default=False
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", help="OLD=NEW, a field to rename first", show_default=False),
    ] = None,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Send dead letters again, mended by a rule; what is still refused stays one."""
    rule = {
        "rename": _pairs(rename, "--rename"),
        "set": {name: _value(text) for name, text in _pairs(set, "--set").items()},
    }
    _act("resend", reason, receipts, refused_for, source, who, dry_run, config, url, json, rule)


def discard(
    reason: Reason,
    receipts: Receipts = None,
    refused_for: RefusedFor = None,
    source: Source = None,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Say that dead letters are not worth mending; they are kept, and no longer listed."""
    _act("discard", reason, receipts, refused_for, source, who, dry_run, config, url, json, {})


def _act(
    action: str,
    reason: str,
    receipts: list[str] | None,
    refused_for: str | None,
    source: str | None,
    who: str | None,
    dry_run: bool,
    config: str | None,
    url: str | None,
    json: bool,
    rule: dict[str, Any],
) -> None:
    if not receipts and refused_for is None and source is None:
        raise typer.BadParameter("name receipts, or give --refused-for or --source")
    asked = {
        "action": action, "reason": reason, "who": whoever(who), "dry_run": dry_run,
        "receipts": receipts or [], "refused_for": refused_for, "source": source, **rule,
    }  # fmt: skip
    with api_of(config, url) as api:
        done = api.post("/v1/dead-letters", json=asked)
    if json:
        print_json(done)
    else:
        verb = "sent again" if action == "resend" else "discarded"
        would = "would be " if dry_run else ""
        out.print(f"{done['done']:,} of {done['chosen']:,} {would}{verb}")
        for one in done["refused"][:20]:
            out.print(f"{one['receipt']}  {one['reason']}: {one['detail']}")
            out.print(f"  {one['remedy']}", style="dim")
    if done["refused"]:
        raise typer.Exit(1)


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"`{text}`: give {option} NAME=VALUE")
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json_.loads(text)
    except ValueError:
        return text
