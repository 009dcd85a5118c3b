"""Every Prometheus metric of the learner.

One object, one registry; a worker calls a method once a batch, close or snapshot, never once an
event. No metric carries a store, product or series: cardinality grows with partitions, models
and scored horizons only. Times are exported as timestamps, never as ages. Leaves out: serving
``/metrics`` (the worker's), and what the numbers mean for an operator (``infra/prometheus``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from learner.watch import Watched
from stream.event import REASONS
from stream.window import OUTCOMES

_SNAPSHOT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """The learner's metrics.

    Safe to call from several threads. Nothing here raises for a value it is given: a score that
    is not finite is not exported.

    Parameters
    ----------
    registry
        Where the metrics are registered; ``None`` makes one of its own. A registry takes one
        ``Telemetry``.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry if registry is not None else CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"salescast_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"salescast_{name}", help, labels, registry=registry)

        one = "partition"
        self._records = counter("records_total", "Records of the log folded", one)
        self._items = counter("items_total", "Items folded, by how each ended", one, "outcome")
        self._refused = counter("refused_items_total", "Items refused, by reason", "reason")
        self._closes = counter("closes_total", "Buckets closed, and learned from", one)
        self._fold_seconds = counter("fold_seconds_total", "Time spent folding records", one)
        self._ticks = counter("ticks_total", "Ticks appended because a partition was idle", one)
        self._dead_letters = counter(
            "dead_letters_total", "Items written to the dead letters, acknowledged", one
        )
        self._snapshots = counter("snapshots_total", "Snapshots published, and durable", one)
        self._heads_refused = counter(
            "heads_refused_total",
            "Heads that no owner signed, in whose place an older snapshot is gone on from",
            one,
        )
        self._written = counter(
            "snapshot_written_bytes_total", "Bytes of chunks that were new to the store", one
        )
        self._operations = counter(
            "operations_total", "Operations carried out or refused", "kind", "outcome"
        )
        self._position = gauge("position_offset", "Next offset to fold", one)
        self._end = gauge("log_end_offset", "Offset the next record of the log will get", one)
        self._lag = gauge("lag_records", "Records of the log that are not folded yet", one)
        self._restored = gauge(
            "restore_progress_ratio",
            "How much of what waited in the log when a partition was taken up is folded; 1: all",
            one,
        )
        self._watermark = gauge(
            "watermark_timestamp_seconds", "Event time up to which buckets are closed", one
        )
        self._series = gauge("series", "Series of the panel: (store, product) pairs", one)
        self._published = gauge(
            "snapshot_published_timestamp_seconds", "When the last snapshot was published", one
        )
        self._size = gauge("snapshot_size_bytes", "Size of the last snapshot, all chunks", one)
        self._stopped = gauge(
            "shard_stopped",
            "1 while the shard stands still: a record cannot be folded, or nothing "
            "that can be trusted leads to its head",
            one,
        )
        self._replaying = gauge(
            "replay_left_records", "Records a replay has still to learn again; 0: no replay", one
        )
        self._sources = gauge(
            "guard_sources", "Sources by where they stand with the guard", one, "state"
        )
        self._watched = gauge(
            "guard_champion_ratio",
            "How far the champion's error beside others' is from usual; 1: the band's edge",
            one,
        )
        self._suspects = counter(
            "guard_findings_total", "Sources that went out of their own band", one, "state",
            "statistic",
        )  # fmt: skip
        self._scored = {
            "rmsse": gauge(
                "forecast_rmsse_ratio",
                "Recent root mean squared scaled error of a model's means; below 1 is better "
                "than the naive forecast of one season ago",
                "model",
                "horizon",
            ),
            "wape": gauge(
                "forecast_wape_ratio",
                "Recent weighted absolute percentage error of medians: absolute errors over units "
                "sold",
                "model",
                "horizon",
            ),
            "bias": gauge(
                "forecast_bias_ratio",
                "Recent bias of means: forecast less demand, over units sold; positive is too high",
                "model",
                "horizon",
            ),
            "pinball": gauge(
                "forecast_pinball_ratio",
                "Recent mean pinball loss at 0.1, 0.5 and 0.9, over the root mean squared seasonal "
                "difference",
                "model",
                "horizon",
            ),
        }
        self._hits = gauge(
            "forecast_hits_ratio",
            "Recent share of demand below a level of its distribution; calibrated is: the level",
            "model",
            "horizon",
            "level",
        )
        self._champion = gauge("champion_info", "1 for the model that is served", "model")
        self._snapshot_seconds = Histogram(
            "salescast_snapshot_seconds",
            "Time from copying a shard's state to its snapshot being durable",
            buckets=_SNAPSHOT_BUCKETS_S,
            registry=registry,
        )
        self._pause = Histogram(
            "salescast_snapshot_pause_seconds",
            "How long the loop stood still for a snapshot that a process of its own puts",
            buckets=_SNAPSHOT_BUCKETS_S,
            registry=registry,
        )
        self._dependency = gauge(
            "dependency_up", "1 while the log or the store answers", "dependency"
        )
        gauge("build_info", "Versions of Salescast and River, value 1", "version", "river").labels(
            version("salescast"), version("river")
        ).set(1)
        self._by_partition: dict[int, _Counters] = {}
        self._by_reason = {
            reason: self._refused.labels(reason) for reason in REASONS if reason != "late"
        }
        self._told: set[tuple[Gauge, tuple[str, ...]]] = set()
        self._served = ""

    def folded(
        self,
        partition: int,
        records: int,
        counts: Mapping[str, int],
        refused: Mapping[str, int],
        seconds: float,
    ) -> None:
        """Count a batch.

        Parameters
        ----------
        partition
            The shard that folded it.
        records
            Records of the batch.
        counts
            Items by outcome (``OUTCOMES``): what this batch added, not the running total.
        refused
            Refused items by reason, what this batch added.
        seconds
            Time the fold took, s.
        """
        counters = self._counters(partition)
        counters.records.inc(records)
        counters.fold_seconds.inc(seconds)
        for outcome, n in counts.items():
            if n:
                counters.items(outcome).inc(n)
        for reason, n in refused.items():
            if n:
                child = self._by_reason.get(reason)
                if child is None:
                    child = self._by_reason[reason] = self._refused.labels(reason)
                child.inc(n)

    def closed(self, partition: int, n: int, watermark_us: int, series: int) -> None:
        """Count ``n`` closed buckets (0: only time moved) and tell where the shard stands.

        ``watermark_us`` is in µs since 1970 UTC; ``series`` is the panel's size now.
        """
        self._counters(partition).closes.inc(n)
        self._watermark.labels(str(partition)).set(watermark_us / 1e6)
        self._series.labels(str(partition)).set(series)

    def position(self, partition: int, offset: int, end: int) -> None:
        """Tell the next offset to fold, and the log's end: lag is their difference."""
        self._counters(partition)
        name = str(partition)
        self._position.labels(name).set(offset)
        self._end.labels(name).set(end)
        self._lag.labels(name).set(max(0, end - offset))

    def restored(self, partition: int, ratio: float) -> None:
        """Tell how much of what waited when a partition was taken up is folded, 0 to 1."""
        self._restored.labels(str(partition)).set(ratio)

    def scored(self, rows: Iterable[Mapping[str, Any]], *, champion: str) -> None:
        """Replace the recent scores, over all partitions of this learner.

        Parameters
        ----------
        rows
            Of ``evaluation.summary``; all of them, every time: what is not among them, or has no
            number, is no longer exported.
        champion
            Name of the model that is served.
        """
        values: list[tuple[Gauge, tuple[str, ...], float | None]] = []
        for row in rows:
            of = (row["model"], str(row["horizon"]))
            values += [(metric, of, row[name]) for name, metric in self._scored.items()]
            values += [(self._hits, (*of, level), hit) for level, hit in row["hits"].items()]
        told = set()
        for metric, labels, value in values:
            if value is not None and math.isfinite(value):
                metric.labels(*labels).set(value)
                told.add((metric, labels))
        for metric, labels in self._told - told:
            metric.remove(*labels)
        self._told = told
        if champion != self._served:
            self._champion.clear()
            self._champion.labels(champion).set(1)
            self._served = champion

    def published(
        self, partition: int, size_bytes: int, written_bytes: int, seconds: float, at_s: float
    ) -> None:
        """Count a published snapshot.

        ``written_bytes`` are those of chunks the store did not hold; ``at_s`` is the wall clock
        of publication, s since 1970 UTC.
        """
        counters = self._counters(partition)
        counters.snapshots.inc()
        counters.written.inc(written_bytes)
        self._size.labels(str(partition)).set(size_bytes)
        self._published.labels(str(partition)).set(at_s)
        self._snapshot_seconds.observe(seconds)

    def paused(self, seconds: float) -> None:
        """Tell how long the loop stood still to let a process of its own put a snapshot, s."""
        self._pause.observe(seconds)

    def ticked(self, partition: int) -> None:
        """Count a tick that was appended."""
        self._counters(partition).ticks.inc()

    def dead_lettered(self, partition: int, items: int) -> None:
        """Count items whose dead letters were acknowledged."""
        self._counters(partition).dead_letters.inc(items)

    def stopped(self, partition: int, stopped: bool) -> None:
        """Tell whether a shard stands still: at a record it cannot fold, or before its head."""
        self._stopped.labels(str(partition)).set(stopped)

    def head_refused(self, partition: int) -> None:
        """Count a head that was not what an owner signed."""
        self._counters(partition).heads_refused.inc()

    def replaying(self, partition: int, left: int) -> None:
        """Tell how many records a replay has still to learn again."""
        self._replaying.labels(str(partition)).set(left)

    def guarded(self, partition: int, states: Mapping[str, int]) -> None:
        """Tell how many sources of a partition are in each of the guard's states."""
        for state, n in states.items():
            self._sources.labels(str(partition), state).set(n)

    def watched(self, partition: int, found: Watched) -> None:
        """Tell how far a partition's champion is out of its band, as a share of it."""
        self._watched.labels(str(partition)).set(found.score)

    def suspected(self, partition: int, state: str, statistic: str) -> None:
        """Count a source that the guard found out of its band."""
        self._suspects.labels(str(partition), state, statistic).inc()

    def dropped(self, partition: int) -> None:
        """Forget where a partition stands: another worker owns it now. Counters stay."""
        for metric in (self._position, self._end, self._lag, self._watermark, self._series,
                       self._published, self._size, self._stopped, self._replaying,
                       self._restored, self._watched):  # fmt: skip
            metric.remove(str(partition))
        self._sources.remove_by_labels({"partition": str(partition)})
        self._by_partition.pop(partition, None)

    def operation(self, kind: str, outcome: str) -> None:
        """Count an operation: its kind (``freeze``, ``rollback``, …) and how it ended."""
        self._operations.labels(kind, outcome).inc()

    def dependency(self, name: str, up: bool) -> None:
        """Tell whether a dependency (``log``, ``store``) answers."""
        self._dependency.labels(name).set(up)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, of ``content_type``."""
        return generate_latest(self.registry)

    def _counters(self, partition: int) -> _Counters:
        counters = self._by_partition.get(partition)
        if counters is None:
            counters = self._by_partition[partition] = _Counters(self, str(partition))
            self._stopped.labels(str(partition)).set(0)
        return counters


class _Counters:
    """Counters of one partition, at zero from the first: ``rate`` misses a first increment."""

    def __init__(self, telemetry: Telemetry, partition: str) -> None:
        t = telemetry
        self._all_items, self._partition = t._items, partition
        self._by_outcome = {name: t._items.labels(partition, name) for name in OUTCOMES}
        self.records = t._records.labels(partition)
        self.closes = t._closes.labels(partition)
        self.fold_seconds = t._fold_seconds.labels(partition)
        self.ticks = t._ticks.labels(partition)
        self.dead_letters = t._dead_letters.labels(partition)
        self.snapshots = t._snapshots.labels(partition)
        self.heads_refused = t._heads_refused.labels(partition)
        self.written = t._written.labels(partition)

    def items(self, outcome: str) -> Counter:
        child = self._by_outcome.get(outcome)
        if child is None:
            child = self._by_outcome[outcome] = self._all_items.labels(self._partition, outcome)
        return child
