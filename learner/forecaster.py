"""What the champion would say, and why: forecasts anew from a snapshot's facts and model.

A what-if puts planned values in the place of a series' own and takes the very path of a
forecast; an explanation splits a forecast into parts that add up to it. Only the series of one
category are looked at, since a series is described by nothing else. Leaves out: quantiles
(``intervals``) and reading snapshots (``recall``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learner.ensemble import Ensemble
from learner.features import BASE, Batch, features, size
from learner.levels import Levels, levels, short_level
from learner.panel import Panel
from stream.settings import HOLIDAYS

if TYPE_CHECKING:
    from learner.models import Model, Ratio

Floats = npt.NDArray[np.float64]

#: Part of a forecast each feature belongs to; what is not named is *level*.
PARTS = {
    "season": "trend", "last": "trend", "fast_phase": "trend", "fast_own": "trend",
    "season_own": "trend", "group_recent": "trend", "age": "trend", "plain": "trend",
    "year": "season", "same_phase": "season", "phase_mean": "season", "group_phase": "season",
    "own_phase": "season",
    "promotion": "promotion", "promotion_change": "promotion", "promotion_phase": "promotion",
    "promotion_mean": "promotion", "promotion_before": "promotion", "promotion_near": "promotion",
    "promotion_own": "promotion", "price_own": "price",
    "price": "price", "price_known": "price", "price_near": "price",
}  # fmt: skip
#: Features that are 1, and not 0, for a series that does just what its level says.
_NEUTRAL = frozenset(
    ("one", "short", "season", "last", "same_phase", "phase_mean", "group_phase", "robust",
     "fast_phase", "fast_own", "season_own", "promotion_mean", "group_recent", "plain", "own_phase",
     "usual")
)  # fmt: skip
#: A price that is taken as none.
UNTOLD = 0.0
#: Parts of every explanation, in the order they are told.
ALL_PARTS = ("level", "trend", "season", "holidays", "promotion", "price", "covariates",
             "interaction", "bounds")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Values to suppose, shape (H,) each; ``nan``: as planned. ``closed`` is 0 or 1.

    ``covariates`` are by the names that the settings give them.
    """

    promotion: Floats
    price: Floats
    closed: Floats
    covariates: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """``parts`` (units) add up to ``mean``; so do ``experts``: (weight, units) by name."""

    mean: float
    parts: Mapping[str, float]
    experts: Mapping[str, tuple[float, float]]


class Forecaster:
    """The champion of one snapshot with the facts it forecasts from; read-only.

    Parameters
    ----------
    panel, model
        Of the snapshot; neither is changed.
    known_as
        Each series' row where the model learned, shape (S,), if that was elsewhere.
    """

    def __init__(
        self, panel: Panel, model: Model, known_as: npt.NDArray[np.intp] | None = None
    ) -> None:
        assert panel.last is not None, "nothing has closed yet"
        self.panel = panel
        self.model = model
        self.known_as = np.arange(panel.size) if known_as is None else known_as
        self.origin = panel.last
        self._short = short_level(panel, panel.last)
        self._part = lru_cache(maxsize=64)(self._category)

    def _category(self, code: int) -> tuple[npt.NDArray[np.intp], Panel, Levels]:
        """Rows of a category, and of what its series replace, with their part of the panel."""
        rows = np.flatnonzero(self.panel.column("category") == code)
        before = np.asarray(self.panel.column("replaced"))[rows]
        rows = np.union1d(rows, before[before >= 0]).astype(np.intp)
        part = self.panel.part(rows)
        return rows, part, levels(part, self.origin, self._short[rows])

    def _batch(self, row: int, horizon: int, wish: Mapping[str, float]) -> Batch:
        rows, part, at = self._part(int(self.panel.column("category")[row]))
        own = np.arange(len(rows)) == int(np.searchsorted(rows, row))
        wishes = {name: np.where(own, value, np.nan) for name, value in wish.items()}
        batch = features(
            part, self.origin, horizon, known=self.origin + 1, wishes=wishes, at=at
        ).take(own)
        return replace(batch, rows=self.known_as[[row]])

    def _mean(self, batch: Batch) -> float:
        return float(batch.served(self.model.predict(batch))[0])

    def forecast(self, row: int, horizons: int, wishes: Wishes | None = None) -> Floats:
        """Means of one series for the next buckets, shape (horizons,), in units."""
        out = np.zeros(horizons)
        for step in range(horizons):
            wish = {} if wishes is None else _wish(wishes, step)
            out[step] = self._mean(self._batch(row, step + 1, wish))
        return out

    def forecast_all(self) -> npt.NDArray[np.float32]:
        """Means of all series for all horizons, shape (H, S), in units."""
        mean = np.zeros((self.panel.settings.horizons, self.panel.size), np.float32)
        at = levels(self.panel, self.origin, self._short)
        for step in range(len(mean)):
            batch = features(self.panel, self.origin, step + 1, known=self.origin + 1, at=at)
            said = self.model.predict(replace(batch, rows=self.known_as))
            mean[step] = batch.served(said)
        return mean

    def usual_price(self, row: int) -> float:
        """The price that a series usually has; ``nan``: none was ever told."""
        return float(self.panel.column("usual_price")[row])

    def baseline(self, row: int, horizons: int, wishes: Wishes) -> Floats:
        """Means without any promotion and at the usual price, shape (horizons,), in units.

        Closures and covariates are those of ``wishes``: they are no choice of the seller's price
        or promotion, so they are in no uplift. Where prices are told of promotions alone, none is
        told here: the model has seen no price told without a promotion.
        """
        nothing = np.zeros(horizons)
        price = np.full(horizons, self.usual_price(row) if self._priced(row) else UNTOLD)
        return self.forecast(row, horizons, replace(wishes, promotion=nothing, price=price))

    def _priced(self, row: int) -> bool:
        """Whether a price was planned in a bucket of the last season without a promotion."""
        rows, part, _ = self._part(int(self.panel.column("category")[row]))
        own = int(np.searchsorted(rows, row))
        return any(
            part.plans.price(part, at, at)[own] > 0 and not part.plans.promotion(part, at, at)[own]
            for at in range(max(self.origin - part.season + 1, part.oldest), self.origin + 1)
        )

    def explain(self, row: int, horizon: int) -> Explained:
        """Split one forecast into parts and experts."""
        batch = self._batch(row, horizon, {})
        mean = self._mean(batch)
        parts = dict.fromkeys(ALL_PARTS, 0.0)
        experts: dict[str, tuple[float, float]] = {}
        if batch.closed[0]:
            return Explained(mean=0.0, parts=parts, experts=experts)
        for name, (weight, expert) in _experts(self.model, batch).items():
            experts[name] = (weight, weight * float(expert.predict(batch)[0]))
            for part, units in _parts(expert, batch).items():
                parts[part] += weight * units
        return Explained(mean=mean, parts=parts, experts=experts)


