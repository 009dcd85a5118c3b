"""LightGBM as one would run it in batch: a ratio target, re-trained each week, frozen here.

It is told what Salescast is told: lags, levels, the phase of the season, prices paid, and plans
as known at the origin (cases say them past the farthest horizon). One direct model a horizon, one
thread; no row is learned whose target was not known at the re-training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm  # type: ignore[import-not-found]
import numpy as np
import numpy.typing as npt

from stream.buckets import Calendar
from stream.settings import LEVELS
from tests.bench.accuracy.case import Case, Floats

Singles = npt.NDArray[np.float32]

#: The best of eight on July to September of P0 (all within half a per cent), then frozen.
PARAMETERS: dict[str, Any] = {
    "objective": "regression", "num_leaves": 15, "learning_rate": 0.03, "min_data_in_leaf": 100,
    "feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 1.0,
    "num_threads": 1, "seed": 7, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
ROUNDS = 300
#: Buckets between re-trainings: a week.
EVERY = {"hour": 168, "day": 7, "week": 1}
#: Most recent buckets learned from; all of a year of days.
REACH = {"hour": 168 * 8, "day": 400, "week": 160}
MOST_WEIGHT, MOST_RATIO = 200.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosted:
    """Means by target, (T, S), quantiles (levels, T, S), and CPU seconds in all."""

    mean: Floats
    quantiles: Floats
    seconds: float


def run(
    case: Case, horizon: int, span: tuple[int, int], plans: bool = True,
    levels: tuple[float, ...] = (), parameters: dict[str, Any] | None = None,
    rounds: int = ROUNDS,
) -> Boosted:  # fmt: skip
    """Forecast the rows of a span at one horizon.

    Parameters
    ----------
    plans
        Whether it is told of plans.
    levels
        Probabilities for which quantile models are trained too; their CPU is not counted.
    """
    started = time.process_time()
    chosen = {**PARAMETERS, **(parameters or {})}
    X, scale = features(case, horizon, plans)
    low, high = span
    every, reach = EVERY[case.settings.bucket], REACH[case.settings.bucket]
    mean = np.full(case.units.shape, np.nan)
    quantiles = np.full((len(levels), *case.units.shape), np.nan)
    other = 0.0
    for row in range(low, high, every):
        # At this origin, row - horizon, rows up to it are known: they are the last targets.
        last = row - horizon
        learned = slice(max(last + 1 - reach, 0), last + 1)
        target = np.arange(row, min(row + every, high))
        rows, s = X[learned], scale[learned]
        y = case.units[learned]
        use = np.isfinite(y) & np.isfinite(s)
        weight = np.minimum(s[use], MOST_WEIGHT)
        label = np.minimum(y[use], MOST_RATIO * s[use] + 12.0) / s[use]
        data = lightgbm.Dataset(rows[use], label=label, weight=weight, free_raw_data=False)
        there = np.isfinite(scale[target])
        ask, back = X[target][there], scale[target][there]
        model = lightgbm.train(chosen, data, num_boost_round=rounds)
        said = np.full(there.shape, np.nan)
        said[there] = np.maximum(model.predict(ask, num_threads=1), 0.0) * back
        mean[target] = said
        aside = time.process_time()
        for at, level in enumerate(levels):
            at_level = {**chosen, "objective": "quantile", "alpha": level}
            model = lightgbm.train(at_level, data, num_boost_round=rounds)
            said = np.full(there.shape, np.nan)
            said[there] = np.maximum(model.predict(ask, num_threads=1), 0.0) * back
            quantiles[at, target] = said
        other += time.process_time() - aside
    quantiles.sort(axis=0)
    return Boosted(mean=mean, quantiles=quantiles, seconds=time.process_time() - started - other)


def features(case: Case, horizon: int, plans: bool) -> tuple[Singles, Floats]:
    """Features (T, S, F) and the scale (T, S) of every target, from its origin on backwards."""
    units, season = case.units, case.season
    short, long = LEVELS[case.settings.bucket]
    rows, series = units.shape
    calendar = Calendar(case.settings)
    level, level_long = _mean(units, short), _mean(units, long)
    scale = np.maximum((level + level_long) / 2, 0.02)
    spread = np.sqrt(np.maximum(_mean(units**2, short) - level**2, 0.0))
    group = np.unique(np.asarray(case.categories), return_inverse=True)[1]
    profile = _profile(units, level, calendar, case.first, season)
    at_origin: list[Floats] = [
        level / scale, spread / scale, np.log(scale),
        _mean(units, max(season, 2)) / scale,
        _of_group(_mean(units, max(season, 2)), group) / np.maximum(_of_group(level, group), 0.1),
        *(_back(units, lag) / scale for lag in range(4 if season == 1 else 3)),
    ]  # fmt: skip
    age = np.cumsum(np.isfinite(units), axis=0).astype(float)
    at_origin.append(np.minimum(age, long))
    paid = _filled(case.price)
    usual = _mean(paid, long)
    at_origin.append(_log_ratio(paid, usual))
    columns = [_back(one, horizon) for one in at_origin]
    s = _back(scale, horizon)
    first_phase = -(-horizon // season) * season
    phases = [_back(units, first_phase + season * k) for k in range(4)]
    columns += [phases[0] / s, phases[1] / s, _over(phases[:2]) / s,
                _over(phases) / s]  # fmt: skip
    phase = np.array([calendar.phase(case.first + row) for row in range(rows)])
    origin = np.maximum(np.arange(rows) - horizon, 0)
    columns.append(profile[origin, phase][:, :])
    columns.append(np.broadcast_to(phase[:, None], (rows, series)))
    if season == 1:
        week = np.array([calendar.start(case.first + row).timetuple().tm_yday
                         for row in range(rows)])  # fmt: skip
        columns.append(np.broadcast_to(week[:, None], (rows, series)))
        columns.append(_back(units, 52) / s)
    columns.append(np.broadcast_to(group[None, :], (rows, series)))
    if plans and case.plans:
        promotion = np.nan_to_num(case.planned("promotion"))
        usually = _back(_mean(promotion, long), horizon)
        columns += [promotion, promotion - usually]
        span = max(season, 2)
        columns += [promotion - _back(promotion, span), _back(promotion, span)]
        columns.append(_alike(units, promotion, scale, first_phase, season) / s)
        near = _of_group(promotion, group)
        columns.append(near)
        planned = case.planned("price")
        if np.isfinite(planned).any():
            columns.append(_log_ratio(planned, _back(usual, horizon)))
    X = np.stack([np.asarray(column, np.float32) for column in columns], axis=2)
    return X, s


def _mean(values: Floats, length: int) -> Floats:
    """Mean of what is known of the last ``length`` rows, shape (T, S)."""
    there = np.isfinite(values)
    sums = np.cumsum(np.where(there, values, 0.0), axis=0)
    count = np.cumsum(there, axis=0).astype(float)
    sums[length:], count[length:] = sums[length:] - sums[:-length], count[length:] - count[:-length]
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = np.where(count > 0, sums / count, np.nan)
    return out


def _over(parts: Sequence[Floats]) -> Floats:
    """Mean of what is known over several tables, (T, S)."""
    stacked = np.stack(parts)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0)
    return mean


def _log_ratio(values: Floats, usual: Floats) -> Floats:
    """Logarithm of a price against the usual one; ``nan`` where either is none, or 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((values > 0) & (usual > 0), values / usual, np.nan)
    return np.log(ratio)


