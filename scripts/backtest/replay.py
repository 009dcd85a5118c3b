"""Events of files folded as a log would have them, and what was forecast at each close.

Each event is taken to be appended at its own time, or at the latest one before it; partitions
are those of the settings, so a store's series are learned with those they are learned with live.
As the owner of an idle partition does, a tick is written to every partition where a bucket closes.
Leaves out: scores (``tally``), and the files (``produce``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learner import intervals
from learner.features import Batch
from learner.panel import Panel
from learner.serving import OBSERVED
from stream.buckets import Calendar
from stream.event import FIRST_US, REASONS, Refusal, Tick, decode, encode, time_us
from stream.log import Record, partition_of
from stream.settings import Settings
from stream.window import OUTCOMES

if TYPE_CHECKING:
    from learner.models import Model

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

#: Records of a partition that are folded at once.
BATCH = 4_000
#: Source of the replay's ticks; they are not counted as items.
CLOCK = "salescast backtest"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to forecast: horizons in buckets, levels of quantiles, targets [first, end).

    ``points``: whether the points for absolute percentage error are wanted, which cost the most.

    Without ``first``, a partition's targets start once the long level's window has passed since
    its first sale; without ``end``, they go on past the data.
    """

    horizons: tuple[int, ...]
    levels: tuple[float, ...]
    first: int | None
    end: int | None
    points: bool = False


@dataclass(slots=True, kw_only=True)
class Block:
    """Forecasts of all series of a partition, of one origin and horizon.

    ``mean``, ``median`` and ``mape`` (models, S), ``quantiles`` (models, levels, S) and
    ``actual`` (S,), in units; ``mape`` is ``None`` where points are not asked for, ``actual``
    ``nan`` where demand was not observed, or not yet. ``cells`` (models, 2, S): probability of
    less than ``actual`` and of no more, ``nan`` where it is; worked out from ``tables`` and
    ``traits``, by model, once it is known.
    """

    partition: int
    origin: int
    horizon: int
    mean: Singles
    median: Singles
    mape: Singles | None
    quantiles: Singles
    actual: Floats
    cells: Floats
    tables: tuple[intervals.Tables, ...]
    traits: tuple[intervals.Traits, ...]

    @property
    def target(self) -> int:
        return self.origin + self.horizon

    def settle(self, actual: Floats) -> None:
        """Hold the block against what came, (S,); more series may have come since."""
        self.actual[:] = actual[: len(self.actual)]
        known = np.flatnonzero(np.isfinite(self.actual))
        for at, (tables, traits) in enumerate(zip(self.tables, self.traits, strict=True)):
            self.cells[at][:, known] = intervals.cells_of(
                tables,
                np.asarray(self.mean[at, known], np.float64),
                self.actual[known],
                traits.take(known),
            )


class Clocked:
    """A model whose CPU seconds are kept."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seconds = 0.0

    def predict(self, batch: Batch) -> Floats:
        started = time.process_time()
        mean = self.model.predict(batch)
        self.seconds += time.process_time() - started
        return mean

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        started = time.process_time()
        self.model.learn(batches)
        self.seconds += time.process_time() - started

    def digest(self) -> list[Floats]:
        return self.model.digest()


@dataclass(slots=True)
class Refusals:
    """Items that were refused or late: how many by reason, and the first of them with places."""

    reasons: dict[str, int] = field(default_factory=dict)
    first: list[tuple[int, int, str, str]] = field(default_factory=list)

    def add(self, file: int, row: int, reason: str, detail: str, most: int = 5) -> None:
        """Count one; ``file`` and ``row`` say where it was read."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if len(self.first) < most:
            self.first.append((file, row, reason, detail))