def _wish(wishes: Wishes, step: int) -> dict[str, float]:
    return {
        "promotion": float(wishes.promotion[step]),
        "price": float(wishes.price[step]),
        "closed": float(wishes.closed[step]),
        **{name: float(values[step]) for name, values in wishes.covariates.items()},
    }


def _experts(model: Model, batch: Batch) -> dict[str, tuple[float, Model]]:
    if isinstance(model, Ensemble):
        weights = model.weights(batch)
        return {name: (float(weights[name][0]), one) for name, one in model.experts.items()}
    return {"champion": (1.0, model)}


def _parts(model: Model, batch: Batch) -> dict[str, float]:
    """Parts of one model's forecast of one series, in units; they add up to it."""
    from learner.models import Ratio, Simple  # River comes with it: seconds that only models need

    mean = float(model.predict(batch)[0])
    scale = float(batch.scale[0])
    if isinstance(model, Ratio) and model.linear is not None:
        return _linear_parts(model, batch, mean, scale)
    if isinstance(model, Simple | Ratio):
        level = float(batch.X[0, BASE.index("short")]) * scale
        return {"level": level, "season": mean - level}
    return {"level": mean}


def _part_of(name: str) -> str:
    if name.startswith("x:"):
        return "holidays" if name.split(":")[1] in HOLIDAYS else "covariates"
    return PARTS.get(name.partition(":")[0], "level")


def _linear_parts(model: Ratio, batch: Batch, mean: float, scale: float) -> dict[str, float]:
    assert model.linear is not None
    row = model.scaled(batch)[0]
    names = model.names
    neutral = np.array([name.partition(":")[0] in _NEUTRAL for name in names], np.float64)
    assert model.scales is not None
    neutral[[name.endswith(":h") for name in names]] *= min(batch.ahead, model.reach)
    nearness = batch.X[0, names.index("one:1")]
    neutral[[name.endswith(":1") for name in names]] *= nearness
    neutral[[name.endswith(":size") for name in names]] *= nearness * size(batch.scale)[0]
    plain = neutral * model.scales
    coefficients, waves = model.linear
    parts = dict.fromkeys(ALL_PARTS, 0.0)
    parts["level"] = scale * float(plain @ coefficients)
    for name, units in zip(names, scale * (row - plain) * coefficients, strict=True):
        parts[_part_of(name)] += float(units)
    if len(waves):
        there, usual = model.waves_of(row[None])[0], model.waves_of(plain[None])[0]
        parts["level"] += scale * float(usual @ waves)
        parts["interaction"] = scale * float((there - usual) @ waves)
    parts["bounds"] = mean - sum(parts.values())
    return parts
