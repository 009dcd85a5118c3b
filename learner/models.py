"""Every model by name, behind one contract.

A model forecasts mean demand from a ``Batch`` and learns from batches whose demand is known.
To add one, add a factory to ``MODELS``; the contract suite finds it. All models learn and are
scored on the same stream; only the champion is served.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]
from river import linear_model
from scipy.special import ndtri  # type: ignore[import-untyped]

from learner.ensemble import Ensemble
from learner.features import BASE, MAX_RATIO, Batch, columns
from learner.imported import regressor_of
from learner.levels import NOISE
from learner.pickles import load_models
from learner.regression import ForgettingRegression, weighted
from stream.errors import SettingsError, SnapshotCorrupt
from stream.settings import SEASON, Settings

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

#: Seasons and rows seen before columns' scales are frozen and a ratio model speaks.
WARM_SEASONS, WARM_ROWS = 2, 400
#: Ridge: prior weight of a zero coefficient, in rows of weight 1.
RIDGE = 30.0
#: Most weight of a row: a level in units.
MAX_WEIGHT = 50.0
#: Share of what was learned that survives a bucket.
KEPT = {"hour": 0.9998, "day": 0.995, "week": 0.97}
#: How far from what was said of it demand is learned as it came, in usual deviations; the most by
#: which all is learned higher for what lies beyond.
FAR, MOST_SPREAD = 3.0, 1.3
#: Random Fourier features: how many, how fast, and how much the prior allows them.
WAVES, WAVE_WIDTH, WAVE_HEIGHT = 32, 0.2, 0.05
#: Rows learned or forecast at once: what fits the processor's cache.
BLOCK = 8192
#: What a regressor that is not ours may raise on numbers it does not expect.
_FAULTS = (ArithmeticError, TypeError, ValueError)


class Model(Protocol):
    """What a model must be. Predictions are finite and never negative, and change nothing."""

    def predict(self, batch: Batch) -> Floats:
        """Mean demand, shape (n,), in units."""

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        """Learn one closed bucket: batches of several horizons with demand (n,) each."""

    def digest(self) -> list[Floats]:
        """Arrays that say all the model has learned, for the digest of a snapshot."""


class Simple:
    """A forecast that the panel's facts are enough for, by the name of the batch's array."""

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, batch: Batch) -> Floats:
        said: Floats = getattr(batch, self.name)
        return said

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        """Nothing: the panel remembers."""

    def digest(self) -> list[Floats]:
        return []


class Ratio:
    """The scaling wrapper around a River regressor: it learns y / level, weighted by level.

    Columns are divided by their root mean square over the first rows, which is then frozen, so
    that one ridge fits all; before that the level and its phase are the forecast.

    Demand far from what was said of it is learned as if it had come a few deviations from it:
    squared, it would weigh more than weeks of usual demand. What lies beyond is spread over all
    that is learned, so that the mean stays what it was.

    Parameters
    ----------
    regressor
        Any River regressor with ``learn_many`` and ``predict_many``.
    names
        Columns of ``Batch.X``.
    warm
        Buckets seen before the columns' scales are frozen.
    kept
        Share of what was learned that survives a bucket; 1 for regressors that cannot forget.
    waves
        Random Fourier features added to the columns: what is not linear, learned linearly.
    plain
        Columns of unit size and rows of one weight, for regressors that are not least squares.
        What such a regressor cannot answer or learn is passed over and counted: the level and
        its phase are said in its place.
    """

    def __init__(
        self, regressor: Any, names: tuple[str, ...], warm: int, kept: float = 1.0,
        waves: int = 0, plain: bool = False,
    ) -> None:  # fmt: skip
        self.regressor = regressor
        self.names = names
        self.waves = waves
        self.plain = plain
        self.warm = warm
        self.kept = kept
        self.faults = 0  # buckets that a plain regressor could not learn
        self.reach = 0.0  # the farthest horizon learned from, as a share of all
        self.scales: Floats | None = None
        self.seen = np.zeros(len(names), bool)  # columns that were anything but zero
        self.noise = np.full(2, float(WARM_ROWS))  # squared deviations, over those of chance
        self.beyond = np.full(2, float(WARM_ROWS))  # demand as it came, and as bounded
        self._squares = np.zeros(len(names))
        self._rows = 0.0
        self._buckets = 0

    def predict(self, batch: Batch) -> Floats:
        if self.scales is None:
            return batch.level_phase
        ratio = np.empty(len(batch.scale))
        try:
            for some in _blocks(len(ratio)):
                room = self._room(len(ratio[some]))
                self.scaled(batch, some, out=room[:, : len(self.names)])
                ratio[some] = self.regressor.predict_many(self._frame(room))
        except _FAULTS:
            if not self.plain:
                raise
            return batch.level_phase
        ratio = np.nan_to_num(ratio, nan=1.0, posinf=MAX_RATIO, neginf=0.0)
        bounded: Floats = np.clip(ratio, 0.0, MAX_RATIO) * batch.scale
        return bounded

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        before = self.linear
        scales = self.scales if self.scales is not None else self._warmed(batches)
        if scales is None:
            return
        rows = list(_rows(batches, whole=self.plain))
        if not rows:
            return
        if self.kept < 1.0:
            self.regressor.forget(self.kept)
            self.noise *= self.kept
            self.beyond *= self.kept
        for X, _, _ in rows:
            self.reach = max(self.reach, float(X[:, self._bent.start].max()))
            self.seen |= X.any(axis=0)
        for X, scale, y in rows:
            label = np.minimum(y, MAX_RATIO * scale + 12.0) / scale
            room = self._room(len(X))
            np.multiply(X, scales, out=room[:, : len(self.names)])
            frame = self._frame(room)
            if self.plain:
                try:
                    self.regressor.learn_many(frame, pd.Series(label))
                except _FAULTS:
                    self.faults += 1
                continue
            weight = np.minimum(scale, MAX_WEIGHT)
            if before is not None:
                said = np.clip(room @ np.concatenate(before), 0.0, MAX_RATIO)
                label = self._bounded(label, said, scale, weight)
            self.regressor.learn_many(*weighted(frame, label, weight))

    def _bounded(self, label: Floats, said: Floats, scale: Floats, weight: Floats) -> Floats:
        """Labels no farther from what was said than demand usually is, with a mean that is kept."""
        chance = NOISE + 1.0 / scale
        usual = self.noise[0] / self.noise[1]
        far = FAR * np.sqrt(usual * chance)
        bounded = np.clip(label, said - far, said + far)
        spread = min(max(self.beyond[0] / self.beyond[1], 1.0), MOST_SPREAD)
        squared = np.minimum((label - said) ** 2 / chance, 25.0 * usual)
        total = weight.sum()
        self.noise += (float(weight @ squared), total)
        self.beyond += (float(weight @ label), float(weight @ bounded))
        kept: Floats = bounded * spread
        return kept

    def _warmed(self, batches: Sequence[tuple[Batch, Floats]]) -> Floats | None:
        """Look at the first buckets' columns, and freeze their scales once enough were seen."""
        rows = 0
        for X, scale, _ in _rows(batches):
            self._squares += (np.minimum(scale, MAX_WEIGHT)[:, None] * X**2).sum(axis=0)
            rows += len(scale)
        if rows == 0:
            return None
        self._rows += rows
        self._buckets += 1
        if self._rows < WARM_ROWS or self._buckets < self.warm:
            return None
        mean_square = self._squares / max(self._rows, 1.0)
        usual = np.median(mean_square[mean_square > 0])
        ridge = usual if self.plain else RIDGE
        self.scales = np.sqrt(usual / (ridge * np.maximum(mean_square, usual / 100.0)))
        return self.scales

    def scaled(self, batch: Batch, some: slice = slice(None), out: Floats | None = None) -> Floats:
        """Columns as the regression takes them, shape (n, F), of all rows or of some."""
        assert self.scales is not None
        X: Floats = np.multiply(batch.X[some], self.scales, out=out)
        if batch.ahead > self.reach:
            # Nothing is known of so far a horizon yet: speak as for the farthest known.
            X[:, self._bent] *= self.reach / batch.ahead
        return X

    @property
    def linear(self) -> tuple[Floats, Floats] | None:
        """Coefficients of the scaled columns and of the waves; ``None`` where there are none."""
        if self.scales is None or self.plain:
            return None
        labels = _labels(self.names, self.waves)
        probe = pd.DataFrame(np.eye(len(labels)), columns=labels)
        said = np.asarray(self.regressor.predict_many(probe), np.float64)
        return said[: len(self.names)], said[len(self.names) :]

    def waves_of(self, X: Floats) -> Singles:
        """Random Fourier features of scaled columns, shape (n, waves)."""
        slopes, phases = _waves(self.waves, len(self.names))
        # In single precision a cosine costs a fifth. A column of which nothing was learned must
        # not move what was learned of the others.
        waves: Singles = (slopes * self.seen[:, None]).T @ X.T.astype(np.float32)
        waves += phases[:, None]
        np.cos(waves, out=waves)
        waves *= np.float32(WAVE_HEIGHT)
        return waves.T

    @property
    def _bent(self) -> slice:
        """The columns whose effect grows with the horizon."""
        return slice(self.names.index("one:h"), None)

    def _room(self, count: int) -> Floats:
        """Room for so many rows of columns and waves, in memory column by column as in pandas."""
        return np.empty((len(self.names) + self.waves, count)).T

    def _frame(self, room: Floats) -> pd.DataFrame:
        """Scaled columns as River takes them; their waves are written beside them."""
        if self.waves:
            room[:, len(self.names) :] = self.waves_of(room[:, : len(self.names)])
        # Without copy=False pandas turns the rows round: a third of a close.
        return pd.DataFrame(room, columns=_labels(self.names, self.waves), copy=False)

    def digest(self) -> list[Floats]:
        scales = np.zeros(0) if self.scales is None else self.scales
        labels = _labels(self.names, self.waves)
        probe = pd.DataFrame(np.eye(len(labels)), columns=labels)
        try:
            said = np.asarray(self.regressor.predict_many(probe), np.float64)
        except _FAULTS:
            if not self.plain:
                raise
            said = np.zeros(0)
        counted = np.array([self._rows, self._buckets, self.reach, self.faults])
        seen = self.seen.astype(np.float64)
        return [scales, self._squares, counted, seen, self.noise, self.beyond, said]


