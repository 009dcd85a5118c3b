"""``salescast produce``: sales from files, or events from standard input, to Salescast's API.

NDJSON lines are events and are sent byte for byte; rows of CSV and Parquet become *sale* events.
Several files are merged by event time, in constant memory. Guarantees: after a crash, a kill or
Ctrl-C the same command goes on where it stopped, and no event is skipped; one that is sent twice
has the same (source, id). Leaves out: judging events, which the API does.

Local times, with ``--zone``: one that the clock shows twice, when summer time ends, is the first
of the two; one that it skips, when summer time begins, is moved on by the length of the gap.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import heapq
import io
import itertools
import math
import os
import select
import sys
import zlib
import zoneinfo
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import typer
import xxhash
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from scripts import console
from scripts.client import Client, Line, Refused, stream
from stream.errors import SalescastError
from stream.event import REASONS, Sale, encode

FIELDS = ("id", "source", "store", "product", "time", "quantity", "price")
#: Rows of an unsorted file that are sorted in memory, at about half a kilobyte each.
SORT_ROWS = 2_000_000
#: Refused items shown on screen; all go to ``--refused``.
SHOWN = 5
#: First bytes of a file that tell it from another one of its size.
HEAD_BYTES = 65_536
#: Silence on standard input after which what has come is sent, in seconds.
LINGER_S = 0.5
STDIN = Path("-")


class FileError(SalescastError):
    """A file as a whole cannot be read as sales."""


class CheckpointError(SalescastError):
    """A checkpoint belongs to something else, or cannot be read."""

    remedy = "Begin anew with --restart, or keep it and name another with --checkpoint"


class _FieldError(Exception):
    """One row's field cannot be read; the row is refused, the others go on."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows become sales: columns by field, a constant source, the zone of local times.

    ``otherwise`` is the source of rows of files that have no such column.
    """

    columns: Mapping[str, str]
    source: str | None = None
    zone: str | None = None
    otherwise: str | None = None


def reading(
    maps: Sequence[str], source: str | None, zone: str | None, otherwise: str | None = None
) -> Reading:
    """Check the command line's ``field=column`` pairs and zone.

    Raises
    ------
    FileError
        A pair names no field of a sale, or the zone is unknown.
    """
    columns = {}
    for text in maps:
        name, equals, column = text.partition("=")
        if not equals or not column:
            raise FileError(f"--map {text} is not field=column", remedy=_fields_are())
        if name not in FIELDS:
            raise FileError(f"--map {text}: `{name}` is no field of a sale", remedy=_fields_are())
        columns[name] = column
    if source and "source" in columns:
        raise FileError("--source and --map source=… exclude each other", remedy="Give one of them")
    if zone:
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise FileError(
                f"unknown time zone `{zone}`",
                remedy=_near(zone, sorted(zoneinfo.available_timezones()))
                or "Use an IANA name, such as Europe/Berlin",
            ) from None
    return Reading(columns=columns, source=source, zone=zone, otherwise=otherwise)


def _fields_are() -> str:
    return "The fields are " + ", ".join(FIELDS)


def _near(name: str, names: Sequence[str]) -> str:
    """A question for the nearest names, or nothing."""
    lower = {other.lower(): other for other in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
    return "Did you mean " + ", ".join(f"`{match}`" for match in near) + "?" if near else ""


class Rows:
    """The rows of a CSV or Parquet file as sale events.

    Raises
    ------
    FileError
        A column is missing, or the file cannot be read.
    """

    def __init__(self, path: Path, how: Reading) -> None:
        self.path, self._how = path, how
        self._zone = zoneinfo.ZoneInfo(how.zone) if how.zone else None
        self._parquet = path.suffix == ".parquet"
        #: Set by ``check``: rows in all, and whether they are not in the order of time.
        self.rows, self.unsorted = 0, False
        #: Share of the file that has been read.
        self.fraction = 0.0
        names = self._names()
        self._width = len(names)
        self._at: dict[str, int] = {}
        self._columns = [how.columns.get(name, name) for name in FIELDS]
        self._source = how.source
        for name, column in zip(FIELDS, self._columns, strict=True):
            if name == "source" and how.source:
                continue
            if column in names:
                self._at[name] = names.index(column)
            elif name == "source" and how.otherwise and name not in how.columns:
                self._source = how.otherwise
            elif name in how.columns or name not in ("id", "price"):
                raise self._missing(name, column, names)

    @property
    def makes_ids(self) -> bool:
        """Whether ids are made of the file's name and the row, for want of a column."""
        return "id" not in self._at

    def _missing(self, name: str, column: str, names: list[str]) -> FileError:
        remedy = _near(column, names) or "It has " + ", ".join(f"`{other}`" for other in names)
        if name not in self._how.columns:
            remedy = remedy.rstrip(".?") + ("? " if remedy.endswith("?") else ". ")
            remedy += f"Say which it is with --map {name}=COLUMN"
            remedy += ", or give --source NAME for all rows" if name == "source" else ""
        return FileError(f"{self.path} has no column `{column}`", remedy=remedy)

    def check(self) -> None:
        """Read the times once: counts the rows and learns whether they are in order."""
        last = None
        self.rows, self.unsorted = 0, False
        for values in self._values(0):
            self.rows += 1
            try:
                moment = self._moment(values)
            except _FieldError:
                continue
            if last is not None and moment < last:
                self.unsorted = True
            last = moment

    def lines(self, file: int, skip: int) -> Iterator[Line]:
        """Rows after the first ``skip`` as lines; an unsorted file is sorted in memory."""
        if not self.unsorted or self.rows > SORT_ROWS:
            for row, values in enumerate(self._values(skip), skip + 1):
                yield self._line(file, row, values)
            return
        lines = [self._line(file, row, values) for row, values in enumerate(self._values(0), 1)]
        last = datetime.min.replace(tzinfo=UTC)
        keys = []
        for line in lines:
            # a row without a time stays behind the row before it
            last = line.time or last
            keys.append(last)
        order = sorted(range(len(lines)), key=keys.__getitem__)
        for done, index in enumerate(order[skip:], skip + 1):
            self.fraction = done / len(order)
            yield lines[index]

    def _names(self) -> list[str]:
        """Names of the columns."""
        if self._parquet:
            try:
                return list(pq.read_schema(self.path).names)
            except pa.ArrowInvalid as error:
                raise FileError(f"{self.path} is no Parquet file: {error}") from None
        with closing(self._csv()) as records:
            return next(records, [])

    def _csv(self) -> Generator[list[str], None, None]:
        """Records of a CSV file, the header first; blank lines are left out."""
        size = max(self.path.stat().st_size, 1)
        try:
            with (
                _opened(self.path) as (raw, position),
                io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
            ):
                header = text.readline()
                delimiter = max(",;\t|", key=header.count)
                yield from filter(None, csv.reader([header], delimiter=delimiter))
                for row, values in enumerate(csv.reader(text, delimiter=delimiter, strict=True)):
                    if row % 1024 == 0:
                        self.fraction = position() / size
                    if values:
                        yield values
                self.fraction = 1.0
        except UnicodeDecodeError as error:
            raise FileError(
                f"{self.path} is not UTF-8 ({error.reason})",
                remedy="Convert it first, for instance with: iconv -f latin1 -t utf-8",
            ) from None
        except csv.Error as error:
            raise FileError(f"{self.path} is no valid CSV: {error}") from None

    def _values(self, skip: int) -> Iterator[Sequence[Any]]:
        """Values of the rows after the first ``skip``, by position in the header."""
        if self._parquet:
            yield from self._parquet_values(skip)
            return
        yield from itertools.islice(self._csv(), 1 + skip, None)

    def _parquet_values(self, skip: int) -> Iterator[Sequence[Any]]:
        file = pq.ParquetFile(self.path)
        wanted = sorted(set(self._at.values()))
        names = [file.schema_arrow.names[index] for index in wanted]
        done = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if done + count <= skip:
                done += count
                continue
            for batch in file.iter_batches(8192, row_groups=[group], columns=names):
                columns: list[Sequence[Any]] = [()] * len(file.schema_arrow.names)
                for index, name in zip(wanted, names, strict=True):
                    values = batch.column(name)
                    if pa.types.is_timestamp(values.type):
                        # datetimes end at microseconds
                        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
                    columns[index] = values.to_pylist()
                for row in range(batch.num_rows):
                    done += 1
                    if done > skip:
                        yield [column[row] if column else None for column in columns]
                self.fraction = done / file.metadata.num_rows

    def _line(self, file: int, row: int, values: Sequence[Any]) -> Line:
        moment = None
        try:
            if len(values) != self._width:
                # a stray delimiter shifts what follows it into wrong columns
                raise _FieldError("", f"the row has {len(values)} columns, not {self._width}")
            moment = self._moment(values)
            price = self._value(values, "price")
            sale = Sale(
                id=self._text(values, "id") if "id" in self._at else f"{self.path.name}:{row}",
                source=self._source or self._text(values, "source"),
                time=moment,
                store=self._text(values, "store"),
                product=self._text(values, "product"),
                quantity=self._number(values, "quantity"),
                price=None if price in (None, "") else self._number(values, "price"),
            )
            return Line(moment, encode(sale), file, row)
        except _FieldError as bad:
            why = Refused(0, "invalid_field", bad.name, str(bad), REASONS["invalid_field"])
            shown = msgspec.json.encode([None if value is None else str(value) for value in values])
            return Line(moment, shown, file, row, why)

    def _value(self, values: Sequence[Any], name: str) -> Any:
        at = self._at.get(name)
        if at is None:
            return None
        value = values[at] if at < len(values) else None
        return value.strip() if isinstance(value, str) else value

    def _column(self, name: str) -> str:
        return self._columns[FIELDS.index(name)]

    def _text(self, values: Sequence[Any], name: str) -> str:
        value = self._value(values, name)
        if value is None or value == "" or value != value:
            raise _FieldError(name, f"column `{self._column(name)}` is empty")
        # whole numbers that an empty cell elsewhere turned into floats
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)

    def _number(self, values: Sequence[Any], name: str) -> float:
        value = self._value(values, name)
        try:
            number = float(value)
            if math.isfinite(number) and not isinstance(value, bool):
                return number
        except (TypeError, ValueError):
            pass
        shown = "empty" if value in (None, "") else f"{value!r}, not a number"
        raise _FieldError(name, f"column `{self._column(name)}` is {shown}")

    def _moment(self, values: Sequence[Any]) -> datetime:
        """The time of a row in UTC."""
        value, column = self._value(values, "time"), self._column("time")
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            if isinstance(moment, date) and not isinstance(moment, datetime):
                moment = datetime.combine(moment, time())
            if not isinstance(moment, datetime):
                raise ValueError
            if moment.tzinfo is None:
                if self._zone is None:
                    raise FileError(
                        f"times in column `{column}` of {self.path} have no time zone",
                        remedy="Say which they are in, such as --zone Europe/Berlin",
                    )
                # fold=0: see the module's docstring
                moment = moment.replace(tzinfo=self._zone)
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            shown = "empty" if value in (None, "") else f"{value!r}, not an ISO 8601 time"
            raise _FieldError("time", f"column `{column}` is {shown}") from None


