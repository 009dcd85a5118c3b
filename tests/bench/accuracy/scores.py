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


def ratio_interval(
    case: Case, part: str, use: Mask, ours: Floats, theirs: Floats, draws: int = 2_000
) -> tuple[float, float, float]:
    """Ratio of two methods' RMSSE, with its 95 % block-bootstrap interval.

    Blocks are whole weeks of the part, drawn with replacement, the same for both methods and all
    series: what makes a week hard is common to them.

    Returns
    -------
    The ratio, and the interval's ends.
    """
    low, high = span(case, part)
    length = {"hour": 168, "day": 7, "week": 1}[case.settings.bucket]
    starts = np.arange(low, high, length)
    scale = case.scale()
    there = (use.sum(axis=0) > 0) & np.isfinite(scale)
    count = np.add.reduceat(use[:high, there], starts, axis=0).astype(float)

    def rmsse(mean: Floats) -> Floats:
        """Of the whole part, then of each draw, shape (1 + draws,)."""
        error = np.where(use, mean - case.units, 0.0)[:high, there]
        squared = np.add.reduceat(error**2, starts, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.sqrt((weeks @ squared) / (weeks @ count) / scale[there])
        return np.asarray(np.nanmean(each, axis=1))

    # A week is drawn as often as this says; the first row is the part as it is.
    drawn = np.random.default_rng(11)
    weeks = np.ones((1 + draws, len(starts)))
    weeks[1:] = drawn.multinomial(len(starts), np.full(len(starts), 1 / len(starts)), draws)
    ratios = rmsse(ours) / rmsse(theirs)
    return float(ratios[0]), *np.quantile(ratios[1:], [0.025, 0.975]).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of quantiles at one horizon, by level.

    ``hits``: the share of the non-randomised PIT at or below it; empty where only quantiles are
    known. ``covered``: the share of demand that is not above the quantile. ``median_wape`` judges
    medians; ``pinball`` is twice the mean over the levels, as a share of demand.
    """

    hits: dict[float, float]
    covered: dict[float, float]
    median_wape: float
    pinball: float


def calibration(
    case: Case, use: Mask, quantiles: Floats, cells: Floats | None, levels: Sequence[float]
) -> Calibration:
    """Judge distributions over what is used and alive.

    A count has a span of PIT, from the probability of less to that of no more; a level's hit rate
    is the mean share of that span at or below the level, which is uniform where forecasts are
    right (Czado, Gneiting, Held, 2009, "Predictive model assessment for count data").

    Parameters
    ----------
    quantiles
        Shape (levels, T, S).
    cells
        Probability of less than what came and of no more, (2, T, S); ``None``: not known.
    levels
        With 0.5 among them.
    """
    use = use & alive(case)
    actual = case.units[use]
    hits, covered, loss = {}, {}, []
    for level, quantile in zip(levels, quantiles[:, use], strict=True):
        if cells is not None:
            lower, upper = cells[:, use]
            width = np.maximum(upper - lower, 1e-12)
            hits[level] = float(np.clip((level - lower) / width, 0.0, 1.0).mean())
        covered[level] = float((actual <= quantile).mean())
        over = actual - quantile
        loss.append(np.maximum(level * over, (level - 1) * over).sum())
    median = quantiles[list(levels).index(0.5)][use]
    total = max(float(actual.sum()), 1e-9)
    return Calibration(
        hits=hits, covered=covered, median_wape=float(np.abs(median - actual).sum() / total),
        pinball=float(2 * np.mean(loss) / total),
    )  # fmt: skip


def alive(case: Case, silence: int = 56) -> Mask:
    """Where a series has sold within so many buckets up to the target, shape (T, S)."""
    sold = np.where(np.nan_to_num(case.units) > 0, np.arange(len(case.units))[:, None], -(10**6))
    last = np.maximum.accumulate(sold, axis=0)
    recent: Mask = np.arange(len(case.units))[:, None] - last < silence
    return recent


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
