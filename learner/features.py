"""What a model is told about a forecast: one function for learning and forecasting alike.

Features of an origin are worked out from the panel each time, amended facts allowed, plans as
known at that origin; they are not stored. Demand is measured in units of the series' own level
(a *ratio*), so that one regression serves series of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner import habits
from learner.holidays import covariates
from learner.levels import MIN_SCALE, MOST_LOG_PRICE, Levels, known_price, levels, log_price
from learner.panel import Panel
from learner.usual import score
from stream.settings import Settings

Floats = npt.NDArray[np.float64]

#: Seasons looked back on for the mean of a phase, and the prior weight of the group's.
PHASES, PHASE_PRIOR = 8, 2.0
#: Difference of promotion at which a past bucket counts for half.
LIKE = 0.05
#: Bounds of a ratio: what no level explains is clipped, so that one outlier cannot spoil all.
MAX_RATIO = 8.0

#: Least mean, in units, that is served of a bucket in which something can be sold: only where
#: nothing can be is nothing certain.
LEAST_MEAN = 1e-6

BASE = ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase", "robust",
         "fast_phase", "fast_own", "season_own", "promotion", "promotion_change",
         "promotion_phase", "price", "price_known", "promotion_mean", "promotion_before",
         "promotion_near", "price_near", "group_recent", "age", "year", "plain", "promotion_own",
         "price_own", "own_phase", "usual")  # fmt: skip
#: Those whose effect may change with the horizon.
_BENT = ("one", "promotion")
#: Those whose effect fades with the horizon: what was sold last says most of the next bucket.
_NEAR = ("one", "last", "season", "fast_phase", "fast_own", "short", "phase_mean", "promotion_mean",
         "group_recent", "season_own")  # fmt: skip
#: Those of which the next bucket says more, the more a series sells: chance hides less of it.
_SIZED = ("last", "group_phase", "phase_mean")
#: Units a bucket of a series of half the size.
HALF_SIZE = 8.0
_NEAR_AT, _SIZED_AT, _BENT_AT = (
    [BASE.index(name) for name in names] for names in (_NEAR, _SIZED, _BENT)
)
_CROSSED = (
    *(f"{name}:1" for name in _NEAR),
    *(f"{name}:size" for name in _SIZED),
    *(f"{name}:h" for name in _BENT),
)
#: Names of the columns where no covariates are set.
NAMES: tuple[str, ...] = (*BASE, *_CROSSED)


def columns(settings: Settings) -> tuple[str, ...]:
    """Names of the columns of ``Batch.X``: each covariate has two more.

    ``x:name`` is its score, ``x:name:own`` that score times the answer of the series' category.

    Examples
    --------
    >>> columns(Settings(covariates=("rain",)))[len(BASE) : len(BASE) + 3]
    ('x:rain', 'x:rain:own', 'one:1')
    """
    more = [name for one in covariates(settings) for name in (f"x:{one}", f"x:{one}:own")]
    return (*BASE, *more, *_CROSSED)


def size(scale: Floats) -> Floats:
    """How much a series sells, from 0 to 1, by its level, shape (n,)."""
    return scale / (scale + HALF_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Features of n series at one origin and horizon.

    ``X`` (n, F) as named by ``columns``, column by column in memory; ``scale`` (n,), the level in
    units a bucket; ``naive``, ``level_phase``, ``phase_mean`` and ``season_phase`` (n,), simple
    forecasts in units; ``known`` (n,): whether the series was listed at the origin; ``closed``
    (n,): nothing can be sold in the target, for a closure is planned or the product is not
    listed; ``rows`` (n,): the series' rows in the panel; ``ahead``: the horizon as a share of the
    farthest.
    """

    X: Floats
    scale: Floats
    naive: Floats
    level_phase: Floats
    phase_mean: Floats
    season_phase: Floats
    known: npt.NDArray[np.bool_]
    closed: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.intp]
    ahead: float

    def served(self, said: Floats) -> Floats:
        """What is served where a model says this mean, shape (n,)."""
        return np.where(self.closed, 0.0, np.maximum(said, LEAST_MEAN))

    def take(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Some of the series."""
        if rows.all():
            return self
        return Batch(
            X=self.X.T[:, rows].T,
            scale=self.scale[rows],
            naive=self.naive[rows],
            level_phase=self.level_phase[rows],
            phase_mean=self.phase_mean[rows],
            season_phase=self.season_phase[rows],
            known=self.known[rows],
            closed=self.closed[rows],
            rows=self.rows[rows],
            ahead=self.ahead,
        )


def features(
    panel: Panel,
    origin: int,
    horizon: int,
    known: int | None = None,
    wishes: Mapping[str, Floats] | None = None,
    at: Levels | None = None,
) -> Batch:
    """Describe every series for a forecast made at the close of ``origin``.

    Parameters
    ----------
    panel
        Facts; demand after ``origin`` is not looked at. Usual prices and answers to plans are
        taken as they are now, slow as they move.
    origin
        A bucket the panel keeps.
    horizon
        Buckets ahead, from 1.
    known
        Bucket up to whose close plans count as known; ``None``: the origin.
    wishes
        Values to suppose in the place of plans: ``promotion``, ``price``, ``closed`` and covariates
        by name, shape (S,) each, ``nan`` where plans hold.
    at
        ``levels`` of the origin where they were worked out before; they serve all horizons.
    """
    target = origin + horizon
    known = origin if known is None else known
    season = panel.season
    listed = np.asarray(panel.column("listed"))
    code = np.asarray(panel.column("category"))
    at = levels(panel, origin) if at is None else at
    short, long, scale, recent = at.short, at.long, at.scale, at.recent
    group = panel.profiles.phase(origin, target)[code]
    own_phase = habits.own_phase(panel, target, at.usual, group)
    level_phase = short * own_phase

    last = np.where(np.isnan(at.last), level_phase, at.last)
    promotion = _wished(panel.plans.promotion(panel, target, known), wishes, "promotion")
    total, count = np.zeros(panel.size), np.zeros(panel.size)
    alike, weight = np.zeros(panel.size), np.zeros(panel.size)
    naive = np.full(panel.size, np.nan)
    past = panel.calendar.alike(target, origin, PHASES)
    same = panel.units(past[0]) if past else naive
    for back in past:
        units = panel.units(back)
        there = ~np.isnan(units)
        units_there = np.where(there, units, 0.0)
        total += units_there
        count += there
        if back >= panel.oldest:
            # How like the planned promotion was that bucket's: 1 at the same share.
            apart = panel.promotion(back) - promotion
            likeness = there / (1.0 + (apart / LIKE) ** 2)
            alike += likeness * units_there
            weight += likeness
        naive = np.where(np.isnan(naive), units, naive)
    naive = np.where(np.isnan(naive), long, naive)
    same = np.where(np.isnan(same), level_phase, same)
    phase_mean = (total + PHASE_PRIOR * level_phase) / (count + PHASE_PRIOR)

    promotion_mean = (alike + PHASE_PRIOR / 2 * phase_mean) / (weight + PHASE_PRIOR / 2)
    price = _wished(panel.plans.price(panel, target, known), wishes, "price")
    log = log_price(panel, price)

    own = np.clip(phase_mean / np.maximum(long, MIN_SCALE), 0.0, 4.0)
    change = promotion - at.usual_promotion
    near = _group_mean(change, scale, code, len(panel.profiles))
    # What was promoted in the season before is stocked up on.
    before = np.zeros(panel.size)
    start = max(target - season, panel.oldest)
    if start <= origin:
        before = panel.promotion(min(start, origin)) - at.usual_promotion
    to_promotion, to_price = panel.profiles.to_offers()
    base = {
        "one": np.ones(panel.size),
        "short": short / scale,
        "season": recent / scale,
        "last": last / scale,
        "same_phase": same / scale,
        "phase_mean": phase_mean / scale,
        "group_phase": group,
        "robust": at.robust / scale,
        "fast_phase": at.fast * group / scale,
        "fast_own": at.fast * own / scale,
        "season_own": recent * own / scale,
        "promotion": promotion,
        "promotion_change": change,
        "promotion_phase": change * group,
        "price": log,
        "price_known": known_price(panel, price).astype(np.float64),
        "promotion_mean": promotion_mean / scale,
        "promotion_before": before,
        "promotion_near": near,
        "price_near": np.clip(
            log - _group_mean(log, scale, code, len(panel.profiles)),
            -MOST_LOG_PRICE,
            MOST_LOG_PRICE,
        ),
        "group_recent": at.group_recent,
        "age": at.age,
        "year": panel.profiles.year(origin, target)[code] - 1.0,
        "plain": at.plain / scale,
        "promotion_own": change * to_promotion[code],
        "price_own": log * to_price[code],
        "own_phase": own_phase,
        "usual": habits.held(at.usual, scale),
    }
    for which, name in enumerate(panel.covariates):
        wish = None if wishes is None else wishes.get(name)
        values = None
        if wish is not None:
            planned = panel.plans.covariate(panel, target, known, name)
            values = np.where(np.isnan(wish), planned, wish)
        found = score(panel, name, target, known, values)
        base[f"x:{name}"] = found
        base[f"x:{name}:own"] = found * panel.profiles.answer(which)[code]
    ahead = horizon / panel.settings.horizons
    names = columns(panel.settings)
    X = np.empty((len(names), panel.size)).T
    rows = X.T
    for row, name in zip(rows, base, strict=False):
        # np.clip does the same in twice the time where series are few.
        np.minimum(np.maximum(base[name], -MAX_RATIO, out=row), MAX_RATIO, out=row)
    crossed = iter(rows[len(base) :])
    for at_one in _NEAR_AT:
        np.divide(rows[at_one], horizon, out=next(crossed))
    sized = size(scale) / horizon
    for at_one in _SIZED_AT:
        np.multiply(rows[at_one], sized, out=next(crossed))
    for at_one in _BENT_AT:
        np.multiply(rows[at_one], ahead, out=next(crossed))
    closed = _wished(panel.plans.closed(panel, target, known), wishes, "closed") > 0
    return Batch(
        X=X,
        scale=scale,
        naive=naive,
        level_phase=level_phase,
        phase_mean=phase_mean,
        season_phase=recent * own_phase,
        known=listed <= origin,
        closed=closed | ~panel.for_sale(target),
        rows=np.arange(panel.size),
        ahead=ahead,
    )


def _wished(planned: npt.NDArray[Any], wishes: Mapping[str, Floats] | None, name: str) -> Floats:
    """What is planned, or supposed in its place, shape (S,)."""
    if wishes is None or name not in wishes:
        return planned
    return np.where(np.isnan(wishes[name]), planned, wishes[name])


def _group_mean(values: Floats, weights: Floats, code: npt.NDArray[np.int_], groups: int) -> Floats:
    """Weighted mean of each series' category, shape (S,)."""
    sums = np.bincount(code, values * weights, groups)
    mean: Floats = (sums / np.maximum(np.bincount(code, weights, groups), 1e-9))[code]
    return mean
