"""The archive: a topic's records as Parquet files by day and partition, beside the log.

    <archive>/<topic>/<topic id>/partition=3/_index.json
    <archive>/<topic>/<topic id>/partition=3/day=2026-11-25/000000001000-1f0c33a2.parquet

The folder is local, or anywhere fsspec reaches. Guarantees: a file that the index names is whole
and durable before it is named; records come back byte for byte, with offsets and append times; what
does not match its digest is refused. Leaves out: signatures (who can write here can write to the
log too), and joining it with the log (``archived_log``).
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from stream.errors import AlreadyOwned, LogError, LogUnavailable, OffsetExpired, SettingsError
from stream.log import EventLog, Record

FORMAT = 1
#: Bounds of a file, before compression.
FILE_RECORDS = 100_000
FILE_BYTES = 32 << 20
#: Records read of the log at once.
READ = 5000
DAY_US = 86_400_000_000

_HEADERS = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("appended", pa.timestamp("us", "UTC")),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", _HEADERS),
    ]
)


class File(msgspec.Struct, frozen=True):
    """Records of [``begin``, ``end``) of a partition; append times in µs since 1970 UTC."""

    name: str
    begin: int
    end: int
    records: int
    size_bytes: int
    sha256: str
    first_us: int
    last_us: int


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a partition, in the order of their offsets, each beginning where one ends."""

    format: int = FORMAT
    topic: str
    topic_id: str
    partition: int
    files: tuple[File, ...] = ()

    @property
    def begin(self) -> int:
        """First offset kept; 0 while there is none."""
        return self.files[0].begin if self.files else 0

    @property
    def end(self) -> int:
        """Next offset to keep."""
        return self.files[-1].end if self.files else 0

    def covers(self, offset: int) -> bool:
        """Whether an offset is kept here.

        Examples
        --------
        >>> one = Index(topic="t", topic_id="i", partition=0)
        >>> one.covers(0)
        False
        """
        return self.begin <= offset < self.end


class ArchivedTopic:
    """What the archive holds of one topic, by its id: one made anew has a folder of its own.

    Parameters
    ----------
    url
        Folder, or URL that fsspec knows, such as ``s3://bucket/sales``.
    topic, topic_id
        The topic's.

    Raises
    ------
    SettingsError
        The URL's kind needs a package that is not installed, or is unknown.
    """

    def __init__(self, url: str, topic: str, topic_id: str) -> None:
        self.url = url
        self._topic, self._id = topic, topic_id
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise SettingsError(
                f"the archive {url} needs a package that is not installed: {error}",
                remedy="Install it beside Salescast, such as: pip install s3fs",
            ) from None
        except ValueError as error:
            raise SettingsError(f"setting `archive` is no folder or URL: {error}") from None
        self._root = f"{root.rstrip('/')}/{topic}/{topic_id}"
        self._lock = threading.Lock()
        self._indexes: dict[int, Index] = {}
        self._open: dict[int, tuple[File, pa.Table]] = {}

    def index(self, partition: int, *, fresh: bool = False) -> Index:
        """What is kept of a partition; as it was when last asked unless ``fresh``.

        Raises
        ------
        LogUnavailable, LogError
        """
        if fresh or partition not in self._indexes:
            self._indexes[partition] = self._read_index(partition)
        return self._indexes[partition]

    def read(self, partition: int, offset: int, max_records: int) -> list[Record]:
        """Records from ``offset`` on, as far as the archive has them, and a file may be large.

        Raises
        ------
        LogUnavailable, LogError
        """
        found: list[Record] = []
        size = 0
        with self._lock:
            for file in self.index(partition).files:
                if len(found) >= max_records or size >= FILE_BYTES:
                    break
                if file.end > offset:
                    table = self._table(partition, file)
                    at = pc.sum(pc.less(table["offset"], offset)).as_py() or 0
                    some = table.slice(at, max_records - len(found))
                    found += _records(partition, some)
                    size += some["value"].nbytes
        return found

    def add(self, partition: int, begin: int, records: Sequence[Record]) -> File:
        """Keep records that follow what is kept, as one file.

        1. the file; 2. the index that names it. A crash in between leaves a file that nothing
        names; one that keeps the same records again goes on from the index.

        Raises
        ------
        AlreadyOwned
            Another process has archived meanwhile.
        """
        before = self.index(partition)
        data = _encode(records)
        digest = hashlib.sha256(data).hexdigest()
        day = _day(records[0].append_us)
        name = f"day={day}/{begin:012d}-{digest[:8]}.parquet"
        times = [record.append_us for record in records]
        file = File(
            name, begin, records[-1].offset + 1, len(records), len(data), digest,
            min(times), max(times),
        )  # fmt: skip
        # 1.
        self._write(self._place(partition, name), data)
        # 2.
        if self._read_index(partition) != before:
            raise AlreadyOwned(
                f"another process archives {self._topic}[{partition}] to {self.url}",
                remedy="Let one process archive a topic",
            )
        after = msgspec.structs.replace(before, files=(*before.files, file))
        self._write(self._place(partition, "_index.json"), msgspec.json.encode(after))
        self._indexes[partition] = after
        return file

    def check(self, partition: int) -> list[str]:
        """What is wrong with the files of a partition; empty if they are as the index says."""
        wrong = []
        at = None
        for file in self.index(partition, fresh=True).files:
            if at is not None and file.begin != at:
                wrong.append(f"{file.name} begins at {file.begin}, the one before ends at {at}")
            at = file.end
            try:
                table = self._load(partition, file)
            except LogError as error:
                wrong.append(str(error))
                continue
            offsets = table["offset"].to_pylist()
            if len(offsets) != file.records:
                wrong.append(f"{file.name} holds {len(offsets)} records, not {file.records}")
            inside = bool(offsets) and file.begin <= offsets[0] and offsets[-1] < file.end
            if not inside or any(a >= b for a, b in pairwise(offsets)):
                wrong.append(f"{file.name} holds other offsets than {file.begin} to {file.end}")
        return wrong

    def _place(self, partition: int, name: str) -> str:
        return f"{self._root}/partition={partition}/{name}"

    def _read_index(self, partition: int) -> Index:
        empty = Index(topic=self._topic, topic_id=self._id, partition=partition)
        place = self._place(partition, "_index.json")
        with self._unavailable():
            try:
                data = self._files.cat_file(place)
            except FileNotFoundError:
                return empty
        try:
            found = msgspec.json.decode(data, type=Index)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LogError(
                f"the archive's index {place} is damaged: {error}",
                remedy="Put it back from a backup, or archive anew to another folder",
            ) from None
        if msgspec.structs.replace(found, files=()) != empty:
            raise LogError(f"{place} is of another topic, partition or format")
        return found

    def _table(self, partition: int, file: File) -> pa.Table:
        """A file's records; the last one of each partition stays in memory."""
        kept = self._open.get(partition)
        if kept is None or kept[0] != file:
            kept = self._open[partition] = (file, self._load(partition, file))
        return kept[1]

    def _load(self, partition: int, file: File) -> pa.Table:
        place = self._place(partition, file.name)
        with self._unavailable():
            try:
                data = self._files.cat_file(place)
            except FileNotFoundError:
                raise _damaged(place, "is missing") from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _damaged(place, "does not match its digest")
        # The path says partition and day too; read as a file, they are not taken for columns.
        return pq.read_table(io.BytesIO(data), schema=SCHEMA)

    def _write(self, place: str, data: bytes) -> None:
        """Replace a file whole; an object store does so by itself."""
        with self._unavailable():
            if isinstance(self._files, LocalFileSystem):
                _write_local(Path(place), data)
            else:
                self._files.pipe_file(place, data)

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogUnavailable(
                f"the archive {self.url} is unavailable: {error.strerror or error}",
                remedy="Check that it is there, and may be read and written",
            ) from error


