"""Why a forecast moved between two snapshots: its parts, and who sent the facts behind them.

Both snapshots are read whole, so one answer is worked out at a time. Sources are counted in the
log between the two positions, as far as it is kept and no more than ``MOST_RECORDS``. Leaves out:
the split itself (``learner.difference``). All of it blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import anyio
import numpy as np

from api.catalog import Catalog
from api.problems import Problem, invalid
from api.replica import as_of
from learner.difference import DECIMALS, Change, difference
from learner.forecaster import Forecaster
from learner.manifest import Manifest, Verifier, settings_of
from learner.panel import Panel
from learner.recall import read_forecaster
from learner.replay import category_of
from learner.served import read_serving
from learner.serving import Serving, bucket_times
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.event import Refusal, Sale, Void, decode, time_us
from stream.log import EventLog, Record
from stream.window import Key

#: Most records that are looked through for sources; the newest are.
MOST_RECORDS = 20_000
_READ = 1000
#: Snapshots kept at hand: a question is often asked again for another horizon.
KEPT = 2


class Recalled(NamedTuple):
    """A snapshot with its champion and facts, and as it was served."""

    manifest: Manifest
    forecaster: Forecaster
    serving: Serving

    def answered(self, key: Key, horizon: int) -> float:
        """The mean that was answered, with what was sold of an open bucket, in units."""
        row = np.array([self.serving.rows[key]])
        return round(float(self.serving.total(row, horizon, horizon, ()).mean[0]), DECIMALS)


class Sent(NamedTuple):
    """What sources sent of a series between two positions.

    ``units`` and ``items`` by (bucket, source); ``passed_over``: of an exclusion or quarantine.
    """

    units: dict[tuple[int, str, bool], float]
    items: dict[tuple[int, str, bool], int]
    records: int
    complete: bool
    detail: str


class Diffs:
    """Answers why forecasts moved.

    Parameters
    ----------
    store, verifier, catalog
        The snapshots.
    events
        The log, for sources.
    """

    def __init__(
        self, store: SnapshotStore, verifier: Verifier, catalog: Catalog, events: EventLog
    ) -> None:
        self.limiter = anyio.CapacityLimiter(1)
        self._store = store
        self._verifier = verifier
        self._catalog = catalog
        self._events = events
        self._kept: OrderedDict[str, Recalled] = OrderedDict()

    def diff(
        self, partition: int, key: Key, earlier: str | None, later: str, horizon: int
    ) -> dict[str, Any]:
        """The answer.

        Parameters
        ----------
        earlier
            A snapshot; ``None``: the newest kept of which an earlier bucket was the last.
        horizon
            Which bucket after the origin of ``later``.

        Raises
        ------
        Problem
        SnapshotMissing, SnapshotCorrupt, StoreUnavailable, LogUnavailable
        """
        new = self._manifest(partition, later, "to")
        old = (
            self._before(partition, new)
            if earlier is None
            else self._manifest(partition, earlier, "from")
        )
        target = _target(old, new, horizon)
        before, after = self._recall(old), self._recall(new)
        for one, field in ((before, "from"), (after, "to")):
            if key not in one.forecaster.panel.rows:
                raise Problem(
                    404, "unknown-series", "Unknown series",
                    f"{one.manifest.snapshot} knows no product `{key[1]}` in the store `{key[0]}`",
                    field=field, remedy="name a snapshot of after its first bucket had closed",
                )  # fmt: skip
        change = difference(before.forecaster, after.forecaster, key, target)
        sent = self._sent(key, old, new, after.forecaster.panel)
        return _answer(key, target, change, before, after, sent)

    # -- snapshots -------------------------------------------------------------------------

    def _manifest(self, partition: int, snapshot: str, field: str) -> Manifest:
        there = self._catalog.partition_of(snapshot)
        if there is None:
            raise Problem(
                404, "unknown-snapshot", "No such snapshot",
                f"no partition keeps a snapshot `{snapshot[:200]}`", field=field,
                remedy="choose one of GET /v1/snapshots; older ones are thinned out",
            )  # fmt: skip
        if there != partition:
            raise invalid(
                field, f"`{snapshot}` is of partition {there}, the store of {partition}",
                f"name a snapshot of partition {partition}",
            )  # fmt: skip
        found = self._catalog.manifest(partition, snapshot)
        if found.origin is None:
            raise invalid(field, f"nothing had closed yet in `{snapshot}`", "name a later one")
        return found

    def _before(self, partition: int, new: Manifest) -> Manifest:
        manifests, _ = self._catalog.newest(partition)
        assert new.origin is not None
        older = [
            one
            for one in manifests
            if one.origin is not None and one.origin < new.origin and one.settings == new.settings
        ]
        if not older:
            raise Problem(
                404, "unknown-snapshot", "No snapshot is that old",
                f"of partition {partition} none is kept of before `{new.snapshot}`", field="from",
                remedy="name a later `to`, or wait for a bucket to close",
            )  # fmt: skip
        return max(older, key=lambda one: (one.origin, one.lineage, one.position))

    def _recall(self, manifest: Manifest) -> Recalled:
        found = self._kept.get(manifest.snapshot)
        if found is None:
            asked = (self._store, manifest.partition, manifest.snapshot, self._verifier)
            found = Recalled(manifest, read_forecaster(*asked), read_serving(*asked, rings=False))
            self._kept[manifest.snapshot] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(manifest.snapshot)
        return found

    # -- sources ---------------------------------------------------------------------------

    def _sent(self, key: Key, old: Manifest, new: Manifest, panel: Panel) -> Sent:
        first, end = sorted((old.position, new.position))
        begin, detail = self._events.begin()[new.partition], ""
        if begin > first:
            detail = f"the log begins at offset {begin}; what came from {first} on is gone"
        elif end - first > MOST_RECORDS:
            detail = f"only the last {MOST_RECORDS} offsets are looked through"
        start = max(first, begin, end - MOST_RECORDS)
        sent = Sent({}, {}, end - start, not detail, detail)
        seen: set[tuple[str, str]] = set()
        for record in self._records(new.partition, start, end):
            for event in decode(record.value):
                if isinstance(event, Refusal) or not isinstance(event, Sale | Void):
                    continue
                if (event.store, event.product) != key or (event.source, event.id) in seen:
                    continue
                seen.add((event.source, event.id))
                about = category_of(event, lambda *one: panel.products.about(*one).category)
                over = any(
                    rule.means(event, new.partition, record.offset, about) for rule in new.rules
                )
                place = (panel.calendar.index(time_us(event.time)), event.source, over)
                units = -event.quantity if isinstance(event, Void) else event.quantity
                sent.units[place] = sent.units.get(place, 0.0) + units
                sent.items[place] = sent.items.get(place, 0) + 1
        return sent

    def _records(self, partition: int, offset: int, end: int) -> Iterator[Record]:
        while offset < end and (records := self._events.read(partition, offset, _READ)):
            for record in records:
                if record.offset >= end:
                    return
                yield record
            offset = records[-1].offset + 1


def _target(old: Manifest, new: Manifest, horizon: int) -> int:
    """The bucket that is asked about, checked to be within reach of both snapshots."""
    if old.settings != new.settings:
        raise Problem(
            409, "settings-differ", "The snapshots were made under different settings",
            "models of one cannot read facts of the other", field="from",
            remedy="name two snapshots of the same settings; GET /v1/snapshots/{id} tells them",
        )  # fmt: skip
    assert old.origin is not None and new.origin is not None
    if old.origin > new.origin:
        raise invalid("from", f"`{old.snapshot}` knows more buckets than `{new.snapshot}`",
                      "exchange `from` and `to`")  # fmt: skip
    reach = settings_of(new).horizons
    if not 1 <= horizon <= reach:
        raise invalid("horizon", f"`horizon` is {horizon}; it must be from 1 to {reach} buckets",
                      f"ask for at most {reach}")  # fmt: skip
    apart = new.origin - old.origin
    if horizon + apart > reach:
        most = reach - apart
        raise invalid(
            "horizon",
            f"`{old.snapshot}` is {apart} buckets older and forecast {reach} ahead: "
            "it said nothing of that bucket",
            (f"ask for at most {most}, or " if most > 0 else "") + "name a newer `from`",
        )  # fmt: skip
    return new.origin + horizon


# -- telling -------------------------------------------------------------------------------


def _answer(
    key: Key, target: int, change: Change, before: Recalled, after: Recalled, sent: Sent
) -> dict[str, Any]:  # fmt: skip
    calendar = after.forecaster.panel.calendar
    start, end = bucket_times(calendar, target)
    was, now = (
        one.answered(key, target - one.forecaster.origin) for one in (before, after)
    )  # fmt: skip
    sold = round((now - change.after) - (was - change.before), DECIMALS)
    row = after.serving.rows[key]
    return {
        "store": key[0],
        "product": key[1],
        "category": after.serving.categories[row],
        "partition": after.manifest.partition,
        "horizon": target - after.forecaster.origin,
        "start": start,
        "end": end,
        "from": _side(before, target, was, calendar),
        "to": _side(after, target, now, calendar),
        "change": round(now - was, DECIMALS),
        "parts": {
            "plans": change.plans,
            "amended": change.amended,
            "closed": round(sum(units for _, units in change.closed), DECIMALS),
            "model": change.model,
            "open": sold,
        },
        "closed": [
            {
                **_times(calendar, bucket),
                "demand": _demand(after.forecaster.panel, key, bucket),
                "effect": units,
                "sources": _sources(sent, bucket),
            }
            for bucket, units in change.closed
        ],
        "amended": [
            {
                **_times(calendar, bucket),
                "before": _known(was_known),
                "after": _known(now_known),
                "sources": _sources(sent, bucket),
            }
            for bucket, was_known, now_known in change.revised
        ],
        "operations": [
            one for one in after.manifest.operations if one not in before.manifest.operations
        ],
        "log": {"records": sent.records, "complete": sent.complete, "detail": sent.detail},
    }


def _side(one: Recalled, target: int, mean: float, calendar: Calendar) -> dict[str, Any]:
    return {
        "snapshot": one.manifest.snapshot,
        "origin": calendar.start(one.forecaster.origin).isoformat(),
        "as_of": as_of(one.manifest.watermark_us),
        "model": one.manifest.champion,
        "horizon": target - one.forecaster.origin,
        "mean": mean,
    }


def _times(calendar: Calendar, bucket: int) -> dict[str, str]:
    start, end = bucket_times(calendar, bucket)
    return {"start": start, "end": end}


def _demand(panel: Panel, key: Key, bucket: int) -> float | None:
    return _known(float(panel.units(bucket)[panel.rows[key]]))


def _known(units: float) -> float | None:
    return None if np.isnan(units) else units


def _sources(sent: Sent, bucket: int) -> list[dict[str, Any]]:
    """Who sent what of a bucket, the most first."""
    places: Sequence[tuple[int, str, bool]] = [one for one in sent.items if one[0] == bucket]
    return [
        {
            "source": place[1],
            "units": round(sent.units[place], DECIMALS),
            "items": sent.items[place],
            "passed_over": place[2],
        }
        for place in sorted(places, key=lambda one: (-abs(sent.units[one]), one))
    ]
