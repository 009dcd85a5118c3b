"""`salescast settings`, `snapshots`, `operations`, `status`: what is, in tables."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from scripts.client import Client
from scripts.console import AsJson, Config, Url, address, loaded, out, print_json, settings
from stream.settings import shown


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("settings")(show_settings)
    app.command()(snapshots)
    app.command()(operations)
    app.command()(status)


def show_settings(config: Config = None, json: AsJson = False) -> None:
    """Show every setting: its value, where it came from, and what it does."""
    rows = shown(loaded(config))
    if json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("setting", "value", "unit", "from", "what it does"):
        table.add_column(name, overflow="fold")
    for row in rows:
        style = "" if row["origin"] == "default" else "bold"
        table.add_row(row["name"], row["value"], row["unit"], row["origin"], row["help"],
                      style=style)  # fmt: skip
    out.print(table)
    out.print("\nA setting is given in a TOML file (--config, or $SALESCAST_CONFIG), or in the\n"
              "environment as SALESCAST_<NAME> in capitals.", style="dim")  # fmt: skip


def snapshots(
    config: Config = None,
    url: Url = None,
    partition: Annotated[int | None, typer.Option(help="Only this partition")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first")] = 20,
    json: AsJson = False,
) -> None:
    """List snapshots: where each stands, and how good its forecasts were."""
    asked: dict[str, Any] = {"limit": limit}
    if partition is not None:
        asked["partition"] = partition
    found = _client(config, url).get("/v1/snapshots", **asked)
    if json:
        print_json(found)
        return
    table = _table("snapshot", "published", "knows sales up to", "RMSSE by horizon", "size", "")
    for one in found["items"]:
        marks = [name for name in ("head", "active") if one[name]]
        scores = "  ".join(
            f"{row['horizon']}: {row['rmsse']:.3f}"
            for row in one["scores"]
            if row["role"] == "champion" and row["rmsse"] is not None
        )
        table.add_row(one["id"], when(one["published_at"]), when(one["as_of"]), scores,
                      f"{one['size_bytes'] / 1e6:.1f} MB", " ".join(marks))  # fmt: skip
    out.print(table if found["items"] else "no snapshots yet")


def operations(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """List operations: who did what, when, why, and what became of it."""
    found = _client(config, url).get("/v1/operations")
    if json:
        print_json(found)
        return
    table = _table("when", "what", "who", "why", "state", "cut", "id")
    for one in found["items"]:
        table.add_row(when(one["time"]), one["kind"], one["who"], one["reason"], one["state"],
                      "\n".join(one["cut"].values()), one["id"])  # fmt: skip
    out.print(table if found["items"] else "no operations yet")


def status(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """Show each partition: position, lag, what is served, and whether it is stale or frozen."""
    found = _client(config, url).get("/v1/status")
    if json:
        print_json(found)
        return
    table = _table("partition", "series", "position", "lag", "knows sales up to", "age",
                   "serving", "")  # fmt: skip
    for one in found["partitions"]:
        marks = [name for name in ("stale", "frozen") if one[name]]
        age = one["age_s"]
        lag = one["lag"]
        table.add_row(str(one["partition"]), f"{one['series']:,}", f"{one['position']:,}",
                      "?" if lag is None else f"{lag:,}", when(one["as_of"]),
                      "" if age is None else f"{age:.0f} s", one["snapshot"] or "",
                      " ".join(marks))  # fmt: skip
    out.print(table if found["partitions"] else "nothing is served yet")


def _client(config: str | None, url: str | None) -> Client:
    chosen = settings(config)
    return Client(address(chosen, url), chosen.api_key or None)


def when(text: str | None) -> str:
    """An ISO time for people: to the second, with its offset."""
    if text is None:
        return ""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %z")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