def keep(
    log: EventLog, kept: ArchivedTopic, told: Callable[[int, File], None] | None = None
) -> dict[int, int]:
    """Archive what the log has and the archive has not; records kept now, by partition.

    Parameters
    ----------
    told
        Told of each file, with its partition, once it is kept.

    Raises
    ------
    OffsetExpired
        The log has dropped records that were not archived.
    LogUnavailable, AlreadyOwned
        What was kept so far stays; run it again.
    """
    begins, ends = log.begin(), log.end()
    counts = {}
    for partition in range(log.partitions):
        index = kept.index(partition, fresh=True)
        at = index.end if index.files else begins[partition]
        if at < begins[partition]:
            raise OffsetExpired(
                f"the archive of {log.topic}[{partition}] ends at offset {at}, and the log has "
                f"dropped what came before {begins[partition]}",
                remedy="Archive from here on to another folder, and do so more often than the "
                "log's retention",
            )
        counts[partition] = 0
        for records in _cut(_follow(log, partition, at, ends[partition])):
            file = kept.add(partition, at, records)
            at = file.end
            counts[partition] += file.records
            if told is not None:
                told(partition, file)
    return counts


def _follow(log: EventLog, partition: int, at: int, end: int) -> Iterator[Record]:
    """Records of [``at``, ``end``)."""
    while at < end:
        records = log.read(partition, at, READ)
        if not records:
            return  # offsets need not be dense
        yield from (record for record in records if record.offset < end)
        at = records[-1].offset + 1


def _cut(records: Iterator[Record]) -> Iterator[list[Record]]:
    """What goes into each file: records of one day, and not too many."""
    file: list[Record] = []
    size = 0
    for record in records:
        full = len(file) >= FILE_RECORDS or size + len(record.value) > FILE_BYTES
        if file and (full or record.append_us // DAY_US != file[0].append_us // DAY_US):
            yield file
            file, size = [], 0
        file.append(record)
        size += len(record.value)
    if file:
        yield file


def _day(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).date().isoformat()


def _encode(records: Sequence[Record]) -> bytes:
    """Records as a Parquet file; the same records give the same bytes."""
    headers: list[Any] = [
        [{"name": name, "value": value} for name, value in record.headers] or None
        for record in records
    ]
    columns = [
        pa.array([record.offset for record in records], pa.int64()),
        pa.array([record.append_us for record in records], pa.int64()).cast(SCHEMA.types[1]),
        pa.array([record.key for record in records], pa.binary()),
        pa.array([record.value for record in records], pa.binary()),
        pa.array(headers, _HEADERS),
    ]
    out = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), out, compression="zstd")
    return out.getvalue()


def _records(partition: int, table: pa.Table) -> list[Record]:
    offset, appended, key, value, headers = (
        table[name].to_pylist() if name != "appended" else table[name].cast(pa.int64()).to_pylist()
        for name in SCHEMA.names
    )
    return [
        Record(partition, at, us, k, v, tuple((one["name"], one["value"]) for one in h or ()))
        for at, us, k, v, h in zip(offset, appended, key, value, headers, strict=True)
    ]


def _damaged(place: str, how: str) -> LogError:
    return LogError(
        f"the archive's file {place} {how}",
        remedy="Put it back from a backup; while the log still has its records, archive anew to "
        "another folder",
    )


def _write_local(path: Path, data: bytes) -> None:
    """Replace a file so that it is whole, and on the disk, or as it was."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    for folder in (path.parent, path.parent.parent):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
