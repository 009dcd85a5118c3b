"""A bucket's close: facts, scores, learning, forecasts; in CPU seconds of one core.

Every scored horizon of every series is learned and forecast by the champion and its
challengers, so the cost is given by series and scored horizon.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from river import linear_model

from learner.features import NAMES, features
from learner.shard import Shard
from stream.event import MICRO
from stream.window import Cell, Closed, Key
from tests.bench import sales
from tests.bench.measure import Options, Row, seconds, turns

STORES = 100
#: Share of series that sell in a bucket, and how much: as in the benchmark data's P2.
SOLD, MEAN = 0.4, 3.0
FIRST = 20_000


class Closing:
    """A shard fed bucket by bucket, past the point where its longest horizon is learned."""

    def __init__(self, series: int, buckets: int | None = None) -> None:
        self.settings = sales.settings()
        self.shard = Shard(self.settings, 0)
        self.rng = np.random.default_rng(11)
        self.keys: list[Key] = [(f"{i % STORES}", f"P-{i // STORES:06d}") for i in range(series)]
        self.alive = {store for store, _ in self.keys}
        self.bucket = FIRST
        self.close(everything=True)
        for _ in range(buckets or max(self.settings.scored_horizons)):
            self.close()

    def cells(self, everything: bool = False) -> dict[Key, Cell]:
        """Sales of one bucket."""
        count = len(self.keys)
        sold = np.flatnonzero(everything | (self.rng.random(count) < SOLD))
        units = (1 + self.rng.poisson(MEAN - 1, len(sold))) * MICRO
        return {
            self.keys[row]: [gross, 0, 2 * gross, gross, 1, gross // 2]
            for row, gross in zip(sold.tolist(), units.tolist(), strict=True)
        }

    def close(self, *, everything: bool = False) -> float:
        """CPU seconds of the next bucket's close."""
        closed = Closed(self.bucket, self.cells(everything), {}, self.alive)
        self.bucket += 1
        self.shard.window.open_from = self.bucket
        self.shard.window.watermark_us = self.shard.calendar.span(self.bucket)[0]
        return seconds(partial(self.shard._close, closed), time.process_time)


class River:
    """River alone on rows of the same number and shape: the two models that regress."""

    def __init__(self, closing: Closing) -> None:
        shard = closing.shard
        last = shard.panel.last
        assert last is not None
        self.frames = [
            pd.DataFrame(features(shard.panel, last, h).X, columns=list(NAMES))
            for h in shard.scored
        ]
        self.models = [linear_model.BayesianLinearRegression() for _ in range(2)]
        self.all = pd.concat(self.frames, ignore_index=True)
        self.target = pd.Series(np.random.default_rng(3).random(len(self.all)))

    def work(self) -> None:
        """Learn all rows, then predict them horizon by horizon."""
        for model in self.models:
            model.learn_many(self.all, self.target)
            for frame in self.frames:
                model.predict_many(frame)


def run(options: Options) -> list[Row]:
    """2,000, 20,000 and 100,000 series of days."""
    sizes = (2_000, 20_000) if options.quick else (2_000, 20_000, 100_000)
    return [row for series in sizes for row in _measure(options, series)]


def _measure(options: Options, series: int) -> list[Row]:
    closing = Closing(series)
    shard = closing.shard
    scored, ahead = len(shard.scored), closing.settings.horizons
    river = River(closing)
    river.work()
    micro = 1e6 / (series * scored)

    def serve() -> float:
        shard._mean = None
        return seconds(shard.forecast, time.process_time) * 1e6 / (series * ahead)

    closed, bare, served = turns(
        options.rounds,
        lambda: closing.close() * micro,
        lambda: seconds(river.work, time.process_time) * micro,
        serve,
    )
    return [
        Row(what=f"close, {series:,} series, {scored} scored horizons", figure=closed,
            unit="µs/series, horizon", limit="River alone, two models", bare=bare, goal=5.0),
        Row(what=f"what is served, {series:,} series, {ahead} horizons", figure=served,
            unit="µs/series, horizon"),
    ]  # fmt: skip
