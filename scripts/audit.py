"""`salescast audit`, `lineage`, `verify`: what was done, where it led, and whether it is true."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl

import msgspec
import typer
from rich.text import Text
from rich.tree import Tree

from api.console.trail import plain
from scripts.console import (
    AsJson,
    Config,
    Url,
    api_of,
    out,
    print_json,
    print_whole,
    settings,
    when,
)
from scripts.show import print_operation, said
from stream.adapters import check_there
from stream.errors import SnapshotMissing
from stream.settings import Settings

#: Differences told of an answer.
SHOWN = 10
#: Columns of an exported trail: a row for each partition of each operation, one at least.
FIELDS = ("time", "id", "kind", "who", "reason", "replay", "exclude", "admit_late", "readmits",
          "model", "over", "about", "partition", "snapshot", "outcome", "outcome_time", "offset",
          "detail")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command()(audit)
    app.command()(lineage)
    app.command()(verify)


def audit(
    config: Config = None,
    url: Url = None,
    kind: Annotated[
        str | None, typer.Option(help="Only freeze, resume, rollback, …", show_default=False)
    ] = None,
    who: Annotated[str | None, typer.Option(help="Only this person's", show_default=False)] = None,
    operation: Annotated[
        str | None, typer.Option(help="Only this operation", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time on (ISO 8601)", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Before this time (ISO 8601)", show_default=False)
    ] = None,
    export: Annotated[
        Literal["ndjson", "csv"] | None,
        typer.Option(help="Print a row for each partition of each operation, one at least"),
    ] = None,
    json: AsJson = False,
) -> None:
    """Who did what, when, why, and what came of it in each partition; oldest first."""
    with api_of(config, url) as api:
        found = list(reversed(api.get("/v1/operations")["items"]))
    first, end = _moment(since, "--since"), _moment(until, "--until")
    chosen = [
        one
        for one in found
        if kind in (None, one["kind"])
        and who in (None, one["who"])
        and operation in (None, one["id"])
        and (first is None or datetime.fromisoformat(one["time"]) >= first)
        and (end is None or datetime.fromisoformat(one["time"]) < end)
    ]
    rows = [row for one in chosen for row in _rows(one)]
    if export == "ndjson":
        for row in rows:
            sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
    elif export == "csv":
        writer = csv.DictWriter(sys.stdout, FIELDS)
        writer.writeheader()
        for row in rows:
            row["exclude"] = said(row["exclude"])
            writer.writerow({name: plain(cell) for name, cell in row.items()})
    elif json:
        print_json({"items": chosen})
    else:
        for one in chosen:
            told = [_told(row) for row in _rows(one) if row["partition"] is not None]
            print_operation(one, "", told)
        if not chosen:
            out.print("no such operations")


def _told(row: dict[str, Any]) -> str:
    """What came of an operation in a partition, for people."""
    at = "" if row["offset"] is None else f" at offset {row['offset']:,}"
    text = f"partition {row['partition']} {row['outcome'] or 'pending'}{at}: {row['snapshot']}"
    return f"{text} {row['detail']}".rstrip()


def _rows(one: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each partition of an operation; one without, if it concerns none."""
    outcomes = {each["partition"]: each for each in one["outcomes"]}
    rows = []
    for name, snapshot in one["cut"].items() or [(None, None)]:
        partition = None if name is None else int(name)
        outcome = {} if partition is None else outcomes.get(partition, {})
        row = {field: one.get(field) for field in FIELDS}
        row |= {
            "partition": partition,
            "snapshot": snapshot,
            "outcome": outcome.get("outcome"),
            "outcome_time": outcome.get("time"),
            "offset": outcome.get("offset"),
            "detail": outcome.get("detail", ""),
        }
        rows.append(row)
    return rows


