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

from learner.holidays import covariates
from learner.panel import Panel
from learner.usual import score
from stream.settings import Settings

Floats = npt.NDArray[np.float64]

#: Seasons looked back on for the mean of a phase, and the prior weight of the group's.
PHASES, PHASE_PRIOR = 8, 2.0
#: How much more slowly a category's mean leaves that of all than a series' leaves its category's.
GROUP_PRIOR = 3.0
#: How much a bucket scatters beyond chance; bounds of how much series of a kind differ.
NOISE, SPREADS = 0.3, (0.25, 4.0)
#: Buckets of a fast level, the share that a bucket leaves to the next one, and the weight of the
#: short level in it.
FAST, FAST_KEPT, FAST_PRIOR = 7, 0.65, 0.5
#: Seasons that a robust level looks at, and how many deviations from their median it takes.
SEASONS, TOLERANCE = 5, 1.5
#: Most buckets' worth of what is usual that a level starts from.
MOST_PRIOR = 14.0
#: How much more the level of a series says of one that replaces it than a category's mean does.
HEIR = 3.0
#: Smallest scale, in units a bucket.
MIN_SCALE = 0.02
#: Difference of promotion at which a past bucket counts for half.
LIKE = 0.05
#: Bounds of a ratio: what no level explains is clipped, so that one outlier cannot spoil all.
MAX_RATIO = 8.0

BASE = ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase", "robust",
         "fast_phase", "fast_own", "season_own", "promotion", "promotion_change",
         "promotion_phase", "price", "price_known", "promotion_mean", "promotion_before",
         "promotion_near", "price_near", "group_recent", "age", "year")  # fmt: skip
#: Those whose effect may change with the horizon.
_BENT = ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase", "promotion",
         "promotion_mean", "group_recent")  # fmt: skip
#: Those whose effect fades with the horizon: what was sold last says most of the next bucket.
_NEAR = ("one", "last", "season", "fast_phase", "fast_own", "short", "phase_mean", "promotion_mean")
#: Names of the columns where no covariates are set.
NAMES: tuple[str, ...] = (
    *BASE, *(f"{name}:1" for name in _NEAR), *(f"{name}:h" for name in _BENT)
)  # fmt: skip


