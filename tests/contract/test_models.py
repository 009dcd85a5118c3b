"""The contract of a model, over every name in MODELS."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from river import base, linear_model, preprocessing
from river.ensemble import EWARegressor
from river.forest import ARFRegressor
from river.linear_model import LinearRegression

from learner.features import MAX_RATIO, NAMES, Batch
from learner.models import MODELS, Model, Ratio, make
from learner.pickles import load_models
from learner.twin import make_models
from stream.errors import SettingsError
from tests.learner_parts import chosen

Floats = np.ndarray[Any, np.dtype[np.float64]]

SCORED = chosen().scored_horizons
HORIZONS = chosen().horizons
#: Days after which every model has frozen its scales and says something of its own.
WARM = 30
PROMOTION = NAMES.index("promotion")


#: Any River regressor is a model too: one that learns by columns, by rows, and in a pipeline.
PATHS = (
    "river.linear_model.LinearRegression",
    "tests.contract.test_models:rows",
    "tests.contract.test_models:pipeline",
)


def rows() -> Any:
    """A River regressor that knows only rows."""
    return preprocessing.PredClipper(linear_model.LinearRegression(), y_min=0.0, y_max=8.0)


def pipeline() -> Any:
    """A River pipeline, as a user's factory gives it."""
    return preprocessing.StandardScaler() | linear_model.BayesianLinearRegression()


@pytest.fixture(params=[*sorted(MODELS), *PATHS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> Model:
    return make(name, chosen())


def some(drawn: np.random.Generator, horizon: int, series: int = 40) -> tuple[Batch, Floats]:
    """Features of some series, and the demand that follows from them."""
    X = np.zeros((series, len(NAMES)))
    X[:, 0] = 1.0
    X[:, 1:7] = drawn.uniform(0.3, 1.7, (series, 6))
    X[:, PROMOTION : PROMOTION + 2] = drawn.integers(0, 2, (series, 1))
    for at, name in enumerate(NAMES):
        if name.endswith(":h"):
            X[:, at] = X[:, NAMES.index(name.removesuffix(":h"))] * horizon / HORIZONS
    scale = drawn.uniform(0.5, 40.0, series)
    usual = scale * (0.5 * X[:, 1] + 0.5 * X[:, 5])
    demand = drawn.poisson(usual + 0.8 * scale * X[:, PROMOTION]).astype(float)
    made = Batch(X=X, scale=scale, naive=scale * X[:, 4], level_phase=scale * X[:, 1],
                 phase_mean=scale * X[:, 5], season_phase=scale * X[:, 2],
                 known=np.ones(series, bool),
                 closed=np.zeros(series, bool), rows=np.arange(series),
                 ahead=horizon / HORIZONS)  # fmt: skip
    return made, demand


def days(n: int, seed: int = 1) -> Iterator[list[tuple[Batch, Floats]]]:
    drawn = np.random.default_rng(seed)
    for _ in range(n):
        yield [some(drawn, horizon) for horizon in SCORED]


def warmed(model: Model, n: int = WARM) -> Model:
    for batches in days(n):
        model.learn(batches)
    return model


def fresh(seed: int = 99, horizon: int = 1) -> tuple[Batch, Floats]:
    return some(np.random.default_rng(seed), horizon)


def digest(model: Model) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in model.digest())).hexdigest()


def said(model: Model) -> bytes:
    """Forecasts at all horizons, to the bit."""
    return b"".join(model.predict(fresh(h, h)[0]).tobytes() for h in range(1, HORIZONS + 1))


def assert_sound(mean: Floats, size: int) -> None:
    assert mean.shape == (size,)
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()


def test_its_forecast_is_finite_and_never_negative_when_cold(model: Model) -> None:
    for horizon in (1, 7, HORIZONS):
        assert_sound(model.predict(fresh(horizon=horizon)[0]), 40)


def test_its_forecast_of_no_series_is_empty(model: Model) -> None:
    none = fresh()[0].take(np.zeros(40, bool))
    for one in (model, warmed(model)):
        assert_sound(one.predict(none), 0)


