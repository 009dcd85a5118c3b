"""What is answered agrees with a plain reading of the snapshot, and is valid JSON however made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import answers, numbers
from learner import intervals
from learner.served import read_serving
from learner.serving import Serving
from tests.api_parts import Deployment, keys_of

Rows = np.ndarray[Any, np.dtype[np.intp]]
LEVELS = (0.05, 0.5, 0.9, 0.975)
NAMES = tuple(map(repr, LEVELS))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    folder: Path = tmp_path_factory.mktemp("answers")
    deployment = Deployment(folder)
    keys = keys_of(["1", "2"], [f"p{i}" for i in range(40)])
    snapshot = deployment.publish(0, 7, keys=keys, seed=3)
    found = read_serving(deployment.store, 0, snapshot, deployment.signer.verifier)
    deployment.close()
    return found


def plainly(
    serving: Serving, rows: Rows, horizons: int, levels: tuple[float, ...]
) -> answers.Columns:
    """Forecasts horizon by horizon, straight from the tables: the reference."""
    mean = serving.mean[:horizons][:, rows].astype(np.float64)
    known = min(horizons, len(serving.sold))
    mean[:known] = serving.remains[:known][:, rows]
    wanted = np.asarray((0.5, *levels))
    # Tables are mixed, and then inverted, as they are where forecasts are scored and summed.
    out = np.empty((len(wanted), *mean.shape))
    for step in range(horizons):
        place = float(np.interp(step + 1, serving.scored, np.arange(len(serving.scored))))
        low, share = int(place), place % 1
        high = min(low + 1, len(serving.scored) - 1)
        dispersion_here, below = (
            (1 - share) * one[low] + share * one[high] for one in serving.tables
        )
        z_here = intervals.scores_at(intervals.Tables(dispersion_here, below), wanted)
        for at, row in enumerate(rows.tolist()):
            grain, whole, factor = (float(one[row]) for one in serving.traits)
            if step < known:
                factor = float(serving.open_factor[step, row])
            if grain == 0:
                grain = min(max(mean[step, at] / intervals.UNTOLD, 1e-6), 1.0)
            position = float(intervals.volume_class(mean[step, at] / grain))
            classes = np.arange(intervals.CLASSES)
            own = factor * float(np.interp(position, classes, dispersion_here))
            gauge = intervals.gauge(mean[step, at : at + 1], grain, np.array([own]))
            for level in range(len(wanted)):
                score = np.array([np.interp(position, classes, z_here[:, level])])
                demand = intervals.demand(gauge, score, np.bool_(bool(whole)))
                out[level, step, at] = float(demand[0])
    done = np.fmax(serving.sold[:known][:, rows].astype(np.float64), 0.0)
    mean[:known] += done
    out[:, :known] += done
    return answers.Columns(mean, out[0], out[1:])


@pytest.mark.parametrize("horizons", [1, 2, 13, 28])
def test_columns_are_the_numbers_of_serving(serving: Serving, horizons: int) -> None:
    rows = np.arange(len(serving.stores))[::-1]
    wanted = plainly(serving, rows, horizons, LEVELS)
    found = answers.columns(serving, rows, horizons, answers.spread(serving, LEVELS))
    np.testing.assert_array_equal(found.mean, wanted.mean)
    np.testing.assert_allclose(found.median, wanted.median, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.quantiles, wanted.quantiles, rtol=0, atol=1e-9)


@pytest.mark.parametrize("point", list(answers.METRICS))
def test_a_point_is_the_same_for_one_series_and_for_many(serving: Serving, point: str) -> None:
    rows = np.arange(9)
    z = answers.spread(serving, LEVELS)
    grid = answers.spread(serving, tuple(intervals.GRID.tolist()))
    many = answers.columns(serving, rows, 13, z)
    found = answers.points(serving, rows, point, many, grid)
    if point != "mape":
        np.testing.assert_array_equal(found, getattr(many, point))
    sheet = answers.sheet(z, 13, TIMES, NAMES, point, grid)
    for row in rows.tolist():
        steps = json.loads(answers.one(serving, row, sheet))
        assert [step["point"] for step in steps] == pytest.approx(found[:, row].tolist(), abs=6e-5)
        for step, median in zip(steps, many.median[:, row].tolist(), strict=True):
            assert step["median"] == pytest.approx(median, abs=6e-5)


def test_the_mape_point_lies_below_the_median_and_above_nothing(serving: Serving) -> None:
    rows = np.arange(len(serving.stores))
    many = answers.columns(serving, rows, 28, answers.spread(serving, ()))
    grid = answers.spread(serving, tuple(intervals.GRID.tolist()))
    found = answers.points(serving, rows, "mape", many, grid)
    assert (found > 0).all()
    much = many.median > 3
    assert (found <= many.median)[much].all() and (found < many.median)[much].mean() > 0.5


TIMES = [(str(i), str(i + 1)) for i in range(28)]


def steps_of(
    serving: Serving, row: int, horizons: int, levels: tuple[float, ...]
) -> list[dict[str, Any]]:
    z = answers.spread(serving, levels)
    sheet = answers.sheet(z, horizons, TIMES, tuple(map(repr, levels)))
    steps: list[dict[str, Any]] = json.loads(answers.one(serving, row, sheet))
    return steps


@pytest.mark.parametrize("row", [0, 1, 41, 79])
@pytest.mark.parametrize("horizons", [1, 14, 28])
def test_one_series_has_the_numbers_of_serving(serving: Serving, row: int, horizons: int) -> None:
    wanted = plainly(serving, np.array([row]), horizons, LEVELS)
    steps = steps_of(serving, row, horizons, LEVELS)
    assert [(step["start"], step["end"]) for step in steps] == TIMES[:horizons]
    for i, step in enumerate(steps):
        assert step["mean"] == pytest.approx(wanted.mean[i, 0], abs=6e-5)
        assert step["median"] == pytest.approx(wanted.median[i, 0], abs=6e-5)
        assert list(step["quantiles"]) == list(NAMES)
        assert list(step["quantiles"].values()) == pytest.approx(
            wanted.quantiles[:, i, 0].tolist(), abs=6e-5
        )


def test_only_open_buckets_say_what_is_sold_and_what_remains(serving: Serving) -> None:
    for row in range(len(serving.stores)):
        first, *later = steps_of(serving, row, 3, (0.1,))
        assert first["sold"] == serving.sold[0, row]
        assert first["remains"] == pytest.approx(first["mean"] - first["sold"], abs=1e-4)
        assert first["remains"] == pytest.approx(serving.remains[0, row], abs=6e-5)
        assert min(first["mean"], first["median"], first["quantiles"]["0.1"]) >= first["sold"]
        assert all(step["sold"] is None and step["remains"] is None for step in later)


def test_a_bucket_in_which_nothing_can_be_sold_yet_has_a_forecast_all_the_same(
    serving: Serving,
) -> None:
    unknown = dataclasses.replace(serving, sold=np.full_like(serving.sold, np.nan))
    (step,) = steps_of(unknown, 5, 1, (0.9,))
    assert step["sold"] is None
    wanted = plainly(unknown, np.array([5]), 1, (0.9,))
    assert step["mean"] == pytest.approx(wanted.mean[0, 0], abs=6e-5)
    assert step["quantiles"]["0.9"] == pytest.approx(wanted.quantiles[0, 0, 0], abs=6e-5)


def test_of_a_closed_bucket_nothing_is_to_come_at_any_level(serving: Serving) -> None:
    mean = np.array(serving.mean)
    mean[4] = 0.0
    shut = dataclasses.replace(serving, mean=mean)
    rows = np.arange(len(serving.stores))
    found = answers.columns(shut, rows, 6, answers.spread(shut, (0.9, 0.999)))
    assert not found.median[4].any() and not found.quantiles[:, 4].any()
    for row in rows.tolist():
        *_, closed, after = steps_of(shut, row, 6, (0.9, 0.999))
        assert [closed["mean"], *closed["quantiles"].values()] == [0.0, 0.0, 0.0]
        assert after["quantiles"]["0.999"] > 0


def test_no_level_at_all_is_a_forecast_without_quantiles(serving: Serving) -> None:
    (step,) = steps_of(serving, 0, 1, ())
    assert step["quantiles"] == {}


@given(
    st.lists(
        st.one_of(
            st.floats(0, 1e4), st.floats(0, 1e9), st.floats(-1e6, 1e6), st.just(float("nan"))
        ),
        max_size=30,
    )
)
def test_any_numbers_are_read_back_to_four_decimals(values: list[float]) -> None:
    found = json.loads(numbers.encode(np.array(values, dtype=np.float64)))
    assert len(found) == len(values)
    for given_, read in zip(values, found, strict=True):
        if given_ != given_:
            assert read is None
        else:
            assert read == pytest.approx(given_, abs=5.1e-5)


@given(st.lists(st.floats(0, 99_999), min_size=1, max_size=20))
def test_rows_of_numbers_keep_their_shape(values: list[float]) -> None:
    array = np.array([values, values[::-1]])
    found = json.loads(numbers.encode(array))
    np.testing.assert_allclose(found, array, rtol=0, atol=5.1e-5)


def test_a_total_of_one_step_is_that_step(serving: Serving) -> None:
    rows = np.arange(len(serving.stores))
    found = answers.columns(serving, rows, len(serving.mean), answers.spread(serving, LEVELS))
    for step in range(1, len(serving.mean) + 1):
        total = serving.total(rows, step, step, LEVELS)
        assert total.mean == pytest.approx(found.mean[step - 1])
        assert total.median == pytest.approx(found.median[step - 1])
        assert total.quantiles == pytest.approx(found.quantiles[:, step - 1])
