"""EventLog on SQLite: the embedded default.

One file holds several topics. A row is a *batch*: what one commit appended to one partition, as
MessagePack of ``Record``s, so that SQLite is stepped once a batch and not once a record.
Guarantees, beyond ``log``: offsets are dense from 0; any number of processes and threads append,
and threads of one process share commits (appends that arrive while a commit is under way are
written by the next one); a commit is in the file when ``append`` returns, through kill -9 and
power loss (WAL, ``synchronous=FULL``); readers hold no transaction between calls. Leaves out:
retention (nothing is ever deleted), network file systems (locks and shared memory must work),
and use across ``fork``: a process opens its own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from stream.errors import AlreadyOwned, LogError, LogUnavailable, OffsetExpired, TopicMismatch
from stream.log import Entry, Moves, Record, here

#: How long to wait for other writers before saying that the log is locked.
BUSY_S = 10.0
#: How often a waiting ``poll`` looks whether another connection has committed.
LOOK_S = 0.005
#: Bounds of a batch: what has to be decoded to read one record of it.
BATCH_RECORDS = 1000
BATCH_BYTES = 1 << 20
#: What a poll or a read gives at most, and a batch more.
GIVEN_BYTES = 32 << 20
#: Records of a partition that a poll gives before the next has its turn.
TURN = 50
#: A batch's key is topic, partition and first offset in one integer: 10, 13 and 40 bits.
OFFSET_BITS = 40
PARTITION_BITS = 13
#: Marks the file as ours ("SCLG"), and its format.
APPLICATION_ID = 0x53434C47
FORMAT = 1
OTHER_FILE = "Set `data_dir` to another folder, or move the file away"

_SCHEMA = f"""
CREATE TABLE topic (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL,
  partitions INTEGER NOT NULL);