def _blocks(count: int) -> Iterator[slice]:
    """Rows, some at a time."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def _rows(
    batches: Sequence[tuple[Batch, Floats]], whole: bool = False
) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Columns, scale and demand of the rows that are finite: one would spoil every coefficient.

    A few rows come all at once, many some at a time, unless they are wanted ``whole``.
    """
    if whole or sum(len(demand) for _, demand in batches) <= BLOCK:
        X = np.concatenate([batch.X for batch, _ in batches])
        scale = np.concatenate([batch.scale for batch, _ in batches])
        pieces = iter([(X, scale, np.concatenate([demand for _, demand in batches]))])
    else:
        pieces = (
            (batch.X[some], batch.scale[some], demand[some])
            for batch, demand in batches
            for some in _blocks(len(demand))
        )
    for X, scale, y in pieces:
        good = np.isfinite(y) & np.isfinite(scale) & np.isfinite(X).all(axis=1)
        if good.any():
            yield (X, scale, y) if good.all() else (X.T[:, good].T, scale[good], y[good])


@cache
def _labels(names: tuple[str, ...], waves: int) -> pd.Index[str]:
    """Labels of columns and waves: to make them for each block is a twentieth of a close."""
    return pd.Index([*names, *(f"wave_{n}" for n in range(waves))], dtype=object)


