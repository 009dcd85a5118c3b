"""Scores: of forecasts made before, on the same series for all, and never of another horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.evaluation import (
    CALIBRATED,
    KEPT,
    LEAST_DIFFERENCE,
    MOST_SLICES,
    SUMS,
    VOLUME_NAMES,
    Evaluation,
    Scored,
    seasonal_difference,
    summary,
)
from learner.features import Batch
from learner.intervals import Tables, Traits, cells_of, quantiles
from learner.spread import Spread
from tests.learner_parts import Told, market, sale, stock_outs, tick, told

Floats = np.ndarray[Any, np.dtype[np.float64]]
DECAY = KEPT["day"]
STORES, CATEGORIES, VOLUMES = (np.array(one) for one in ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2], [2] * 5))
CODES = {"store": STORES, "category": CATEGORIES, "volume_class": VOLUMES}


def grown(models: tuple[str, ...] = ("m",), scored: tuple[int, ...] = (1, 7)) -> Evaluation:
    one = Evaluation(models, scored, "day")
    one.grow(5)
    return one


def tables_of(one: Evaluation, seed: int = 0) -> Tables:
    """Some tables for all of its models and horizons, all different."""
    spread = Spread((len(one.models), len(one.scored)), "day")
    drawn = np.random.default_rng(seed)
    spread.counts *= drawn.uniform(0.5, 2.0, spread.counts.shape)
    spread.moments[..., 0] *= drawn.uniform(0.5, 2.0, spread.moments.shape[:-1])
    return spread.tables()


#: Two series by count, of dispersion of their own; two by weight; one of which nobody told.
TRAITS = Traits(
    np.array([1.0, 1.0, 0.3, 0.5, 0.0]),
    np.array([True, True, False, False, False]),
    np.array([[1.0, 2.0, 1.0, 0.5, 1.0], [0.5, 1.0, 2.0, 1.0, 4.0]]),
)


def score(one: Evaluation, bucket: int, actual: Floats, difference: Floats) -> list[Scored]:
    traits = TRAITS._replace(factor=TRAITS.factor[: len(one.models)])
    return one.score(bucket, actual, difference, tables_of(one), traits, CODES, one.models)


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


def plainly(tables: Tables, model: int, mean: float, actual: float, at: int) -> dict[str, float]:
    """What one forecast of one series adds to the sums, by the definitions."""
    traits = TRAITS._replace(factor=TRAITS.factor[model]).take(np.array([at]))
    of_mean, came = np.array([mean]), np.array([actual])
    said = quantiles(tables, of_mean, np.array(CALIBRATED), traits)[:, 0].tolist()
    lower, upper = cells_of(tables, of_mean, came, traits)[:, 0].tolist()
    by_level = dict(zip(CALIBRATED, said, strict=True))
    out = {"error": mean - actual, "squared": (mean - actual) ** 2,
           "absolute": abs(by_level[0.5] - actual), "pinball": 0.0}  # fmt: skip
    for level in (0.1, 0.5, 0.9):
        short = actual - by_level[level]
        out["pinball"] += (level * short if short >= 0 else (level - 1) * short) / 3
    for level, quantile in by_level.items():
        if level >= upper:
            hit = 1.0
        elif level <= lower:
            hit = 0.0
        else:
            hit = (level - lower) / (upper - lower)
        out[f"hits_{level}"] = hit
        out[f"covered_{level}"] = float(actual <= quantile)
    return out


def test_scores_equal_a_plain_recomputation_overall_and_in_every_slice() -> None:
    drawn = np.random.default_rng(6)
    one = grown(("a", "b"), (1, 3))
    tables = tables_of(one)
    names = {"all": [0] * 5, "store": STORES.tolist(), "category": CATEGORIES.tolist(),
             "volume_class": VOLUMES.tolist()}  # fmt: skip
    sums: dict[tuple[str, int, int, int], dict[str, float]] = {}
    made: dict[tuple[int, int, int], Floats] = {}
    for bucket in range(30):
        one.skip_to(bucket)
        actual = np.where([True, True, False, False, False], drawn.poisson(3.0, 5),
                          drawn.uniform(0, 9, 5)).astype(float)  # fmt: skip
        actual[drawn.random(5) < 0.2] = np.nan
        difference = drawn.uniform(0.1, 2, 5)
        score(one, bucket, actual, difference)
        for at, h in enumerate((1, 3)):
            if (bucket - h, h, 0) not in made or not np.isfinite(actual).any():
                continue
            for kind, codes in names.items():
                for code in set(codes):
                    for model in (0, 1):
                        held = sums.setdefault((kind, code, model, h), dict.fromkeys(SUMS, 0.0))
                        for name in held:
                            held[name] *= DECAY
            for series in np.flatnonzero(np.isfinite(actual)).tolist():
                for model in (0, 1):
                    mean = float(made[bucket - h, h, model][series])
                    said = plainly(tables.at(model, at), model, mean, float(actual[series]), series)
                    said |= {"n": 1.0, "demand": float(actual[series]),
                             "difference": float(difference[series]),
                             "scale": float(difference[series]) ** 0.5}  # fmt: skip
                    for kind, codes in names.items():
                        held = sums[kind, codes[series], model, h]
                        for name, value in said.items():
                            held[name] += value
        for h in (1, 3):
            for model in (0, 1):
                made[bucket, h, model] = drawn.uniform(0, 9, 5).astype(np.float32).astype(float)
                one.put(bucket, h, model, made[bucket, h, model])
    for (kind, code, model, h), wanted in sums.items():
        at = (1, 3).index(h)
        found = one.sums[model, at] if kind == "all" else one.slices[kind][code, model, at]
        assert dict(zip(SUMS, found, strict=True)) == pytest.approx(wanted), (kind, code)
    rows = {(row["model"], row["horizon"]): row for row in one.summary("a")}
    assert len(rows) == 4
    for (model, h), row in rows.items():
        of = sums["all", 0, ("a", "b").index(model), h]
        assert row["n"] == pytest.approx(of["n"], abs=1e-3)
        assert row["bias"] == pytest.approx(of["error"] / of["demand"], abs=1e-6)
        assert row["wape"] == pytest.approx(of["absolute"] / of["demand"], abs=1e-6)
        assert row["rmsse"] == pytest.approx((of["squared"] / of["difference"]) ** 0.5, abs=1e-6)
        assert row["pinball"] == pytest.approx(of["pinball"] / of["scale"], abs=1e-6)
        assert row["hits"]["0.9"] == pytest.approx(of["hits_0.9"] / of["n"], abs=1e-6)
        assert row["covered"]["0.975"] == pytest.approx(of["covered_0.975"] / of["n"], abs=1e-6)
        assert row["role"] == ("champion" if model == "a" else "challenger")


def test_forecasts_are_scored_alike_however_many_are_judged_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = np.random.default_rng(3)
    actual, difference = drawn.poisson(2.0, 5).astype(float), np.ones(5)
    found = {}
    for block in (2, 5, 12, 8192):
        for module in ("evaluation", "judging"):
            monkeypatch.setattr(f"learner.{module}.BLOCK", block)
        one = grown(("a", "seasonal_naive"), (1, 3))
        for horizon in one.scored:
            for model in (0, 1):
                said = np.linspace(0.5, 4.0, 5) + model * horizon
                one.put(3 - horizon, horizon, model, said)
        parts = []
        for scored in score(one, 3, actual, difference):
            parts += [scored.own, scored.gained.moments, scored.gained.counts]
            parts += [value for marks in scored.marks.values() for value in marks]
        found[block] = np.concatenate([part.ravel() for part in [one.sums, *parts]])
    assert found[2] == pytest.approx(found[8192], abs=1e-12)
    # Where none is split, it is the same to the last bit.
    assert found[5].tobytes() == found[12].tobytes() == found[8192].tobytes()


def test_stores_past_the_most_share_the_last() -> None:
    one = grown(scored=(1,))
    one.put(0, 1, 0, np.ones(5))
    codes = CODES | {"store": np.array([0, MOST_SLICES - 1, MOST_SLICES, MOST_SLICES + 5, 10**6])}
    traits = TRAITS._replace(factor=TRAITS.factor[:1])
    one.score(1, np.ones(5), np.ones(5), tables_of(one), traits, codes, one.models)
    counted = one.slices["store"][:, 0, 0, SUMS.index("n")]
    assert len(counted) == MOST_SLICES
    assert (counted[0], counted[-1]) == (1, 4)


def test_an_unserved_models_scores_are_those_it_has_when_it_is_served() -> None:
    found = []
    for names in (("level_phase", "bayes"), ("bayes", "level_phase")):
        one = told(
            *market(50), tick(50), champion=names[0], twin_seasons=0,
            challengers=(*names[1:], "seasonal_naive"),
        ).shard.evaluation  # fmt: skip
        rows = one.summary("bayes")
        found.append({(row["model"], row["horizon"]): row for row in rows})
        assert len(rows) == 3 * len({row["horizon"] for row in rows}) >= 9
    assert found[0] == found[1]


def test_slices_add_up_to_all_series() -> None:
    one = told(*market(40), tick(40)).shard.evaluation
    for kind, sums in one.slices.items():
        assert sums.sum(axis=0) == pytest.approx(one.sums), kind
    assert len(one.slices["volume_class"]) <= len(VOLUME_NAMES)


def test_the_naive_forecasts_of_a_series_that_never_changes_have_a_scale_all_the_same() -> None:
    found = seasonal_difference(np.array([0.0, 8.0, 0.0]), np.array([3.0, 4.0, 0.0]))
    assert found[:2].tolist() == [LEAST_DIFFERENCE, 2.0]
    assert np.isnan(found[2])


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
    assert found["rmsse"] == pytest.approx(1.0, rel=0.02)


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
    (scored,) = score(one, 1, np.ones(5), np.ones(5))
    assert scored.rows.tolist() == [0, 1]
    assert score(one, 1, np.full(5, np.nan), np.ones(5)) == []


def test_growing_keeps_the_forecasts_that_wait() -> None:
    one = grown(scored=(7,))
    one.put(3, 7, 0, np.arange(5.0))
    one.grow(9)
    assert one.waiting(10, 7, 5)[0].tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(one.waiting(10, 7, 9)[0, 5:]).all()
    one.grow(3)
    assert one.pending[7].shape == (7, 1, 9), "room is never taken back"


def sums_of(**values: float) -> Floats:
    out = np.zeros((1, 1, len(SUMS)))
    for name, value in values.items():
        out[0, 0, SUMS.index(name)] = value
    return out


def test_where_nothing_was_sold_there_is_no_relative_error() -> None:
    (row,) = summary(("m",), (1,), sums_of(n=3, error=1, absolute=1, squared=1), "m")
    assert (row["rmsse"], row["wape"], row["bias"], row["pinball"]) == (None, None, None, None)
    assert (row["model"], row["role"], row["horizon"], row["n"]) == ("m", "champion", 1, 3)
    assert row["hits"] == dict.fromkeys(map(str, CALIBRATED), 0.0)


def test_what_was_forgotten_is_not_told_of() -> None:
    assert summary(("m",), (1,), sums_of(n=0.4, demand=1), "m") == []


def test_sums_of_shards_can_be_added_up() -> None:
    a = sums_of(n=2, error=1, absolute=3, squared=9, demand=10, difference=4)
    b = sums_of(n=1, error=-1, absolute=1, squared=1, demand=10, difference=1)
    (row,) = summary(("m",), (1,), a + b, "m")
    assert (row["n"], row["wape"], row["bias"]) == (3, 0.2, 0)
    assert row["rmsse"] == pytest.approx(2**0.5, abs=1e-6)
