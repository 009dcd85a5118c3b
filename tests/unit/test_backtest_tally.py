"""Sums of a backtest against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from learner import intervals
from scripts.backtest.replay import Asked, Block
from scripts.backtest.tally import Tally

ASKED = Asked(horizons=(1, 2), levels=(0.5, 0.9), first=0, end=None)
NOTHING = (intervals.Tables(np.zeros(1), np.zeros((1, 1))),)


def block(
    actual: list[float],
    mean: list[float],
    *,
    origin: int = 10,
    horizon: int = 1,
    partition: int = 0,
    median: list[float] | None = None,
    quantiles: list[list[float]] | None = None,
    cells: list[list[float]] | None = None,
) -> Block:
    """Forecasts of one model, as if they were settled."""
    size = len(actual)
    single = np.float32
    return Block(
        partition=partition, origin=origin, horizon=horizon, mean=np.array([mean], single),
        median=np.array([median or mean], single), mape=None,
        quantiles=np.array([quantiles or [mean, mean]], single), actual=np.array(actual),
        cells=np.array([cells or [[0.0] * size, [1.0] * size]]), tables=NOTHING,
        traits=(intervals.Traits(np.ones(size), np.ones(size, bool), np.ones(size)),),
    )  # fmt: skip


def tally(partitions: int = 1) -> Tally:
    return Tally(("m",), ASKED, 1, partitions)


def test_errors_are_summed_by_series_and_missing_targets_left_out() -> None:
    one = tally()
    one.told(block([4.0, np.nan, 1.0], [5.0, 9.0, 3.0], median=[4.0, 9.0, 2.0]))
    one.told(block([2.0, 6.0, 0.0], [3.0, 4.0, 3.0], origin=11, median=[2.0, 5.0, 0.0]))
    got = one.scores()["m", 1]
    assert got.n == 5
    assert got.bias == pytest.approx((1 + 2 + 1 - 2 + 3) / 13)
    assert got.wape == pytest.approx((0 + 1 + 0 + 1 + 0) / 13)
    assert one.volumes().tolist() == [3.0, 6.0, 0.5]
    assert one.scores(np.array([True, False, False]))["m", 1].bias == pytest.approx(2 / 6)


def test_rmsse_is_by_each_series_own_seasonal_difference() -> None:
    one = tally()
    for bucket, actual in enumerate(([1.0], [3.0, 5.0], [3.0, np.nan], [9.0, 5.0])):
        one.closed(0, bucket, np.array(actual))
    # Differences: 2, 0, 6 of the first; none of the second, whose neighbours are never both known.
    one.told(block([4.0, 2.0], [5.0, 9.0]))
    one.told(block([4.0, 2.0], [7.0, 9.0], origin=11))
    assert one.rmsse()[0, 0, 0] == pytest.approx(((1 + 9) / 2 / ((4 + 0 + 36) / 3)) ** 0.5)
    assert np.isnan(one.rmsse()[0, 0, 1])
    assert one.scores()["m", 1].rmsse == pytest.approx(one.rmsse()[0, 0, 0])
    assert np.isnan(one.scores()["m", 2].rmsse)


def test_a_count_that_straddles_a_level_lies_below_it_in_part() -> None:
    one = tally()
    one.told(block([0.0, 1.0, 7.0], [1.0, 1.0, 1.0],
                   quantiles=[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]],
                   cells=[[0.0, 0.4, 0.95], [0.4, 0.8, 1.0]]))  # fmt: skip
    got = one.scores()["m", 1]
    assert got.hits == pytest.approx(((1 + 0.25 + 0) / 3, (1 + 1 + 0) / 3))
    assert got.covered == pytest.approx((2 / 3, 2 / 3))
    half = 0.5 * (1 + 0 + 6)
    upper = 0.1 * (2 + 1) + 0.9 * 5
    assert got.pinball == pytest.approx(2 * (half + upper) / 2 / 8)


def test_partitions_stand_one_after_the_other() -> None:
    one = tally(2)
    one.told(block([2.0, 2.0], [3.0, 3.0], partition=1))
    one.told(block([8.0], [4.0], partition=0))
    assert one.volumes().tolist() == [8.0, 2.0, 2.0]
    assert one.by_bucket[11][0, 0, 0] == 3
    assert one.scores()["m", 1].bias == pytest.approx((1 + 1 - 4) / 12)


def test_each_target_has_its_sums() -> None:
    one = tally()
    one.told(block([2.0], [3.0]))
    one.told(block([5.0], [3.0], horizon=2))
    one.told(block([np.nan], [3.0], origin=11))
    assert sorted(one.by_bucket) == [11, 12]
    assert one.by_bucket[11][0, 0, :5].tolist() == [1.0, 1.0, 1.0, 1.0, 2.0]
    assert one.by_bucket[12][0, 1, :5].tolist() == [1.0, -2.0, 2.0, 4.0, 5.0]