@cache
def _waves(count: int, width: int) -> tuple[Singles, Singles]:
    """Slopes (width, count) and phases (count,) of random Fourier features; always the same.

    Reference: A. Rahimi, B. Recht, "Random features for large-scale kernel machines", 2007.
    """
    # Points spread evenly by irrational steps (Kronecker's sequence), the same everywhere: powers
    # of the root of x^(d + 1) = x + 1, the golden ratio's kin in d dimensions.
    root = 2.0
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (len(BASE) + 2))
    steps = root ** -np.arange(1.0, len(BASE) + 2)
    points = np.mod(np.outer(np.arange(1, count + 1), steps), 1.0)
    slopes = np.zeros((width, count), np.float32)  # the horizon bends the linear part alone
    slopes[: len(BASE)] = WAVE_WIDTH * np.sqrt(RIDGE) * ndtri(points[:, :-1]).T
    return slopes, (2 * np.pi * points[:, -1]).astype(np.float32)


def _warm(settings: Settings) -> int:
    return WARM_SEASONS * max(SEASON[settings.bucket], 4)


def _bayes(settings: Settings) -> Model:
    return Ratio(ForgettingRegression(), columns(settings), _warm(settings), KEPT[settings.bucket])


def _river_plain(settings: Settings) -> Model:
    return Ratio(linear_model.BayesianLinearRegression(), columns(settings), _warm(settings))


