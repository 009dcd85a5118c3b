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
import math
import os
import select
import sys
import zlib
import zoneinfo
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import typer
import xxhash
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from scripts.client import Client, Line, Refused, stream
from stream.errors import SalescastError
from stream.event import REASONS, Sale, encode
from stream.settings import load

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


class _BadField(Exception):
    """One row's field cannot be read; the row is refused, the others go on."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows become sales: columns by field, a constant source, the zone of local times."""

    columns: Mapping[str, str]
    source: str | None = None
    zone: str | None = None


def reading(maps: Sequence[str], source: str | None, zone: str | None) -> Reading:
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
    return Reading(columns=columns, source=source, zone=zone)


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
        self._at: dict[str, int] = {}
        self._columns = [how.columns.get(name, name) for name in FIELDS]
        for name, column in zip(FIELDS, self._columns, strict=True):
            if name == "source" and how.source:
                continue
            if column in names:
                self._at[name] = names.index(column)
            elif name in how.columns or name not in ("id", "price"):
                raise self._missing(name, column, names)

    def _missing(self, name: str, column: str, names: list[str]) -> FileError:
        remedy = _near(column, names) or "It has " + ", ".join(f"`{other}`" for other in names)
        if name not in self._how.columns:
            remedy += f" Say which it is with --map {name}=COLUMN"
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
            except _BadField:
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
        with _opened(self.path) as (raw, _):
            return next(self._csv(raw), [])

    def _csv(self, raw: IO[bytes]) -> Iterator[list[str]]:
        """Records of a CSV file, the header first; blank lines are left out."""
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        try:
            header = text.readline()
            delimiter = max(",;\t|", key=header.count)
            yield from filter(None, csv.reader([header], delimiter=delimiter))
            yield from filter(None, csv.reader(text, delimiter=delimiter, strict=True))
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
        size = max(self.path.stat().st_size, 1)
        with _opened(self.path) as (raw, position):
            for row, values in enumerate(self._csv(raw)):
                if row % 1024 == 0:
                    self.fraction = position() / size
                if row > skip:
                    yield values

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
            moment = self._moment(values)
            price = self._value(values, "price")
            sale = Sale(
                id=self._text(values, "id") if "id" in self._at else f"{self.path.name}:{row}",
                source=self._how.source or self._text(values, "source"),
                time=moment,
                store=self._text(values, "store"),
                product=self._text(values, "product"),
                quantity=self._number(values, "quantity"),
                price=None if price in (None, "") else self._number(values, "price"),
            )
            return Line(moment, encode(sale), file, row)
        except _BadField as bad:
            why = Refused(0, "invalid_field", bad.name, str(bad), REASONS["invalid_field"])
            shown = msgspec.json.encode([None if value is None else str(value) for value in values])
            return Line(moment, shown, file, row, why)

    def _value(self, values: Sequence[Any], name: str) -> Any:
        at = self._at.get(name)
        if at is None:
            return None
        if at >= len(values):
            raise _BadField(name, f"the row has only {len(values)} columns")
        value = values[at]
        return value.strip() if isinstance(value, str) else value

    def _column(self, name: str) -> str:
        return self._columns[FIELDS.index(name)]

    def _text(self, values: Sequence[Any], name: str) -> str:
        value = self._value(values, name)
        if value is None or value == "" or value != value:
            raise _BadField(name, f"column `{self._column(name)}` is empty")
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
        raise _BadField(name, f"column `{self._column(name)}` is {shown}")

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
            raise _BadField("time", f"column `{column}` is {shown}") from None


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
        packed = self._files.enter_context(gzip.GzipFile(fileobj=raw))
        return self._files.enter_context(io.BufferedReader(packed)), raw.tell

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._files.close()
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            raise FileError(
                f"{self._path} is damaged or cut off ({error})", remedy="Copy it again, then go on"
            ) from None
