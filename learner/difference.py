"""Why a forecast moved: the change between two snapshots, split into parts that add up to it.

The forecast of one bucket by an earlier snapshot becomes that of a later one step by step, and
what each step changes is its part. In this order: the later plans; what the later facts say
otherwise of buckets that had closed, of usual prices and of profiles (*amended*); then each bucket
that has closed since, one after the other, with the target a bucket nearer each time; last the
later model. Another order would split otherwise what depends on both. Leaves out: who sent what a
bucket holds, and what is sold of an open bucket (``api.diff``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from learner.features import features
from learner.forecaster import Forecaster
from learner.levels import levels, short_level
from learner.panel import Panel
from learner.plans import Plans
from stream.window import Key

if TYPE_CHECKING:
    from learner.models import Model

#: Decimals that forecasts are rounded to before they are taken from each other, so that the parts
#: add up as they are told.
DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """``before`` + ``plans`` + ``amended`` + ``closed`` + ``model`` = ``after``, in units.

    ``closed`` pairs each bucket that closed since with its part; ``revised`` are buckets that had
    closed, with demand as it was known before and after, ``nan`` where there was none.
    """

    before: float
    plans: float
    amended: float
    closed: tuple[tuple[int, float], ...]
    model: float
    after: float
    revised: tuple[tuple[int, float, float], ...]


def difference(earlier: Forecaster, later: Forecaster, key: Key, target: int) -> Change:
    """Split the change of the forecast of a series' bucket.

    Parameters
    ----------
    earlier, later
        Of two snapshots under the same settings; both know the series.
    target
        A bucket after both origins, within reach of the earlier.
    """
    old, new = earlier.panel, later.panel
    known = later.origin + 1
    row, place = old.rows[key], new.rows[key]
    said = [
        _mean(old, row, earlier.model, row, earlier.origin, target, earlier.origin + 1),
        _mean(old, row, earlier.model, row, earlier.origin, target, known, new.plans),
    ]
    said += [
        _mean(new, place, earlier.model, row, origin, target, known)
        for origin in range(earlier.origin, later.origin + 1)
    ]
    said.append(_mean(new, place, later.model, place, later.origin, target, known))
    parts = [round(b - a, DECIMALS) for a, b in pairwise(said)]
    return Change(
        before=said[0],
        plans=parts[0],
        amended=parts[1],
        closed=tuple(zip(range(earlier.origin + 1, later.origin + 1), parts[2:-1], strict=True)),
        model=parts[-1],
        after=said[-1],
        revised=_revised(old, row, new, place, earlier.origin),
    )


def _mean(
    panel: Panel, row: int, model: Model, known_as: int, origin: int, target: int, known: int,
    plans: Plans | None = None,
) -> float:  # fmt: skip
    """A model's forecast of a series from a panel's facts as of an origin, in units, rounded.

    Parameters
    ----------
    known_as
        The series' row where the model learned.
    known
        Bucket up to whose close plans count as known.
    plans
        In the place of the panel's own.
    """
    rows = np.flatnonzero(panel.column("category") == panel.column("category")[row])
    before = np.asarray(panel.column("replaced"))[rows]
    rows = np.union1d(rows, before[before >= 0]).astype(np.intp)
    part = panel.part(rows)
    if plans is not None:
        part.plans = plans.apart()
    at = levels(part, origin, short_level(panel, origin)[rows])
    batch = features(part, origin, target - origin, known=known, at=at).take(rows == row)
    if batch.closed[0]:
        return 0.0
    said = model.predict(replace(batch, rows=np.array([known_as])))
    return round(float(said[0]), DECIMALS)


def _revised(
    old: Panel, row: int, new: Panel, place: int, until: int
) -> tuple[tuple[int, float, float], ...]:
    """Buckets up to one that both keep, of which they know different demand."""
    assert new.last is not None
    found = []
    for bucket in range(max(until, new.last) - len(new.rings["units"]) + 1, until + 1):
        if not (old.kept(bucket) and new.kept(bucket)):
            continue
        was, now = float(old.units(bucket)[row]), float(new.units(bucket)[place])
        if was != now and not (np.isnan(was) and np.isnan(now)):
            found.append((bucket, was, now))
    return tuple(found)
