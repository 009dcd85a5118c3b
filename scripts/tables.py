"""Rows of CSV and Parquet files as events, in the order of time.

Rows become *sale* events, or, with a column ``type``, events of that type. A row that is none is
handed on with why. Leaves out: judging events, and other files (``files``).

Local times, with a zone: one that the clock shows twice, when summer time ends, is the first of
the two; one that it skips, when summer time begins, is moved on by the length of the gap.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import itertools
import math
import zlib
import zoneinfo
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import IO, Any, get_args

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from scripts.client import Line, Refused
from stream.errors import SalescastError
from stream.event import REASONS, AnyEvent, Sale, encode

FIELDS = ("id", "source", "store", "product", "time", "quantity", "price")
#: Rows of an unsorted file that are sorted in memory, at about half a kilobyte each.
SORT_ROWS = 2_000_000


class FileError(SalescastError):
    """A file as a whole cannot be read as sales."""


_EVENT_FIELDS = {
    field.name for kind in get_args(AnyEvent) for field in msgspec.structs.fields(kind)
}
#: Fields of events that are times, texts, or objects; all others are numbers or true and false.
_TIMES = {"time", "start", "end", "listed", "delisted"}
_TEXTS = {"type", "id", "source", "store", "product", "category", "voids", "replaces"}
_JSON = {"covariates", "x"}


class FieldError(Exception):
    """One row's field cannot be read; the row is refused, the others go on."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How rows become events: columns by field, a constant source, the zone of local times.

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
            raise FileError(f"--map {text} is not field=column", remedy=fields_are())
        if name not in FIELDS and name not in _EVENT_FIELDS:
            raise FileError(f"--map {text}: `{name}` is no field of a sale", remedy=fields_are())
        columns[name] = column
    if source and "source" in columns:
        raise FileError("--source and --map source=… exclude each other", remedy="Give one of them")
    if zone:
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            raise FileError(
                f"unknown time zone `{zone}`",
                remedy=near(zone, sorted(zoneinfo.available_timezones()))
                or "Use an IANA name, such as Europe/Berlin",
            ) from None
    return Reading(columns=columns, source=source, zone=zone, otherwise=otherwise)


def fields_are() -> str:
    """Which fields a sale has, as a remedy."""
    return "The fields are " + ", ".join(FIELDS)


def near(name: str, names: Sequence[str]) -> str:
    """A question for the nearest names, or nothing."""
    lower = {other.lower(): other for other in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3)]
    return "Did you mean " + ", ".join(f"`{match}`" for match in near) + "?" if near else ""


def column_names(path: Path) -> list[str]:
    """Names of the columns of a CSV or Parquet file.

    Raises
    ------
    FileError
        It is none.
    """
    if path.suffix == ".parquet":
        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{path} is no Parquet file: {error}") from None
    with closing(_csv(path)) as records:
        for names, _ in records:
            return names
    raise FileError(f"{path} is empty", remedy="Its first line must name the columns")


