"""Cases of the accuracy benchmark: their log says what their table says, and scores are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from learner.shard import Shard
from stream.buckets import Calendar
from stream.event import time_us
from stream.settings import Settings
from tests.bench.accuracy import grocery, synthetic
from tests.bench.accuracy.__main__ import log_opening
from tests.bench.accuracy.case import Case, from_first_sale, plans_of
from tests.bench.accuracy.kept import Kept, Method
from tests.bench.accuracy.replay import replay
from tests.bench.accuracy.scores import common, ratio_interval, score, table

DAYS, SERIES = 70, 4


@pytest.fixture(scope="module")
def case() -> Case:
    """Ten weeks of four series in two stores; one starts late, one is promoted by plan."""
    drawn = np.random.default_rng(8)
    chosen = Settings(partitions=1, timezone="Europe/Berlin", grace_s=60)
    calendar = Calendar(chosen)
    first = calendar.index(time_us(datetime(2024, 3, 4, tzinfo=UTC)))
    units = drawn.poisson([1.0, 4.0, 8.0, 3.0], (DAYS, SERIES)).astype(float)
    units[:20, 3] = 0
    keys = [("a", "p"), ("a", "q"), ("b", "p"), ("b", "q")]
    promotion = np.where(np.arange(DAYS)[:, None] // 7 % 3 == 1, 0.4, 0.0)
    return Case(
        name="small", about="", settings=chosen, first=first, keys=tuple(keys),
        categories=("g",) * SERIES, units=from_first_sale(units),
        price=np.where(units > 0, 2.5, np.nan),
        plans=plans_of(calendar, first, [("*", "p")], 14, promotion=promotion),
        products=grocery.catalogue(keys, ["g"] * SERIES, calendar, first), warm=35,
        tune=(35, 56), test=(56, DAYS), horizons=(1, 7),
    )  # fmt: skip


def test_a_series_counts_from_its_first_sale() -> None:
    found = from_first_sale(np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]))
    np.testing.assert_array_equal(found, [[np.nan, 1.0], [2.0, 0.0], [0.0, 3.0]])


def test_the_log_says_what_the_table_says(case: Case) -> None:
    shard = Shard(case.settings, 0)
    seen: dict[int, dict[tuple[str, str], float]] = {}

    def look(bucket: int) -> None:
        units = shard.panel.units(bucket).tolist()
        seen[bucket - case.first] = dict(zip(shard.panel.keys, units, strict=True))

    shard.fold(list(case.records(DAYS)), after_close=look)
    assert sorted(seen) == list(range(DAYS))
    for row, found in seen.items():
        for at, key in enumerate(case.keys):
            expected = case.units[row, at]
            assert found.get(key, np.nan) == expected or np.isnan(expected)
    assert shard.counts()["refused"] == shard.counts()["late"] == 0


def test_plans_give_the_table_they_were_made_of(case: Case) -> None:
    promotion = case.planned("promotion")
    expected = np.where(np.arange(DAYS) // 7 % 3 == 1, 0.4, 0.0)
    np.testing.assert_array_equal(promotion[:, 0], expected)
    np.testing.assert_array_equal(promotion[:, 2], expected)
    assert np.isnan(promotion[:, 1]).all()
    start = Calendar(case.settings).start(case.first)
    for plan in case.plans:
        assert plan.time == start or plan.start - plan.time >= timedelta(days=13)


def test_nothing_is_said_of_what_came_after_an_origin(case: Case) -> None:
    """Another future, the same past: the forecasts made before it are the same."""
    other = case.units.copy()
    other[50:] = np.where(np.isfinite(other[50:]), other[50:] + 9, np.nan)
    models = ["ensemble", "seasonal_naive"]
    said = replay(case, models, DAYS, case.warm).means
    again = replay(replace(case, units=other), models, DAYS, case.warm).means
    for (model, horizon), mean in said.items():
        upto = 50 + horizon  # targets of origins before row 50
        np.testing.assert_array_equal(mean[:upto], again[model, horizon][:upto])
        assert not np.array_equal(mean[upto:], again[model, horizon][upto:])
        known = mean[case.warm :]
        assert np.isfinite(known).all()


def test_a_seasonal_naive_forecast_is_the_last_known_of_its_phase(case: Case) -> None:
    np.testing.assert_array_equal(case.naive(1)[30], case.units[23])
    np.testing.assert_array_equal(case.naive(8)[30, :3], case.units[16, :3])
    assert np.isnan(case.naive(7)[26, 3])  # a series of which nothing was known at the origin
    np.testing.assert_array_equal(case.naive(7)[40], case.units[33])
    said = replay(case, ["seasonal_naive"], DAYS, case.warm).means
    for horizon in case.horizons:
        np.testing.assert_array_equal(
            said["seasonal_naive", horizon][case.warm :], case.naive(horizon)[case.warm :]
        )


def test_scores_are_what_a_plain_loop_says(case: Case) -> None:
    mean = np.full(case.units.shape, 3.0)
    use = common(case, "tune", 1, [mean])
    got = score(case, use, mean)
    ratios, errors, absolute, total, n = [], 0.0, 0.0, 0.0, 0
    for at in range(SERIES):
        warm = [float(x) for x in case.units[:35, at]]
        steps = [(warm[t] - warm[t - 7]) ** 2 for t in range(7, 35) if warm[t - 7] == warm[t - 7]]
        squared = []
        for row in range(35, 56):
            error = 3.0 - float(case.units[row, at])
            squared.append(error**2)
            errors, absolute, n = errors + error, absolute + abs(error), n + 1
            total += float(case.units[row, at])
        ratios.append((sum(squared) / len(squared) / (sum(steps) / len(steps))) ** 0.5)
    assert got.n == n
    assert got.rmsse == pytest.approx(sum(ratios) / SERIES)
    assert got.bias == pytest.approx(errors / total)
    assert got.wape == pytest.approx(absolute / total)


def test_only_chosen_origins_count(case: Case) -> None:
    chosen = np.zeros(case.units.shape, bool)
    chosen[40, 1] = True
    use = common(replace(case, scored=chosen), "tune", 7, [np.ones(case.units.shape)])
    assert np.argwhere(use).tolist() == [[47, 1]]


def test_the_interval_of_a_ratio_holds_it_and_is_none_for_the_same_forecasts(case: Case) -> None:
    good, bad = np.full(case.units.shape, 4.0), np.full(case.units.shape, 12.0)
    use = common(case, "both", 1, [good, bad])
    assert ratio_interval(case, "both", use, good, good) == (1.0, 1.0, 1.0)
    ratio, least, most = ratio_interval(case, "both", use, bad, good)
    expected = score(case, use, bad).rmsse / score(case, use, good).rmsse
    assert ratio == pytest.approx(expected)
    assert 1.0 < least < ratio < most


def test_seasonal_naive_comes_first_in_the_table(case: Case) -> None:
    found = table(case, "tune", {("three", 1): np.full(case.units.shape, 3.0)})
    assert list(found) == [("naive", 1), ("three", 1), ("naive", 7)]


@pytest.mark.parametrize(
    "make", [synthetic.promoted_weeks, synthetic.intermittent, synthetic.trending]
)
def test_a_made_up_case_is_the_same_each_time_and_whole(make: Callable[[], Case]) -> None:
    one, two = make(), make()
    np.testing.assert_array_equal(one.units, two.units)
    assert one.plans == two.plans
    assert one.units.shape == one.price.shape == (one.test[1], len(one.keys))
    assert 0 < one.warm == one.tune[0] < one.tune[1] == one.test[0] < one.test[1]
    first = np.argmax(np.isfinite(one.units), axis=0)
    assert (one.units[first, np.arange(len(one.keys))] > 0).all()
    assert np.isfinite(one.scale()).mean() > 0.8


def test_an_opening_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "openings.md"
    log_opening(path, ["P0"], ["ensemble"], "release 1")
    log_opening(path, ["P1", "P2"], ["bayes"], "release 2")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Openings")
    assert [line.split(" | ")[2:] for line in lines[-2:]] == [
        ["P0", "ensemble", "release 1 |"],
        ["P1, P2", "bayes", "release 2 |"],
    ]


def test_what_frozen_methods_said_is_kept_and_taken_only_if_asked(
    case: Case, tmp_path: Path
) -> None:
    runs: list[int] = []

    def run() -> Method:
        runs.append(1)
        mean = np.full(case.units.shape, float(len(runs)))
        return Method("a method", {7: mean}, 0.25, {7: np.stack([mean, mean])}, note="noted")

    first = Kept(tmp_path, reuse=True).method(case, "tune", "a method, of all", run)
    again = Kept(tmp_path, reuse=True).method(case, "tune", "a method, of all", run)
    assert len(runs) == 1
    np.testing.assert_array_equal(again.means[7], first.means[7])
    assert again.quantiles[7].shape == (2, *case.units.shape)
    assert (again.seconds, again.note) == (0.25, "noted")
    Kept(tmp_path, reuse=True).method(case, "both", "a method, of all", run)
    Kept(tmp_path, reuse=False).method(case, "tune", "a method, of all", run)
    assert len(runs) == 3
    assert Kept(tmp_path, reuse=True).method(case, "tune", "a method, of all", run).means[7][
        0, 0
    ] == pytest.approx(3.0)
