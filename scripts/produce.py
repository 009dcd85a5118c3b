"""``salescast produce``: sales from files, or events from standard input, to Salescast's API.

Guarantees: after a crash, a kill or Ctrl-C the same command goes on where it stopped, and no
event is skipped; one that is sent twice has the same (source, id). Leaves out: how files are read
(``files``), and judging events, which the API does.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import xxhash
from rich.progress import BarColumn, Progress, TextColumn

from scripts import console
from scripts.client import Client, Line, Refused, stream
from scripts.files import Source, event_line, merged, sources, writable_file
from scripts.remedies import sentence
from scripts.tables import SORT_ROWS, FileError, Reading, Rows, reading
from stream.errors import SalescastError

#: Refused items shown on screen; all go to ``--refused``.
SHOWN = 5
#: First bytes of a file that tell it from another one of its size.
HEAD_BYTES = 65_536
#: How far a sale may be behind one before it until people are told.
BEHIND = timedelta(days=1)
#: Silence on standard input after which what has come is sent, in seconds.
LINGER_S = 0.5
STDIN = Path("-")


class CheckpointError(SalescastError):
    """A checkpoint belongs to something else, or cannot be read."""

    remedy = "Begin anew with --restart, or keep it and name another with --checkpoint"


def standard_input(descriptor: int, linger_s: float = LINGER_S) -> Iterator[Line | None]:
    """Events of a pipe as they come; ``None`` where nothing came for ``linger_s``."""
    rest, row = b"", 0
    while True:
        if not select.select([descriptor], [], [], linger_s)[0]:
            yield None
            continue
        chunk = os.read(descriptor, 1 << 16)
        *whole, rest = (rest + chunk).split(b"\n")
        if not chunk:
            whole = [rest]
        for data in whole:
            row += 1
            if data.strip():
                yield event_line(data, 0, row)
        if not chunk:
            return


class Progressed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds: of what, and how far.

    ``rows`` are those of each file that are over; ``unsorted`` what ``check`` found of each.
    """

    what: dict[str, Any]
    rows: list[int]
    unsorted: list[bool]
    counts: list[int]
    accepted: int = 0
    refused: int = 0
    finished: bool = False


def identity(files: Sequence[Source], how: Reading, url: str) -> dict[str, Any]:
    """What a checkpoint is about: the files' sizes and first bytes, the mapping, the API."""
    known = []
    for source in files:
        with source.path.open("rb") as file:
            head = xxhash.xxh3_128_hexdigest(file.read(HEAD_BYTES))
        known.append({"name": source.path.name, "size_bytes": source.path.stat().st_size,
                      "head": head})  # fmt: skip
    mapping = {name: value for name, value in asdict(how).items() if name != "otherwise"}
    return {"files": known, "mapping": mapping, "url": url}


def resume(path: Path, files: Sequence[Source], what: dict[str, Any]) -> Progressed:
    """Read a checkpoint, or begin a new one by checking the files' order.

    Raises
    ------
    CheckpointError
        It is about other files, another mapping or another API, or is damaged.
    """
    if path.exists():
        try:
            progressed = msgspec.json.decode(path.read_bytes(), type=Progressed)
        except msgspec.DecodeError:
            raise CheckpointError(f"the checkpoint {path} is damaged") from None
        for name, value in what.items():
            if progressed.what.get(name) != value:
                raise CheckpointError(f"the checkpoint {path} was made with other {name}")
        for source, rows, unsorted in zip(
            files, progressed.counts, progressed.unsorted, strict=True
        ):
            source.rows, source.unsorted = rows, unsorted
        return progressed
    for source in files:
        source.check()
    return Progressed(
        what=what,
        rows=[0] * len(files),
        unsorted=[source.unsorted for source in files],
        counts=[source.rows for source in files],
    )