def _csv(path: Path) -> Generator[tuple[list[str], float], None, None]:
    """Records of a CSV file, the header first, each with the share of the file that is read.

    Blank lines are left out.
    """
    size = max(path.stat().st_size, 1)
    share = 0.0
    try:
        with (
            opened(path) as (raw, position),
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            header = text.readline()
            delimiter = max(",;\t|", key=header.count)
            for record in csv.reader([header], delimiter=delimiter):
                if record:
                    yield record, share
            for row, values in enumerate(csv.reader(text, delimiter=delimiter, strict=True)):
                if row % 1024 == 0:
                    share = position() / size
                if values:
                    yield values, share
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not UTF-8 ({error.reason})",
            remedy="Convert it first, for instance with: iconv -f latin1 -t utf-8",
        ) from None
    except csv.Error as error:
        raise FileError(f"{path} is no valid CSV: {error}") from None


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
        #: Whether a time without a zone was met.
        self.local = False
        #: Share of the file that has been read.
        self.fraction = 0.0
        names = column_names(path)
        self._width = len(names)
        self._at: dict[str, int] = {}
        self._columns = {name: how.columns.get(name, name) for name in FIELDS}
        self._source = how.source
        self._place(names)

    def _place(self, names: list[str]) -> None:
        """Find each field's column."""
        how = self._how
        for name, column in self._columns.items():
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
        remedy = near(column, names) or "It has " + ", ".join(f"`{other}`" for other in names)
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
            with suppress(FieldError):
                moment = self._moment(values)
                self.unsorted |= last is not None and moment < last
                last = moment

    def lines(self, file: int, skip: int) -> Iterator[Line]:
        """Rows after the first ``skip`` as lines; an unsorted file is sorted in memory."""
        if not self.unsorted or self.rows > SORT_ROWS:
            for row, values in enumerate(self._values(skip), skip + 1):
                yield self._line(file, row, values)
            return
        lines = [self._line(file, row, values) for row, values in enumerate(self._values(0), 1)]
        last = datetime.min.replace(tzinfo=UTC)
        # a row without a time stays behind the row before it
        keys = [last := line.time or last for line in lines]
        order = sorted(range(len(lines)), key=keys.__getitem__)
        for done, index in enumerate(order[skip:], skip + 1):
            self.fraction = done / len(order)
            yield lines[index]

    def _values(self, skip: int) -> Iterator[Sequence[Any]]:
        """Values of the rows after the first ``skip``, by position in the header."""
        if self._parquet:
            try:
                yield from self._parquet_values(skip)
            except (pa.ArrowException, OSError) as error:
                raise FileError(
                    f"{self.path} cannot be read: {error}", remedy="Copy it again, then go on"
                ) from None
            return
        for values, share in itertools.islice(_csv(self.path), 1 + skip, None):
            self.fraction = share
            yield values
        self.fraction = 1.0

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
                raise FieldError("", f"the row has {len(values)} columns, not {self._width}")
            moment = self._moment(values)
            return Line(moment, self._event(row, moment, values), file, row)
        except FieldError as bad:
            why = Refused(0, "invalid_field", bad.name, str(bad), REASONS["invalid_field"])
            shown = msgspec.json.encode([None if value is None else str(value) for value in values])
            return Line(moment, shown, file, row, why)

    def _event(self, row: int, moment: datetime, values: Sequence[Any]) -> bytes:
        """A row as a sale."""
        price = self._value(values, "price")
        return encode(
            Sale(
                id=self._id(row, values),
                source=self._source or self._text(values, "source"),
                time=moment,
                store=self._text(values, "store"),
                product=self._text(values, "product"),
                quantity=self._number(values, "quantity"),
                price=None if price in (None, "") else self._number(values, "price"),
            )
        )

    def _id(self, row: int, values: Sequence[Any]) -> str:
        return f"{self.path.name}:{row}" if self.makes_ids else self._text(values, "id")

    def _value(self, values: Sequence[Any], name: str) -> Any:
        at = self._at.get(name)
        if at is None:
            return None
        value = values[at] if at < len(values) else None
        if isinstance(value, bytes):  # a Parquet file need not say that its bytes are text
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise FieldError(name, f"column `{self._columns[name]}` is not UTF-8") from None
        return value.strip() if isinstance(value, str) else value

    def _text(self, values: Sequence[Any], name: str) -> str:
        value = self._value(values, name)
        if value is None or value == "" or value != value:
            raise FieldError(name, f"column `{self._columns[name]}` is empty")
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
        raise FieldError(name, f"column `{self._columns[name]}` is {shown}")

    def _moment(self, values: Sequence[Any], name: str = "time") -> datetime:
        """A time of a row in UTC."""
        value, column = self._value(values, name), self._columns[name]
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
                        remedy="Say which they are in: --zone Europe/Berlin, or set `timezone`",
                    )
                # fold=0: see the module's docstring
                moment, self.local = moment.replace(tzinfo=self._zone), True
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            shown = "empty" if value in (None, "") else f"{value!r}, not an ISO 8601 time"
            raise FieldError(name, f"column `{column}` is {shown}") from None


class EventRows(Rows):
    """The rows of a CSV or Parquet file with a column ``type``, as events of that type.

    Columns are called as the fields are; empty cells are left out. ``covariates`` and ``x`` hold
    JSON. What a type does not know, and what it lacks, is refused as it is in any event.
    """

    def _place(self, names: list[str]) -> None:
        mapped = {column: name for name, column in self._how.columns.items()}
        fields = {mapped.get(column, column): at for at, column in enumerate(names)}
        self._columns = {name: names[at] for name, at in fields.items()}
        for name in ("time", *self._how.columns):
            if (column := self._how.columns.get(name, name)) not in names:
                raise self._missing(name, column, names)
        if "source" not in fields:
            self._source = self._source or self._how.otherwise
            if not self._source:
                raise self._missing("source", "source", names)
        self._at = fields

    def _event(self, row: int, moment: datetime, values: Sequence[Any]) -> bytes:
        event: dict[str, Any] = {}
        for name in self._at:
            value = self._value(values, name)
            if value is None or value == "" or value != value:
                continue
            if name in _TIMES:
                event[name] = moment if name == "time" else self._moment(values, name)
            elif name in _JSON:
                event[name] = self._json(name, value)
            elif name in _TEXTS:
                event[name] = self._text(values, name)
            else:
                event[name] = _scalar(value) if isinstance(value, str) else value
        event["id"] = self._id(row, values)
        if self._source:
            event["source"] = self._source
        try:
            return encode(msgspec.convert(event, AnyEvent))
        except msgspec.ValidationError:
            # It is refused where all events are judged, with the field and the remedy.
            return msgspec.json.encode(event)

    def _json(self, name: str, value: Any) -> Any:
        try:
            return msgspec.json.decode(value) if isinstance(value, str) else value
        except msgspec.DecodeError:
            raise FieldError(name, f"column `{self._columns[name]}` is no JSON") from None


def _scalar(text: str) -> Any:
    """A cell as a number, or as true or false; as it is, where it is neither."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text


class opened:  # noqa: N801 - used as a function, like contextlib.closing
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