def lineage(
    config: Config = None,
    url: Url = None,
    partition: Annotated[int | None, typer.Option(help="Only this partition")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every kept snapshot, not only where something happens")
    ] = False,
    json: AsJson = False,
) -> None:
    """Draw where snapshots come from: rollbacks, exclusions, and what is served."""
    with api_of(config, url) as api:
        found = api.get("/v1/lineage")
    there = [str(one["partition"]) for one in found["partitions"]]
    if partition is not None:
        if str(partition) not in there:
            raise typer.BadParameter(f"--partition: none is {partition} that has snapshots; "
                                     f"there are {', '.join(there) or 'none yet'}")  # fmt: skip
        found["partitions"] = [p for p in found["partitions"] if p["partition"] == partition]
    if json:
        print_json(found)
        return
    for one in found["partitions"]:
        print_whole(_tree(one, every))
    if not found["partitions"]:
        out.print("no snapshots yet")


def _tree(one: dict[str, Any], every: bool) -> Tree:
    nodes = {node["id"]: node for node in one["snapshots"]}
    children: dict[str | None, list[str]] = {}
    for node in nodes.values():
        children.setdefault(node["parent"], []).append(node["id"])
    tree = Tree(f"partition {one['partition']}")
    waiting = [(name, tree, 0) for name in reversed(children.get(None, []))]
    while waiting:
        name, at, passed = waiting.pop()
        node, below = nodes[name], children.get(name, [])
        dull = not (node["head"] or node["active"] or node["named_by"] or len(below) != 1)
        begins = node["parent"] is None or nodes[node["parent"]]["lineage"] != node["lineage"]
        if every or not dull or begins:
            at = at.add(_label(node, begins, passed))
            passed = 0
        else:
            passed += 1
        waiting += [(child, at, passed) for child in reversed(below)]
    return tree


def _label(node: dict[str, Any], begins: bool, passed: int) -> Text:
    text = Text(f"… {passed} more … " if passed else "")
    text.append(f"{node['id']}  {when(node['as_of'])}")
    marks = [mark for mark in ("head", "active", "unfinished") if node[mark]]
    if marks:
        text.append("  ").append(" ".join(marks), style="bold")
    if begins and node["made_by"]:
        text.append("  ").append(f"by {node['made_by']}", style="yellow")
    for each in node["named_by"]:
        text.append(f"\n  {each['kind']} {each['id']} by {each['who']}: {each['reason']}")
    return text


