"""Which implementation the settings ask for."""

from __future__ import annotations

from pathlib import Path

from learner.file_store import FileStore
from learner.redis_store import RedisStore
from learner.store import SnapshotStore
from stream.settings import Settings


def open_store(settings: Settings) -> SnapshotStore:
    """The snapshot store of these settings: ``data_dir/snapshots``, or Redis.

    Redis is not contacted before the first use.

    Raises
    ------
    SettingsError
        ``redis_url`` is not a Redis URL.
    StoreUnavailable
        The folder cannot be made.
    """
    if settings.store == "redis":
        return RedisStore(settings.redis_url, settings.redis_prefix)
    return FileStore(Path(settings.data_dir) / "snapshots")