def test_its_forecast_is_finite_and_never_negative_at_the_bounds_of_features(model: Model) -> None:
    warmed(model)
    batch, _ = fresh()
    for bound in (-MAX_RATIO, 0.0, MAX_RATIO):
        X = np.full_like(batch.X, bound)
        for scale in (0.02, 1e6):
            assert_sound(model.predict(replace(batch, X=X, scale=np.full(40, scale))), 40)


def test_forecasting_leaves_the_model_unchanged(model: Model, name: str) -> None:
    warmed(model)
    before = digest(model)
    first = said(model)
    assert said(model) == first
    assert digest(model) == before
    twin = warmed(make(name, chosen()))
    for batches in days(3, seed=5):
        model.learn(batches)
        twin.learn(batches)
    assert said(model) == said(twin), "one forecast many times, the other never"


def test_neither_learning_nor_forecasting_changes_what_it_was_given(model: Model) -> None:
    warmed(model)
    batches = [fresh(h, h) for h in SCORED]
    kept = pickle.dumps([([getattr(b, f.name) for f in fields(b)], y) for b, y in batches])
    model.learn(batches)
    for batch, _ in batches:
        model.predict(batch)
    assert pickle.dumps([([getattr(b, f.name) for f in fields(b)], y) for b, y in batches]) == kept


def test_it_goes_through_a_snapshot_and_on_as_if_nothing_had_happened(
    model: Model, name: str
) -> None:
    for warm in (0, 5, WARM):
        straight = warmed(model, warm)
        again = load_models(pickle.dumps({"it": straight}, protocol=5), [name])["it"]
        assert said(again) == said(straight)
        assert digest(again) == digest(straight)
        for batches in days(3, seed=8):
            straight.learn(batches)
            again.learn(batches)
        assert said(again) == said(straight)
        assert digest(again) == digest(straight)


def test_what_it_remembers_does_not_grow(model: Model) -> None:
    warmed(model)
    before = len(pickle.dumps(model))
    for batches in days(60, seed=3):
        model.learn(batches)
    assert len(pickle.dumps(model)) <= before + 64


def test_the_same_rows_make_the_same_model_to_the_bit() -> None:
    for name, factory in MODELS.items():
        once, twice = warmed(factory(chosen())), warmed(factory(chosen()))
        assert digest(once) == digest(twice), name
        assert said(once) == said(twice), name


def test_rows_that_are_not_finite_are_not_learned(model: Model) -> None:
    warmed(model)
    before, first = digest(model), said(model)
    batch, demand = fresh()
    model.learn([(batch, np.full_like(demand, np.nan))])
    model.learn([(batch, np.full_like(demand, np.inf))])
    model.learn([(replace(batch, X=np.full_like(batch.X, np.nan)), demand)])
    model.learn([(replace(batch, scale=np.full(40, np.inf)), demand)])
    assert digest(model) == before
    assert said(model) == first


def test_rows_that_are_finite_are_learned_beside_those_that_are_not() -> None:
    for name, factory in MODELS.items():
        whole, partly = warmed(factory(chosen())), warmed(factory(chosen()))
        batch, demand = fresh()
        holes = np.arange(40) % 3 == 0
        whole.learn([(batch.take(~holes), demand[~holes])])
        partly.learn([(batch, np.where(holes, np.nan, demand))])
        assert said(whole) == said(partly), name


def test_learning_nothing_changes_nothing(model: Model) -> None:
    warmed(model)
    before = digest(model)
    batch, demand = fresh()
    model.learn([(batch.take(np.zeros(40, bool)), demand[:0])])
    assert digest(model) == before


def test_an_outlier_does_not_break_it_for_good(model: Model, name: str) -> None:
    warmed(model)
    healthy = make(name, chosen())
    warmed(healthy)
    batch, demand = fresh()
    poisoned = demand.copy()
    poisoned[:3] = 1e6
    model.learn([(batch, poisoned)])
    healthy.learn([(batch, demand)])
    assert_sound(model.predict(batch), 40)
    for batches in days(200, seed=4):
        model.learn(batches)
        healthy.learn(batches)
    there, expected = model.predict(batch), healthy.predict(batch)
    assert np.abs(there - expected).sum() <= 0.05 * expected.sum()


