"""River's own models: its time series models series by series, its regressors on the features.

The regressors run in the shard as any River regressor does, by import path. Configurations were
chosen on July to September of every fifth series of P0, out of some dozens, then frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from river import linear_model, optim, preprocessing, rules, time_series, tree

from tests.bench.accuracy.case import Case, Floats

#: In the shard: import paths of functions that give them.
IN_SHARD = {
    "River Hoeffding tree": "tests.bench.accuracy.river_own:hoeffding_tree",
    "River AMRules": "tests.bench.accuracy.river_own:amrules",
}


def hoeffding_tree() -> Any:
    """A tree with a mean or a linear model in each leaf, whichever errs less."""
    return preprocessing.StandardScaler() | tree.HoeffdingTreeRegressor(grace_period=200)


def amrules() -> Any:
    """Rules that come and go with drift."""
    return preprocessing.StandardScaler() | rules.AMRules(n_min=200)


def snarimax(season: int) -> Any:
    """Autoregression on the last two buckets and four of the same phase."""
    return time_series.SNARIMAX(
        p=2, d=0, q=0, m=season, sp=4, sd=0, sq=0,
        regressor=preprocessing.StandardScaler()
        | linear_model.LinearRegression(optimizer=optim.SGD(0.003), l2=0.1),
    )  # fmt: skip


def holt_winters(season: int) -> Any:
    """Level, trend and season, additive."""
    made: Callable[..., Any] = time_series.HoltWinters
    return made(alpha=0.05, beta=0.03, gamma=0.05, seasonality=season)


BY_SERIES: dict[str, Callable[[int], Any]] = {
    "River SNARIMAX": snarimax,
    "River HoltWinters": holt_winters,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BySeries:
    """Means by horizon and target, (T, S), ``nan`` elsewhere; CPU seconds of all horizons."""

    means: dict[int, Floats]
    seconds: float


def run(case: Case, method: str, span: tuple[int, int], series: npt.NDArray[np.intp]) -> BySeries:
    """Learn series by series, bucket by bucket, and forecast each origin of a span.

    A forecast is kept between 0 and eight times the most that was seen; one that is no number,
    or that the model cannot make yet, is none.
    """
    low, high = span
    farthest = max(case.horizons)
    means = {h: np.full(case.units.shape, np.nan) for h in case.horizons}
    started = time.process_time()
    for at in series.tolist():
        model, most = BY_SERIES[method](case.season), 1.0
        for row in range(high - 1):
            y = float(case.units[row, at])
            if not np.isfinite(y):
                continue
            model.learn_one(y)
            most = max(most, y)
            if row < low - farthest:
                continue
            try:
                ahead = model.forecast(horizon=farthest)
            except IndexError:  # HoltWinters before its warm-up is over
                continue
            for h, mean in means.items():
                if low <= row + h < high and np.isfinite(ahead[h - 1]):
                    mean[row + h, at] = min(max(ahead[h - 1], 0.0), 8 * most)
    return BySeries(means=means, seconds=time.process_time() - started)
