"""What the folder promises beyond the contract."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from learner import file_store
from learner.file_store import FileStore
from learner.store import Pointers
from stream.errors import StoreUnavailable
from tests.contract.snapshot_kits import A, B, publish, put

#: Publishes snapshot b over a, and kills itself before its n-th step that the disk can see.
_PUBLISHER = """
import os, pathlib, signal, sys
from hashlib import sha256
from learner.file_store import FileStore
from learner.store import Pointer
store, left = FileStore(sys.argv[1]), int(sys.argv[2])
def stepping(step):
    def stepped(*args):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args)
    return stepped
os.fsync, pathlib.Path.replace = stepping(os.fsync), stepping(pathlib.Path.replace)
store.put_chunk(sha256(b"b").hexdigest(), b"b")
store.put_manifest(0, "b", b"b")
assert store.move_head(0, "a", Pointer("b", 0, 20))
"""


def test_a_kill_between_any_two_steps_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    heads = []
    for steps in range(100):
        root = tmp_path / str(steps)
        store = FileStore(root)
        put(store, b"a")
        publish(store, A)
        ended = subprocess.run(
            [sys.executable, "-c", _PUBLISHER, str(root), str(steps)], timeout=60, check=False
        )
        head = FileStore(root).pointers(0).head
        assert head in (A, B)
        heads.append(head)
        assert store.get_manifest(0, head.snapshot) == head.snapshot.encode()
        assert store.get_chunk(sha256(head.snapshot.encode()).hexdigest())
        put(store, b"b")
        store.put_manifest(0, "b", b"b")
        assert store.move_head(0, "a", B)
        assert store.snapshots(0) == ["a", "b"]
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert len(heads) > 9
    assert heads == sorted(heads, key=lambda pointer: pointer.position)
    assert heads[-1] == B


def test_sweep_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    publish(store, A)
    digest = put(store, b"data")
    leftovers = [tmp_path / "p0" / ".x.tmp", tmp_path / "chunks" / digest[:2] / ".y.tmp"]
    for path in leftovers:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    young = tmp_path / "p0" / ".z.tmp"
    young.write_bytes(b"half")
    assert store.sweep([digest]) == 0
    assert not any(path.exists() for path in leftovers)
    assert young.exists()


def test_only_its_user_can_read_the_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data" / "snapshots")
    put(store, b"data")
    publish(store, A)
    root = tmp_path / "data" / "snapshots"
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_lock_that_is_never_released_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    monkeypatch.setattr(file_store, "LOCK_TIMEOUT_S", 0.05)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="lock"):
            store.move_head(0, None, A)
        assert store.pointers(0) == Pointers()
    assert store.move_head(0, None, A)


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="mode 0700"):
        FileStore(tmp_path / "file" / "snapshots")
    store = FileStore(tmp_path / "snapshots")
    (tmp_path / "snapshots").rename(tmp_path / "moved")
    with pytest.raises(StoreUnavailable, match="gone"):
        store.missing(["0" * 64])
    with pytest.raises(StoreUnavailable, match="gone"):
        store.pointers(0)
    for listed in (store.partitions, lambda: store.snapshots(0)):
        with pytest.raises(StoreUnavailable, match="gone"):
            listed()


def test_a_full_disk_is_unavailable_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    publish(store, A)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.move_head(0, "a", B)
    assert store.pointers(0).head == A
    assert not list(tmp_path.rglob("*.tmp"))
