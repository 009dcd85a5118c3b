"""What a series and its kind usually do, learned from each close once the models have learned it.

Usual prices, gaps from sale to sale, and the profiles that categories share move towards the last
closed bucket only afterwards: features that held a share of it would tell the models of the very
demand that they learn. From the gaps follows which series are over. Leaves out: the facts
(``panel``) and the profiles' own arithmetic (``profiles``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learner.levels import log_price, usual_promotion
from learner.panel import Panel
from learner.serving import GROUP, OWN, RETIRED
from stream.settings import LEARN_LAG

Floats = npt.NDArray[np.float64]

#: Share of a new bucket in the usual price, and of a new gap in the usual gap.
PRICE_SHARE, GAP_SHARE = 0.05, 0.2
#: Longest gap that is told apart from longer ones: half precision ends soon after.
MOST_GAP = 60_000
#: Usual gaps of silence after which a series is retired; never before its long level is over.
SILENT_GAPS = 10.0
#: Observed buckets from which on a forecast stands on the series' own demand.
FEWEST_OWN = 3


def learn(panel: Panel, bucket: int) -> None:
    """Move what is usual towards what the last closed bucket was."""
    price = np.asarray(panel.of("price", bucket), np.float64)
    usual = panel.column("usual_price")
    paid = np.isfinite(price)
    fresh = paid & np.isnan(usual)
    usual[fresh] = price[fresh]
    usual[paid] += PRICE_SHARE * (price[paid] - usual[paid])
    _learn_gaps(panel, bucket)
    if panel.kept(bucket - LEARN_LAG[panel.settings.bucket]):
        _learn_profiles(panel, bucket - LEARN_LAG[panel.settings.bucket])


def _learn_gaps(panel: Panel, bucket: int) -> None:
    """Keep how long each series is usually silent from one sale to the next."""
    sold = np.flatnonzero(panel.units(bucket) > 0)
    seen = panel.column("seen")[sold]
    last, usual = panel.column("sold_seen"), panel.column("gap")
    gap = np.minimum(seen - last[sold], MOST_GAP).astype(np.float32)  # modulo 2**16
    before = usual[sold].astype(np.float32)
    usual[sold] = np.where(before > 0, before + GAP_SHARE * (gap - before), panel.season)
    last[sold] = seen


def _learn_profiles(panel: Panel, bucket: int) -> None:
    """Move what categories share towards what this bucket was."""
    counts = panel.of("sum_observed", bucket) != panel.of("sum_observed", bucket - 1)
    level, seen = panel.level(bucket - 1, panel.short)
    use = counts & (seen > 0)
    units = panel.units(bucket)[use]
    code, level = np.asarray(panel.column("category"))[use], level[use]
    profiles = panel.profiles
    planned = [score(panel, name, bucket, bucket) for name in panel.covariates]
    planned += offers(panel, bucket)
    scores = {}
    for at, found in enumerate(planned):
        if found.any():
            sums = np.bincount(code, found[use] * level, len(profiles))
            mean = sums / np.maximum(np.bincount(code, level, len(profiles)), 1e-9)
            mean[0] = sums.sum() / max(level.sum(), 1e-9)
            scores[at] = mean
    profiles.learn_answers(bucket, units, level, code, scores)
    assert panel.first is not None
    seasons = max(bucket - panel.first, 0) // panel.season
    profiles.learn_phase(bucket, units, level, code, profiles.effect(scores), seasons)
    profiles.learn_week(bucket, units, code)
    for at, name in enumerate(panel.covariates):
        if name in panel.settings.covariates:
            profiles.learn_score(at, panel.plans.covariate(panel, bucket, bucket, name))


def score(
    panel: Panel, name: str, target: int, origin: int, values: Floats | None = None
) -> Floats:
    """A covariate in a target bucket as known at an origin, standardised, shape (S,).

    Parameters
    ----------
    values
        In the place of what plans say, shape (S,).
    """
    if name not in panel.settings.covariates:
        if values is None:
            return np.full(panel.size, panel.holidays.of(name, target))
        return values
    if values is None:
        values = panel.plans.covariate(panel, target, origin, name)
    return panel.profiles.score(panel.covariates.index(name), values)


def offers(panel: Panel, bucket: int) -> tuple[Floats, Floats]:
    """A bucket's promotion beyond the usual, and the logarithm of its price, (S,) each."""
    price = panel.plans.price(panel, bucket, bucket)
    promotion = panel.promotion(bucket) - usual_promotion(panel, bucket - 1)
    return promotion, log_price(panel, price)


def retired(panel: Panel) -> npt.NDArray[np.bool_]:
    """Series that are over: delisted, or silent far beyond their own gaps, shape (S,)."""
    assert panel.last is not None
    silent = (panel.column("seen") - panel.column("sold_seen")).astype(np.float64)
    usual = np.asarray(panel.column("gap"), np.float64)
    end = panel.calendar.span(panel.last)[1]
    over: npt.NDArray[np.bool_] = np.asarray(panel.column("until_us")) <= end
    over |= (usual > 0) & (silent > np.maximum(SILENT_GAPS * usual, panel.long))
    return over


def basis(panel: Panel) -> npt.NDArray[np.int8]:
    """What each series' forecast stands on, shape (S,): OWN, GROUP or RETIRED."""
    assert panel.last is not None
    _, seen = panel.level(panel.last, panel.short)
    own = np.where(seen >= FEWEST_OWN, OWN, GROUP)
    return np.where(retired(panel), RETIRED, own).astype(np.int8)