def verify(
    snapshot: Annotated[str | None, typer.Argument(help="Which one", show_default=False)] = None,
    of: Annotated[
        str | None, typer.Option("--snapshot", help="Which one, too", show_default=False)
    ] = None,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="From the log's beginning, not the nearest ancestor"),
    ] = False,
    forecast: Annotated[
        str | None,
        typer.Option(
            help="Recompute this answer instead, such as '/v1/forecasts/330/MILK?horizon=7'",
            show_default=False,
        ),
    ] = None,
    body: Annotated[
        str | None,
        typer.Option(
            help="File with the answer as it was given; default: ask the API again",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Make a snapshot again from the log and compare digests; or an answer, from its snapshot.

    Reads logs and store as a learner does, and changes nothing.
    """
    name = snapshot or of
    if name is None:
        raise typer.BadParameter("name a snapshot; see: salescast snapshots")
    chosen = settings(config)
    check_there(chosen)
    if forecast is not None:
        _verify_forecast(chosen, name, forecast, body, config, url, json)
    else:
        _verify_snapshot(chosen, name, from_start, json)


def _verify_snapshot(chosen: Settings, name: str, from_start: bool, json: bool) -> None:
    from learner.adapters import open_store
    from learner.keys import load_verifier
    from learner.verify import Verification
    from stream.adapters import Name, open_log
    from stream.dead_letters import DeadLetters

    with ExitStack() as stack:
        events, control, letters = (
            stack.enter_context(closing(open_log(chosen, name))) for name in get_args(Name)
        )
        store = stack.enter_context(closing(open_store(chosen)))
        found = Verification(
            settings=chosen, events=events, control=control,
            dead_letters=DeadLetters(letters, events), store=store,
            verifier=load_verifier(chosen),
        ).verify(_partition(store, name), name, from_start=from_start)  # fmt: skip
    said = {
        "snapshot": name, "verdict": found.verdict, "made_from": found.origin,
        "records": found.records, "digest": found.manifest.digest, "found": found.digest,
        "versions": {k: {"then": then, "now": now} for k, (then, now) in found.versions.items()},
    }  # fmt: skip
    if json:
        print_json(said)
    else:
        style, meaning = {
            "identical": ("green", "every value, to the bit"),
            "close": ("yellow", "facts to the bit, what is learned but for the last bits "
                      "(another processor or library than it was made with)"),
            "different": ("red", "it is not what the log says"),
        }[found.verdict]  # fmt: skip
        out.print(Text.assemble(f"{name} is ", (found.verdict, style), f": {meaning}"))
        out.print(f"made again from {found.origin}, {found.records:,} records")
        for what, (then, now) in found.versions.items():
            out.print(f"{what}: {then} then, {now} now", style="dim")
    if found.verdict == "different":
        raise typer.Exit(1)


def _verify_forecast(
    chosen: Settings, name: str, request: str, file: str | None, config: str | None,
    url: str | None, json: bool,
) -> None:  # fmt: skip
    from api.problems import Problem
    from api.recompute import forecast, without_clock
    from learner.adapters import open_store
    from learner.keys import load_verifier

    given = None if file is None else _answer(Path(file))
    store = open_store(chosen)
    try:
        again = forecast(store, load_verifier(chosen), _partition(store, name), name, request)
    except Problem as problem:
        raise typer.BadParameter(str(problem)) from problem
    finally:
        store.close()
    if given is None:
        path, _, query = request.partition("?")
        with api_of(config, url) as api:
            given = msgspec.json.encode(api.get(path, **dict(parse_qsl(query))))
    then, now = (msgspec.json.decode(one) for one in (without_clock(given), again))
    served, same = then.get("snapshot"), without_clock(given) == again
    if json:
        print_json({"snapshot": name, "verdict": "identical" if same else "different",
                    "given_by": served, "answer": now})  # fmt: skip
    elif same:
        out.print(
            Text.assemble(("identical", "green"), ", to the byte, but for the clock's fields")
        )
    elif served != name:
        out.print(f"the answer it is compared with is of {served}; give the one of then by --body",
                  style="yellow")  # fmt: skip
    else:
        out.print(Text.assemble(("different", "red"), " from the answer that was given:"))
        apart = list(_apart(then, now))
        for where, one, other in apart[:SHOWN]:
            out.print(f"  {where}: given {one}, made again {other}", markup=False)
        if len(apart) > SHOWN:
            out.print(f"  … and {len(apart) - SHOWN} more; all of the answer: --json")
    if not same:
        raise typer.Exit(1)


def _apart(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, and what is there.

    Examples
    --------
    >>> list(_apart({"steps": [{"mean": 1.0}]}, {"steps": [{"mean": 2.0}], "age": 3}))
    [('steps.0.mean', 1.0, 2.0), ('age', None, 3)]
    """
    if isinstance(one, list) and isinstance(other, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield where, one, other
        return
    for key in {**one, **other}:
        yield from _apart(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))


def _answer(file: Path) -> bytes:
    """An answer that was kept, which is a JSON object."""
    try:
        given = file.read_bytes()
        msgspec.json.decode(given, type=dict)
    except OSError as error:
        raise typer.BadParameter(f"cannot read --body {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--body {file} is no answer of the API: {error}") from None
    return given


def _partition(store: Any, name: str) -> int:
    name = name.partition("+")[0]  # a frozen one that goes on names the head too
    for partition in store.partitions():
        if name in store.snapshots(partition):
            return int(partition)
    raise SnapshotMissing(f"no partition keeps a snapshot {name[:140]}")


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: `{text}` is no time; give ISO 8601") from None
    return moment if moment.tzinfo else moment.astimezone()
