"""Keeps the champion of what is served at hand, for what-if and why.

It is read from the snapshot at the first question, and kept as long as that snapshot is served:
forecasts themselves never wait for it.
"""

from __future__ import annotations

import threading

from api import problems
from api.replica import View
from learner.forecaster import Forecaster
from learner.manifest import Verifier
from learner.recall import read_forecaster
from learner.store import SnapshotStore
from stream.errors import SalescastError


class Recaller:
    """Forecasters by partition; safe to ask from many threads."""

    def __init__(self, store: SnapshotStore, verifier: Verifier) -> None:
        self._store = store
        self._verifier = verifier
        self._kept: dict[int, tuple[str, Forecaster]] = {}
        self._lock = threading.Lock()

    def of(self, view: View) -> Forecaster:
        """The forecaster of a view's snapshot.

        Raises
        ------
        Problem
            503: the store cannot be reached, or no longer has the snapshot.
        """
        if view.forecaster is not None:
            return view.forecaster
        partition, snapshot = view.serving.partition, view.serving.snapshot
        with self._lock:
            kept = self._kept.get(partition)
            if kept is None or kept[0] != snapshot:
                try:
                    found = read_forecaster(self._store, partition, snapshot, self._verifier)
                except (SalescastError, OSError) as error:
                    raise problems.unavailable("snapshot store", error) from None
                kept = self._kept[partition] = (snapshot, found)
            return kept[1]
