"""Predictive distributions: they never cross, are never negative, and hold what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr  # type: ignore[import-untyped]

from learner import intervals
from learner.intervals import CLASSES, EDGES, GRID, Tables, Traits
from learner.spread import Spread, gain, own_dispersion

Floats = np.ndarray[Any, np.dtype[np.float64]]
LEVELS = np.array([0.001, 0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975, 0.999])


def negative_binomial(
    drawn: np.random.Generator, mean: Floats, dispersion: float | Floats
) -> Floats:
    """Counts of variance mean + dispersion · mean²."""
    shape = 1.0 / np.broadcast_to(dispersion, mean.shape)
    counts: Floats = drawn.poisson(mean * drawn.gamma(shape) / shape).astype(float)
    return counts


def counts_of(n: int, factor: float = 1.0) -> Traits:
    return Traits(np.ones(n), np.ones(n, bool), np.full(n, factor))


def weights_of(n: int, grain: float) -> Traits:
    return Traits(np.full(n, grain), np.zeros(n, bool), np.ones(n))


def learned(
    drawn: np.random.Generator, buckets: int, dispersion: float, series: int = 400
) -> tuple[Spread, Floats]:
    """What is learned of simulated counts of means from 0.05 to 100, and the means."""
    spread = Spread((1,), "day")
    mean = np.geomspace(0.05, 100, series)
    for _ in range(buckets):
        come(spread, mean, negative_binomial(drawn, mean, dispersion), counts_of(series))
    return spread, mean


def come(spread: Spread, mean: Floats, actual: Floats, traits: Traits) -> intervals.Verdict:
    tables = spread.tables().at(0)
    z = intervals.scores_at(tables, LEVELS)
    verdict = intervals.judge(tables, z, mean, actual, traits)
    spread.learn((0,), gain(verdict))
    return verdict


@st.composite
def any_tables(draw: st.DrawFn) -> Tables:
    drawn = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = Spread((), "day")
    spread.counts *= drawn.exponential(1.0, spread.counts.shape) ** draw(st.integers(1, 4))
    spread.moments *= drawn.exponential(1.0, spread.moments.shape) * 3
    return spread.tables()


means = st.lists(st.floats(0, 1e6), min_size=1, max_size=12)
some_traits = st.sampled_from(
    [(1.0, True), (0.25, False), (0.0, False), (40.0, False)]
)  # grain, whole


@given(any_tables(), means, some_traits, st.floats(1 / 8, 8))
def test_quantiles_never_cross_and_are_never_negative(
    tables: Tables, mean: list[float], kind: tuple[float, bool], factor: float
) -> None:
    n = len(mean)
    traits = Traits(np.full(n, kind[0]), np.full(n, kind[1]), np.full(n, factor))
    found = intervals.quantiles(tables, np.array(mean), LEVELS, traits)
    assert np.isfinite(found).all() and (found >= 0).all()
    assert (np.diff(found, axis=0) >= 0).all()
    if kind[1]:
        assert (found == np.rint(found)).all()


@given(any_tables(), st.floats(0, 1e5), st.floats(0, 1e5), some_traits)
def test_a_demand_is_the_more_probable_not_to_be_passed_the_larger_it_is(
    tables: Tables, one: float, other: float, kind: tuple[float, bool]
) -> None:
    grain, whole = kind
    actual = np.array(sorted((one, other)))
    actual = np.floor(actual) if whole else actual
    traits = Traits(np.full(2, grain), np.full(2, whole), np.ones(2))
    lower, upper = intervals.cells_of(tables, np.full(2, 3.0), actual, traits)
    assert (lower >= 0).all() and (upper <= 1).all() and (lower <= upper).all()
    assert lower[0] <= lower[1] and upper[0] <= upper[1]
    if actual[0] == 0:
        assert lower[0] == 0


def test_in_the_middle_of_a_class_quantiles_are_the_inverse_of_probabilities() -> None:
    spread, _ = learned(np.random.default_rng(1), 20, 0.4)
    tables = spread.tables().at(0)
    for mean in 2.0 ** np.arange(-4, 9):
        at, levels = np.full(len(LEVELS), mean), LEVELS
        quantile = np.diagonal(intervals.quantiles(tables, at, levels, counts_of(len(at))))
        lower, upper = intervals.cells_of(tables, at, quantile, counts_of(len(at)))
        assert (upper >= levels - 1e-9).all(), mean
        assert (lower <= levels + 1e-9)[quantile > 0].all(), mean


@pytest.mark.parametrize("dispersion", [0.01, 0.3, 2.0])
def test_simulated_counts_are_calibrated_by_horizon_and_volume(dispersion: float) -> None:
    drawn = np.random.default_rng(7)
    spread, mean = learned(drawn, 60, dispersion)
    levels = (0.1, 0.5, 0.9, 0.975)
    hits = np.zeros((len(levels), len(mean)))
    covered = np.zeros(len(mean))
    rounds = 200
    for _ in range(rounds):
        actual = negative_binomial(drawn, mean, dispersion)
        verdict = come(spread, mean, actual, counts_of(len(mean)))
        hits += np.stack(intervals.hits(verdict, levels))
        covered += actual <= verdict.quantiles[LEVELS.tolist().index(0.9)]
    for level, of_level in zip(levels, hits / rounds, strict=True):
        assert of_level.mean() == pytest.approx(level, abs=0.01)
        for part in np.array_split(of_level, 5):
            assert part.mean() == pytest.approx(level, abs=0.025), "each volume on its own"
    assert covered.mean() / rounds >= 0.89


def test_a_series_of_its_own_dispersion_is_calibrated_too() -> None:
    """Half of the series scatter a lot, half hardly: one dispersion for all is wrong for both."""

    def off(*, own: bool) -> list[float]:
        """By how much the share above the 90 % quantile is wrong, of each half."""
        drawn = np.random.default_rng(8)
        series = 400
        dispersion = np.where(np.arange(series) % 2, 0.8, 0.05)
        mean = np.full(series, 30.0)
        spread = Spread((1,), "day")
        spread.grow(series)
        above = np.zeros(series)
        for bucket in range(300):
            traits = spread.traits(np.ones(series, np.float32))
            verdict = come(spread, mean, negative_binomial(drawn, mean, dispersion), traits)
            if own:
                spread.learn_own(np.arange(series), own_dispersion(verdict))
            if bucket >= 100:
                above += 1 - intervals.hits(verdict, [0.9])[0]
        return [abs(half.mean() / 200 - 0.1) for half in (above[::2], above[1::2])]

    assert max(off(own=True)) < 0.03
    assert min(off(own=False)) > 0.05


def test_calibration_comes_back_after_a_lasting_shift() -> None:
    drawn = np.random.default_rng(9)
    spread, mean = learned(drawn, 60, 0.2)

    def share_above(actual: Floats) -> float:
        verdict = come(spread, mean, actual, counts_of(len(mean)))
        return float(1 - intervals.hits(verdict, [0.9])[0].mean())

    shifted = [share_above(negative_binomial(drawn, 1.5 * mean, 0.2)) for _ in range(160)]
    assert np.mean(shifted[:5]) > 0.15, "at first more than a tenth is above the 90 % quantile"
    assert np.mean(shifted[-40:]) == pytest.approx(0.1, abs=0.02)


def test_goods_sold_by_weight_are_calibrated_in_grains() -> None:
    drawn = np.random.default_rng(10)
    spread, size = Spread((1,), "day"), 600
    mean = np.geomspace(0.05, 20, size)
    traits = weights_of(size, 0.4)
    hits = np.zeros(3)
    for bucket in range(160):
        sold = drawn.poisson(mean / 0.4)
        actual = np.where(sold > 0, drawn.gamma(np.maximum(sold * 8.0, 1e-9)) * 0.4 / 8, 0.0)
        verdict = come(spread, mean, actual, traits)
        if bucket >= 60:
            hits += [one.mean() for one in intervals.hits(verdict, [0.1, 0.5, 0.9])]
        assert (verdict.quantiles >= 0).all()
    assert hits / 100 == pytest.approx([0.1, 0.5, 0.9], abs=0.02)


def test_units_that_are_a_thousand_times_smaller_say_the_same() -> None:
    spread, _ = learned(np.random.default_rng(2), 20, 0.4)
    tables, mean = spread.tables().at(0), np.geomspace(0.01, 50, 30)
    kilograms = intervals.quantiles(tables, mean, LEVELS, weights_of(30, 0.4))
    grams = intervals.quantiles(tables, 1000 * mean, LEVELS, weights_of(30, 400.0))
    assert grams == pytest.approx(1000 * kilograms)


def test_a_grain_nobody_told_of_is_a_small_part_of_the_mean() -> None:
    spread, _ = learned(np.random.default_rng(2), 20, 0.4)
    tables = spread.tables().at(0)
    found = intervals.quantiles(tables, np.array([0.01, 0.1, 1.0]), LEVELS, weights_of(3, 0.0))
    assert found[:, 1] == pytest.approx(10 * found[:, 0])
    assert found[:, 2] == pytest.approx(100 * found[:, 0])


def test_without_any_forecast_seen_counts_are_forecast_as_counts() -> None:
    """The prior is a negative binomial of moderate dispersion: near enough to start from."""
    drawn = np.random.default_rng(3)
    tables = Spread((), "day").tables()
    for mean in (0.3, 3.0, 30.0):
        actual = negative_binomial(drawn, np.full(20_000, mean), 0.3)
        at = np.full(len(actual), mean)
        lower, upper = intervals.cells_of(tables, at, actual, counts_of(len(at)))
        for level in (0.1, 0.5, 0.9):
            hits = np.clip((level - lower) / np.maximum(upper - lower, 1e-12), 0, 1)
            assert hits.mean() == pytest.approx(level, abs=0.03)


def test_nothing_forecast_is_nothing_in_all_usual_quantiles() -> None:
    tables = Spread((), "day").tables()
    found = intervals.quantiles(tables, np.zeros(1), np.array([0.1, 0.5, 0.9]), counts_of(1))
    assert (found == 0).all()


def test_horizons_between_scored_ones_lie_between_their_tables() -> None:
    spread = Spread((2,), "day")
    spread.moments[1, :, 0] *= 4
    tables = spread.tables()
    middle = intervals.horizon_tables(tables, (1, 11), 6)
    assert middle.dispersion == pytest.approx(tables.dispersion.mean(axis=0))
    for horizon, at in ((1, 0), (11, 1), (40, 1)):
        found = intervals.horizon_tables(tables, (1, 11), horizon)
        assert found.below.tobytes() == tables.below[at].tobytes()


def test_a_volume_is_in_a_class_whatever_it_is() -> None:
    position = intervals.volume_class(np.array([0.0, 1e-9, 1 / 16, 1.0, 256.0, 1e9]))
    assert position.tolist() == [0, 0, 0, 4, 12, 12]


def test_each_forecast_counts_once_in_its_class_spread_over_its_cell() -> None:
    tables = Spread((), "day").tables()
    mean, actual = np.array([4.0, 4.0, 64.0, 0.1]), np.array([4.0, 9.0, 1e9, 0.0])
    verdict = intervals.judge(tables, np.zeros((CLASSES, 0)), mean, actual, counts_of(4))
    (found,) = intervals.binned(verdict)
    assert found.sum(axis=1).round(9).tolist() == [0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0]
    assert found[10, -1] == 1, "an outlier is one score in the last bin"
    # A cell by hand: 0 of a mean of 0.1 covers all normal scores up to its upper end.
    gauge = intervals.gauge(mean[3:], 1.0, tables.dispersion[1:2])
    _, (high,) = intervals.cells(gauge, actual[3:], np.array([True]))
    shares = np.minimum(ndtr(EDGES) / ndtr(high), 1.0)
    assert np.cumsum(found[1])[:-1] == pytest.approx(shares, abs=2e-3)


# -- the point for percentage errors -------------------------------------------------------


def least_error(sold: Floats, candidates: Floats) -> float:
    """The candidate of least mean absolute percentage error, where something is sold."""
    there = sold[sold > 0]
    errors = [(np.abs(there - one) / there).mean() for one in candidates]
    return float(candidates[int(np.argmin(errors))])


@pytest.mark.parametrize("mean", [2.0, 12.0, 80.0])
def test_the_mape_point_has_the_least_percentage_error(mean: float) -> None:
    drawn = np.random.default_rng(4)
    spread, _ = learned(drawn, 40, 0.3)
    tables, at = spread.tables().at(0), np.array([mean])
    (point,) = intervals.relative_median(
        intervals.quantiles(tables, at, GRID, counts_of(1)), np.ones(1)
    )
    best = least_error(negative_binomial(drawn, np.full(40_000, mean), 0.3), np.arange(1.0, 200))
    assert abs(point - best) <= max(1.0, 0.08 * best)


@given(any_tables(), st.floats(0.01, 1e4), some_traits)
def test_the_mape_point_lies_above_nothing_and_not_above_the_median_of_what_is_sold(
    tables: Tables, mean: float, kind: tuple[float, bool]
) -> None:
    traits = Traits(np.full(1, kind[0]), np.full(1, kind[1]), np.ones(1))
    grid = intervals.quantiles(tables, np.array([mean]), GRID, traits)
    (point,) = intervals.relative_median(grid, np.array([0.125]))
    sold = grid[grid > 0]
    assert point > 0
    assert point <= np.quantile(sold, 0.5, method="higher") if len(sold) else point == 0.125


def test_where_hardly_anything_is_sold_the_mape_point_is_a_grain() -> None:
    tables = Spread((), "day").tables()
    grid = intervals.quantiles(tables, np.array([0.001]), GRID, counts_of(1))
    assert intervals.relative_median(grid, np.ones(1)).tolist() == [1.0]
