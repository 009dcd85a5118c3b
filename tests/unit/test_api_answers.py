"""What is answered agrees with ``Serving.forecast``, and is valid JSON however it is made."""

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
from learner.serving import Serving
from learner.snapshot import read_serving
from tests.api_parts import Deployment, keys_of

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


@pytest.mark.parametrize("horizons", [1, 2, 13, 28])
def test_columns_are_the_numbers_of_serving(serving: Serving, horizons: int) -> None:
    rows = np.arange(len(serving.stores))[::-1]
    wanted = serving.forecast(rows, horizons, LEVELS)
    found = answers.columns(serving, rows, horizons, answers.spread(serving, LEVELS))
    np.testing.assert_array_equal(found.mean, wanted.mean)
    np.testing.assert_allclose(found.median, wanted.median, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.quantiles, wanted.quantiles, rtol=0, atol=1e-9)


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
    wanted = serving.forecast(np.array([row]), horizons, LEVELS)
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
        assert first["remains"] == pytest.approx(max(first["mean"] - first["sold"], 0.0), abs=1e-4)
        assert min(first["mean"], first["median"], first["quantiles"]["0.1"]) >= first["sold"]
        assert all(step["sold"] is None and step["remains"] is None for step in later)


def test_a_bucket_in_which_nothing_can_be_sold_yet_has_a_forecast_all_the_same(
    serving: Serving,
) -> None:
    unknown = dataclasses.replace(serving, sold=np.full_like(serving.sold, np.nan))
    (step,) = steps_of(unknown, 5, 1, (0.9,))
    assert (step["sold"], step["remains"]) == (None, None)
    wanted = unknown.forecast(np.array([5]), 1, (0.9,))
    assert step["mean"] == pytest.approx(wanted.mean[0, 0], abs=6e-5)
    assert step["quantiles"]["0.9"] == pytest.approx(wanted.quantiles[0, 0, 0], abs=6e-5)


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