def save(path: Path, progressed: Progressed) -> None:
    """Replace a checkpoint at once: a kill leaves the one before or this one."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(progressed))
    new.replace(path)


def _checkpoint_of(path: Path) -> Path:
    """The default: beside the first file, or here if that folder cannot be written."""
    folder = path.parent if os.access(path.parent, os.W_OK) else Path()
    return folder / f".{path.name}.salescast-progress"


class Report:
    """What people see: progress while it lasts, the first refused items, and all in a file."""

    def __init__(self, refused: Path | None, *, already: int) -> None:
        self._shown, self._path, self._already = 0, refused, already
        self._waited = False
        self._newest: dict[int, datetime] = {}
        self._disordered: set[int] = set()
        self._file = refused.open("ab" if already else "wb") if refused else None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            *console.times(), console=console.err,
        )  # fmt: skip
        self._task = self._progress.add_task("sending", total=None, said="")

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._file:
            self._file.close()

    def refused(self, name: str, line: Line, why: Refused) -> None:
        """Show or write one refused item."""
        if self._shown < SHOWN:
            self._shown += 1
            about = f" `{why.field}`" if why.field else ""
            console.err.print(
                f"refused: {name} row {line.row}: {why.reason}{about}: {why.detail}. "
                f"{sentence(why.remedy)}",
                soft_wrap=True,
            )
            if self._shown == SHOWN:
                where = f"go to {self._path}" if self._path else "can be had with --refused FILE"
                console.err.print(f"Further refused items {where}", soft_wrap=True)
        if self._file:
            row = {"file": name, "row": line.row, "reason": why.reason, "field": why.field,
                   "detail": why.detail, "remedy": why.remedy,
                   "event": line.data.decode("utf-8", "replace")}  # fmt: skip
            self._file.write(msgspec.json.encode(row) + b"\n")

    def order(self, name: str, line: Line) -> None:
        """Say once of a file that its sales are so far out of order that some may be late."""
        if line.time is None or b'"sale"' not in line.data:
            return
        newest = max(self._newest.get(line.file, line.time), line.time)
        self._newest[line.file] = newest
        if newest - line.time > BEHIND and line.file not in self._disordered:
            self._disordered.add(line.file)
            console.err.print(
                f"{name} is not in the order of time: row {line.row} is a sale of "
                f"{line.time:%Y-%m-%d}, after one of {newest:%Y-%m-%d}. Sales that come when their "
                "bucket can no longer be revised are late, and not learned: sort it by time",
                soft_wrap=True,
            )

    def flush(self) -> None:
        """Put what is written into the file, ahead of the checkpoint that counts it."""
        if self._file:
            self._file.flush()

    def at(self, progressed: Progressed, share: float | None, moment: datetime | None) -> None:
        """Show how far it is."""
        sent = progressed.accepted + progressed.refused
        elapsed = self._progress.tasks[0].elapsed or 0.0
        rate = (sent - self._already) / elapsed if elapsed else 0.0
        said = f"{sent:,} events  {rate:,.0f}/s"
        said += f"  {moment:%Y-%m-%d}" if moment else ""
        said += f"  {progressed.refused:,} refused" if progressed.refused else ""
        if share is None:
            self._progress.update(self._task, said=said)
        else:
            self._progress.update(self._task, total=1.0, completed=share, said=said)

    def waiting(self, error: SalescastError, delay_s: float) -> None:
        """Say that the API is waited for."""
        said = f"{error.args[0]}; trying again in {delay_s:.1f} s"
        self._progress.update(self._task, said=said)
        if not self._waited and not console.err.is_terminal:
            # where no progress is drawn, silence would look like a hang
            console.err.print(said, soft_wrap=True)
        self._waited = True


def send(
    files: Sequence[Source],
    client: Client,
    progressed: Progressed,
    report: Report,
    *,
    checkpoint: Path | None,
    **pace: Any,
) -> None:
    """Send what is left of the files, or of standard input if there are none.

    A batch that is acknowledged is over in three steps: 1. its refused items are written,
    2. the position moves, 3. the checkpoint is replaced. A kill between any two sends or writes
    a batch again, and never leaves one out.

    Parameters
    ----------
    progressed
        Where to begin; kept up to date.
    checkpoint
        File to keep it in; ``None``: nowhere.
    pace
        ``batch``, ``rate`` and ``speedup`` of ``client.stream``.
    """
    lines: Iterator[Line | None]
    lines = merged(files, progressed.rows) if files else standard_input(sys.stdin.fileno())
    names = [source.path.name for source in files] or ["standard input"]
    sizes = [max(source.path.stat().st_size, 1) for source in files]
    latest = None
    # an unsorted file's rows come in another order than they are numbered
    order = [source.unsorted and source.rows <= SORT_ROWS for source in files] or [True]
    for delivered in stream(lines, client, **pace):
        # 1. the refused items
        for line, why in delivered.refused:
            report.refused(names[line.file], line, why)
        report.flush()
        # 2. the position
        for line in delivered.lines:
            progressed.rows[line.file] = (
                progressed.rows[line.file] + 1 if order[line.file] else line.row
            )
            latest = line.time or latest
            report.order(names[line.file], line)
        progressed.accepted += delivered.accepted
        progressed.refused += len(delivered.refused)
        # 3. the checkpoint
        if checkpoint:
            save(checkpoint, progressed)
        done = sum(s.fraction * size for s, size in zip(files, sizes, strict=True))
        report.at(progressed, done / sum(sizes) if files else None, latest)
    progressed.finished = True
    if checkpoint:
        save(checkpoint, progressed)


def register(app: typer.Typer) -> None:
    """Add ``produce`` to the command."""

    @app.command()
    def produce(
        paths: Annotated[
            list[Path],
            typer.Argument(metavar="FILE…", help=".csv .parquet .ndjson .jsonl, or - (NDJSON)"),
        ],
        map_: Annotated[
            list[str], typer.Option("--map", help="A sale's field and its column: quantity=units")
        ] = [],  # noqa: B006 - typer copies it
        source: Annotated[
            str | None, typer.Option(help="Source of all rows, such as till-7")
        ] = None,
        zone: Annotated[
            str | None,
            typer.Option(help="Zone of times that have none; default: `timezone`, if it is set"),
        ] = None,
        batch: Annotated[int, typer.Option(min=1, max=10_000, help="Events of a request")] = 500,
        rate: Annotated[
            float | None, typer.Option(min=0.001, help="Events a second at most")
        ] = None,
        speedup: Annotated[
            float | None, typer.Option(min=0.001, help="Event time runs so many times faster")
        ] = None,
        checkpoint: Annotated[
            Path | None,
            typer.Option(help="Where to note how far it is; default: beside the first file"),
        ] = None,
        restart: Annotated[bool, typer.Option("--restart", help="Begin anew")] = False,
        refused: Annotated[
            Path | None, typer.Option(help="Write the refused items to this file (NDJSON)")
        ] = None,
        url: console.Url = None,
        api_key: Annotated[
            str | None, typer.Option(help="The API's key; better: $SALESCAST_API_KEY")
        ] = None,
        config: console.Config = None,
    ) -> None:
        """Send sales from files, or events from standard input; a re-run goes on.

        CSV and Parquet need columns store, product, time, quantity and source (see --map).

        Without a column id, ids are the file's name and the row: give each day's file its name.
        """
        known = console.loaded(config, api_key=api_key)
        settings = known.settings
        url = console.address(settings, url)
        piped = paths == [STDIN]
        if STDIN in paths and not piped:
            raise FileError("standard input cannot be merged with files", remedy="Send it alone")
        if piped and (checkpoint or restart):
            raise FileError("standard input cannot be read again", remedy="Leave out --checkpoint")
        # The default is nobody's word: what is sent in a wrong zone cannot be taken back.
        set_ = known.origins["timezone"] != "default"
        how = reading(map_, source, zone or (settings.timezone if set_ else None))
        files = [] if piped else sources(paths, how)
        note = None if piped else checkpoint or _checkpoint_of(paths[0])
        for option, path in (("--checkpoint", note), ("--refused", refused)):
            if path:
                writable_file(path, option)
        if note and restart:
            note.unlink(missing_ok=True)
        if note:
            with console.err.status("checking the order of time"):
                progressed = resume(note, files, identity(files, how, url))
        else:
            progressed = Progressed(what={}, rows=[0], unsorted=[False], counts=[0])
        _say(files, progressed)
        if not zone and any(isinstance(file, Rows) and file.local for file in files):
            console.err.print(f"times without a zone are taken to be in {how.zone}, the setting "
                              "`timezone`", soft_wrap=True)  # fmt: skip
        already, before = progressed.accepted + progressed.refused, progressed.finished
        report = Report(refused, already=already)
        with report, Client(url, settings.api_key, waiting=report.waiting) as client:
            try:
                if not before:
                    send(files, client, progressed, report, checkpoint=note, batch=batch,
                         rate=rate, speedup=speedup)  # fmt: skip
            except KeyboardInterrupt:
                _go_on(progressed, note)
                raise typer.Exit(130) from None
            except SalescastError:
                _go_on(progressed, note)
                raise
        counts = f"{progressed.accepted:,} events accepted, {progressed.refused:,} refused"
        if before:
            console.err.print(f"all was sent before: {counts}; --restart sends it again")
        else:
            console.err.print(f"done: {counts}")
        if progressed.refused:
            raise typer.Exit(1)


def _say(files: Sequence[Source], progressed: Progressed) -> None:
    """Notes before the first event: unsorted files, and where it goes on."""
    for source in files:
        if source.unsorted and source.rows <= SORT_ROWS:
            what = "it is sorted in memory"
        elif source.unsorted:
            what = (
                f"with {source.rows:,} rows too large to sort here; sort it, or sales may be late"
            )
        else:
            continue
        said = f"{source.path.name} is not in the order of time: {what}"
        console.err.print(said, soft_wrap=True)
    if any(progressed.rows) and not progressed.finished:
        already = progressed.accepted + progressed.refused
        console.err.print(f"going on after {already:,} events")


def _go_on(progressed: Progressed, note: Path | None) -> None:
    """Say how to go on after an interruption."""
    sent = progressed.accepted + progressed.refused
    how = "the same command goes on from there" if note else "send the rest again"
    console.err.print(f"stopped after {sent:,} events; {how}", soft_wrap=True)
    if note and note.exists():
        console.err.print(f"its place is kept in {note}", soft_wrap=True)
