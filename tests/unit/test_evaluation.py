"""Scores: of forecasts made before, on the same series for all, and never of another horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.evaluation import DECAY, Evaluation, summary
from learner.features import Batch
from tests.learner_parts import Told, market, sale, stock_outs, tick, told

Floats = np.ndarray[Any, np.dtype[np.float64]]


def grown(models: tuple[str, ...] = ("m",), scored: tuple[int, ...] = (1, 7)) -> Evaluation:
    one = Evaluation(models, scored)
    one.grow(5)
    return one


def scores(one: Told, model: str = "ensemble") -> dict[int, dict[str, Any]]:
    rows = one.shard.evaluation.summary("ensemble")
    return {row["horizon"]: row for row in rows if row["model"] == model}


class Constant:
    """A model that always says the same."""

    def __init__(self, said: float) -> None:
        self.said = said
        self.heard: list[float] = []

    def predict(self, batch: Batch) -> Floats:
        return np.full(len(batch.X), self.said)

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        self.heard.append(float(batches[0][1].sum()))

    def digest(self) -> list[Floats]:
        return []


class Memorising(Constant):
    """One that says the last demand that it was taught: it cheats where learning comes first."""

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        self.said = float(batches[0][1].mean())


def test_scores_equal_a_plain_recomputation() -> None:
    drawn = np.random.default_rng(6)
    one = grown(("a", "b"), (1, 3))
    sums: dict[tuple[str, int], list[float]] = {}
    made: dict[tuple[int, int, str], Floats] = {}
    for bucket in range(30):
        one.skip_to(bucket)
        actual, difference = drawn.uniform(0, 9, 5), drawn.uniform(0.1, 2, 5)
        actual[drawn.random(5) < 0.2] = np.nan
        for h in (1, 3):
            one.score(bucket, h, actual, difference)
            if (bucket - h, h, "a") not in made or not np.isfinite(actual).any():
                continue
            use = np.isfinite(actual)
            for name in ("a", "b"):
                error = made[bucket - h, h, name][use] - actual[use]
                old = [DECAY * x for x in sums.get((name, h), [0.0] * 6)]
                new = [use.sum(), error.sum(), abs(error).sum(), (error**2).sum(),
                       actual[use].sum(), difference[use].sum()]  # fmt: skip
                sums[name, h] = [x + float(y) for x, y in zip(old, new, strict=True)]
        for h in (1, 3):
            for at, name in enumerate(("a", "b")):
                made[bucket, h, name] = drawn.uniform(0, 9, 5).astype(np.float32).astype(float)
                one.put(bucket, h, at, made[bucket, h, name])
    rows = {(row["model"], row["horizon"]): row for row in one.summary("a")}
    assert rows.keys() == sums.keys()
    for key, (n, off, absolute, squared, demand, scale) in sums.items():
        assert rows[key]["n"] == pytest.approx(n, abs=1e-3)
        assert rows[key]["bias"] == pytest.approx(off / demand)
        assert rows[key]["wape"] == pytest.approx(absolute / demand)
        assert rows[key]["rmsse"] == pytest.approx((squared / scale) ** 0.5)
        assert rows[key]["role"] == ("champion" if key[0] == "a" else "challenger")


@given(st.lists(st.integers(1, 4), min_size=10, max_size=60))
def test_a_bucket_is_scored_with_the_forecast_made_for_it_at_that_horizon(
    steps: list[int],
) -> None:
    """Slots never mix horizons or buckets, whatever silence lies between."""
    one = grown(scored=(1, 3, 7))
    closed: set[int] = set()
    bucket = 100
    for step in steps:
        bucket += step
        one.skip_to(bucket)
        for h in (1, 3, 7):
            waiting = one.waiting(bucket, h, 5)[0]
            if bucket - h in closed:
                assert waiting.tolist() == [1000.0 * (bucket - h) + h] * 5
            else:
                assert np.isnan(waiting).all()
        for h in (1, 3, 7):
            one.put(bucket, h, 0, np.full(5, 1000.0 * bucket + h))
        closed.add(bucket)


def test_silence_is_not_scored_however_long_it_is() -> None:
    one = told(*market(60), tick(60))
    before = scores(one)[1]["n"]
    for end in (90, 400):
        one.tell(tick(end))
        assert {row["n"] for row in scores(one).values() if row["horizon"] == 1} == {before}
    one.tell(*market(1, first=400), tick(401))
    assert scores(one)[1]["n"] == pytest.approx(before * DECAY + 3, abs=1e-2)


def test_a_forecast_is_scored_before_its_bucket_is_learned() -> None:
    """Demand alternates: who learns first would have no error, who learns after is always wrong."""
    one = told(champion="bayes", challengers=("level_phase",))
    one.shard.models["level_phase"] = Memorising(0.0)
    one.tell(*(sale(n, 10 if n % 2 else 2) for n in range(60)), tick(60))
    found = scores(one, "level_phase")[1]
    assert found["wape"] == pytest.approx(8 / 6, rel=0.02)


def test_a_model_never_hears_a_demand_before_its_forecast_of_it_was_put() -> None:
    one = told(challengers=("level_phase",))
    watching = Constant(1.0)
    one.shard.models["level_phase"] = watching
    one.tell(*(sale(n, n + 1) for n in range(20)), tick(20))
    assert watching.heard == [float(n + 1) for n in range(1, 20)]


def test_all_models_are_scored_on_the_same_series() -> None:
    one = told(*market(40), tick(40))
    for horizon in one.shard.scored:
        names = one.shard.models
        sizes = {scores(one, name)[horizon]["n"] for name in names if horizon in scores(one, name)}
        assert len(sizes) <= 1


def test_missing_and_censored_buckets_are_not_scored() -> None:
    one = told(*(sale(n, 5) for n in range(30)), tick(30))
    before = scores(one)[1]["n"]
    one.tell(tick(31))
    assert scores(one)[1]["n"] == before
    one.tell(stock_outs(31, 32), sale(31, 5), tick(32))
    assert scores(one)[1]["n"] == before


def test_nothing_is_scored_before_a_seasons_difference_is_known() -> None:
    one = told(*(sale(n, 5 + n % 3) for n in range(8)), tick(8))
    assert one.shard.evaluation.summary("ensemble") == []
    one.tell(sale(8, 3), tick(9))
    assert scores(one)[1]["n"] == 1


def test_a_series_without_a_forecast_waiting_is_not_scored() -> None:
    one = grown(scored=(1,))
    one.put(0, 1, 0, np.array([1.0, 2.0]))
    _, use = one.score(1, 1, np.ones(5), np.ones(5))
    assert use.tolist() == [True, True, False, False, False]


def test_growing_keeps_the_forecasts_that_wait() -> None:
    one = grown(scored=(7,))
    one.put(3, 7, 0, np.arange(5.0))
    one.grow(9)
    assert one.waiting(10, 7, 5)[0].tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(one.waiting(10, 7, 9)[0, 5:]).all()
    one.grow(3)
    assert one.pending[7].shape == (7, 1, 9), "room is never taken back"


def test_where_nothing_was_sold_there_is_no_relative_error() -> None:
    sums = np.zeros((1, 1, 6))
    sums[0, 0] = [3, 1, 1, 1, 0, 0]
    (row,) = summary(("m",), (1,), sums, "m")
    assert row == {"model": "m", "role": "champion", "horizon": 1, "n": 3, "rmsse": None,
                   "wape": None, "bias": None}  # fmt: skip


def test_sums_of_shards_can_be_added_up() -> None:
    a, b = np.zeros((1, 1, 6)), np.zeros((1, 1, 6))
    a[0, 0], b[0, 0] = [2, 1, 3, 9, 10, 4], [1, -1, 1, 1, 10, 1]
    (row,) = summary(("m",), (1,), a + b, "m")
    assert (row["n"], row["wape"], row["bias"]) == (3, 0.2, 0)
    assert row["rmsse"] == pytest.approx(2**0.5)