@pytest.mark.parametrize("name", ["bayes", "waves"])
def test_what_comes_far_from_what_was_said_is_spread_over_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sale in a hundred is thirty times as large: who looks like it is not thought larger."""

    def learned(share: float) -> Floats:
        drawn, model = np.random.default_rng(5), warmed(make(name, chosen()))
        for batches in days(150, seed=2):
            model.learn([(batch, demand * np.where(drawn.random(len(demand)) < share, 30.0, 1.0))
                         for batch, demand in batches])  # fmt: skip
        return model.predict(fresh()[0])

    plain, bounded = learned(0.0), learned(0.01)
    monkeypatch.setattr("learner.models.FAR", np.inf)
    unbounded = learned(0.01)
    assert bounded.sum() == pytest.approx(unbounded.sum(), rel=0.03), "the mean is kept"
    apart = [np.std(said / plain) for said in (bounded, unbounded)]
    assert apart[0] < apart[1] / 4


def test_where_nothing_is_ever_sold_it_comes_to_expect_next_to_nothing(model: Model) -> None:
    X = np.zeros((40, len(NAMES)))
    X[:, 0] = 1.0
    nothing = Batch(X=X, scale=np.full(40, 0.02), naive=np.zeros(40), level_phase=np.zeros(40),
                    phase_mean=np.zeros(40), season_phase=np.zeros(40), known=np.ones(40, bool),
                    closed=np.zeros(40, bool), rows=np.arange(40),
                    ahead=1 / HORIZONS)  # fmt: skip
    for _ in range(WARM + 30):
        model.learn([(nothing, np.zeros(40))])
    mean = model.predict(nothing)
    assert_sound(mean, 40)
    assert (mean <= 0.02).all()


def test_a_column_that_never_varies_does_not_spoil_the_others(model: Model) -> None:
    drawn = np.random.default_rng(2)
    for _ in range(WARM + 10):
        batch, demand = some(drawn, 1)
        X = batch.X.copy()
        X[:, 2] = 0.0
        X[:, 3] = 1.0
        model.learn([(replace(batch, X=X), demand)])
    assert_sound(model.predict(fresh()[0]), 40)


@pytest.mark.parametrize("name", [n for n in sorted(MODELS)
                                  if isinstance(MODELS[n](chosen()), Ratio)])  # fmt: skip
def test_what_learns_comes_closer_than_the_level_alone(name: str) -> None:
    model = warmed(MODELS[name](chosen()), 120)
    batch, demand = some(np.random.default_rng(77), 1, series=2000)
    error, levels = (np.abs(m - demand).mean() for m in (model.predict(batch), batch.level_phase))
    assert error < 0.85 * levels


def test_a_far_horizon_is_not_extrapolated_before_anything_of_it_is_known() -> None:
    model = MODELS["bayes"](chosen())
    drawn = np.random.default_rng(1)
    for _ in range(WARM):
        model.learn([some(drawn, 1)])
    near, _ = fresh(horizon=1)
    far, _ = fresh(horizon=HORIZONS)
    assert far.X[:, 1].tolist() == near.X[:, 1].tolist(), "the same series, seen from afar"
    assert model.predict(far) == pytest.approx(model.predict(near))


def test_an_unknown_model_is_refused_by_name_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"unknown model `byaes`.*bayes.*seasonal_naive"):
        make_models(chosen(champion="byaes"))


def test_the_champion_comes_first() -> None:
    made = make_models(chosen(champion="level_phase", challengers=("bayes", "seasonal_naive")))
    assert list(made) == ["level_phase", "bayes", "seasonal_naive", "twin"]


def unseeded_in_a_list() -> base.Estimator:
    return EWARegressor(models=[LinearRegression(), ARFRegressor(n_models=2)])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("river.linear_model.LinearRegresion", "cannot be imported"),
        ("nowhere.at.all", "cannot be imported"),
        ("river.preprocessing.StandardScaler", "is no River regressor"),
        ("river.forest.ARFRegressor", "without a seed"),
        ("river.linear_model.PARegressor", "cannot be kept in a snapshot"),
        ("river.ensemble.BaggingRegressor", "cannot be made of nothing: .*'model'"),
        (f"{__name__}:unseeded_in_a_list", "without a seed .ARFRegressor"),
    ],
)
def test_a_path_that_gives_no_model_is_refused_with_the_reason(path: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        make(path, chosen())
    assert caught.value.remedy