class _Timed(msgspec.Struct):
    time: datetime | None = None


_timed = msgspec.json.Decoder(_Timed)


def _event_line(data: bytes, file: int, row: int) -> Line:
    """An event of NDJSON as it is, with its time where one can be read."""
    try:
        moment = _timed.decode(data).time
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        moment = None
    return Line(moment if moment and moment.tzinfo else None, data, file, row)


class Events:
    """The lines of an NDJSON file, byte for byte without their line ends."""

    def __init__(self, path: Path) -> None:
        self.path, self.fraction = path, 0.0
        self.rows, self.unsorted = 0, False

    def check(self) -> None:
        """Nothing: the order is judged on the way, since the lines are not to be re-ordered."""

    def lines(self, file: int, skip: int) -> Iterator[Line]:
        """Lines after the first ``skip``; blank ones are left out, but counted."""
        size = max(self.path.stat().st_size, 1)
        with _opened(self.path) as (raw, position):
            for row, data in enumerate(raw, 1):
                if row % 1024 == 0:
                    self.fraction = position() / size
                if row > skip and (data := data.removesuffix(b"\n")).strip():
                    yield _event_line(data, file, row)


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
                yield _event_line(data, 0, row)
        if not chunk:
            return


class _opened:  # noqa: N801 - used as a function, like contextlib.closing
    """A file's bytes, unpacked if it is .gz, and a function saying how far it is read."""

    def __init__(self, path: Path) -> None:
        self._path, self._files = path, ExitStack()

    def __enter__(self) -> tuple[IO[bytes], Callable[[], int]]:
        raw = self._files.enter_context(self._path.open("rb"))
        if self._path.suffix != ".gz":
            return raw, raw.tell
        packed: Any = gzip.GzipFile(fileobj=raw)
        return self._files.enter_context(packed), raw.tell

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._files.close()
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            raise FileError(
                f"{self._path} is damaged or cut off ({error})", remedy="Copy it again, then go on"
            ) from None