class Replay:
    """Shards that are fed events in order of time.

    Parameters
    ----------
    settings
        Of the deployment; champion and challengers are the models compared.
    asked
        What to forecast.
    told
        Given each block once its target is closed, or at the end if it never was.
    closed
        Told of each close: partition, bucket, and demand observed, (S,), ``nan`` where not.
    now_us
        The wall clock's time, µs since 1970 UTC: what is too far ahead of it is refused.
    """

    def __init__(
        self,
        settings: Settings,
        asked: Asked,
        told: Callable[[Block], None],
        closed: Callable[[int, int, Floats], None],
        now_us: int,
    ) -> None:
        from learner.shard import Shard  # River comes with it, which the help need not wait for

        self.settings = settings
        self.asked = asked
        self.calendar = Calendar(settings)
        self.shards = [Shard(settings, partition) for partition in range(settings.partitions)]
        self.models: dict[str, list[Clocked]] = {}
        for shard in self.shards:
            clocked = {name: Clocked(model) for name, model in shard.models.items()}
            shard.models = dict(clocked)
            for name, one in clocked.items():
                self.models.setdefault(name, []).append(one)
        self.refusals = Refusals()
        self.seconds = 0.0  # CPU of all folding, closes included
        self.latest_us: int | None = None
        self._told, self._closed = told, closed
        self._now_us, self._bound_us = now_us, now_us + settings.max_future_s * 1_000_000
        self._waiting: list[dict[int, list[Block]]] = [{} for _ in self.shards]
        self._buffers: list[list[Record]] = [[] for _ in self.shards]
        self._places: list[list[tuple[int, int]]] = [[] for _ in self.shards]
        self._offsets = [0] * len(self.shards)
        self._bucket = 0  # the next bucket to close
        self._closing_us = 0

    # -- feeding ---------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing that is still to come can matter."""
        end = self.asked.end
        return end is not None and self.latest_us is not None and self._bucket >= end

    def feed(self, moment: datetime | None, data: bytes, file: int, row: int) -> None:
        """Fold one event's bytes; without a time it comes with the event before it."""
        appended_us = None
        if moment is not None and not FIRST_US <= (at := time_us(moment)) <= self._bound_us:
            # As in a log it moves no time; the shard refuses it.
            appended_us = min(self.latest_us or 0, self._now_us)
        elif moment is not None:
            if self.latest_us is None:
                self._bucket = self.calendar.index(at)
                self._closing_us = self._closing(self._bucket)
            self.latest_us = at if self.latest_us is None else max(at, self.latest_us)
            self._pass(self.latest_us)
        if len(self.shards) == 1:
            self._append(0, data, file, row, appended_us)
            return
        for event in decode(data):
            if isinstance(event, Refusal):
                self.refusals.add(file, row, event.reason, event.detail)
            elif event.store == "*":
                for partition in range(len(self.shards)):
                    self._append(partition, encode(event), file, row, appended_us)
            else:
                home = partition_of(event.store, len(self.shards))
                self._append(home, encode(event), file, row, appended_us)

    def finish(self) -> None:
        """Fold what is left; with an end to the targets, take the data as complete up to it."""
        if self.asked.end is not None and self.latest_us is not None:
            last = self._closing(self.asked.end - 1)
            self.latest_us = max(self.latest_us, last)
            self._pass(last)
        for partition in range(len(self.shards)):
            self._fold(partition)
        for waiting in self._waiting:
            for target in sorted(waiting):
                for block in waiting[target]:
                    self._told(block)
            waiting.clear()

    def _closing(self, bucket: int) -> int:
        return self.calendar.span(bucket)[1] + self.settings.grace_s * 1_000_000

    def _pass(self, now_us: int) -> None:
        """Let time pass in every partition, bucket by bucket."""
        while now_us >= self._closing_us:
            moment = _EPOCH + timedelta(microseconds=self._closing_us)
            tick = encode(Tick(id=f"tick {self._bucket}", source=CLOCK, time=moment))
            for partition in range(len(self.shards)):
                self._append(partition, tick, -1, 0, self._closing_us)
            self._bucket += 1
            self._closing_us = self._closing(self._bucket)

    def _append(
        self, partition: int, data: bytes, file: int, row: int, at_us: int | None = None
    ) -> None:
        now = self.latest_us if at_us is None else at_us
        offset = self._offsets[partition]
        self._offsets[partition] += 1
        self._buffers[partition].append(Record(partition, offset, now or 0, None, data))
        self._places[partition].append((file, row))
        if len(self._buffers[partition]) >= BATCH:
            self._fold(partition)

    def _fold(self, partition: int) -> None:
        records, places = self._buffers[partition], self._places[partition]
        if not records:
            return
        started = time.process_time()
        letters = (
            self.shards[partition]
            .fold(records, after_close=lambda bucket: self._after(partition, bucket))
            .letters
        )
        self.seconds += time.process_time() - started
        for letter in letters:
            # A series that finds no room is refused at its close, perhaps batches later.
            at = letter.offset - records[0].offset
            file, row = places[at] if at >= 0 else (-1, 0)
            self.refusals.add(file, row, letter.reason, letter.detail or REASONS[letter.reason])
        self._buffers[partition], self._places[partition] = [], []

    # -- at a close ------------------------------------------------------------------------

    def _after(self, partition: int, bucket: int) -> None:
        shard = self.shards[partition]
        panel = shard.panel
        observed = panel.status(bucket) == OBSERVED
        actual = np.where(observed, panel.units(bucket), np.nan)
        waiting = self._waiting[partition]
        for target in sorted(target for target in waiting if target <= bucket):
            for block in waiting.pop(target):
                if target == bucket:
                    block.settle(actual)
                self._told(block)
        self._closed(partition, bucket, actual)
        for horizon in self.asked.horizons:
            target = bucket + horizon
            low, high = self.asked.first, self.asked.end
            if low is None:
                assert panel.first is not None
                low = panel.first + panel.long
            if low <= target and (high is None or target < high):
                waiting.setdefault(target, []).append(self._block(partition, bucket, horizon))

    def _block(self, partition: int, origin: int, horizon: int) -> Block:
        shard = self.shards[partition]
        mean = np.stack([shard.predict(name, horizon) for name in shard.models])
        tables = tuple(shard.tables(name, horizon) for name in shard.models)
        traits = tuple(shard.traits(name) for name in shard.models)
        levels = np.asarray([*self.asked.levels, 0.5])
        said = np.stack(
            [
                intervals.quantiles(of_model, one, levels, own)
                for of_model, one, own in zip(tables, mean, traits, strict=True)
            ]
        )
        size = mean.shape[1]
        return Block(
            partition=partition, origin=origin, horizon=horizon, mean=mean.astype(np.float32),
            median=said[:, -1].astype(np.float32),
            mape=_relative(tables, mean, traits) if self.asked.points else None,
            quantiles=said[:, :-1].astype(np.float32), actual=np.full(size, np.nan),
            cells=np.full((len(mean), 2, size), np.nan), tables=tables, traits=traits,
        )  # fmt: skip

    # -- reading ---------------------------------------------------------------------------

    @property
    def panels(self) -> list[Panel]:
        """Facts of all series, by partition."""
        return [shard.panel for shard in self.shards]

    def counts(self) -> dict[str, int]:
        """Items by outcome over all partitions; ticks of the replay are left out."""
        sums = dict.fromkeys(OUTCOMES, 0)
        for shard in self.shards:
            for outcome, n in shard.counts().items():
                sums[outcome] += n
            own = shard.window.counts.get(CLOCK, [0] * len(OUTCOMES))
            for outcome, n in zip(OUTCOMES, own, strict=True):
                sums[outcome] -= n
        return sums

    def model_seconds(self) -> dict[str, float]:
        """CPU seconds of each model's own learning and forecasting."""
        return {name: sum(one.seconds for one in ones) for name, ones in self.models.items()}


def _relative(
    tables: Sequence[intervals.Tables], mean: Floats, traits: Sequence[intervals.Traits]
) -> Singles:
    """Points of least expected absolute percentage error, (models, S)."""
    return np.stack(
        [
            intervals.relative_median(
                intervals.quantiles(of_model, one, intervals.GRID, own),
                intervals.grains(one, own.grain),
            ).astype(np.float32)
            for of_model, one, own in zip(tables, mean, traits, strict=True)
        ]
    )
