"""Scores of forecasts: means by RMSSE and bias, WAPE beside them, quantiles by their hits.

RMSSE is each series' root mean squared error over that of its own seasonal difference in the
warm-up, then the mean over series. A bucket counts where every method has a forecast, so that
all are judged on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.bench.accuracy.case import Case, Floats

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one method at one horizon; ``n`` series-buckets."""

    n: int
    rmsse: float
    wape: float
    bias: float


def span(case: Case, part: str) -> tuple[int, int]:
    """Rows of a part: ``tune``, ``test`` or ``both``."""
    return {"tune": case.tune, "test": case.test, "both": (case.tune[0], case.test[1])}[part]


def common(case: Case, part: str, horizon: int, forecasts: Sequence[Floats]) -> Mask:
    """What is scored, by target, shape (T, S): demand is known, every method has a forecast."""
    low, high = span(case, part)
    use = np.zeros(case.units.shape, bool)
    use[low:high] = np.isfinite(case.units[low:high])
    if case.scored is not None:
        use[:horizon] = False
        use[horizon:] &= case.scored[:-horizon]
    for mean in forecasts:
        use &= np.isfinite(mean)
    return use


def score(case: Case, use: Mask, mean: Floats) -> Score:
    """Score means over what is used."""
    error = np.where(use, mean - case.units, 0.0)
    actual = np.where(use, case.units, 0.0)
    per_series = use.sum(axis=0)
    scale = case.scale()
    there = (per_series > 0) & np.isfinite(scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt((error**2).sum(axis=0) / per_series / scale)
    total = max(float(actual.sum()), 1e-9)
    return Score(
        n=int(use.sum()),
        rmsse=float(ratio[there].mean()) if there.any() else float("nan"),
        wape=float(np.abs(error).sum() / total),
        bias=float(error.sum() / total),
    )


def hits(
    case: Case, use: Mask, quantiles: Floats, levels: Sequence[float]
) -> dict[float, tuple[float, float]]:
    """Mid-distribution hit rate and one-sided coverage, by level.

    The hit rate counts demand below a quantile in full and demand at it by half, and a quantile
    is a whole number of units where demand is: so that counts are judged fairly.
    """
    out = {}
    actual = case.units[use]
    for at, level in enumerate(levels):
        quantile = quantiles[at][use]
        below, equal = actual < quantile, actual == quantile
        out[level] = (
            float(below.mean() + equal.mean() / 2),
            float((actual <= quantile).mean()),
        )
    return out


def table(
    case: Case, part: str, means: Mapping[tuple[str, int], Floats]
) -> dict[tuple[str, int], Score]:
    """Scores of all methods at all horizons, seasonal naive first."""
    out = {}
    for horizon in case.horizons:
        methods = {"naive": case.naive(horizon)} | {
            name: mean for (name, h), mean in means.items() if h == horizon
        }
        use = common(case, part, horizon, list(methods.values()))
        for name, mean in methods.items():
            out[name, horizon] = score(case, use, mean)
    return out
