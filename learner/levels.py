"""How much a series sells, as seen from an origin: what no horizon changes.

Levels of several lengths, each drawn towards what is usual by as much as little was seen of it,
worked out once for all horizons of an origin. Leaves out: what depends on the target
(``features``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learner import habits
from learner.panel import Panel
from learner.serving import SHARE

Floats = npt.NDArray[np.float64]

#: How much more slowly a category's mean leaves that of all than a series' leaves its category's.
GROUP_PRIOR = 3.0
#: How much a bucket scatters beyond chance; bounds of how much series of a kind differ.
NOISE, SPREADS = 0.3, (0.25, 4.0)
#: Buckets of a fast level, the share that a bucket leaves to the next one, and the weight of the
#: short level in it.
FAST, FAST_KEPT, FAST_PRIOR = 7, 0.65, 0.5
#: Seasons that a robust level looks at, and how many deviations from their median it takes.
SEASONS, TOLERANCE = 5, 1.5
#: Buckets of a plain level where there is no season; bounds of what an offer did to one, and of a
#: price's logarithm.
SEASONLESS, EFFECTS, MOST_LOG_PRICE = 4, (-0.6, 4.0), 2.0
#: Values looked at together: what fits the processor's cache.
SLAB = 1 << 15
#: Most buckets' worth of what is usual that a level starts from.
MOST_PRIOR = 14.0
#: How much more the level of a series says of one that replaces it than a category's mean does.
HEIR = 3.0
#: Smallest scale, in units a bucket.
MIN_SCALE = 0.02


class Levels(NamedTuple):
    """Levels of S series at an origin, (S,) each, in units a bucket unless said otherwise.

    ``short`` and ``long``: means of the short and the long window; ``scale``: their mean;
    ``recent``: of the last season; ``plain``: the same if promotions and prices had been usual;
    ``robust``: of some seasons, each bounded; ``fast``: of the last
    buckets, each over its phase; ``last``: the origin's own units, ``nan`` where missing;
    ``usual``: of most of a year, ``nan`` where not known yet;
    ``usual_promotion``: share of the long window; ``group_recent``: the category's last season
    over its level; ``age``: 1 at listing, fading.
    """

    short: Floats
    long: Floats
    scale: Floats
    recent: Floats
    plain: Floats
    robust: Floats
    fast: Floats
    last: Floats
    usual: Floats
    usual_promotion: Floats
    group_recent: Floats
    age: Floats


def levels(
    panel: Panel, origin: int, short: Floats | None = None, usual: Floats | None = None
) -> Levels:
    """Levels of all series at the close of ``origin``.

    Parameters
    ----------
    panel
        Facts; demand after ``origin`` is not looked at.
    short
        Of the whole panel's ``short_level`` what is this one's, where it is a part of it.
    usual
        ``habits.level`` where it was worked out before; it serves all origins.
    """
    code = np.asarray(panel.column("category"))
    long, seen_long = panel.level(origin, panel.long)
    short = short_level(panel, origin) if short is None else short
    own = _prior(short, 1.0)
    long = np.where(seen_long > 0, (long * seen_long + own * short) / (seen_long + own), short)
    recent, seen_recent = panel.window(origin, max(panel.season, 2))
    recent = np.where(seen_recent > 0, recent, short)
    promotion = usual_promotion(panel, origin)
    return Levels(
        short=short,
        long=long,
        scale=np.maximum((short + long) / 2, MIN_SCALE),
        recent=recent,
        plain=_plain(panel, origin, short, promotion),
        robust=_robust(panel, origin, short),
        fast=_fast(panel, origin, short),
        last=panel.units(origin),
        usual=habits.level(panel) if usual is None else usual,
        usual_promotion=promotion,
        group_recent=_group_ratio(recent, short, code, len(panel.profiles)),
        age=np.exp(-np.maximum(origin - np.asarray(panel.column("listed")), 0) / panel.short),
    )


def short_level(panel: Panel, origin: int) -> Floats:
    """Level of the short window, drawn towards what is usual by as much as little was seen of it.

    Usual is the level of the series that this one replaces, or the mean of its category; how
    strongly it draws is learned from all series, so of a part of a panel it would be another.
    Shape (S,).
    """
    level, seen = panel.level(origin, panel.short)
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
        phase = panel.profiles.phase(origin, origin - back)
        total += share * np.where(there, units, 0.0)
        weight += there * (share * np.maximum(phase, 0.1))[code]
    fast: Floats = total / weight
    return fast


def _plain(panel: Panel, origin: int, level: Floats, usual: Floats) -> Floats:
    """Mean of the last season as if promotions and prices had been the usual ones, shape (S,)."""
    code = np.asarray(panel.column("category"))
    to_promotion, to_price = (answer[code] for answer in panel.profiles.to_offers())
    total, count = np.zeros(panel.size), np.zeros(panel.size)
    oldest = max(origin - max(panel.season, SEASONLESS) + 1, panel.oldest)
    buckets = np.arange(origin, oldest - 1, -1)
    step = max(SLAB // max(panel.size, 1), 1)
    for start in range(0, len(buckets), step):
        some = buckets[start : start + step]
        promotion = panel.promotion(some) - usual
        price = log_price(panel, np.asarray(panel.of("price", some), np.float64))
        effect = to_promotion * promotion + to_price * price
        units = np.abs(panel.of("units", some), dtype=np.float64)
        plain = np.nan_to_num(units) / (1.0 + np.clip(effect, *EFFECTS))
        # One after the other, so that sums do not depend on how many are looked at together.
        for row, there in zip(plain, ~np.isnan(units), strict=True):
            total += row
            count += there
    return np.where(count > 0, total / np.maximum(count, 1), level)


def log_price(panel: Panel, price: Floats) -> Floats:
    """Logarithm of prices over the usual ones, bounded; 0 where either is not known.

    Shape (S,), or (buckets, S).
    """
    usual, known = np.asarray(panel.column("usual_price")), known_price(panel, price)
    found = np.ones(price.shape)
    np.divide(price, usual, out=found, where=known)
    np.log(found, out=found)
    return np.clip(found, -MOST_LOG_PRICE, MOST_LOG_PRICE, out=found)


def known_price(panel: Panel, price: Floats) -> npt.NDArray[np.bool_]:
    """Whether both prices and the usual ones are known, shape as of ``price``."""
    usual = np.asarray(panel.column("usual_price"))
    known: npt.NDArray[np.bool_] = np.isfinite(price) & (price > 0) & np.isfinite(usual)
    return known & (usual > 0)


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


def _group_ratio(recent: Floats, level: Floats, code: npt.NDArray[np.int_], groups: int) -> Floats:
    """The category's last season against its level, drawn towards 1, shape (S,)."""
    sums, usual = np.bincount(code, recent, groups), np.bincount(code, level, groups)
    ratio: Floats = ((sums + 1.0) / (usual + 1.0))[code]
    return np.clip(ratio, 0.0, 4.0)


def usual_promotion(panel: Panel, origin: int) -> Floats:
    """Mean promotion over the long window up to an origin, shape (S,)."""
    start = max(origin - panel.long, panel.oldest - 1)
    if origin <= start:
        return np.zeros(panel.size)
    sums = panel.of("sum_promotion", origin) - panel.of("sum_promotion", start)
    since = np.minimum(origin - np.asarray(panel.column("listed")) + 1, origin - start)
    mean: Floats = np.asarray(sums, np.float64) / SHARE / np.maximum(since, 1)
    return mean
