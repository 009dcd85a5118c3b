"""What was forecast at an earlier time: snapshots that are kept, though no longer served.

Guarantees: the answer is a pure function of the snapshot, as it was when that was served. Only
what a forecast needs is read; a few views are kept. Leaves out: snapshots that retention has
deleted, and histories (a newer snapshot knows more of the past than an older one).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime

import anyio

from api.catalog import Catalog, candidate
from api.problems import Problem
from api.replica import View, as_of, view_of
from learner.manifest import Verifier
from learner.operations import as_served, choose_cut
from learner.served import read_serving
from learner.serving import Serving
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.errors import SnapshotMissing
from stream.event import time_us

#: Views kept, some 100 MB each at 250,000 series.
VIEWS_KEPT = 4
#: Snapshots read at once.
READERS = 2


class Past:
    """Views of a store's older snapshots; all of it blocks, and is safe from many threads."""

    def __init__(
        self, store: SnapshotStore, verifier: Verifier, catalog: Catalog, calendar: Calendar
    ) -> None:
        self.limiter = anyio.CapacityLimiter(READERS)
        self._store = store
        self._verifier = verifier
        self._catalog = catalog
        self._calendar = calendar
        self._kept: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, partition: int, moment: datetime, present: Serving | None) -> View:
        """The newest kept snapshot of a partition that knew nothing after a moment.

        Parameters
        ----------
        present
            What is served now: parts that have not changed since are taken over.

        Raises
        ------
        Problem
            404: all that is kept is newer.
        SnapshotMissing, SnapshotCorrupt, StoreUnavailable
        """
        try:
            return self._view(partition, moment, present)
        except SnapshotMissing:
            # Retention may delete a snapshot between the look and the reading.
            return self._view(partition, moment, present)

    def _view(self, partition: int, moment: datetime, present: Serving | None) -> View:
        manifests, _ = self._catalog.newest(partition)
        served = as_served(map(candidate, manifests))
        snapshot = choose_cut(served, to_us=time_us(moment)).get(partition)
        if snapshot is None:
            raise _too_old(moment, sorted(one.watermark_us for one in served))
        with self._lock:
            found = self._kept.get(snapshot)
            if found is not None:
                self._kept.move_to_end(snapshot)
                return found
        serving = read_serving(
            self._store, partition, snapshot, self._verifier, present, rings=False
        )
        found = view_of(serving, self._calendar)
        with self._lock:
            self._kept[snapshot] = found
            while len(self._kept) > VIEWS_KEPT:
                self._kept.popitem(last=False)
        return found


def _too_old(moment: datetime, watermarks_us: list[int]) -> Problem:
    """404 with what is kept."""
    known = [at for at in map(as_of, watermarks_us) if at is not None]
    kept = {"oldest": known[0], "newest": known[-1]} if known else None
    return Problem(
        404, "nothing-kept", "No snapshot is old enough",
        f"no snapshot is kept that knew sales up to {moment.isoformat()} and no further",
        field="as_of",
        remedy=f"ask for a time from {kept['oldest']} on, which is the oldest kept; the setting "
        "`snapshots_kept_days` says how far back they are" if kept
        else "leave `as_of` out: nothing has been served yet",
        more={"kept": kept},
    )  # fmt: skip