def _waved(settings: Settings) -> Model:
    return Ratio(
        ForgettingRegression(),
        columns(settings),
        _warm(settings),
        KEPT[settings.bucket],
        waves=WAVES,
    )


#: Length of a bucket in days, as far as forgetting goes: weeks remember somewhat longer.
PACE = {"hour": 1 / 24, "day": 1.0, "week": 3.0}
EXPERTS = ("waves", "level_phase", "phase_mean", "season_phase")


def _ensemble(settings: Settings) -> Model:
    horizons = [h / settings.horizons for h in settings.scored_horizons]
    return Ensemble({name: MODELS[name](settings) for name in EXPERTS}, horizons,
                    PACE[settings.bucket], _warm(settings))  # fmt: skip


MODELS: dict[str, Callable[[Settings], Model]] = {
    "bayes": _bayes,
    "ensemble": _ensemble,
    "level_phase": lambda settings: Simple("level_phase"),
    "phase_mean": lambda settings: Simple("phase_mean"),
    "river_plain": _river_plain,
    "season_phase": lambda settings: Simple("season_phase"),
    "seasonal_naive": lambda settings: Simple("naive"),
    "waves": _waved,
}


def make(name: str, settings: Settings) -> Model:
    """The model of a name: one of ``MODELS``, or any River regressor or pipeline by its path.

    A path is ``package.module.Name`` or ``package.module:name``, of a River class, of a pipeline,
    or of a function that takes nothing and gives one. It learns the same features as the
    champion: by ``learn_many`` where it has it, else row by row.

    Raises
    ------
    SettingsError
        No model has that name, it is no regressor, it draws numbers without a seed, or it
        cannot go through a snapshot.

    Examples
    --------
    >>> type(make("river.linear_model.LinearRegression", Settings()).regressor).__name__
    'LinearRegression'
    """
    if name in MODELS:
        return MODELS[name](settings)
    if "." not in name and ":" not in name:
        near = difflib.get_close_matches(name, MODELS, n=1)
        known = ", ".join(sorted(MODELS))
        raise SettingsError(
            f"unknown model `{name}`",
            remedy=(f"Did you mean `{near[0]}`? " if near else "")
            + f"Models are: {known}; or the import path of a River regressor",
        )
    learner = regressor_of(name)
    model = Ratio(learner, columns(settings), _warm(settings), plain=True)
    try:
        load_models(pickle.dumps({name: model}), [name])
    except (SnapshotCorrupt, pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"model `{name}` cannot be kept in a snapshot: {error}",
            remedy="Choose a regressor made of River's classes and of those beside it",
        ) from None
    return model
