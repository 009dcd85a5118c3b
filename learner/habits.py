"""What a series usually sells in each phase of its season, remembered for most of a year.

The rings reach back some weeks, within which chance hides how a series' Saturday differs from
its category's. This memory is long, slow and small: one number a phase. It lags behind by the
farthest horizon, so that no origin that models learn from is shown what came after it. Leaves
out: where it is kept (``panel``), and the category's profile (``profiles``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from learner.panel import Panel

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

#: Share of a new season in what is usual, at least: a plain mean before.
SHARE = 0.03
#: How much phases of a series differ from its category's, and how much a bucket scatters beyond
#: chance, as squares of shares.
SPREAD, NOISE = 0.05, 0.3
#: How far below its level what is usual is believed, as a logarithm, and how far above it before
#: belief fades: a series that sells less for good is not to be held up by its past.
BELOW, ABOVE = -0.22, 0.15


def learn(panel: Panel, bucket: int) -> None:
    """Take in what the close of a bucket makes old enough; ``panel.last`` is the one before.

    What is missing or censored says nothing.
    """
    if panel.last is None:
        return
    lag = panel.settings.horizons
    for old in range(panel.last + 1 - lag, min(bucket - lag, panel.last) + 1):
        if not panel.kept(old):
            continue
        units, usual = panel.of("units", old), _of_phase(panel, old)
        there = ~np.isnan(units) & ~np.signbit(units)
        # A plain mean at first; the bucket that listed a series, chosen for its sale, is in it.
        share = np.maximum(SHARE, 1.0 / (np.maximum(_seasons(panel, old), 0) + 1.0))
        before = np.where(np.isnan(usual), units, usual)
        usual[there] = (before + share.astype(np.float32) * (units - before))[there]


def level(panel: Panel) -> Floats:
    """Mean over the phases of what is usual, shape (S,); ``nan`` where no phase is known."""
    usual = panel.rings["usual_units"][:, : panel.size]
    known = ~np.isnan(usual)
    total = np.where(known, usual, np.float32(0)).sum(axis=0, dtype=np.float64)
    count = known.sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(panel.size, np.nan), where=count > 0)
    return mean


def own_phase(panel: Panel, target: int, usual: Floats, group: Floats) -> Floats:
    """The target's phase over the mean of all, drawn towards the category's, shape (S,).

    Parameters
    ----------
    usual
        ``level``.
    group
        The category's profile in that phase, shape (S,).
    """
    assert panel.last is not None
    own = np.asarray(_of_phase(panel, target), np.float64)
    known = ~np.isnan(own) & (usual > 0)
    ratio = np.divide(own, usual, out=group.copy(), where=known)
    seen = np.clip(_seasons(panel, panel.last - panel.settings.horizons) + 1, 0, 1.0 / SHARE)
    prior = (NOISE + 1.0 / np.maximum(np.where(known, usual, 0.0), 1e-9)) / SPREAD
    drawn: Floats = (seen * ratio + prior * group) / (seen + prior)
    return drawn


def held(usual: Floats, scale: Floats) -> Floats:
    """What is usual over the level, as far as it is believed, shape (S,); 1: it is not known."""
    log = np.log(np.maximum(np.where(np.isnan(usual), scale, usual), 1e-9) / scale)
    above = log * np.exp(-0.5 * (log / ABOVE) ** 2)
    return 1.0 + np.where(log > 0, above, np.maximum(log, BELOW))


def _of_phase(panel: Panel, bucket: int) -> Singles:
    """What is usual in a bucket's phase, shape (S,): a view."""
    usual: Singles = panel.rings["usual_units"][panel.calendar.phase(bucket), : panel.size]
    return usual


def _seasons(panel: Panel, bucket: int) -> npt.NDArray[np.int64]:
    """Whole seasons from each series' listing to a bucket, shape (S,); negative before it."""
    since: npt.NDArray[np.int64] = (bucket - panel.column("listed")) // panel.season
    return since
