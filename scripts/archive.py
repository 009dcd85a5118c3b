"""`salescast archive`: keep the log's records as Parquet files by day and partition."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer
from rich.table import Table
from rich.text import Text

from scripts.console import AsJson, Config, err, out, print_json, print_whole, settings
from stream.adapters import Name, check_there, open_live
from stream.errors import SettingsError
from stream.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(archive)


def archive(
    config: Config = None,
    to: Annotated[
        str | None, typer.Option(help="Folder or URL; default: the setting `archive`")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all that is kept, and check it; keep nothing")
    ] = False,
    json: AsJson = False,
) -> None:
    """Keep what is new of events, control and dead letters, by day and partition.

    Goes on from what is kept; run it by a timer, more often than the log's retention. With the
    setting `archive`, all of Salescast reads there what the log has dropped.
    """
    chosen = settings(config, archive=to)
    if not chosen.archive:
        raise SettingsError("there is no archive", remedy="Set `archive`, or give --to")
    check_there(chosen)
    rows = [row for name in get_args(Name) for row in _topic(chosen, name, verify)]
    if verify and not any(row["files"] for row in rows):
        raise SettingsError(
            f"{chosen.archive} keeps nothing of this deployment",
            remedy="Give the place that was archived to, or archive first",
        )
    if json:
        print_json(rows)
    else:
        _show(rows, verify)
    if any(row["wrong"] for row in rows):
        raise typer.Exit(1)


def _topic(chosen: Settings, name: Name, verify: bool) -> list[dict[str, Any]]:
    """Archive, or check, one topic; a row a partition."""
    from stream.archive import ArchivedTopic, File, keep

    log = open_live(chosen, name)
    try:
        kept = ArchivedTopic(chosen.archive, log.topic, log.topic_id)

        def told(partition: int, file: File) -> None:
            err.print(
                f"{log.topic}[{partition}] {file.name}: {file.records:,} records", style="dim"
            )

        new = {} if verify else keep(log, kept, told)
        begins, ends = log.begin(), log.end()
        rows = [
            _row(kept, log.topic, partition, ends[partition], new.get(partition, 0), verify)
            for partition in range(log.partitions)
        ]
        for row in rows if verify else ():
            at = begins[row["partition"]]
            if not row["files"] and at < row["log_end"]:
                last = row["log_end"] - 1
                row["wrong"].append(f"nothing is kept; the log holds offsets {at:,} to {last:,}")
        return rows
    finally:
        log.close()


def _row(kept: Any, topic: str, partition: int, end: int, new: int, verify: bool) -> dict[str, Any]:
    wrong = kept.check(partition) if verify else []
    index = kept.index(partition)
    return {
        "topic": topic, "partition": partition, "begin": index.begin, "end": index.end,
        "log_end": end, "files": len(index.files),
        "records": sum(file.records for file in index.files),
        "size_bytes": sum(file.size_bytes for file in index.files), "new": new, "wrong": wrong,
    }  # fmt: skip


def _show(rows: list[dict[str, Any]], verify: bool) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("topic", "partition"):
        table.add_column(name)
    last = "wrong" if verify else "new"
    for name in ("from", "to", "log's end", "records", "files", "MB", last):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["topic"], str(row["partition"]), f"{row['begin']:,}", f"{row['end']:,}",
            f"{row['log_end']:,}", f"{row['records']:,}", f"{row['files']:,}",
            f"{row['size_bytes'] / 1e6:.1f}",
            str(len(row["wrong"])) if verify else f"{row['new']:,}",
        )  # fmt: skip
    print_whole(table)
    for row in rows:
        for text in row["wrong"]:
            out.print(Text.assemble((f"{row['topic']}[{row['partition']}]", "red"), f": {text}"))
