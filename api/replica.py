"""Follows the active snapshots; forecasts are answered from here, from memory.

Guarantees: readers see a whole set of views or the next one, never a mixture; a snapshot that
cannot be had or verified changes nothing; the store and the log may be down. Leaves out: HTTP,
and what of a snapshot is read (``learner.served``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from api import answers, search
from api.asked import Asked
from api.background import Trouble
from api.updates import Updates
from learner.forecaster import Forecaster
from learner.intervals import GRID
from learner.manifest import Verifier
from learner.serving import Serving, bucket_times
from learner.store import Pointers, SnapshotStore, Standstill
from stream.buckets import Calendar
from stream.errors import SalescastError, SnapshotMissing, StoreError, StoreUnavailable
from stream.event import FIRST_US
from stream.settings import Settings

#: Kinds of requests (horizon, quantile levels and point) that a view keeps tables for.
KINDS_KEPT = 64
#: What the answers that a view keeps as text may take: some 20,000 of 14 steps and 3 quantiles.
STEPS_BYTES = 64 * 1024**2
#: What each takes beside its text.
ENTRY_BYTES = 400


#: Reads what a frozen snapshot's model says with the head's facts: ``recall.read_continued``.
Continuer = Callable[[SnapshotStore, int, str, str, Verifier], tuple[Serving, Forecaster]]


class Loader(Protocol):
    """How a snapshot's serving part is read: ``learner.served.read_serving``."""

    def __call__(
        self, store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier,
        previous: Serving | None,
    ) -> Serving:  # fmt: skip
        """The serving part, verified; chunks equal to those of ``previous`` are taken over."""


class Measures(Protocol):
    """What the replica tells of itself: part of ``api.telemetry.ApiTelemetry``."""

    def swapped(self, partition: int, position: int, published_s: float) -> None:
        """A snapshot was swapped in."""

    def frozen(self, partition: int, frozen: bool) -> None:
        """Whether what is served of a partition is frozen."""

    def dependency(self, name: str, up: bool) -> None:
        """Whether a dependency answers."""


class Steps:
    """Steps of answers as text, by row and request, up to ``STEPS_BYTES``; the oldest go first."""

    __slots__ = ("_left", "texts")

    def __init__(self) -> None:
        self.texts: dict[tuple[int, Asked], bytes] = {}
        self._left = STEPS_BYTES

    def keep(self, key: tuple[int, Asked], text: bytes) -> None:
        """Keep one that is not kept yet."""
        self.texts[key] = text
        self._left -= len(text) + ENTRY_BYTES
        while self._left < 0:
            self._left += len(self.texts.pop(next(iter(self.texts)))) + ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class View:
    """One partition as it is answered from: its snapshot and what was computed of it once."""

    serving: Serving
    origin: str | None  # start of the last closed bucket, ISO 8601
    as_of: str | None  # watermark, ISO 8601
    times: list[tuple[str, str]]  # start and end of the H buckets after the origin
    forecaster: Forecaster | None = None  # where it had to be at hand to make the view
    _spreads: dict[answers.Levels, answers.Floats] = field(default_factory=dict)
    _sheets: dict[Asked, answers.Sheet] = field(default_factory=dict)
    _steps: Steps = field(default_factory=Steps)

    def spread(self, levels: answers.Levels) -> answers.Floats:
        """The table of quantiles of these levels; see ``answers.spread``."""
        found = self._spreads.get(levels)
        if found is None:
            if len(self._spreads) >= KINDS_KEPT:
                self._spreads.clear()
            found = self._spreads[levels] = answers.spread(self.serving, levels)
        return found

    def steps(self, row: int, asked: Asked) -> bytes:
        """The steps of one series' answer, as JSON.

        They are a pure function of snapshot and request, so those asked for again and again
        are kept as long as the snapshot is served.
        """
        found = self._steps.texts.get((row, asked))
        if found is None:
            found = answers.one(self.serving, row, self._sheet(asked))
            self._steps.keep((row, asked), found)
        return found

    def grid(self) -> answers.Floats:
        """The table that a reweighted distribution is worked out from."""
        return self.spread(tuple(GRID.tolist()))

    def _sheet(self, asked: Asked) -> answers.Sheet:
        """What all answers to such a request share; see ``answers.sheet``."""
        found = self._sheets.get(asked)
        if found is None:
            if len(self._sheets) >= KINDS_KEPT:
                self._sheets.clear()
            z = self.spread(asked.levels)
            grid = self.grid() if asked.point == "mape" else None
            found = answers.sheet(z, asked.horizon, self.times, asked.names, asked.point, grid)
            self._sheets[asked] = found
        return found


