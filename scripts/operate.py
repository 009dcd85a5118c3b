"""`salescast freeze`, `resume`, `rollback`, `quarantine`, `readmit`, `skip`, `promote`: each
with its reason."""

from __future__ import annotations

import getpass
import re
import time
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from scripts.client import ApiError, Client
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

#: How long to wait for an operation's outcome, and then for the API to serve it, s.
WAIT_S, SERVED_S = 30.0, 10.0
#: What a cut names where a partition begins anew; and how many others are looked up to be shown.
START, LOOKED_UP = "start", 100
#: Seconds of a bucket, and so many of them that a snapshot may be older than what was asked for.
BUCKET_S = {"hour": 3600, "day": 86_400, "week": 604_800}
FEW_BUCKETS = 3

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


def _named(option: str) -> Any:
    what = option.rpartition("-")[2].capitalize()
    return typer.Option(option, help=f"{what}; may be repeated", show_default=False)


ExcludeSource = Annotated[list[str] | None, _named("--exclude-source")]
ExcludeStore = Annotated[list[str] | None, _named("--exclude-store")]
ExcludeProduct = Annotated[list[str] | None, _named("--exclude-product")]
ExcludeCategory = Annotated[list[str] | None, _named("--exclude-category")]
Source = Annotated[list[str] | None, _named("--source")]
Store = Annotated[list[str] | None, _named("--store")]
Product = Annotated[list[str] | None, _named("--product")]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command()(freeze)
    app.command()(resume)
    for command in (rollback, quarantine, readmit, skip, promote):
        app.command()(command)


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
    snapshot: Annotated[
        list[str] | None,
        typer.Option(
            "--snapshot",
            help="As the argument; `start`: the log's beginning, in a replay",
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Take facts back too, and learn again what came after")
    ] = False,
    exclude_source: ExcludeSource = None,
    exclude_store: ExcludeStore = None,
    exclude_product: ExcludeProduct = None,
    exclude_category: ExcludeCategory = None,
    exclude_from: Annotated[
        str | None,
        typer.Option(help="Only from this event time on (ISO 8601 with zone)", show_default=False),
    ] = None,
    exclude_to: Annotated[
        str | None,
        typer.Option(help="Only before this event time (ISO 8601 with zone)", show_default=False),
    ] = None,
    exclude_offsets: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these offsets, PARTITION:FIRST-LAST, both included", show_default=False
        ),
    ] = None,
    surplus: Annotated[
        bool,
        typer.Option(
            "--surplus",
            help="What remains is whole: the excluded items were sent twice, "
            "or invented; their buckets are not missing",
        ),
    ] = False,
    admit_late: Annotated[bool, typer.Option("--admit-late", help="Learn late items too")] = False,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Return to a cut: name snapshots, or --to.

    The models return, and every fact that came after is kept. With --replay all returns, and
    what came after is learned again, but for what is excluded: items that match every kind of
    criterion given. What was served goes on being served until the replay has caught up.
    """
    named = [*(snapshots or []), *(snapshot or [])]
    if not named and to is None:
        raise typer.BadParameter(
            "name the snapshots to return to, or a time with --to; see: salescast snapshots"
        )
    exclude: dict[str, Any] = {
        "sources": exclude_source, "stores": exclude_store, "products": exclude_product,
        "categories": exclude_category, "since": exclude_from, "until": exclude_to,
        "offsets": _offsets(exclude_offsets or []), "surplus": surplus,
    }  # fmt: skip
    exclude = {name: value for name, value in exclude.items() if value}
    if exclude and not replay:
        raise typer.BadParameter("only a rollback with --replay can exclude anything")
    more: dict[str, Any] = {"replay": replay, "admit_late": admit_late}
    if exclude:
        more["exclude"] = exclude
    _operate("rollback", reason, named, to, who, dry_run, config, url, json, more)


def quarantine(
    reason: Reason,
    source: Source = None,
    store: Store = None,
    product: Product = None,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Keep what comes of a source, store or product from now on, but do not learn from it."""
    exclude = {"sources": source, "stores": store, "products": product}
    exclude = {name: value for name, value in exclude.items() if value}
    if not exclude:
        raise typer.BadParameter("name a --source, --store or --product")
    _operate("quarantine", reason, None, None, who, dry_run, config, url, json,
             {"exclude": exclude})  # fmt: skip


