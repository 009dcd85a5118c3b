"""`salescast settings`, `snapshots`, `models`, `operations`, `excluded`, `status`, `guard` and
`shards`, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from api.console.formats import span
from scripts.client import ApiError
from scripts.console import (
    AsJson,
    Config,
    Url,
    api_of,
    loaded,
    out,
    print_json,
    print_whole,
    table_of,
    when,
)
from scripts.operate import far
from stream.settings import shown


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("settings")(show_settings)
    app.command()(snapshots)
    app.command()(models)
    app.command()(operations)
    app.command()(excluded)
    app.command()(status)
    app.command()(guard)
    app.command()(shards)


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
    with api_of(config, url) as api:
        found = api.get("/v1/snapshots", **asked)
    if json:
        print_json(found)
        return
    table = table_of("snapshot", "published", "knows sales up to", "RMSSE by horizon", "size", "")
    for one in found["items"]:
        marks = [name for name in ("head", "active") if one[name]]
        scores = "  ".join(
            f"{row['horizon']}: {row['rmsse']:.3f}"
            for row in one["scores"]
            if row["role"] == "champion" and row["rmsse"] is not None
        )
        table.add_row(one["id"], when(one["published_at"]), when(one["as_of"]), scores,
                      f"{one['size_bytes'] / 1e6:.1f} MB", " ".join(marks))  # fmt: skip
    if found["items"]:
        print_whole(table)
    else:
        out.print("no snapshots yet")


def models(
    config: Config = None,
    url: Url = None,
    model: Annotated[
        str | None, typer.Option(help="Show the tests of this challenger", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Champion, challengers and twin, and which gates a challenger would pass now."""
    with api_of(config, url) as api:
        found = api.get("/v1/models")
    challengers = [one["model"] for one in found["items"] if one["role"] == "challenger"]
    if model is not None and model not in challengers:
        there = f"there are {', '.join(challengers)}" if challengers else "there is none"
        raise typer.BadParameter(f"--model: no challenger is called `{model}`; {there}")
    if json:
        print_json(found)
        return
    print_whole(gates_table(found) if model is None else tests_table(found, model))


def gates_table(found: dict[str, Any]) -> Table:
    """Models, and which gates each challenger passes."""
    table = table_of("model", "role", "gates")
    for one in found["items"]:
        gates = "\n".join(
            f"{'passes' if gate['passed'] else 'FAILS'} {gate['gate']}: {gate['detail']}"
            for gate in one["gates"]
        )
        table.add_row(one["model"], one["role"], gates)
    return table


def tests_table(found: dict[str, Any], model: str) -> Table:
    """What the gates have tested of one challenger."""
    table = table_of("gate", "of", "ahead", "loss", "change", "p", "sure")
    for gate in [g for one in found["items"] if one["model"] == model for g in one["gates"]]:
        for test in gate["tests"]:
            table.add_row(
                gate["gate"], f"{test['slice']} {test['value']}".strip(), str(test["horizon"]),
                test["loss"], f"{test['change']:+.1%}", f"{test['p']:.2g}",
                "yes" if test["rejected"] else "no",
            )  # fmt: skip
    return table


