"""How good the forecasts of each single series were: champion's and seasonal naive's.

Kept by series and scored horizon: how many forecasts were scored, means of demand, of error and
squared error of the mean, of the median's absolute error, and how much of what came lay in the
80 % band. Means are over all buckets scored until ``MEMORY`` of them were, and forget from then
on: a bucket's weight halves every 0.7 ``MEMORY``. 34 bytes a series and horizon. Leaves out:
scores over all series (``evaluation``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from learner.evaluation import NAIVE, Scored
from learner.serving import Serving

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

#: Scored buckets that a mean reaches back over: eight seasons of days, four of hours, a year.
MEMORY: Final = {"hour": 672, "day": 56, "week": 52}
#: Columns: name → dtype. The first two are of all models, the rest of each.
SHARED: Final = {"count": np.uint16, "demand": np.float32}
OWN: Final = {"squared": np.float32, "error": np.int16, "absolute": np.uint16,
              "inside": np.uint16}  # fmt: skip
#: What the whole numbers of a column are divided by: errors are shares of the root mean squared
#: error, which the mean's is never above, nor the median's four times.
PARTS: Final = {"error": 32767.0, "absolute": 16383.0, "inside": 65535.0}


class Accuracy:
    """Accuracy by series. Mutable; all of it is state.

    ``columns``: ``count`` and ``demand`` (horizons, room), the rest (models, horizons, room).

    Parameters
    ----------
    models
        All that are scored, champion first; only it and seasonal naive are kept.
    """

    def __init__(self, models: tuple[str, ...], scored: tuple[int, ...], bucket: str) -> None:
        self.models = kept(models)
        self.scored = scored
        self.memory = MEMORY[bucket]
        shape = (len(scored), 0)
        self.columns: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(shape, dtype) for name, dtype in SHARED.items()
        } | {name: np.zeros((len(self.models), *shape), dtype) for name, dtype in OWN.items()}

    def grow(self, room: int) -> None:
        """Make room for as many series; of new ones nothing was scored."""
        more = room - self.columns["count"].shape[-1]
        if more > 0:
            for name, column in self.columns.items():
                pad = [(0, 0)] * (column.ndim - 1)
                self.columns[name] = np.pad(column, [*pad, (0, more)])

    def learn(self, scored: Scored, actual: Floats) -> None:
        """Take in what a horizon's forecasts came to; ``actual`` of the same series, (n,)."""
        at, rows = self.scored.index(scored.horizon), scored.rows
        count = self.columns["count"][at]
        # Past the memory, the count goes on and the weight stays; past its type it stays too.
        count[rows] += count[rows] < np.iinfo(np.uint16).max
        weight = 1.0 / np.minimum(count[rows], self.memory)
        demand = self.columns["demand"][at]
        demand[rows] += weight * (actual - demand[rows])
        for own, model in enumerate(self.models):
            marks = scored.marks[model]
            squared = self.columns["squared"][own, at]
            before = squared[rows].astype(np.float64)
            squared[rows] = before + weight * (marks.error**2 - before)
            roots = np.sqrt(before), np.sqrt(squared[rows].astype(np.float64))
            whole = np.ones(len(rows)), np.ones(len(rows))
            for name, value, scales in (("error", marks.error, roots),
                                        ("absolute", marks.absolute, roots),
                                        ("inside", marks.inside, whole)):  # fmt: skip
                self._move(name, (own, at), rows, weight, value, scales)

    def _move(
        self, name: str, slot: tuple[int, int], rows: Ints, weight: Floats, value: Floats,
        scales: tuple[Floats, Floats],
    ) -> None:  # fmt: skip
        """Move means that are kept as parts of a scale, which was another one before."""
        column, before = self.columns[name][slot], scales[0] / PARTS[name]
        mean = column[rows] * before
        mean += weight * (value - mean)
        parts = mean * PARTS[name] / np.maximum(scales[1], 1e-12)
        limits = np.iinfo(column.dtype)
        column[rows] = np.rint(np.clip(parts, limits.min, limits.max))


def accuracy(serving: Serving, row: int) -> list[dict[str, Any]]:
    """Accuracy of one series by horizon: n, mean demand, then champion's and naive's.

    Each has ``rmsse`` and ``bias`` of the mean, ``wape`` of the median and ``coverage_80``; those
    that are ratios to demand are ``None`` where nothing was sold.
    """
    models = kept((serving.champion, *serving.models))
    columns, difference = serving.accuracy, float(serving.difference[row])
    out = []
    for at, horizon in enumerate(serving.scored):
        count, demand = int(columns["count"][at, row]), float(columns["demand"][at, row])
        one: dict[str, Any] = {"horizon": horizon, "n": count, "demand": round(demand, 4)}
        one |= {"champion": None, "naive": None}
        for own, model in enumerate(models if count else ()):
            squared = float(columns["squared"][own, at, row])
            of = {name: float(columns[name][own, at, row]) / part for name, part in PARTS.items()}
            said = {
                "model": model,
                "rmsse": _ratio(squared, difference, 0.5),
                "bias": _ratio(of["error"] * squared**0.5, demand),
                "wape": _ratio(of["absolute"] * squared**0.5, demand),
                "coverage_80": round(of["inside"], 4),
            }
            one["naive" if own else "champion"] = said
            if model == NAIVE:
                one["naive"] = said
        out.append(one)
    return out


def kept(models: tuple[str, ...]) -> tuple[str, ...]:
    """Those of all models, champion first, whose accuracy is kept by series."""
    return tuple(dict.fromkeys((models[0], *(one for one in models if one == NAIVE))))


def _ratio(one: float, other: float, power: float = 1.0) -> float | None:
    return round(float((one / other) ** power), 4) if other > 0 else None
