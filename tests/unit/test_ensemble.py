"""The ensemble weighs what its experts say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from learner.ensemble import Ensemble, Floats
from learner.features import NAMES, Batch
from tests.learner_parts import batch

DRAWN = np.random.default_rng(3)


@dataclass
class Factor:
    """An expert that says a fixed share of the level."""

    share: float

    def predict(self, batch: Batch) -> Floats:
        return self.share * batch.scale

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        """It never changes its mind."""

    def digest(self) -> list[Floats]:
        return []


def ensemble(*shares: float) -> Ensemble:
    return Ensemble({f"x{share}": Factor(share) for share in shares}, (1 / 28, 1.0))


def told(model: Ensemble, demand: Floats, buckets: int = 60) -> Ensemble:
    rows = batch(np.zeros((len(demand), len(NAMES))))
    for _ in range(buckets):
        model.learn([(rows, DRAWN.poisson(demand).astype(float))])
    return model


def test_before_anything_came_all_experts_weigh_the_same() -> None:
    rows = batch(np.zeros((3, len(NAMES))))
    assert ensemble(0.5, 1.5).predict(rows) == pytest.approx(rows.scale)


def test_each_series_comes_to_trust_the_expert_that_is_right_for_it() -> None:
    model = told(ensemble(0.3, 1.7), np.array([3.0, 17.0, 3.0, 17.0]))
    rows = batch(np.zeros((4, len(NAMES))))
    assert model.predict(rows) == pytest.approx([3.0, 17.0, 3.0, 17.0], rel=0.1)


def test_a_series_never_seen_is_forecast_as_serves_all_best() -> None:
    model = told(ensemble(0.3, 1.7), np.full(20, 17.0))
    rows = batch(np.zeros((21, len(NAMES))))
    assert model.predict(rows)[20] == pytest.approx(17.0, rel=0.05)


def test_weights_times_what_experts_say_add_up_to_the_forecast() -> None:
    model = told(ensemble(0.3, 1.0, 1.7), np.array([3.0, 8.0, 12.0, 17.0]))
    rows = batch(np.zeros((4, len(NAMES))))
    parts = [
        weight * model.experts[name].predict(rows) for name, weight in model.weights(rows).items()
    ]
    assert sum(parts) == pytest.approx(model.predict(rows))


def test_a_bias_that_all_experts_share_is_balanced() -> None:
    model = told(ensemble(0.9), np.full(30, 10.0), buckets=120)
    rows = batch(np.zeros((30, len(NAMES))))
    assert model.predict(rows).mean() == pytest.approx(10.0, rel=0.02)


def test_one_outlier_does_not_make_the_weights_forget() -> None:
    model = told(ensemble(0.3, 1.7), np.full(4, 3.0))
    rows = batch(np.zeros((4, len(NAMES))))
    model.learn([(rows, np.full(4, 1e6))])
    assert model.predict(rows) == pytest.approx(np.full(4, 3.0), rel=0.25)
