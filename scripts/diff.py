"""`salescast diff`: why a forecast moved."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from scripts.console import (
    AsJson,
    Config,
    Url,
    api_of,
    out,
    print_json,
    print_whole,
    table_of,
    when,
)

#: What each part is, for people.
PARTS = {
    "plans": "plans that became known",
    "amended": "earlier buckets, known otherwise by now",
    "closed": "buckets that closed since",
    "model": "what the model learned since",
    "open": "what is sold of the bucket already",
}


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(diff)


def diff(
    store: str,
    product: str,
    earlier: Annotated[
        str | None,
        typer.Option("--from", help="A snapshot; default: the newest kept of a bucket before",
                     show_default=False),
    ] = None,
    later: Annotated[
        str | None,
        typer.Option("--to", help="A snapshot; default: what is served", show_default=False),
    ] = None,
    horizon: Annotated[int, typer.Option(help="Which bucket after the origin of --to")] = 1,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:  # fmt: skip
    """Why a forecast moved between two snapshots: plans, facts with their sources, and model."""
    asked: dict[str, Any] = {"horizon": horizon}
    asked |= {"from": earlier, "to": later}
    path = f"/v1/diff/{quote(store, safe='')}/{quote(product, safe='')}"
    with api_of(config, url) as api:
        found = api.get(path, **asked)
    if json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    old, new = found["from"], found["to"]
    out.print(Text.assemble((f"{found['store']} {found['product']}", "bold"),
                            f", {when(found['start'])}: {old['mean']:g} → {new['mean']:g} "
                            f"({found['change']:+g})"))  # fmt: skip
    out.print(f"from {old['snapshot']}, {old['model']}, {old['horizon']} ahead\n"
              f"to   {new['snapshot']}, {new['model']}, {new['horizon']} ahead")  # fmt: skip
    table = table_of("units", "by", "sent by")
    for name, units in found["parts"].items():
        table.add_row(f"{units:+g}", PARTS[name], "")
        for one in found["closed"] if name == "closed" else ():
            sold = "nothing known" if one["demand"] is None else f"{one['demand']:g}"
            table.add_row(f"  {one['effect']:+g}", f"  {when(one['start'])}: {sold}",
                          _sources(one))  # fmt: skip
        for one in found["amended"] if name == "amended" else ():
            before, after = (
                "?" if each is None else f"{each:g}" for each in (one["before"], one["after"])
            )
            table.add_row("", f"  {when(one['start'])}: {before} → {after}", _sources(one))
    print_whole(table)
    if not found["log"]["complete"]:
        out.print(f"Sources are not told in full: {found['log']['detail']}", style="yellow")
    if found["operations"]:
        out.print(f"carried out since: {', '.join(found['operations'])}")


def _sources(one: dict[str, Any]) -> str:
    return ", ".join(
        f"{each['source']} {each['units']:g}{' (passed over)' if each['passed_over'] else ''}"
        for each in one["sources"]
    )