Source = Rows | Events


def sources(paths: Sequence[Path], how: Reading) -> list[Source]:
    """Open files by their suffix.

    Raises
    ------
    FileError
        A file is missing, of an unknown kind, or lacks a column; or rows without ids come from
        two files of the same name, so that their ids would be the same.
    """
    found: list[Source] = []
    for path in paths:
        if not path.is_file():
            raise FileError(f"there is no file {path}", remedy=_near_file(path))
        if not os.access(path, os.R_OK):
            raise FileError(f"{path} must not be read", remedy="Check the file's permissions")
        kind = path.suffixes[-2] if path.suffix == ".gz" and path.suffixes[1:] else path.suffix
        if kind in (".ndjson", ".jsonl"):
            found.append(Events(path))
        elif kind == ".csv" or path.suffix == ".parquet":
            found.append(Rows(path, how))
        else:
            raise FileError(
                f"{path} is of no kind that can be read",
                remedy="Name it .csv, .parquet, .ndjson or .jsonl; all but Parquet may end in .gz",
            )
    names = [s.path.name for s in found if isinstance(s, Rows) and s.makes_ids]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise FileError(
            f"two files are called {twice[0]}, and ids are made of the name and the row",
            remedy="Rename one, or name a column of ids with --map id=COLUMN",
        )
    return found