def _back(values: Floats, lag: int) -> Floats:
    """Values of ``lag`` rows ago."""
    if lag == 0:
        return values
    out = np.full(values.shape, np.nan)
    out[lag:] = values[:-lag]
    return out


def _filled(values: Floats) -> Floats:
    """The last one known."""
    rows = np.where(np.isfinite(values), np.arange(len(values))[:, None], 0)
    last = np.maximum.accumulate(rows, axis=0)
    out: Floats = np.take_along_axis(values, last, axis=0)
    return out


def _of_group(values: Floats, group: npt.NDArray[np.intp]) -> Floats:
    """Mean over each series' category, shape (T, S)."""
    out = np.empty(values.shape)
    for one in np.unique(group).tolist():
        members = group == one
        known = np.isfinite(values[:, members])
        sums = np.where(known, values[:, members], 0.0).sum(axis=1)
        out[:, members] = (sums / np.maximum(known.sum(axis=1), 1))[:, None]
    return out


def _profile(units: Floats, level: Floats, calendar: Calendar, first: int, season: int) -> Floats:
    """Each phase's demand against the level, over the last eight seasons, (T, season, S)."""
    rows, series = units.shape
    phase = np.array([calendar.phase(first + row) for row in range(rows)])
    out = np.ones((rows, season, series), np.float32)
    now = np.ones((season, series))
    share = 0.15
    before = _back(level, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.clip(np.where(before > 0, units / before, np.nan), 0, 5)
    for row in range(rows):
        seen = np.isfinite(ratio[row])
        at = phase[row]
        now[at, seen] += share * (ratio[row, seen] - now[at, seen])
        out[row] = now
    return np.asarray(out, np.float64)


def _alike(units: Floats, promotion: Floats, scale: Floats, first: int, season: int) -> Floats:
    """Mean of the last eight of the same phase, each by how like its promotion was."""
    total, weight = np.zeros(units.shape), np.zeros(units.shape)
    for k in range(8):
        past = _back(units, first + k * season)
        apart = _back(promotion, first + k * season) - promotion
        likeness = np.where(np.isfinite(past), 1.0 / (1.0 + (apart / 0.05) ** 2), 0.0)
        total += likeness * np.nan_to_num(past)
        weight += likeness
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = np.where(weight > 0, total / weight, np.nan)
    return out
