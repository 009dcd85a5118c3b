"""Accuracy by series: running means until the memory is full, then forgetting ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner.accuracy import MEMORY, PARTS, Accuracy, accuracy
from learner.evaluation import Marks, Scored
from learner.served import read_serving
from learner.spread import Gained
from tests.api_parts import Deployment, keys_of
from tests.learner_parts import day, market, tick, told

Floats = np.ndarray[Any, np.dtype[np.float64]]
MODELS = ("ensemble", "level_phase", "seasonal_naive")
#: What a spread learns: here nothing looks at it.
LEARNED = Gained.nothing((0,)), np.zeros((0, 2, 0))


def marks(error: Floats, absolute: Floats, inside: Floats) -> Marks:
    return Marks(error, absolute, inside)


def test_accuracy_equals_a_plain_recomputation() -> None:
    drawn = np.random.default_rng(5)
    one = Accuracy(MODELS, (1, 7), "day")
    one.grow(3)
    memory, demand = MEMORY["day"], []
    errors: dict[str, list[float]] = {"ensemble": [], "seasonal_naive": []}
    inside: list[float] = []
    for _ in range(200):
        actual = drawn.poisson(4.0, 2).astype(float)
        of = {name: drawn.normal(0, 2, 2) for name in errors}
        share = drawn.uniform(0, 1, 2)
        scored = Scored(7, np.array([0, 2]), *LEARNED, {
            name: marks(error, np.abs(error) / 2, share) for name, error in of.items()
        }, {})  # fmt: skip
        one.learn(scored, actual)
        demand.append(actual[1])
        inside.append(share[1])
        for name, error in of.items():
            errors[name].append(error[1])

    def running(values: list[float]) -> float:
        mean = 0.0
        for n, value in enumerate(values, start=1):
            mean += (value - mean) / min(n, memory)
        return mean

    columns = one.columns
    assert columns["count"][1].tolist() == [200, 0, 200]
    assert columns["count"][0].tolist() == [0, 0, 0]
    assert columns["demand"][1, 2] == pytest.approx(running(demand), rel=1e-5)
    for at, told_of in enumerate(errors.values()):
        squared = running([x * x for x in told_of])
        root = squared**0.5
        assert columns["squared"][at, 1, 2] == pytest.approx(squared, rel=1e-5)
        found = {name: columns[name][at, 1, 2] / part for name, part in PARTS.items()}
        assert found["error"] * root == pytest.approx(running(told_of), abs=1e-3)
        absolute = running([abs(x) / 2 for x in told_of])
        assert found["absolute"] * root == pytest.approx(absolute, abs=2e-3)
        assert found["inside"] == pytest.approx(running(inside), abs=1e-3)


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_errors_of_any_size_are_kept(scale: float) -> None:
    one = Accuracy(("ensemble",), (1,), "day")
    one.grow(1)
    for error in (3.0, -1.0, 0.0, 2.0):
        came: Floats = np.array([error * scale])
        scored = Scored(
            1, np.array([0]), *LEARNED, {"ensemble": marks(came, 2 * np.abs(came), came)}, {}
        )
        one.learn(scored, np.array([4 * scale]))
    root = float(one.columns["squared"][0, 0, 0]) ** 0.5
    found = {name: one.columns[name][0, 0, 0] / part * root for name, part in PARTS.items()}
    assert found["error"] == pytest.approx(1.0 * scale, rel=1e-3)
    assert found["absolute"] == pytest.approx(3.0 * scale, rel=1e-3)


def test_forecasts_without_error_are_kept() -> None:
    one = Accuracy(("ensemble",), (1,), "day")
    one.grow(1)
    nothing = np.zeros(1)
    scored = Scored(
        1, np.array([0]), *LEARNED, {"ensemble": marks(nothing, nothing, np.ones(1))}, {}
    )
    one.learn(scored, np.array([4.0]))
    assert [int(one.columns[name][0, 0, 0]) for name in PARTS] == [0, 0, 65_535]


def test_it_costs_about_a_hundred_bytes_a_series() -> None:
    one = Accuracy(MODELS, (1, 7, 14, 28), "day")
    one.grow(1000)
    assert sum(column.nbytes for column in one.columns.values()) <= 104 * 1000


def test_a_count_that_is_full_stays_so() -> None:
    one = Accuracy(("ensemble",), (1,), "day")
    one.grow(1)
    one.columns["count"][:] = 65_535
    error = np.array([1.0])
    scored = Scored(1, np.array([0]), *LEARNED, {"ensemble": marks(error, error, error)}, {})
    one.learn(scored, np.array([3.0]))
    assert one.columns["count"].tolist() == [[65_535]]
    assert one.columns["demand"][0, 0] == pytest.approx(3.0 / MEMORY["day"])


def test_a_naive_champion_is_kept_once_and_told_twice() -> None:
    assert Accuracy(("seasonal_naive", "ensemble"), (1,), "day").models == ("seasonal_naive",)


def test_without_seasonal_naive_only_the_champion_is_kept() -> None:
    one = told(*market(30), tick(30), challengers=("level_phase",)).shard
    assert one.accuracy.models == ("ensemble",)
    assert one.accuracy.columns["count"][0, : one.panel.size].min() > 0


def test_a_series_accuracy_is_that_of_its_own_forecasts() -> None:
    """Against what the shard said at each origin, told apart by hand."""
    one = told(champion="level_phase", challengers=("seasonal_naive",))
    events = market(50)
    said: list[tuple[float, float]] = []
    waiting: Floats | None = None
    for n in range(50):
        one.tell(*(event for event in events if event.time.date() == day(n).date()), tick(n + 1))
        shard = one.shard
        assert shard.panel.last is not None
        actual = float(shard.panel.units(shard.panel.last)[0])
        if waiting is not None and len(waiting) and shard.panel.columns["error_n"][0] > 1:
            said.append((float(waiting[0]), actual))
        waiting = shard.predict("level_phase", 1)
    columns = one.shard.accuracy.columns
    assert columns["count"][0, 0] == len(said)
    errors = [mean - actual for mean, actual in said]
    squared = float(np.mean(np.square(errors)))
    assert columns["squared"][0, 0, 0] == pytest.approx(squared, rel=1e-4)
    error = columns["error"][0, 0, 0] / PARTS["error"] * squared**0.5
    assert error == pytest.approx(np.mean(errors), abs=1e-3)
    assert columns["demand"][0, 0] == pytest.approx(np.mean([y for _, y in said]), rel=1e-4)


def test_what_is_told_of_a_series_are_ratios(tmp_path: Any) -> None:
    deployment = Deployment(tmp_path)
    snapshot = deployment.publish(0, 7, keys=keys_of(["1"], ["a", "b"]))
    serving = read_serving(deployment.store, 0, snapshot, deployment.signer.verifier)
    deployment.close()
    first, *later = accuracy(serving, 1)
    assert {name: first[name] for name in ("horizon", "n", "demand")} == {
        "horizon": 1, "n": 20, "demand": 5.0,
    }  # fmt: skip
    for who, model in (("champion", "ensemble"), ("naive", "seasonal_naive")):
        assert first[who] == {"model": model, "rmsse": 0.5, "bias": 0.0, "wape": 0.3,
                              "coverage_80": 0.8}  # fmt: skip
    assert all(one["champion"] is None and one["naive"] is None for one in later)
