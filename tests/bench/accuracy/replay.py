"""A case folded through a shard, and what each model said at each origin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from learner import intervals
from learner.features import Batch
from learner.models import Model
from learner.shard import Shard
from stream.window import Closed, Key
from tests.bench.accuracy.case import Case, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Forecasts by (model, horizon), shape (T, S) by *target*, ``nan`` where none was made.

    ``quantiles`` by horizon, shape (levels, T, S), are the champion's, who is the first model;
    ``cells`` (2, T, S): its probability of less than what came, and of no more.
    CPU seconds: ``fold`` of reading and summing, ``close`` of all that a close does, ``models``
    of each model's own learning and predicting within it; ``closes`` counts buckets.
    """

    means: dict[tuple[str, int], Floats]
    quantiles: dict[int, Floats]
    cells: dict[int, Floats]
    fold: float
    close: float
    models: dict[str, float]
    closes: int


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


class ClockedShard(Shard):
    """A shard whose closes are timed."""

    seconds = 0.0

    def _close(self, closed: Closed) -> list[Key]:
        started = time.process_time()
        refused = super()._close(closed)
        self.seconds += time.process_time() - started
        return refused


def replay(
    case: Case,
    models: Sequence[str],
    until: int,
    scored_from: int,
    levels: Sequence[float] = (),
) -> Replayed:
    """Fold a case and keep what was said of the rows [scored_from, until).

    Parameters
    ----------
    models
        Champion first.
    levels
        Probabilities of the quantiles kept.
    """
    shard = ClockedShard(
        replace(case.settings, champion=models[0], challengers=tuple(models[1:]), twin_seasons=0), 0
    )
    clocked = {name: Clocked(model) for name, model in shard.models.items()}
    shard.models = dict(clocked)
    shape = case.units.shape
    means = {(m, h): np.full(shape, np.nan) for m in models for h in case.horizons}
    quantiles = {h: np.full((len(levels), *shape), np.nan) for h in case.horizons if levels}
    cells = {h: np.full((2, *shape), np.nan) for h in quantiles}
    columns = {key: at for at, key in enumerate(case.keys)}
    reading = 0.0

    def keep(bucket: int) -> None:
        nonlocal reading
        started = time.process_time()
        at = [columns[key] for key in shard.panel.keys]
        for h in case.horizons:
            row = bucket + h - case.first
            if not scored_from <= row < until:
                continue
            for model in models:
                means[model, h][row, at] = shard.predict(model, h)
            if levels:
                mean, actual = means[models[0], h][row, at], case.units[row, at]
                tables, traits = shard.tables(models[0], h), shard.traits(models[0])
                quantiles[h][:, row, at] = intervals.quantiles(
                    tables, mean, np.asarray(levels), traits
                )
                known = np.flatnonzero(np.isfinite(actual))
                cells[h][:, row, np.asarray(at)[known]] = intervals.cells_of(
                    tables, mean[known], actual[known], traits.take(known)
                )
        reading += time.process_time() - started

    # The records are made as they are folded: their making is not counted.
    fold, offset = 0.0, 0
    for record in case.records(until):
        started = time.process_time()
        shard.fold([record], after_close=keep)
        fold += time.process_time() - started
        offset = record.offset
    assert shard.position == offset + 1
    counts = shard.counts()
    assert not counts["refused"] and not counts["late"], counts
    return Replayed(
        means=means, quantiles=quantiles, cells=cells, fold=fold - shard.seconds - reading,
        close=shard.seconds, models={name: one.seconds for name, one in clocked.items()},
        closes=until,
    )  # fmt: skip