def _near_file(path: Path) -> str:
    folder = path.parent
    return _near(path.name, [other.name for other in folder.iterdir()]) if folder.is_dir() else ""


def merged(files: Sequence[Source], done: Sequence[int]) -> Iterator[Line]:
    """Lines of all files by event time, each file after its first ``done`` rows.

    Equal times go in the order of the files. A line without a readable time, or earlier than
    the one before it in its file, goes right behind that one.
    """

    def keyed(file: int) -> Iterator[tuple[datetime, Line]]:
        last = datetime.min.replace(tzinfo=UTC)
        for line in files[file].lines(file, done[file]):
            last = max(last, line.time or last)
            yield last, line

    keys = heapq.merge(*map(keyed, range(len(files))), key=lambda pair: pair[0])
    return (line for _, line in keys)


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
        self._file = refused.open("ab" if already else "wb") if refused else None
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console.err,
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
                escape(f"refused: {name} row {line.row}: {why.reason}{about}: {why.detail}. ")
                + escape(why.remedy),
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
        said = escape(f"{error.args[0]}; trying again in {delay_s:.1f} s")
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
            str | None, typer.Option(help="Zone of times that have none, such as Europe/Berlin")
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
        settings = console.settings(config, api_key=api_key)
        url = console.address(settings, url)
        piped = paths == [STDIN]
        if STDIN in paths and not piped:
            raise FileError("standard input cannot be merged with files", remedy="Send it alone")
        if piped and (checkpoint or restart):
            raise FileError("standard input cannot be read again", remedy="Leave out --checkpoint")
        how = reading(map_, source, zone)
        files = [] if piped else sources(paths, how)
        note = None if piped else checkpoint or _checkpoint_of(paths[0])
        for path in (note, refused):
            if path and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
                raise FileError(f"{path} cannot be written", remedy="Check that its folder exists")
        if note and restart:
            note.unlink(missing_ok=True)
        if note:
            with console.err.status("checking the order of time"):
                progressed = resume(note, files, identity(files, how, url))
        else:
            progressed = Progressed(what={}, rows=[0], unsorted=[False], counts=[0])
        _say(files, progressed)
        already = progressed.accepted + progressed.refused
        report = Report(refused, already=already)
        with report, Client(url, settings.api_key, waiting=report.waiting) as client:
            try:
                if not progressed.finished:
                    send(files, client, progressed, report, checkpoint=note, batch=batch,
                         rate=rate, speedup=speedup)  # fmt: skip
            except KeyboardInterrupt:
                _go_on(progressed, note)
                raise typer.Exit(130) from None
            except SalescastError:
                _go_on(progressed, note)
                raise
        console.err.print(
            f"done: {progressed.accepted:,} events accepted, {progressed.refused:,} refused"
        )
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
        console.err.print(escape(said), soft_wrap=True)
    if progressed.finished:
        console.err.print("all was sent before; --restart sends it again")
    elif any(progressed.rows):
        already = progressed.accepted + progressed.refused
        console.err.print(f"going on after {already:,} events")


def _go_on(progressed: Progressed, note: Path | None) -> None:
    """Say how to go on after an interruption."""
    sent = progressed.accepted + progressed.refused
    how = "the same command goes on from there" if note else "send the rest again"
    console.err.print(f"stopped after {sent:,} events; {how}", soft_wrap=True)
    if note and note.exists():
        console.err.print(escape(f"its place is kept in {note}"), soft_wrap=True)