def readmit(
    reason: Reason,
    operation: Annotated[
        str,
        typer.Option(
            "--operation",
            help="The rollback or quarantine whose items to learn after "
            "all; see: salescast excluded",
            show_default=False,
        ),
    ],
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Learn again from before an exclusion or quarantine, with what it kept out."""
    _operate("readmit", reason, None, None, who, dry_run, config, url, json,
             {"readmits": operation})  # fmt: skip


def skip(
    reason: Reason,
    offsets: Annotated[
        list[str],
        typer.Argument(
            metavar="PARTITION:OFFSET...",
            help="The record that `salescast status` names; PARTITION:FIRST-LAST: several",
            show_default=False,
        ),
    ],
    surplus: Annotated[
        bool, typer.Option("--surplus", help="What remains is whole; its buckets are not missing")
    ] = False,
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Let a partition that stands still go on without the record that stops it.

    The record is kept, with all events in it; readmit learns it after all, once what stopped at
    it is mended. What the record was not to blame for stops the next one too: then report it.
    """
    exclude = {"offsets": _offsets(offsets), **({"surplus": True} if surplus else {})}
    _operate("skip", reason, None, None, who, dry_run, config, url, json, {"exclude": exclude})


def promote(
    reason: Reason,
    model: Annotated[
        str, typer.Argument(help="The challenger; see: salescast models", show_default=False)
    ],
    who: Who = None,
    dry_run: DryRun = False,
    config: Config = None,
    url: Url = None,
    json: AsJson = False,
) -> None:
    """Let a challenger be champion, if it forecasts better and nothing is worse off by it.

    A rollback to a snapshot of before brings the former champion back.
    """
    _operate("promote", reason, None, None, who, dry_run, config, url, json, {"model": model})


def _offsets(texts: list[str]) -> dict[str, list[int]]:
    """`PARTITION:FIRST-LAST`, or one offset, as partition → first, and the one after the last."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"(\d+):(\d+)(?:-(\d+))?", text)
        last = -1 if match is None else int(match[3] or match[2])
        if match is None or last < int(match[2]):
            raise typer.BadParameter(f"`{text}`: give PARTITION:FIRST-LAST, or PARTITION:OFFSET")
        found[match[1]] = [int(match[2]), last + 1]
    return found


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
    more: dict[str, Any] | None = None,
) -> None:
    asked: dict[str, Any] = {"kind": kind, "reason": reason, "who": whoever(who),
                             "dry_run": dry_run, **(more or {})}  # fmt: skip
    if snapshots:
        asked["snapshots"] = snapshots
    if to is not None:
        asked["to"] = to
    with api_of(config, url) as api:
        done = api.post("/v1/operations", json=asked)
        until = time.monotonic() + WAIT_S
        seen: Any = None
        while done["state"] == "pending" and not dry_run and time.monotonic() < until:
            time.sleep(0.2)
            done = api.get(f"/v1/operations/{quote(done['id'], safe='')}")
            if done["progress"] != seen:  # as long as a replay comes on, it is waited for
                seen, until = done["progress"], time.monotonic() + WAIT_S
        served = dry_run or _await_served(api, done)
        made = {} if json else _snapshots(api, done["cut"])
    if json:
        print_json(done)
    else:
        _show(done, dry_run, made)
        if not served:
            out.print("This API does not serve it yet. See: salescast status", style="yellow")
        if to is not None:
            with suppress(ValueError):  # the API reads a time or two that Python does not
                _show_older(datetime.fromisoformat(to.upper()), made)
    if done["state"] == "refused":
        raise typer.Exit(1)


def _await_served(api: Client, done: dict[str, Any]) -> bool:
    """Wait until what the API answers is of after the operation; whether it is.

    An outcome is written when the store has it, and replicas look at the store in turns.
    """
    until = time.monotonic() + SERVED_S
    while time.monotonic() < until:
        with suppress(ApiError):  # the operation is done all the same
            parts = {one["partition"]: one for one in api.get("/v1/status")["partitions"]}
            if all(_is_served(done, one, parts.get(one["partition"])) for one in done["outcomes"]):
                return True
        time.sleep(0.1)
    return False


def _is_served(
    done: dict[str, Any], outcome: dict[str, Any], part: dict[str, Any] | None
) -> bool:  # fmt: skip
    if outcome["outcome"] != "applied" or outcome["detail"] or part is None:
        return True
    if done["kind"] in ("freeze", "resume"):
        return bool(part["frozen_by"] == (done["id"] if done["kind"] == "freeze" else None))
    if part["frozen"] or outcome["offset"] is None:
        return True
    return bool((part["position"] or 0) > outcome["offset"])


def _snapshots(api: Client, cut: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What is known of a cut's snapshots, by partition."""
    found = {}
    for partition, snapshot in list(cut.items())[:LOOKED_UP]:
        if snapshot != START:
            with suppress(ApiError):  # it is for display
                found[partition] = api.get(f"/v1/snapshots/{quote(snapshot, safe='')}")
    return found


def _show_older(to: datetime, made: dict[str, dict[str, Any]]) -> None:
    """Say so where what is gone back to is much older than what was asked for."""
    older = {}
    for partition, one in made.items():
        if one["as_of"] is not None and (bucket_s := BUCKET_S.get(one["settings"]["bucket"])):
            gap_s = (to - datetime.fromisoformat(one["as_of"])).total_seconds()
            gap_s -= one["settings"]["grace_s"]
            if gap_s > FEW_BUCKETS * bucket_s:
                older[partition] = gap_s
    if older:
        most = max(older.values())
        far = f"{most / 86400:,.0f} days" if most >= 172_800 else f"{most / 3600:,.0f} hours"
        which = f"partition{'s' if len(older) > 1 else ''} {', '.join(older)}"
        out.print(f"That is {'up to ' if len(older) > 1 else ''}{far} before {to.isoformat(' ')} "
                  f"in {which}: no snapshot between is kept. See: salescast snapshots",
                  style="yellow")  # fmt: skip


def whoever(who: str | None) -> str:
    """Who acts: as given, or by the login name."""
    try:
        return who or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        raise typer.BadParameter("your user id has no name here: say who you are, --who") from None


def _show(done: dict[str, Any], dry_run: bool, made: dict[str, dict[str, Any]]) -> None:
    said = "would be done (nothing was)" if dry_run else done["state"]
    out.print(Text.assemble((done["kind"], "bold"), f" {said}"),
              f"  id {done['id']}" if not dry_run else "")  # fmt: skip
    outcomes = {one["partition"]: one for one in done["outcomes"]}
    preview = done.get("preview") or {}
    rows = []
    for partition, snapshot in sorted(done["cut"].items(), key=lambda pair: int(pair[0])):
        one = outcomes.get(int(partition))
        text = "" if one is None else f"{one['outcome']} {one['detail']}".strip()
        if partition in done["progress"]:
            text = far(done["progress"][partition])
        if partition in preview:
            text = _previewed(preview[partition])
        rows.append((partition, snapshot, when(made.get(partition, {}).get("as_of")), text))
    told = [] if dry_run and not any(row[-1] for row in rows) else ["outcome"]
    table = table_of("partition", "snapshot", "knows sales up to", *told)
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    if rows:
        print_whole(table)
    if done["kind"] == "promote":
        out.print(Text.assemble((done["model"], "bold"), f" {done['about']}"))
    if done["state"] == "pending" and not dry_run:
        out.print("No learner has come to it yet; it takes effect when one runs. "
                  "See: salescast operations", style="yellow")  # fmt: skip
    if done["kind"] == "rollback" and (done["exclude"] or {}).get("sources") and not dry_run:
        names = " ".join(f"--source {name}" for name in done["exclude"]["sources"])
        out.print("What they send from now on is learned. To keep it out too:\n"
                  f"  salescast quarantine {names} --reason ...", style="yellow")  # fmt: skip


def far(progress: dict[str, int]) -> str:
    """How far a replay has come, for people."""
    whole = max(progress["until"] - progress["start"], 1)
    done = (progress["position"] - progress["start"]) / whole
    return f"learning again, {min(done, 1):.0%} of {whole:,} records"


def _previewed(preview: dict[str, Any]) -> str:
    text = f"{preview['records']:,} records to learn again"
    excluded = preview["excluded"]
    if excluded:
        by_source = ", ".join(f"{name} {n:,}" for name, n in sorted(excluded.items()))
        more = "" if preview["complete"] else " at least"
        text += f"; {sum(excluded.values()):,} items{more} passed over ({by_source})"
    return text