def operations(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """List operations: who did what, when, why, and what became of it."""
    with api_of(config, url) as api:
        found = api.get("/v1/operations")
    if json:
        print_json(found)
        return
    for one in found["items"]:
        state = [f"{p}: {far(at)}" for p, at in one["progress"].items()]
        cut = ["cut " + " ".join(one["cut"].values())] if one["cut"] else []
        print_operation(one, one["state"], [*cut, *state])
    if not found["items"]:
        out.print("no operations yet")


def print_operation(one: dict[str, Any], state: str, lines: Sequence[str]) -> None:
    """An operation in some lines: who did what and why, its id whole, and what else there is."""
    kind = "rollback, replay" if one["kind"] == "rollback" and one["replay"] else one["kind"]
    head = Text.assemble(when(one["time"]), "  ", (kind, "bold"), f"  {state}".rstrip(),
                         f"  {one['who']}: {one['reason']}")  # fmt: skip
    what = [f"{name} {value}" for name, value in (
        ("id", one["id"]), ("without", said(one["exclude"])), ("of", one["readmits"]),
        ("model", one["model"]), ("about", one["about"]),
    ) if value]  # fmt: skip
    below = [Padding(Text(line), (0, 0, 0, 2), expand=False) for line in [*what, *lines]]
    print_whole(Group(head, *below))


def excluded(
    config: Config = None,
    url: Url = None,
    operation: Annotated[
        str | None, typer.Option(help="Show each item that it keeps out", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many items")] = 100,
    after: Annotated[
        str | None, typer.Option(help="Go on where the last list ended", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """List what is kept out, by operation and offsets; with --operation, each item of one."""
    asked: dict[str, Any] = {"limit": limit}
    asked |= {k: v for k, v in (("operation", operation), ("after", after)) if v is not None}
    with api_of(config, url) as api:
        found = api.get("/v1/excluded", **asked)
    if json:
        print_json(found)
        return
    table = table_of("operation", "what", "partition", "offsets", "items that match")
    for one in found["rules"]:
        table.add_row(one["operation"], one["kind"], str(one["partition"]),
                      span(one["start"], one["end"]), said(one["what"]))  # fmt: skip
    if found["rules"]:
        print_whole(table)
    else:
        out.print("nothing is passed over")
    if found["rules"] and operation is None:
        out.print("each item of one: salescast excluded --operation ID", style="dim")
    elif not found["items"] and after is None:
        out.print("no such item has come so far")
    for one in found["items"]:
        out.print(one["receipt"], one["value"], soft_wrap=True)
    if found["next"] is not None:
        out.print(f"more: --after {found['next']}", style="dim")


def said(what: dict[str, Any] | None) -> str:
    """An exclusion for people.

    Examples
    --------
    >>> said({"sources": ["till-7", "till-8"], "offsets": {"0": [5, 10]}})
    'sources till-7, till-8; offsets 5 to 9 of partition 0'
    """
    named = {name: value for name, value in (what or {}).items() if name != "offsets"}
    parts = [
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in named.items()
    ]
    for partition, (start, end) in (what or {}).get("offsets", {}).items():
        parts.append(f"offsets {span(start, end)} of partition {partition}")
    return "; ".join(parts)


def status(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """Show each partition: position, lag, what is served, and whether it is stale or frozen."""
    unknown: ApiError | None = None
    with api_of(config, url) as api:
        found = api.get("/v1/status")
        try:
            sources = [] if json else api.get("/v1/guard")["sources"]
        except ApiError as error:  # the log is away: that is what a status is asked for
            sources, unknown = [], error
    if json:
        print_json(found)
        return
    table = table_of("partition", "series", "position", "lag", "knows sales up to", "age",
                   "serving", "")  # fmt: skip
    for one in found["partitions"]:
        marks = [said for said in ("stale", "frozen", "catching up") if one[said.replace(" ", "_")]]
        if one["replaying"] is not None:
            marks.append(far(one["replaying"]))
        if one["standstill"] is not None:
            marks.append("stands still")
        age, position, lag = one["age_s"], one["position"], one["lag"]
        table.add_row(str(one["partition"]), f"{one['series']:,}",
                      "" if position is None else f"{position:,}",
                      "?" if lag is None else f"{lag:,}", when(one["as_of"]),
                      "" if age is None else f"{age:.0f} s", one["snapshot"] or "",
                      " ".join(marks))  # fmt: skip
    if found["partitions"]:
        print_whole(table)
    else:
        out.print("nothing is served yet")
    _show_standstills(found["partitions"])
    if unknown is not None:
        out.print(f"\nHow sources stand is not known: {unknown}", style="red", soft_wrap=True)
    off = [one for one in sources if one["state"] != "ok"]
    if off:
        out.print("\nOutside of their band:", style="yellow")
        _show_sources(off)


def guard(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """Show each source: whether it is within its own band, and the command if it is not."""
    with api_of(config, url) as api:
        found = api.get("/v1/guard")
    if json:
        print_json(found)
        return
    out.print(f"guard: {found['mode']}")
    if found["sources"]:
        _show_sources(found["sources"])
    else:
        out.print("no source was judged yet")


def _show_sources(sources: list[dict[str, Any]]) -> None:
    table = table_of("source", "partition", "state", "since", "of its band", "what", "operation")
    for one in sources:
        state = "ok, learning" if one["learning"] and one["state"] == "ok" else one["state"]
        table.add_row(one["source"], str(one["partition"]), state, when(one["since"]),
                      f"{one['score']:.0%}", one["text"], one["operation"] or "",
                      style="" if one["state"] == "ok" else "yellow")  # fmt: skip
    print_whole(table)
    for command in dict.fromkeys(line for one in sources for line in one["commands"]):
        out.print(f"  {command}", soft_wrap=True)


def shards(config: Config = None, url: Url = None, json: AsJson = False) -> None:
    """Show who folds each partition, how far its head has come, and what waits in the log."""
    with api_of(config, url) as api:
        found = api.get("/v1/shards")
    if json:
        print_json(found)
        return
    table = table_of("partition", "owner", "lineage", "position", "lag", "waiting", "series",
                   "knows sales up to", "last snapshot", "age")  # fmt: skip
    for one in found["items"]:
        lag, waiting, age = one["lag"], one["lag_s"], one["age_s"]
        nobody = "?" if one["log_end"] is None else "nobody"
        table.add_row(str(one["partition"]), one["owner"] or nobody,
                      "" if one["lineage"] is None else str(one["lineage"]),
                      f"{one['position']:,}", "?" if lag is None else f"{lag:,}",
                      "?" if waiting is None else f"{waiting:.0f} s", f"{one['series']:,}",
                      when(one["as_of"]), one["snapshot"] or "",
                      "" if age is None else f"{age:.0f} s")  # fmt: skip
    print_whole(table)
    _show_standstills(found["items"])


def _show_standstills(partitions: list[dict[str, Any]]) -> None:
    """What partitions stand still at, and what to do about it."""
    for one in partitions:
        if (found := one["standstill"]) is not None:
            at = "before its head" if found["offset"] is None else f"at offset {found['offset']}"
            out.print(f"\nPartition {one['partition']} stands still {at} since "
                      f"{when(found['since'])}: {found['why']}", style="red", soft_wrap=True,
                      markup=False)  # fmt: skip
            out.print(f"  {found['remedy']}", soft_wrap=True, markup=False)
