"""Files of events, read line by line and merged by event time, in constant memory.

NDJSON lines are events, byte for byte; CSV and Parquet are read by ``tables``. Leaves out:
judging events.
"""

from __future__ import annotations

import heapq
import os
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from scripts.client import Line
from scripts.tables import (
    FIELDS,
    EventRows,
    FileError,
    Reading,
    Rows,
    column_names,
    fields_are,
    near,
    opened,
)

#: So many files are opened at once; of more, each when the merge has come to its first line.
OPEN_AT_ONCE = 64
#: Before every time.
EARLIEST = datetime.min.replace(tzinfo=UTC)


class _Timed(msgspec.Struct):
    time: datetime | None = None


_timed = msgspec.json.Decoder(_Timed)


def event_line(data: bytes, file: int, row: int) -> Line:
    """An event of NDJSON as it is, with its time where one can be read."""
    try:
        moment = _timed.decode(data).time
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        moment = None
    return Line(moment if moment and moment.tzinfo else None, data, file, row)


class Events:
    """The lines of an NDJSON file, byte for byte without their line ends and a mark before all."""

    def __init__(self, path: Path) -> None:
        self.path, self.fraction = path, 0.0
        self.rows, self.unsorted = 0, False

    def check(self) -> None:
        """Nothing: the order is judged on the way, since the lines are not to be re-ordered."""

    def lines(self, file: int, skip: int) -> Iterator[Line]:
        """Lines after the first ``skip``; blank ones are left out, but counted."""
        size = max(self.path.stat().st_size, 1)
        with opened(self.path) as (raw, position):
            for row, data in enumerate(raw, 1):
                if row % 1024 == 0:
                    self.fraction = position() / size
                if row == 1:
                    data = data.removeprefix(BOM_UTF8)
                if row > skip and (data := data.removesuffix(b"\n")).strip():
                    yield event_line(data, file, row)


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
            found.append((EventRows if "type" in column_names(path) else Rows)(path, how))
        else:
            raise FileError(
                f"{path} is of no kind that can be read",
                remedy="Name it .csv, .parquet, .ndjson or .jsonl; all but Parquet may end in .gz",
            )
    if not any(isinstance(source, EventRows) for source in found):
        for name in how.columns:
            if name not in FIELDS:
                raise FileError(
                    f"--map {name}=…: a sale has no `{name}`, and no file has a column `type`",
                    remedy=fields_are(),
                )
    names = [s.path.name for s in found if isinstance(s, Rows) and s.makes_ids]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise FileError(
            f"two files are called {twice[0]}, and ids are made of the name and the row",
            remedy="Rename one, or name a column of ids with --map id=COLUMN",
        )
    return found


def writable_file(path: Path, option: str) -> None:
    """Refuse a place that could not be written, before the work and not after it.

    Raises
    ------
    FileError
    """
    if path.is_dir():
        raise FileError(f"{option} {path} is a folder", remedy="Name a file in it")
    there = path if path.exists() else path.parent
    if not (path.parent.is_dir() and os.access(there, os.W_OK)):
        raise FileError(f"{option} {path} cannot be written", remedy="Check its folder")


def _near_file(path: Path) -> str:
    folder = path.parent
    return near(path.name, [other.name for other in folder.iterdir()]) if folder.is_dir() else ""


def merged(files: Sequence[Source], done: Sequence[int]) -> Iterator[Line]:
    """Lines of all files by event time, each file after its first ``done`` rows.

    Equal times go in the order of the files. A line without a readable time, or earlier than
    the one before it in its file, goes right behind that one.
    """

    def keyed(file: int) -> Iterator[tuple[datetime, Line]]:
        last = EARLIEST
        for line in files[file].lines(file, done[file]):
            last = max(last, line.time or last)
            yield last, line

    waiting = deque(_begins(keyed, len(files)))
    open_: list[tuple[datetime, int, Line, Iterator[tuple[datetime, Line]]]] = []
    while open_ or waiting:
        while waiting and (not open_ or waiting[0] <= open_[0][:2]):
            _, file = waiting.popleft()
            lines = keyed(file)
            for last, line in lines:
                heapq.heappush(open_, (last, file, line, lines))
                break
        if not open_:
            return
        _, file, line, lines = open_[0]
        yield line
        for last, line in lines:
            heapq.heapreplace(open_, (last, file, line, lines))
            break
        else:
            heapq.heappop(open_)


def _begins(
    keyed: Callable[[int], Iterator[tuple[datetime, Line]]], count: int
) -> list[tuple[datetime, int]]:
    """From when on each of so many files must be open, in this order."""
    if count <= OPEN_AT_ONCE:
        return [(EARLIEST, file) for file in range(count)]
    first = ((next(keyed(file), None), file) for file in range(count))
    return sorted((found[0], file) for found, file in first if found is not None)