def columns(settings: Settings) -> tuple[str, ...]:
    """Names of the columns of ``Batch.X``: each covariate has two more.

    ``x:name`` is its score, ``x:name:own`` that score times the answer of the series' category.

    Examples
    --------
    >>> columns(Settings(covariates=("rain",)))[len(BASE) : len(BASE) + 3]
    ('x:rain', 'x:rain:own', 'one:1')
    """
    more = [name for one in covariates(settings) for name in (f"x:{one}", f"x:{one}:own")]
    near = (f"{name}:1" for name in _NEAR)
    return (*BASE, *more, *near, *(f"{name}:h" for name in _BENT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Features of n series at one origin and horizon.

    ``X`` (n, F) as named by ``columns``; ``scale`` (n,), the level in units a bucket; ``naive``,
    ``level_phase``, ``phase_mean`` and ``season_phase`` (n,), simple forecasts in units; ``known``
    (n,): whether the series was listed at the origin; ``closed`` (n,): nothing can be sold in the
    target, for a closure is planned or the product is not listed; ``rows`` (n,): the series' rows
    in the panel; ``ahead``: the horizon as a share of the farthest.
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

    def take(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Some of the series."""
        return Batch(
            X=self.X[rows],
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
    overall: float | None = None,
) -> Batch:
    """Describe every series for a forecast made at the close of ``origin``.

    Parameters
    ----------
    panel
        Facts; demand after ``origin`` is not looked at. Usual prices and answers to covariates
        are taken as they are now, slow as they move.
    origin
        A bucket the panel keeps.
    horizon
        Buckets ahead, from 1.
    known
        Bucket up to whose close plans count as known; ``None``: the origin.
    wishes
        Values to suppose in the place of plans: ``promotion``, ``price``, ``closed`` and covariates
        by name, shape (S,) each, ``nan`` where plans hold.
    overall
        ``overall_level`` of the whole panel where this one is a part of it.
    """
    target = origin + horizon
    known = origin if known is None else known
    season = panel.season
    listed = np.asarray(panel.column("listed"))
    short, seen = panel.level(origin, panel.short)
    long, seen_long = panel.level(origin, panel.long)
    code = np.asarray(panel.column("category"))
    short = _shrunk(short, seen, panel, overall)
    own = _prior(short, 1.0)
    long = np.where(seen_long > 0, (long * seen_long + own * short) / (seen_long + own), short)
    scale = np.maximum((short + long) / 2, MIN_SCALE)
    group = panel.profiles.phase(origin, target)[code]
    level_phase = short * group

    recent, seen_recent = panel.window(origin, max(season, 2))
    recent = np.where(seen_recent > 0, recent, short)
    robust = _robust(panel, origin, short)
    last = panel.units(origin)
    last = np.where(np.isnan(last), level_phase, last)
    back = target - season * -(-horizon // season)
    same = panel.units(back)
    promotion = _wished(panel.plans.promotion(panel, target, known), wishes, "promotion")
    total, count = np.zeros(panel.size), np.zeros(panel.size)
    alike, weight = np.zeros(panel.size), np.zeros(panel.size)
    naive = np.full(panel.size, np.nan)
    for k in range(PHASES):
        units = panel.units(back - k * season)
        there = ~np.isnan(units)
        units_there = np.where(there, units, 0.0)
        total += units_there
        count += there
        if panel.kept(back - k * season):
            # How like the planned promotion was that bucket's: 1 at the same share.
            apart = panel.of("promotion", back - k * season) - promotion
            likeness = there / (1.0 + (apart / LIKE) ** 2)
            alike += likeness * units_there
            weight += likeness
        naive = np.where(np.isnan(naive), units, naive)
    naive = np.where(np.isnan(naive), long, naive)
    same = np.where(np.isnan(same), level_phase, same)
    phase_mean = (total + PHASE_PRIOR * level_phase) / (count + PHASE_PRIOR)

    promotion_mean = (alike + PHASE_PRIOR / 2 * phase_mean) / (weight + PHASE_PRIOR / 2)
    usual_promotion = _mean_promotion(panel, origin)
    price = _wished(panel.plans.price(panel, target, known), wishes, "price")
    usual_price = np.asarray(panel.column("usual_price"))
    known_price = np.isfinite(price) & np.isfinite(usual_price) & (usual_price > 0) & (price > 0)
    log_price = np.zeros(panel.size)
    log_price[known_price] = np.log(price[known_price] / usual_price[known_price])

    fast = _fast(panel, origin, short)
    own = np.clip(phase_mean / np.maximum(long, MIN_SCALE), 0.0, 4.0)
    change = promotion - usual_promotion
    near = _group_mean(change, scale, code, len(panel.profiles))
    # What was promoted in the season before is stocked up on.
    before = np.zeros(panel.size)
    start = max(target - season, panel.oldest)
    if start <= origin:
        before = np.asarray(panel.of("promotion", min(start, origin)), np.float64)
        before = before - usual_promotion
    base = {
        "one": np.ones(panel.size),
        "short": short / scale,
        "season": recent / scale,
        "last": last / scale,
        "same_phase": same / scale,
        "phase_mean": phase_mean / scale,
        "group_phase": group,
        "robust": robust / scale,
        "fast_phase": fast * group / scale,
        "fast_own": fast * own / scale,
        "season_own": recent * own / scale,
        "promotion": promotion,
        "promotion_change": promotion - usual_promotion,
        "promotion_phase": (promotion - usual_promotion) * group,
        "price": np.clip(log_price, -2.0, 2.0),
        "price_known": known_price.astype(np.float64),
        "promotion_mean": promotion_mean / scale,
        "promotion_before": before,
        "promotion_near": near,
        "price_near": np.clip(
            log_price - _group_mean(log_price, scale, code, len(panel.profiles)), -2.0, 2.0
        ),
        "group_recent": _group_ratio(recent, short, code, len(panel.profiles)),
        "age": np.exp(-np.maximum(origin - listed, 0) / panel.short),
        "year": panel.profiles.year(origin, target)[code] - 1.0,
    }
    for at, name in enumerate(panel.covariates):
        wish = None if wishes is None else wishes.get(name)
        values = None
        if wish is not None:
            planned = panel.plans.covariate(panel, target, known, name)
            values = np.where(np.isnan(wish), planned, wish)
        found = score(panel, name, target, known, values)
        base[f"x:{name}"] = found
        base[f"x:{name}:own"] = found * panel.profiles.answer(at)[code]
    ahead = horizon / panel.settings.horizons
    names = columns(panel.settings)
    X = np.empty((panel.size, len(names)))
    for at, name in enumerate(base):
        np.clip(base[name], -MAX_RATIO, MAX_RATIO, out=X[:, at])
    for at, name in enumerate(_NEAR, start=len(base)):
        X[:, at] = X[:, BASE.index(name)] / horizon
    for at, name in enumerate(_BENT, start=len(base) + len(_NEAR)):
        X[:, at] = X[:, BASE.index(name)] * ahead
    closed = _wished(panel.plans.closed(panel, target, known), wishes, "closed") > 0
    return Batch(
        X=X,
        scale=scale,
        naive=naive,
        level_phase=level_phase,
        phase_mean=phase_mean,
        season_phase=recent * group,
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


def overall_level(panel: Panel, origin: int) -> float:
    """Mean level of all series, each by what was seen of it, in units; 0: nothing was."""
    level, seen = panel.level(origin, panel.short)
    return float((level * seen).sum() / max(seen.sum(), 1e-9))


def _shrunk(level: Floats, seen: Floats, panel: Panel, overall: float | None) -> Floats:
    """Draw a level towards what is usual by as much as little was seen of it.

    Usual is the level of the series that this one replaces, or the mean of its category.
    """
    if overall is None:
        overall = float((level * seen).sum() / max(seen.sum(), 1e-9))
    if overall <= 0:
        return level
    code, groups = np.asarray(panel.column("category")), len(panel.profiles)
    sums = np.bincount(code, level * seen, groups)
    weight = np.bincount(code, seen, groups)
    group = GROUP_PRIOR * float(_prior(np.array([overall]), 1.0)[0])
    usual = ((sums + group * overall) / (weight + group))[code]
    spread = float((seen * (level / usual - 1.0) ** 2).sum() / max(seen.sum(), 1e-9))
    prior = _prior(usual, spread)
    before = np.asarray(panel.column("replaced"))
    follows = np.flatnonzero(before >= 0)
    if len(follows):
        there = (level * seen + prior * usual) / (seen + prior)
        usual[follows] = there[before[follows]]
        prior[follows] *= HEIR
    drawn: Floats = (level * seen + prior * usual) / (seen + prior)
    return drawn


def _fast(panel: Panel, origin: int, level: Floats) -> Floats:
    """Level of the last buckets, each over its phase, the latest counting most, shape (S,)."""
    code = np.asarray(panel.column("category"))
    total, weight = FAST_PRIOR * level, np.full(panel.size, FAST_PRIOR)
    for back in range(FAST):
        if not panel.kept(origin - back):
            break
        units, share = panel.units(origin - back), FAST_KEPT**back
        there = ~np.isnan(units)
        phase = panel.profiles.phase(origin, origin - back + panel.season)
        total += share * np.where(there, units, 0.0)
        weight += there * (share * np.maximum(phase, 0.1))[code]
    fast: Floats = total / weight
    return fast


def _robust(panel: Panel, origin: int, level: Floats) -> Floats:
    """Mean of the last seasons, each bounded by what chance makes of their median, shape (S,)."""
    length = max(panel.season, 1)
    windows = [panel.window(origin - k * length, length) for k in range(SEASONS)]
    means, seen = zip(*windows, strict=True)
    weight = np.stack(seen)
    mean = np.where(weight > 0, np.stack(means), level)
    middle = np.median(mean, axis=0)
    bound = np.sqrt((middle + 0.5 / length) / length) * TOLERANCE + 0.15 * middle
    bounded = np.clip(mean[:-1], middle - bound, middle + bound)
    weight = weight[:-1] + 1e-9
    robust: Floats = (bounded * weight).sum(axis=0) / weight.sum(axis=0)
    return np.maximum(robust, 0.0)


def _prior(usual: Floats, spread: float) -> Floats:
    """Buckets' worth of what is usual that a level starts from, shape (n,).

    What a bucket scatters by, chance alone being 1 / mean, over what series differ by, both as
    squares of shares: the weights of an empirical Bayes mean.
    """
    noise = NOISE + 1.0 / np.maximum(usual, 1e-9)
    prior: Floats = np.minimum(noise / np.clip(spread, *SPREADS), MOST_PRIOR)
    return prior


def _group_mean(values: Floats, weights: Floats, code: npt.NDArray[np.int_], groups: int) -> Floats:
    """Weighted mean of each series' category, shape (S,)."""
    sums = np.bincount(code, values * weights, groups)
    mean: Floats = (sums / np.maximum(np.bincount(code, weights, groups), 1e-9))[code]
    return mean


def _group_ratio(recent: Floats, level: Floats, code: npt.NDArray[np.int_], groups: int) -> Floats:
    """The category's last season against its level, drawn towards 1, shape (S,)."""
    sums, usual = np.bincount(code, recent, groups), np.bincount(code, level, groups)
    ratio: Floats = ((sums + 1.0) / (usual + 1.0))[code]
    return np.clip(ratio, 0.0, 4.0)


def _mean_promotion(panel: Panel, origin: int) -> Floats:
    """Mean promotion over the long window up to an origin, shape (S,)."""
    start = max(origin - panel.long, panel.oldest - 1)
    if origin <= start:
        return np.zeros(panel.size)
    sums = panel.of("sum_promotion", origin) - panel.of("sum_promotion", start)
    since = np.minimum(origin - np.asarray(panel.column("listed")) + 1, origin - start)
    mean: Floats = np.asarray(sums, np.float64) / 1000.0 / np.maximum(since, 1)
    return mean
