"""Predictive distributions: ascending, never negative, and right as often as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import intervals
from learner.intervals import BINS, CLASSES, LEVELS

Floats = np.ndarray[Any, np.dtype[np.float64]]
SCORED = (1, 7, 14, 28)
ASKED: Floats = np.array([0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.999])
means = st.one_of(st.just(0.0), st.floats(1e-9, 1e6))


def counts(drawn: np.random.Generator, mean: Floats, dispersion: float) -> Floats:
    """Poisson draws, or negative binomial ones of variance mean + dispersion × mean²."""
    if dispersion:
        mean = mean * drawn.gamma(1 / dispersion, dispersion, len(mean))
    return drawn.poisson(mean).astype(np.float64)


def trained(dispersion: float = 0.0, days: int = 200, seed: int = 1) -> Floats:
    """Histograms that saw days of demand around means from a tenth to a hundred."""
    drawn = np.random.default_rng(seed)
    histogram = intervals.empty(len(SCORED))
    mean = np.exp(drawn.uniform(np.log(0.1), np.log(100), 400))
    for _ in range(days):
        for at in range(len(SCORED)):
            intervals.learn(histogram[at], mean, counts(drawn, mean, dispersion))
    return histogram


@pytest.fixture(scope="module")
def tables() -> Floats:
    return intervals.table(trained())


@given(st.lists(means, min_size=1, max_size=20), st.integers(1, 40), st.integers(0, 2**31))
def test_quantiles_never_cross_and_are_never_negative(
    mean: list[float], horizon: int, seed: int
) -> None:
    drawn = np.random.default_rng(seed)
    histogram = drawn.exponential(1.0, (4, CLASSES, BINS)) * (
        drawn.random((4, CLASSES, BINS)) > 0.9
    )
    histogram += intervals.empty(4)
    found = intervals.quantiles(intervals.table(histogram), SCORED, np.array(mean), horizon, ASKED)
    assert found.shape == (len(ASKED), len(mean))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (np.diff(found, axis=0) >= -1e-9 * (1 + found[1:])).all()


def test_before_any_residual_a_count_scatters_about_as_a_count_does() -> None:
    tables = intervals.table(intervals.empty(len(SCORED)))
    low, middle, high = intervals.quantiles(
        tables, SCORED, np.array([100.0]), 1, np.array([0.1, 0.5, 0.9])
    )[:, 0]
    assert 80 < low < 92 and 97 < middle < 106 and 112 < high < 125


@pytest.mark.parametrize("dispersion", [0.0, 0.3])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.975])
@pytest.mark.parametrize("volume", [3.0, 20.0, 80.0])
def test_a_quantile_is_right_as_often_as_it_says(
    dispersion: float, level: float, volume: float
) -> None:
    """To five points of a hundred: a count has steps, and classes share what they saw.

    A count lies at or below its quantile with at least the level's probability, less that of
    the count the quantile lies on.
    """
    tables = intervals.table(trained(dispersion))
    mean = np.full(20_000, volume)
    found = intervals.quantiles(tables, SCORED, mean, 7, np.array([level]))[0]
    actual = counts(np.random.default_rng(9), mean, dispersion)
    below, at_most = (actual < found - 0.5).mean(), (actual <= found + 0.5).mean()
    off = 0.05 if level < 0.95 else 0.015
    assert below - off <= level <= at_most + off


def test_a_wider_scatter_makes_wider_intervals() -> None:
    mean, asked = np.array([20.0]), np.array([0.1, 0.9])
    narrow, wide = (
        intervals.quantiles(intervals.table(trained(d)), SCORED, mean, 1, asked)[:, 0]
        for d in (0.0, 0.5)
    )
    assert np.diff(wide)[0] > 1.5 * np.diff(narrow)[0]


def test_calibration_comes_back_after_a_shift() -> None:
    histogram = trained(0.0)
    drawn = np.random.default_rng(3)
    mean = np.full(400, 20.0)
    for _ in range(150):
        intervals.learn(histogram[0], mean, counts(drawn, mean, 0.5))
    high = intervals.quantiles(intervals.table(histogram), SCORED, mean[:1], 1, np.array([0.9]))[
        0, 0
    ]
    actual = counts(drawn, np.full(20_000, 20.0), 0.5)
    assert (actual <= high).mean() == pytest.approx(0.9, abs=0.03)


def test_horizons_between_scored_ones_lie_between_their_quantiles() -> None:
    histogram = intervals.empty(2)
    drawn = np.random.default_rng(4)
    mean = np.full(200, 20.0)
    for _ in range(80):
        intervals.learn(histogram[0], mean, counts(drawn, mean, 0.0))
        intervals.learn(histogram[1], mean, counts(drawn, mean, 0.8))
    tables = intervals.table(histogram)

    def high(horizon: int) -> float:
        asked = np.array([0.9])
        return float(intervals.quantiles(tables, (1, 11), mean[:1], horizon, asked)[0, 0])

    steps = np.diff([high(h) for h in range(1, 12)])
    assert (steps > 0).all()
    assert steps == pytest.approx(np.full(10, steps.mean()))


def test_past_the_last_scored_horizon_its_own_quantiles_hold(tables: Floats) -> None:
    last, beyond = (
        intervals.quantiles(tables, SCORED, np.array([5.0]), h, ASKED) for h in (28, 40)
    )
    assert last.tolist() == beyond.tolist()


def test_one_scored_horizon_is_enough(tables: Floats) -> None:
    found = intervals.quantiles(tables[:1], (1,), np.array([5.0]), 3, ASKED)
    assert (np.diff(found[:, 0]) >= 0).all()


def test_quantiles_move_without_jumps_from_class_to_class(tables: Floats) -> None:
    mean = np.geomspace(0.01, 500, 4000)
    found = intervals.quantiles(tables, SCORED, mean, 1, np.array([0.9]))[0]
    assert (np.abs(np.diff(found)) <= 0.02 * (1 + found[1:])).all()


def test_a_volume_is_in_a_class_whatever_it_is() -> None:
    position = intervals.volume_class(np.array([0.0, 1e-9, 1 / 16, 1.0, 256.0, 1e9]))
    assert position.tolist() == [0, 0, 0, 4, 12, 12]


def test_learning_counts_each_residual_once_in_its_class() -> None:
    histogram = intervals.empty(1)[0]
    before = histogram.copy()
    intervals.learn(histogram, np.array([4.0, 4.0, 64.0]), np.array([4.0, 9.0, 64.0]))
    gained = (histogram - np.where(histogram == before, before, before * intervals.DECAY)).round(9)
    assert gained.sum(axis=1).tolist() == [0] * 6 + [2] + [0] * 3 + [1] + [0] * 2
    intervals.learn(histogram, np.array([4.0]), np.array([1e12]))
    assert histogram[6, -1] >= 1, "an outlier is one residual in the last bin"


def test_levels_of_the_table_ascend_and_lie_within_zero_and_one() -> None:
    assert (np.diff(LEVELS) > 0).all()
    assert LEVELS[0] > 0 and LEVELS[-1] < 1
