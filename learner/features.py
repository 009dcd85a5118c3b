"""What a model is told about a forecast: one function for learning and forecasting alike.

Features of an origin are worked out from the panel each time, amended facts allowed, plans as
known at that origin; they are not stored. Demand is measured in units of the series' own level
(a *ratio*), so that one regression serves series of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.panel import SHRINKAGE, Panel

Floats = npt.NDArray[np.float64]

#: Seasons looked back on for the mean of a phase, and the prior weight of the group's.
PHASES, PHASE_PRIOR = 8, 2.0
#: Observed buckets' worth of the mean of all that a category's mean starts from.
GROUP_PRIOR = 10.0
#: Smallest scale, in units a bucket.
MIN_SCALE = 0.02
#: Bounds of a ratio: what no level explains is clipped, so that one outlier cannot spoil all.
MAX_RATIO = 8.0

_BASE = ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase",
         "promotion", "promotion_change", "promotion_phase", "price", "price_known")  # fmt: skip
#: Those whose effect may change with the horizon.
_BENT = ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase", "promotion")
NAMES: tuple[str, ...] = (*_BASE, *(f"{name}:h" for name in _BENT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Features of n series at one origin and horizon.

    ``X`` (n, F) as named in ``NAMES``; ``scale`` (n,), the level in units a bucket; ``naive``
    and ``level_phase`` (n,), simple forecasts in units; ``known`` (n,): whether the series was
    listed at the origin; ``closed`` (n,): a closure is planned for the target.
    """

    X: Floats
    scale: Floats
    naive: Floats
    level_phase: Floats
    known: npt.NDArray[np.bool_]
    closed: npt.NDArray[np.bool_]

    def take(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Some of the series."""
        return Batch(
            X=self.X[rows],
            scale=self.scale[rows],
            naive=self.naive[rows],
            level_phase=self.level_phase[rows],
            known=self.known[rows],
            closed=self.closed[rows],
        )


def features(panel: Panel, origin: int, horizon: int, known: int | None = None) -> Batch:
    """Describe every series for a forecast made at the close of ``origin``.

    Parameters
    ----------
    panel
        Facts; demand after ``origin`` is not looked at. Usual prices and the groups' profiles of
        the season are taken as they are now, slow as they move.
    origin
        A bucket the panel keeps.
    horizon
        Buckets ahead, from 1.
    known
        Bucket up to whose close plans count as known; ``None``: the origin.
    """
    target = origin + horizon
    known = origin if known is None else known
    season = panel.season
    short, seen = panel.level(origin, panel.short)
    long, seen_long = panel.level(origin, panel.long)
    code = np.asarray(panel.column("category"))
    short = _shrunk(short, seen, code, len(panel.phases))
    long = np.where(seen_long > 0, (long * seen_long + SHRINKAGE * short)
                    / (seen_long + SHRINKAGE), short)  # fmt: skip
    scale = np.maximum((short + long) / 2, MIN_SCALE)
    group = panel.phases[code, panel.calendar.phase(target)]
    level_phase = short * group

    recent, seen_recent = panel.window(origin, max(season, 2))
    recent = np.where(seen_recent > 0, recent, short)
    last = panel.units(origin)
    last = np.where(np.isnan(last), level_phase, last)
    back = target - season * -(-horizon // season)
    same = panel.units(back)
    total, count = np.zeros(panel.size), np.zeros(panel.size)
    naive = np.full(panel.size, np.nan)
    for k in range(PHASES):
        units = panel.units(back - k * season)
        there = ~np.isnan(units)
        total[there] += units[there]
        count += there
        naive = np.where(np.isnan(naive), units, naive)
    naive = np.where(np.isnan(naive), long, naive)
    same = np.where(np.isnan(same), level_phase, same)
    phase_mean = (total + PHASE_PRIOR * level_phase) / (count + PHASE_PRIOR)

    promotion = panel.plans.promotion(panel, target, known)
    usual_promotion = _mean_promotion(panel, origin)
    price = panel.plans.price(panel, target, known)
    usual_price = np.asarray(panel.column("usual_price"))
    known_price = np.isfinite(price) & np.isfinite(usual_price) & (usual_price > 0) & (price > 0)
    log_price = np.zeros(panel.size)
    log_price[known_price] = np.log(price[known_price] / usual_price[known_price])

    base = {
        "one": np.ones(panel.size),
        "short": short / scale,
        "season": recent / scale,
        "last": last / scale,
        "same_phase": same / scale,
        "phase_mean": phase_mean / scale,
        "group_phase": group,
        "promotion": promotion,
        "promotion_change": promotion - usual_promotion,
        "promotion_phase": (promotion - usual_promotion) * group,
        "price": np.clip(log_price, -2.0, 2.0),
        "price_known": known_price.astype(np.float64),
    }
    ahead = horizon / panel.settings.horizons
    X = np.empty((panel.size, len(NAMES)))
    for at, name in enumerate(_BASE):
        X[:, at] = np.clip(base[name], -MAX_RATIO, MAX_RATIO)
    for at, name in enumerate(_BENT, start=len(_BASE)):
        X[:, at] = X[:, _BASE.index(name)] * ahead
    return Batch(
        X=X,
        scale=scale,
        naive=naive,
        level_phase=level_phase,
        known=np.asarray(panel.column("listed")) <= origin,
        closed=panel.plans.closed(panel, target, known),
    )


def _shrunk(level: Floats, seen: Floats, code: npt.NDArray[np.int_], groups: int) -> Floats:
    """Draw a level towards its category's mean by as much as little was seen of it."""
    total = (level * seen).sum()
    if total <= 0:
        return level
    overall = total / seen.sum()
    sums = np.bincount(code, level * seen, groups)
    weight = np.bincount(code, seen, groups)
    mean = (sums + GROUP_PRIOR * overall) / (weight + GROUP_PRIOR)
    drawn: Floats = (level * seen + SHRINKAGE * mean[code]) / (seen + SHRINKAGE)
    return drawn


def _mean_promotion(panel: Panel, origin: int) -> Floats:
    """Mean promotion over the long window up to an origin, shape (S,)."""
    start = max(origin - panel.long, panel.oldest - 1)
    if origin <= start:
        return np.zeros(panel.size)
    sums = panel.of("sum_promotion", origin) - panel.of("sum_promotion", start)
    since = np.minimum(origin - np.asarray(panel.column("listed")) + 1, origin - start)
    mean: Floats = np.asarray(sums, np.float64) / 1000.0 / np.maximum(since, 1)
    return mean
