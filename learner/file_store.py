"""SnapshotStore in a folder: the embedded default.

```
chunks/ab/abcdef…                    a chunk under its SHA-256
p0/000000000007.<snapshot>.manifest  a manifest; the number is the order of putting
p0/pointers.json                     head and active
p0/standstill.json                   what it stands still at, if it does
lock                                 held while pointers, manifests or a chunk's age change
```
Guarantees: what a call wrote is on disk when it returns (temporary file, fsync, rename, fsync
of the folder); kill -9 at any point leaves the last whole state; learner and API may be
different processes of one machine. Leaves out: network file systems whose ``flock`` is local.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from learner import pointers as rules
from learner.store import Pointer, Pointers, Replaying, Standstill
from stream.errors import SnapshotCorrupt, StoreError, StoreUnavailable

#: Chunks younger than this may belong to a snapshot being written.
YOUNG_S = 3600.0
#: A holder needs milliseconds; past this it hangs or was stopped.
LOCK_TIMEOUT_S = 10.0

_MANIFEST = re.compile(r"(\d{12})\.(.+)\.manifest")
_PARTITION = re.compile(r"p(\d+)")


class FileStore:
    """Snapshots in a folder that only its user can read.

    Parameters
    ----------
    root
        The folder; made with mode 0700 if it is not there.

    Raises
    ------
    StoreUnavailable
        From every method: the folder cannot be read or written now (disk full, permissions).
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._chunks = self._root / "chunks"
        # Chunks this process read and found damaged: reported missing, so that they are put anew.
        self._damaged: set[str] = set()
        with self._access():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder(self._chunks)

    def missing(self, digests: Collection[str]) -> set[str]:
        """Those of the chunks that the store does not hold; the age of the others starts anew.

        It looks at names, not bytes, except that a chunk which this object found corrupt counts
        as missing.
        """
        absent = set()
        with self._access(), self._locked():
            for digest in digests:
                try:
                    os.utime(self._chunk(digest))
                except FileNotFoundError:
                    absent.add(digest)
        return absent | self._damaged.intersection(digests)

    def put_chunk(self, digest: str, data: bytes) -> None:
        """Keep a chunk under the hex SHA-256 of its bytes; what was there is replaced."""
        if not rules.is_digest(digest):
            raise StoreError(f"{digest[:80]!r} is not a hex SHA-256")
        with self._access():
            path = self._chunk(digest)
            self._folder(path.parent)
            _write(path, data)
        self._damaged.discard(digest)

    def get_chunk(self, digest: str) -> bytes:
        """A chunk's bytes, checked against its digest."""
        try:
            with self._access():
                data = self._chunk(digest).read_bytes()
            return rules.checked(digest, data, str(self._root))
        except FileNotFoundError:
            raise rules.no_such_chunk(digest, str(self._root)) from None
        except SnapshotCorrupt:
            self._damaged.add(digest)
            raise

    def put_manifest(self, partition: int, snapshot: str, envelope: bytes) -> None:
        """Keep a signed manifest; put again, it is replaced and keeps its place in the order."""
        if not rules.is_snapshot_id(snapshot):
            raise StoreError(f"{snapshot[:140]!r} cannot be the id of a snapshot")
        with self._access():
            folder = self._folder(self._partition(partition))
            with self._locked():
                kept = _manifests(folder)
                last = int(next(reversed(kept.values())).name[:12]) if kept else 0
                fresh = folder / f"{last + 1:012d}.{snapshot}.manifest"
                _write(kept.get(snapshot, fresh), envelope)

    def get_manifest(self, partition: int, snapshot: str) -> bytes:
        """A signed manifest as it was put."""
        with self._access():
            path = _manifests(self._partition(partition)).get(snapshot)
            if path:
                with suppress(FileNotFoundError):  # deleted since it was listed
                    return path.read_bytes()
        raise rules.no_such_snapshot(partition, snapshot, str(self._root))

    def snapshots(self, partition: int) -> list[str]:
        """Ids of the manifests kept, in the order they were put."""
        with self._access():
            self._chunks.stat()  # a folder that is gone is no empty one
            return list(_manifests(self._partition(partition)))

    def partitions(self) -> list[int]:
        """Partitions that have pointers, ascending."""
        with self._access():
            self._chunks.stat()
            found = (_PARTITION.fullmatch(path.parent.name) for path in
                     self._root.glob("p*/pointers.json"))  # fmt: skip
            return sorted(int(match[1]) for match in found if match)

    def pointers(self, partition: int) -> Pointers:
        """Where the partition stands."""
        path = self._partition(partition) / "pointers.json"
        try:
            with self._access():
                data = path.read_bytes()
        except FileNotFoundError:
            return Pointers()
        return rules.decode(data, str(path))

    def move_head(
        self, partition: int, parent: str | None, to: Pointer, replaying: Replaying | None = None
    ) -> bool:
        """Publish; see ``SnapshotStore.move_head``. Durable when it returns ``True``."""
        with self._access(), self._locked():
            now = self.pointers(partition)
            return self._move(partition, now, rules.moved_head(now, parent, to, replaying))

    def move_active(
        self, partition: int, to: Pointer | None, frozen_by: str | None, control_offset: int
    ) -> bool:
        """Freeze or resume; see ``SnapshotStore.move_active``."""
        with self._access(), self._locked():
            now = self.pointers(partition)
            moved = rules.moved_active(now, to, frozen_by, control_offset)
            return self._move(partition, now, moved)

    def standstills(self) -> dict[int, Standstill]:
        """What partitions stand still at, as far as their owners have said."""
        found = {}
        with self._access():
            self._chunks.stat()
            for path in self._root.glob("p*/standstill.json"):
                match = _PARTITION.fullmatch(path.parent.name)
                with suppress(FileNotFoundError):  # it folds on since it was listed
                    standstill = rules.decode_standstill(path.read_bytes())
                    if match and standstill:
                        found[int(match[1])] = standstill
        return found

    def put_standstill(self, partition: int, standstill: Standstill | None) -> None:
        """Say that a partition stands still; ``None``: it does no longer."""
        with self._access():
            folder = self._folder(self._partition(partition))
            if standstill is not None:
                _write(folder / "standstill.json", msgspec.json.encode(standstill))
                return
            (folder / "standstill.json").unlink(missing_ok=True)
            _sync_folder(folder)

    def delete(self, partition: int, snapshots: Collection[str]) -> None:
        """Forget manifests, but never head and active."""
        with self._access(), self._locked():
            kept = _manifests(self._partition(partition))
            for snapshot in set(snapshots) - rules.protected(self.pointers(partition)):
                if snapshot in kept:
                    kept[snapshot].unlink(missing_ok=True)

    def sweep(self, keep: Collection[str]) -> int:
        """Delete chunks that no digest in ``keep`` names and that are older than an hour.

        Temporary files that a killed process left behind go too, uncounted.
        """
        kept = set(keep)
        deleted = 0
        with self._access():
            for folder in [*self._chunks.iterdir(), *self._root.glob("p*")]:
                # The lock keeps `missing` from promising a chunk between its stat and its end.
                with self._locked():
                    for path in folder.iterdir():
                        chunk = rules.is_digest(path.name) and path.name not in kept
                        if (chunk or path.suffix == ".tmp") and _age_s(path) > YOUNG_S:
                            path.unlink(missing_ok=True)
                            deleted += chunk
        return deleted

    def info(self) -> Mapping[str, str]:
        """Kind, place and durability."""
        return {
            "kind": "folder",
            "place": str(self._root),
            "durability": "every write is fsynced before it counts",
        }

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _move(self, partition: int, now: Pointers, moved: Pointers | None) -> bool:
        if moved is None:
            return False
        folder = self._folder(self._partition(partition))
        if moved != now:
            _write(folder / "pointers.json", rules.encode(moved))
        else:  # a repeated call: the first may have died between rename and fsync
            _sync_folder(folder)
        return True

    def _chunk(self, digest: str) -> Path:
        # An id from outside that is no digest must not become a path; this one never exists.
        name = digest if rules.is_digest(digest) else "none"
        return self._chunks / name[:2] / name

    def _partition(self, partition: int) -> Path:
        return self._root / f"p{partition}"

    def _folder(self, path: Path) -> Path:
        """Make a folder, durably, if it is not there."""
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(path.parent)
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads and processes: each opening of the file is a lock of its own."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(
                            f"another process has held {self._root / 'lock'} "
                            f"for {LOCK_TIMEOUT_S:g} s",
                            remedy="Continue or end the Salescast process that was stopped",
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _access(self) -> Iterator[None]:
        """Say what the operating system refused; a file that is not there is the caller's."""
        try:
            yield
        except FileNotFoundError as error:
            if self._chunks.is_dir():
                raise
            raise StoreUnavailable(f"the snapshot folder {self._root} is gone") from error
        except OSError as error:
            raise StoreUnavailable(
                f"cannot use {error.filename or self._root}: {error.strerror}",
                remedy="Free space on the disk, or give this user the folder with mode 0700; "
                "Salescast goes on trying",
            ) from error


def _manifests(folder: Path) -> dict[str, Path]:
    """Manifests of a partition by snapshot id, in the order they were put."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return {}
    found = ((_MANIFEST.fullmatch(path.name), path) for path in paths)
    return {match[2]: path for match, path in found if match}


def _age_s(path: Path) -> float:
    """Seconds since a file was written or asked for; 0 if it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _write(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, or a crash at any point, sees all of it or the old one.

    1. a temporary file in the same folder; 2. fsync; 3. rename; 4. fsync of the folder.
    """
    # 1.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            # 2.
            os.fsync(file.fileno())
        # 3.
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    # 4.
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
