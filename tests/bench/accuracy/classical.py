"""statsforecast's methods on the same cases: each series by itself, without plans.

Every origin of the span forecasts all horizons; AutoETS is fitted anew each week and carried
forward in between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
from statsforecast import StatsForecast  # type: ignore[import-not-found]
from statsforecast.models import (  # type: ignore[import-not-found]
    AutoETS,
    SeasonalNaive,
    WindowAverage,
)

from stream.settings import LEVELS
from tests.bench.accuracy.boosted import EVERY
from tests.bench.accuracy.case import Case, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Classical:
    """Means by horizon and target, (T, S), ``nan`` elsewhere; CPU seconds of all horizons."""

    means: dict[int, Floats]
    seconds: float


def run(case: Case, method: str, span: tuple[int, int], series: npt.NDArray[np.intp]) -> Classical:
    """Forecast the rows of a span.

    Parameters
    ----------
    method
        ``AutoETS``, ``SeasonalNaive``, or ``WindowAverage`` over the short level's window.
    series
        Columns of the case to forecast.
    """
    season, (short, _) = case.season, LEVELS[case.settings.bucket]
    model = {
        "AutoETS": lambda: AutoETS(season_length=season),
        "SeasonalNaive": lambda: SeasonalNaive(season_length=season),
        "WindowAverage": lambda: WindowAverage(window_size=short),
    }[method]()
    every = EVERY[case.settings.bucket]
    low, high = span
    farthest = max(case.horizons)
    # Rows past the span's end are asked for only as targets that nothing scores.
    rows = high - 1 + farthest
    units = np.zeros((rows, len(series)))
    units[:high] = case.units[:high, series]
    frame = pd.DataFrame(
        {"unique_id": np.repeat(series, rows), "ds": np.tile(np.arange(rows), len(series)),
         "y": units.T.ravel()}
    ).dropna()  # fmt: skip
    # A series without a fortnight of history by the first origin is not forecast.
    known = np.isfinite(units[: low - farthest + 1]).sum(axis=0) >= 2 * max(season, 4)
    frame = frame[frame["unique_id"].isin(series[known])]
    started = time.process_time()
    said = StatsForecast(models=[model], freq=1, n_jobs=1).cross_validation(
        df=frame, h=farthest, step_size=1, n_windows=high - low + farthest - 1,
        refit=every if method == "AutoETS" else True,
    )  # fmt: skip
    seconds = time.process_time() - started
    ahead = (said["ds"] - said["cutoff"]).to_numpy()
    means = {}
    for horizon in case.horizons:
        pick = said[(ahead == horizon) & (said["ds"].to_numpy() < high)]
        mean = np.full(case.units.shape, np.nan)
        mean[pick["ds"].to_numpy(), pick["unique_id"].to_numpy()] = np.maximum(pick[method], 0.0)
        mean[:low] = np.nan
        means[horizon] = mean
    return Classical(means=means, seconds=seconds)