CREATE TABLE batch (
  position INTEGER PRIMARY KEY, count INTEGER NOT NULL, append_us INTEGER NOT NULL,
  records BLOB NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""
_LAST = """SELECT position, count, append_us FROM batch
WHERE position >= ? AND position < ? ORDER BY position DESC LIMIT 1"""
_FROM = """SELECT records FROM batch
WHERE position >= coalesce(
  (SELECT max(position) FROM batch WHERE position >= :base AND position <= :start), :start)
AND position < :stop ORDER BY position"""

encode_batch = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


class SqliteLog:
    """One topic of a log in a SQLite file, made if it is not there.

    Parameters
    ----------
    path
        The file; its folder must exist.
    topic
        The topic's name.
    partitions
        How many partitions the topic has; fixed when it is made.
    clock
        The time in seconds since 1970 UTC, for append times.

    Raises
    ------
    LogUnavailable
        The file cannot be opened or written now.
    TopicMismatch
        The file is no log, of another format, or the topic has another partition count.
    """

    def __init__(
        self, path: str | Path, topic: str, partitions: int, *,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        if not 0 < partitions <= 1 << PARTITION_BITS:
            raise ValueError(f"partitions must be 1 to {1 << PARTITION_BITS}, not {partitions}")
        self._path = Path(path)
        self._topic = topic
        self._lock_file = self._path.with_name(f"{self._path.name}.{topic}.lock")
        self._partitions = partitions
        self._clock = clock
        self._pending: list[_Append] = []
        self._pending_lock = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = open_file(self._path)
        try:
            with _unavailable(self._path):
                self._number, self._id = _topic(self._writer, self._path, topic, partitions)
                self._file = _identity(self._path)
            self._reader = _connect(self._path)
        except BaseException:
            self._writer.close()
            raise

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def topic_id(self) -> str:
        """Random, made with the topic."""
        return self._id

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self._partitions

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append entries durably and all or none; their offsets, in the order given."""
        if not entries:
            return []
        mine = _Append(_checked(entries, self._partitions))
        with self._pending_lock:
            self._pending.append(mine)
        # Whoever gets the lock first writes everything that waits; the others find it done.
        with self._writing:
            if not mine.offsets and mine.error is None:
                with self._pending_lock:
                    pending, self._pending = self._pending, []
                self._commit(pending)
        if mine.error is not None:
            raise mine.error
        return mine.offsets

    def begin(self) -> Mapping[int, int]:
        """Zero everywhere: nothing is deleted."""
        return dict.fromkeys(range(self._partitions), 0)

    def end(self) -> Mapping[int, int]:
        """Offset of the next entry, by partition."""
        with self._reading, _unavailable(self._path):
            return {p: self._last(self._reader, p)[0] for p in range(self._partitions)}

    def read(self, partition: int, offset: int, max_records: int = 1000) -> list[Record]:
        """Records from ``offset`` on, at once; empty at the end. Owns nothing."""
        with self._reading, _unavailable(self._path):
            found = self._fetch(self._reader, partition, offset, max_records, GIVEN_BYTES)
            return found[:max_records]

    def consume(self, positions: Mapping[int, int]) -> SqliteConsumer:
        """Own the topic, by a lock on a file beside the log, and read these partitions."""
        for partition in positions:
            _check_partition(partition, self._partitions)
        lock = _own(self._lock_file, self._topic)
        try:
            return SqliteConsumer(self, _connect(self._path), lock, positions)
        except BaseException:
            os.close(lock)
            raise

    def join(self) -> SqliteConsumer:
        """Own the topic; all partitions are gained at once."""
        consumer = self.consume(dict.fromkeys(range(self._partitions), 0))
        for partition in range(self._partitions):
            consumer.pause(partition)
        consumer.gained = tuple(range(self._partitions))
        return consumer

    def owners(self) -> Mapping[int, str]:
        """The one owner, for every partition; none while nobody holds the lock."""
        with _unavailable(self._path):
            pid = _owner(self._lock_file)
        host = here().partition(":")[0]
        return dict.fromkeys(range(self._partitions), f"{host}:{pid}") if pid else {}

    def close(self) -> None:
        """Release connections, once a running append has ended. Safe to call twice."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _commit(self, pending: list[_Append]) -> None:
        """Write all pending appends in one transaction, and give each its offsets or its error."""
        try:
            with _unavailable(self._path):
                self._still_there()
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    offsets = self._insert(pending)
                    self._writer.execute("COMMIT")
                except BaseException:
                    # A full disk has SQLite roll back by itself.
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
        except BaseException as error:
            for append in pending:
                append.error = error
        else:
            for append, given in zip(pending, offsets, strict=True):
                append.offsets = given

    def _insert(self, pending: list[_Append]) -> list[list[int]]:
        """Insert the batches of one transaction; offsets by append."""
        now_us = int(self._clock() * 1e6)
        batches: dict[int, _Batches] = {}
        offsets: list[list[int]] = []
        for append in pending:
            given = []
            for entry in append.entries:
                batch = batches.get(entry.partition)
                if batch is None:
                    end, last_us = self._last(self._writer, entry.partition)
                    batch = batches[entry.partition] = _Batches(end, max(now_us, last_us))
                given.append(batch.add(entry))
            offsets.append(given)
        self._writer.executemany(
            "INSERT INTO batch VALUES (?, ?, ?, ?)",
            [
                (self._position(partition, records[0].offset), len(records), records[0].append_us,
                 encode_batch(records))
                for partition, batch in batches.items()
                for records in batch.done
            ],
        )  # fmt: skip
        return offsets

    def _position(self, partition: int, offset: int) -> int:
        return ((self._number << PARTITION_BITS | partition) << OFFSET_BITS) + offset

    def _last(self, connection: sqlite3.Connection, partition: int) -> tuple[int, int]:
        """A partition's end, and the append time of its last record."""
        base = self._position(partition, 0)
        row = connection.execute(_LAST, (base, base + (1 << OFFSET_BITS))).fetchone()
        return (row[0] - base + row[1], row[2]) if row else (0, 0)

    def _fetch(
        self, connection: sqlite3.Connection, partition: int, offset: int, least: int, size: int
    ) -> list[Record]:
        """Records from ``offset`` on, whole batches until at ``least`` so many, or of ``size``."""
        _check_partition(partition, self._partitions)
        if offset < 0:
            raise ValueError(f"offset must not be negative: {offset}")
        base = self._position(partition, 0)
        bounds = {"base": base, "start": base + offset, "stop": base + (1 << OFFSET_BITS)}
        found: list[Record] = []
        # Closing the cursor ends the read transaction, however far it has been read.
        with closing(connection.execute(_FROM, bounds)) as rows:
            for (blob,) in rows:
                records = _decode(blob)
                first = records[0].offset
                found += records[offset - first :] if first < offset else records
                size -= len(blob)
                if len(found) >= least or size <= 0:
                    break
        return found

    def _still_there(self) -> None:
        """Refuse to write to a file that nobody can find any more."""
        if _identity(self._path) != self._file:
            raise TopicMismatch(
                f"the log {self._path} was replaced or deleted while it was in use",
                remedy="Put the file back, or restart to go on with the new one",
            )


class SqliteConsumer:
    """The owner's reader: a connection of its own, and the lock that makes it the only one."""

    def __init__(
        self, log: SqliteLog, connection: sqlite3.Connection, lock: int,
        positions: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._log = log
        self._connection = connection
        self._lock: int | None = lock
        self._positions = dict(positions)
        #: Records of a batch that did not fit into the last poll.
        self._left: dict[int, list[Record]] = {}
        self._unchecked = set(positions)
        self._order = list(positions)
        self._paused: set[int] = set()
        self._version: int | None = None
        #: What ``moves`` has not told yet.
        self.gained: tuple[int, ...] = ()

    @property
    def joined(self) -> bool:
        """Whether it is known which partitions are ours: from the start."""
        return True

    def moves(self) -> Moves:
        """All partitions come once, and stay."""
        gained, self.gained = self.gained, ()
        return Moves(gained)

    def poll(self, max_records: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Records by partition, each partition getting its share; empty on time-out."""
        if max_records <= 0:
            raise ValueError(f"max_records must be positive: {max_records}")
        deadline = time.monotonic() + timeout_s
        while True:
            with _unavailable(self._log._path):
                self._log._still_there()
                # Read before the records: a commit in between shows up as a change.
                version = self._connection.execute("PRAGMA data_version").fetchone()[0]
                if version != self._version or self._left:
                    found = self._gather(max_records)
                    if found:
                        self._version = None  # there may be more
                        self._order.sort(key=found.__contains__)  # who got nothing is first
                        return found
                    self._version = version
            rest = deadline - time.monotonic()
            if rest <= 0:
                return {}
            time.sleep(min(rest, LOOK_S))

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from ``offset``."""
        if partition not in self._positions:
            raise ValueError(f"partition {partition} is not consumed here")
        self._positions[partition] = offset
        self._paused.discard(partition)
        self._left.pop(partition, None)
        self._unchecked.add(partition)
        self._version = None

    def pause(self, partition: int) -> None:
        """Give no records of a partition until it is sought."""
        self._paused.add(partition)
        self._left.pop(partition, None)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Do nothing: lag is the log's end less the position of the head snapshot."""

    def close(self) -> None:
        """Give up the lock. Safe to call twice."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _gather(self, max_records: int) -> dict[int, list[Record]]:
        """Up to ``max_records`` and ``GIVEN_BYTES``; partitions take turns at being first."""
        found: dict[int, list[Record]] = {}
        room, size = max_records, GIVEN_BYTES
        active = [partition for partition in self._order if partition not in self._paused]
        self._order = [*self._order[1:], *self._order[:1]]
        while room and size > 0 and active:
            share, part = min(-(-room // len(active)), TURN), -(-size // len(active))
            before = size
            more = []
            for partition in active:
                wanted = min(share, room)
                try:
                    records = self._take(partition, wanted, part)
                except sqlite3.Error:
                    # What was taken is past the positions already: hand it over, fail next time.
                    if found:
                        return found
                    raise
                if records:
                    found.setdefault(partition, []).extend(records)
                    room -= len(records)
                    size -= _size(records)
                if len(records) == wanted:
                    more.append(partition)
                if not room or size <= 0:
                    break
            active = more
            if before > 2 * size:
                break  # shares of bytes, and not of records, would bring who sells less days ahead
        return found

    def _take(self, partition: int, wanted: int, size: int) -> list[Record]:
        """Up to ``wanted`` records of a partition, or ``size`` and a batch; its position moves."""
        records = self._left.pop(partition, [])
        size -= _size(records[:wanted])  # of a batch that is left, no more than is given
        if len(records) < wanted and size > 0:
            # What was left of a batch is not all there is: others would run ahead.
            position = self._positions[partition] + len(records)
            least = wanted - len(records)
            more = self._log._fetch(self._connection, partition, position, least, size)
            records = records + more
            if partition in self._unchecked:
                end = self._log._last(self._connection, partition)[0]
                if position > end:
                    raise OffsetExpired(
                        f"position {position} of {self._log.topic}[{partition}] is past the log's "
                        f"end at {end}: {self._log._path} has lost its tail"
                    )
                self._unchecked.discard(partition)
        if len(records) > wanted:
            self._left[partition] = records[wanted:]
            records = records[:wanted]
        if records:
            self._positions[partition] = records[-1].offset + 1
        return records


class _Append:
    """One caller's entries on their way into a commit."""

    __slots__ = ("entries", "error", "offsets")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.offsets: list[int] = []
        self.error: BaseException | None = None


class _Batches:
    """What a transaction appends to one partition, cut into batches of bounded size."""

    __slots__ = ("append_us", "bytes", "done", "end")

    def __init__(self, end: int, append_us: int) -> None:
        self.end = end
        self.append_us = append_us
        self.done: list[list[Record]] = []
        self.bytes = 0

    def add(self, entry: Entry) -> int:
        """Append one entry; its offset."""
        partition, key, value, headers = entry
        offset = self.end
        size = len(value)
        if not self.done or len(self.done[-1]) >= BATCH_RECORDS or self.bytes + size > BATCH_BYTES:
            self.done.append([])
            self.bytes = 0
        self.done[-1].append(Record(partition, offset, self.append_us, key, value, headers))
        self.bytes += size
        self.end = offset + 1
        return offset


def _size(records: Iterable[Record]) -> int:
    return sum(len(record.value) for record in records)


def _checked(entries: Iterable[Entry], partitions: int) -> list[Entry]:
    """Refuse in the caller's own thread what would spoil a commit shared with others."""
    entries = list(entries)
    for partition, key, value, headers in entries:
        _check_partition(partition, partitions)
        if not isinstance(value, bytes) or not (key is None or isinstance(key, bytes)):
            raise TypeError("an entry's value must be bytes, and its key bytes or None")
        for name, content in headers:
            name.encode()
            if not isinstance(content, bytes):
                raise TypeError(f"the header {name} must be bytes")
    return entries


def _check_partition(partition: int, partitions: int) -> None:
    if not 0 <= partition < partitions:
        raise ValueError(f"no partition {partition}: the topic has {partitions}, from 0")


@contextmanager
def _unavailable(path: Path) -> Iterator[None]:
    """Say what SQLite or the file system says in words an operator can act on."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text:
            text = f"another process has kept it locked for {BUSY_S:g} s"
        elif "full" in text:
            text = "the disk is full"
        elif "unable to open" in text:
            text = f"it cannot be opened; does the folder {path.parent} exist, and is it writable?"
        raise LogUnavailable(f"the log {path} is unavailable: {text}") from error
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise TopicMismatch(f"{path} is not a log of Salescast", remedy=OTHER_FILE) from error
        raise LogError(
            f"the log {path} is damaged: {error}",
            remedy="Stop all of Salescast and restore the file, or what `sqlite3 .recover` saves",
        ) from error
    except OSError as error:
        raise LogUnavailable(f"the log {path} is unavailable: {error.strerror}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time."""
    with _unavailable(path):
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
    return connection


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, in WAL mode and with our tables; many processes may do so at once."""
    connection = _connect(path)
    try:
        with _unavailable(path):
            # Looked at before it is changed: it may be somebody else's.
            if not _is_ours(connection, path):
                _to_wal(connection)
                connection.execute("BEGIN IMMEDIATE")
                if not _is_ours(connection, path):
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is a log of this format; ``False`` if it is empty."""
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return False
    ours = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if ours != APPLICATION_ID:
        raise TopicMismatch(
            f"{path} is another program's database, not a log of Salescast",
            remedy=OTHER_FILE,
        )
    if version != FORMAT:
        raise TopicMismatch(
            f"{path} is a log of format {version}, and this release reads {FORMAT}",
            remedy="Use the release that made it, or another data folder",
        )
    return True


def _to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite's busy time-out does not cover two processes doing so at once."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)
        else:
            if mode != "wal":
                raise sqlite3.OperationalError(
                    "its file system does not do write-ahead logging; use a local disk"
                )
            return


def _topic(
    connection: sqlite3.Connection, path: Path, topic: str, partitions: int
) -> tuple[int, str]:
    """Number and id of a topic, made if it is not there."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "INSERT OR IGNORE INTO topic (name, id, partitions) VALUES (?, ?, ?)",
        (topic, uuid.uuid4().hex, partitions),
    )
    connection.execute("COMMIT")
    number, topic_id, there = connection.execute(
        "SELECT number, id, partitions FROM topic WHERE name = ?", (topic,)
    ).fetchone()
    if there != partitions:
        raise TopicMismatch(
            f"the topic {topic} in {path} has {there} partitions, not {partitions}",
            remedy=f"Set `partitions` back to {there}; stores would move to other partitions, so "
            "change it with: salescast reshard --help",
        )
    return number, topic_id


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is, whatever its name. (Opening it here would drop SQLite's own locks.)"""
    status = path.stat()
    return status.st_dev, status.st_ino


def _owner(path: Path) -> int:
    """Process that holds a lock; 0 if nobody does."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        # A lock of its own kind keeps no owner away for longer than this look.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0
    except BlockingIOError:
        return int(os.pread(lock, 32, 0).strip() or 0)
    finally:
        os.close(lock)


def _own(path: Path, topic: str) -> int:
    """Lock a file; its descriptor. The system drops the lock with the process, however it ends."""
    with _unavailable(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise AlreadyOwned(
                f"{topic} is folded already by process {pid or '(starting)'}"
            ) from None
        except BaseException:
            os.close(lock)
            raise
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