def iso(time_us: int) -> str:
    """A moment, µs since 1970 UTC, as ISO 8601."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


def as_of(watermark_us: int) -> str | None:
    """A watermark as ISO 8601; ``None`` before the first event that moves it."""
    return iso(watermark_us) if watermark_us >= FIRST_US else None


def view_of(serving: Serving, calendar: Calendar, forecaster: Forecaster | None = None) -> View:
    """Prepare a snapshot for being answered from; one before the first close has no series."""
    _ = serving.rows  # built here, and not on the first request
    first, last = serving.origin + 1, serving.origin + len(serving.mean)
    closed = serving.origin >= 0
    return View(
        serving=serving,
        origin=calendar.start(serving.origin).isoformat() if closed else None,
        as_of=as_of(serving.watermark_us),
        times=[bucket_times(calendar, at) for at in range(first, last + 1)] if closed else [],
        forecaster=forecaster,
    )


@dataclass(frozen=True, slots=True)
class State:
    """All that is served at one moment; replaced whole."""

    views: Mapping[int, View]
    pointers: Mapping[int, Pointers]
    homes: Mapping[str, int]  # partition of each store
    index: search.Index
    expired: frozenset[int] = frozenset()  # frozen so long that the head is beyond its horizons


class Replica:
    """Follows the store's active snapshots.

    Parameters
    ----------
    load
        Reads a snapshot's serving part.
    origin_of
        Origin of a snapshot, from its manifest; asked for heads of frozen partitions.
    clock
        Seconds since 1970 UTC.
    go_on
        Lets a frozen snapshot's model forecast on from the head's facts, once the head is beyond
        its last horizon.
    """

    def __init__(
        self,
        settings: Settings,
        store: SnapshotStore,
        verifier: Verifier,
        *,
        load: Loader,
        origin_of: Callable[[int, str], int],
        telemetry: Measures,
        clock: Callable[[], float] = time.time,
        go_on: Continuer | None = None,
    ) -> None:
        self.calendar = Calendar(settings)
        self.updates = Updates()
        self.polled = False
        self.store_up = False
        self.state = State({}, {}, {}, search.build({}, self.calendar.season))
        self._why: SalescastError | None = StoreUnavailable("it was not looked at yet")
        self._standstills: Mapping[int, Standstill] = {}
        self._stale_after_s = settings.stale_after_s
        self._store = store
        self._verifier = verifier
        self._load = load
        self._origin_of = origin_of
        self._telemetry = telemetry
        self._clock = clock
        self._loaded: dict[int, View] = {}
        self._go_on = go_on
        self._beyond: dict[int, tuple[str, int, View]] = {}  # frozen snapshot, head's origin
        self._trouble = Trouble("snapshot store")

    def find(self, store: str, product: str) -> tuple[View, int] | None:
        """View and row of a series, or ``None`` if nobody knows it."""
        state = self.state
        partition = state.homes.get(store)
        if partition is None:
            return None
        view = state.views[partition]
        row = view.serving.rows.get((store, product))
        return None if row is None else (view, row)

    @property
    def blocked(self) -> SalescastError | None:
        """Why nothing at all is served, if what there is could not be had."""
        return None if self.state.views else self._why

    def age_s(self, view: View) -> float:
        """Seconds since the view's snapshot was published, by the wall clock."""
        return round(max(self._clock() - view.serving.published_us / 1e6, 0.0), 3)

    def stale(self, view: View, age_s: float) -> bool:
        """Whether answers from the view should be distrusted.

        What follows the head is stale by age; what is frozen only once the head's origin is
        beyond its last horizon: then there is nothing ahead of it any more.
        """
        state = self.state
        partition = view.serving.partition
        if self.frozen(partition):
            return partition in state.expired
        return age_s > self._stale_after_s

    def frozen(self, partition: int) -> bool:
        """Whether what is served of the partition does not follow the head."""
        pointers = self.state.pointers.get(partition)
        return pointers is not None and pointers.frozen_by is not None

    def standstill(self, partition: int) -> dict[str, Any] | None:
        """What a partition stands still at, as its owner has said; none that its head is past."""
        found = self._standstills.get(partition)
        head = self.state.pointers.get(partition, Pointers()).head
        if found is None or (found.offset is not None and head and head.position > found.offset):
            return None
        return {"offset": found.offset, "why": found.why, "since": iso(found.since_us),
                "remedy": found.remedy}  # fmt: skip

    def present(self) -> list[dict[str, Any]]:
        """What is served now, as the updates that would have led here."""
        return [_update(view) for _, view in sorted(self.state.views.items())]

    def refresh(self) -> bool:
        """Look at the pointers once and swap in what changed; whether anything did.

        1. Read all pointers. 2. Load what is active and not loaded yet. 3. Build what is
        computed once. 4. Swap. A partition that fails goes on as it was, and so do all that
        were frozen by the same operation: a cut is switched to as a whole. So does one that the
        store no longer knows: somebody has emptied it.
        """
        # 1.
        try:
            pointers = {one: self._store.pointers(one) for one in self._store.partitions()}
        except (SalescastError, OSError) as error:
            self._failed("pointers", error)
            return False
        self._trouble.off("pointers")
        try:
            self._standstills = self._store.standstills()
            self._trouble.off("standstills")
        except (SalescastError, OSError) as error:
            self._trouble.on("standstills", error)  # they are shown, and served from is nothing
        # 2.
        waiting = set()
        before = self.state
        lost = [p for p in self._loaded if p not in pointers or pointers[p].active is None]
        for partition in lost:
            self._trouble.on(f"partition {partition}", SnapshotMissing("its pointers are gone"))
            pointers[partition] = before.pointers[partition]
        up, self._why = not lost, None
        for partition, pointer in pointers.items():
            if pointer.active is None:
                continue
            loaded = self._loaded.get(partition)
            if loaded is not None and loaded.serving.snapshot == pointer.active.snapshot:
                if partition not in lost:
                    self._trouble.off(f"partition {partition}")
                continue
            try:
                serving = self._load(
                    self._store, partition, pointer.active.snapshot, self._verifier,
                    None if loaded is None else loaded.serving,
                )  # fmt: skip
                view = view_of(serving, self.calendar)
            except Exception as error:
                # Whatever is wrong with it, the snapshot before is better than none.
                self._failed(f"partition {partition}", error)
                waiting.add(pointer.frozen_by or partition)
                up = False
            else:
                self._trouble.off(f"partition {partition}")
                self._loaded[partition] = view
        views = {
            partition: self._loaded[partition]
            if (pointers[partition].frozen_by or partition) not in waiting
            else before.views.get(partition)
            for partition in pointers
            if partition in self._loaded
        }
        present = {partition: view for partition, view in views.items() if view is not None}
        expired = self._expired(pointers)
        present |= self._continued(present, pointers, expired)
        # 3.
        swapped = [p for p, view in present.items() if before.views.get(p) is not view]
        gone = before.views.keys() - present.keys()
        homes, index = before.homes, before.index
        if swapped or gone:
            servings = {partition: view.serving for partition, view in present.items()}
            homes = {store: p for p, one in servings.items() for store in dict.fromkeys(one.stores)}
            index = search.build(servings, self.calendar.season, before.index)
        # 4.
        self.state = State(present, pointers, homes, index, frozenset(expired))
        self.polled, self.store_up = True, up
        self._telemetry.dependency("store", up)
        for partition, pointer in pointers.items():
            self._telemetry.frozen(partition, pointer.frozen_by is not None)
        for partition in swapped:
            one = present[partition].serving
            self._telemetry.swapped(partition, one.position, one.published_us / 1e6)
        if swapped:
            self.updates.publish(_update(present[partition]) for partition in swapped)
        return bool(swapped or gone)

    def _expired(self, pointers: Mapping[int, Pointers]) -> dict[int, int]:
        """Frozen partitions whose head is beyond the last horizon of what is frozen: its origin."""
        expired = {}
        for partition, view in self._loaded.items():
            pointer = pointers.get(partition)
            if pointer is None or pointer.frozen_by is None or pointer.head is None:
                continue
            if pointer.head.snapshot == view.serving.snapshot:
                continue
            try:
                head = self._origin_of(partition, pointer.head.snapshot)
            except (SalescastError, OSError, ValueError) as error:
                self._trouble.on(f"head of partition {partition}", error)
                if partition in self.state.expired:
                    expired[partition] = self._beyond.get(partition, ("", -1))[1]
                continue
            self._trouble.off(f"head of partition {partition}")
            if head >= view.serving.origin + len(view.serving.mean):
                expired[partition] = head
        return expired

    def _continued(
        self, views: Mapping[int, View], pointers: Mapping[int, Pointers],
        expired: Mapping[int, int],
    ) -> dict[int, View]:  # fmt: skip
        """What goes on where nothing is ahead of a frozen snapshot, made once a bucket."""
        before, self._beyond = self._beyond, {}
        for partition, origin in expired.items():
            pointer, frozen = pointers[partition], self._loaded[partition].serving.snapshot
            if self._go_on is None or pointer.head is None or partition not in views:
                continue
            held = before.get(partition)
            if held is not None and held[0] == frozen:
                self._beyond[partition] = held
                if held[1] == origin:
                    continue
            asked = (self._store, partition, frozen, pointer.head.snapshot, self._verifier)
            try:
                serving, forecaster = self._go_on(*asked)
            except (SalescastError, OSError, ValueError) as error:
                self._trouble.on(f"partition {partition} beyond its last horizon", error)
                continue
            self._trouble.off(f"partition {partition} beyond its last horizon")
            view = view_of(serving, self.calendar, forecaster)
            self._beyond[partition] = (frozen, origin, view)
        return {one: view for one, (_, _, view) in self._beyond.items()}

    def _failed(self, what: str, error: BaseException) -> None:
        self.store_up = False
        self._why = error if isinstance(error, SalescastError) else StoreError(str(error))
        self._telemetry.dependency("store", False)
        self._trouble.on(what, error)


def _update(view: View) -> dict[str, Any]:
    one = view.serving
    return {
        "partition": one.partition,
        "snapshot": one.snapshot,
        "origin": view.origin,
        "as_of": view.as_of,
    }
