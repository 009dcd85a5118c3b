"""Forecasts waiting for their bucket, and scores by model, horizon and slice.

Every forecast is scored before anything is learned from its bucket. Scores are sums that
forget, so that they say how it goes *now*: RMSSE and bias of the mean, WAPE of the median, the
pinball loss of quantiles, and whether they hold what they say (calibration). RMSSE here is
pooled: the root of the sum of squared errors over the sum of each series' own mean squared
seasonal difference. What waits is the mean; its distribution is made as the spread stands just
before the bucket is learned, which is newer than the origin by the horizon less one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]

from learner.intervals import Tables, Traits, Verdict, hits, judge, scores_at
from learner.panel import Panel
from learner.spread import Gained, gain, own_dispersion
from stream.settings import TWIN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

#: Share of the scores' sums that survives a scored bucket.
KEPT: Final = {"hour": 0.995, "day": 0.97, "week": 0.95}
#: Levels whose pinball loss is scored, and levels that calibration is told of.
PINBALL, CALIBRATED = (0.1, 0.5, 0.9), (0.1, 0.5, 0.9, 0.975)
#: Sums kept: forecasts scored, demand, squared and root mean squared seasonal difference; error
#: and squared error of the mean, absolute error of the median, mean pinball loss; hits and covered
#: buckets by level.
SUMS = ("n", "demand", "difference", "scale", "error", "squared", "absolute", "pinball",
        *(f"hits_{level}" for level in CALIBRATED),
        *(f"covered_{level}" for level in CALIBRATED))  # fmt: skip
_ABSOLUTE = SUMS.index("absolute")
#: The band whose coverage is told of each series.
BAND = (0.1, 0.9)
_INSIDE = tuple(SUMS.index(f"hits_{level}") for level in BAND)
#: The model that every other is held against.
NAIVE = "seasonal_naive"
#: Volume classes of series, by their level in units a bucket: bounds and names.
VOLUMES = (0.1, 1.0, 10.0, 100.0)
VOLUME_NAMES = ("under 0.1", "0.1 to 1", "1 to 10", "10 to 100", "100 and more")
SLICES = ("store", "category", "volume_class")
#: Stores, and categories, that have scores of their own; those past them share the last.
MOST_SLICES = 2000
#: Series judged at once: what fits the processor's cache.
BLOCK = 8192
#: Least mean squared seasonal difference: a series that never changes has errors too.
LEAST_DIFFERENCE = 0.05
#: Scored forecasts below which a slice is not told of.
LEAST = 0.5


class Marks(NamedTuple):
    """What single forecasts of one model came to, (n,) each.

    ``error`` of the mean and ``absolute`` error of the median, in units; ``inside``: how much of
    what came lay in ``BAND``.
    """

    error: Floats
    absolute: Floats
    inside: Floats


class Scored(NamedTuple):
    """What a horizon's forecasts of a bucket came to: the series, (n,), and what was learned.

    ``gained`` is of each model, and so is ``own`` (2, n) at the first horizon, see
    ``spread.own_dispersion``; ``marks`` are of the models asked for, by name; ``sums`` are of each
    kind of slice, (values, models, len(SUMS)).
    """

    horizon: int
    rows: Ints
    gained: list[Gained]
    own: list[Floats]
    marks: dict[str, Marks]
    sums: dict[str, Floats]


class Evaluation:
    """Scores of all models at all scored horizons. Mutable; all of it is state.

    ``slices[kind]`` has shape (values, models, horizons, len(SUMS)) with values by code; every
    series is in one volume class, so all of them together are all series. ``pending[h]`` (h,
    models, room): the forecast for bucket ``t`` made at ``t - h`` waits in slot ``t % h``.
    """

    def __init__(self, models: tuple[str, ...], scored: tuple[int, ...], bucket: str) -> None:
        self.models = models
        self.scored = scored
        self.kept = KEPT[bucket]
        shape = (0, len(models), len(scored), len(SUMS))
        self.slices = {kind: np.zeros(shape) for kind in SLICES}
        self.pending = {h: np.zeros((h, len(models), 0), np.float32) for h in scored}
        self.last: int | None = None

    @property
    def sums(self) -> Floats:
        """Over all series, shape (models, horizons, len(SUMS))."""
        total: Floats = self.slices["volume_class"].sum(axis=0)
        return total

    def grow(self, room: int) -> None:
        """Make room for as many series; new ones have no forecast waiting."""
        for h, waiting in self.pending.items():
            more = room - waiting.shape[2]
            if more > 0:
                self.pending[h] = np.pad(
                    waiting, ((0, 0), (0, 0), (0, more)), constant_values=np.nan
                )

    def skip_to(self, bucket: int) -> None:
        """Drop forecasts for buckets that passed unclosed, up to ``bucket``."""
        if self.last is not None:
            for h, waiting in self.pending.items():
                for gap in range(max(self.last + 1, bucket - h), bucket):
                    waiting[gap % h] = np.nan
        self.last = bucket

    def waiting(self, bucket: int, horizon: int, size: int) -> Floats:
        """Forecasts of a bucket at a horizon, shape (models, size); ``nan`` where none."""
        slot = self.pending[horizon][bucket % horizon]
        return np.asarray(slot[:, :size], np.float64)

    def put(self, origin: int, horizon: int, model: int, mean: Floats) -> None:
        """Let a forecast wait for bucket ``origin + horizon``."""
        slot = self.pending[horizon][(origin + horizon) % horizon, model]
        slot[:] = np.nan
        slot[: len(mean)] = mean

    def score(
        self,
        bucket: int,
        horizon: int,
        actual: Floats,
        difference: Floats,
        tables: Tables,
        traits: Traits,
        codes: Mapping[str, Ints],
        marked: Collection[str],
    ) -> Scored | None:
        """Score a horizon's forecasts of a bucket, all models on the same series.

        Parameters
        ----------
        actual
            Demand, shape (S,); ``nan`` where it is not to be scored.
        difference
            Mean squared seasonal difference of each series, shape (S,); ``nan``: unknown.
        tables
            Of all models and horizons, shape (models, horizons, ...).
        traits
            Of all series; the factor is of each model, shape (models, S).
        codes
            For each kind of slice the series' value, by number, shape (S,).
        marked
            Models whose single forecasts are told of.

        Returns
        -------
        What the forecasts came to; ``None``: there was nothing to score.
        """
        forecasts = self.waiting(bucket, horizon, len(actual))
        use = np.isfinite(actual) & np.isfinite(forecasts).all(axis=0) & np.isfinite(difference)
        rows = np.flatnonzero(use)
        if not len(rows):
            return None
        at = self.scored.index(horizon)
        actual, difference, traits = actual[rows], difference[rows], traits.take(rows)
        means = forecasts[:, rows]
        code = np.stack([np.minimum(codes[kind][rows], MOST_SLICES - 1) for kind in SLICES], axis=1)
        self._make_room(code.max(axis=0) + 1)
        sizes = [len(one) for one in self.slices.values()]
        code += np.cumsum([0, *sizes[:-1]])
        scored, sums = Scored(horizon, rows, [], [], {}, {}), []
        for model, (mean, factor) in enumerate(zip(means, traits.factor, strict=True)):
            found = _judge(
                tables.at(model, at), mean, actual, difference, traits._replace(factor=factor),
                code, sum(sizes), marked=self.models[model] in marked, own=at == 0,
            )  # fmt: skip
            sums.append(found.sums)
            scored.gained.append(found.gained)
            if found.own is not None:
                scored.own.append(found.own)
            if found.marks is not None:
                scored.marks[self.models[model]] = found.marks
        split = np.split(np.stack(sums, axis=1), np.cumsum(sizes)[:-1])
        for kind, more in zip(SLICES, split, strict=True):
            kept = self.slices[kind][:, :, at]
            kept *= self.kept
            kept += more
            scored.sums[kind] = more
        return scored

    def _make_room(self, needed: Ints) -> None:
        for (kind, sums), size in zip(self.slices.items(), needed.tolist(), strict=True):
            more = size - len(sums)
            if more > 0:
                pad = [(0, more), *((0, 0) for _ in sums.shape[1:])]
                self.slices[kind] = np.pad(sums, pad)

    def summary(self, champion: str) -> list[dict[str, Any]]:
        """Scores as rows; see ``summary``."""
        return summary(self.models, self.scored, self.sums, champion)


class _Judged(NamedTuple):
    """What one model's forecasts came to: ``sums`` by code, (size, len(SUMS)), and as wanted."""

    sums: Floats
    gained: Gained
    own: Floats | None
    marks: Marks | None


def _judge(
    tables: Tables, mean: Floats, actual: Floats, difference: Floats, traits: Traits,
    code: Ints, size: int, *, marked: bool, own: bool,
) -> _Judged:  # fmt: skip
    """Judge one model's forecasts, some at a time.

    Parameters
    ----------
    code
        The slices that each series counts for, shape (n, kinds), below ``size``.
    marked, own
        Whether marks, and series' own dispersion, are wanted.
    """
    z = scores_at(tables, np.asarray(CALIBRATED))
    sums, gained = np.zeros((size, len(SUMS))), Gained.nothing()
    marks, owns = [], []
    for start in range(0, len(mean), BLOCK):
        some = slice(start, start + BLOCK)
        came, said = actual[some], mean[some]
        verdict = judge(tables, z, said, came, traits.take(some))
        values = _values(verdict, said, came, difference[some])
        sums += _by(code[some], values, size)
        gained += gain(verdict)
        if own:
            owns.append(own_dispersion(verdict))
        if marked:
            inside = values[:, _INSIDE[1]] - values[:, _INSIDE[0]]
            marks.append((said - came, values[:, _ABSOLUTE], inside))
    return _Judged(
        sums,
        gained,
        np.concatenate(owns, axis=1) if own else None,
        Marks(*map(np.concatenate, zip(*marks, strict=True))) if marked else None,
    )


def _values(verdict: Verdict, mean: Floats, actual: Floats, difference: Floats) -> Floats:
    """What each forecast adds to the sums, (n, len(SUMS))."""
    out = np.empty((len(actual), len(SUMS)))
    error = mean - actual
    short = dict(zip(CALIBRATED, actual - verdict.quantiles, strict=True))
    loss = sum(np.maximum(one * short[one], (one - 1.0) * short[one]) for one in PINBALL)
    columns = (np.ones(1), actual, difference, np.sqrt(difference), error, error * error,
               np.abs(short[0.5]), loss / len(PINBALL), *hits(verdict, CALIBRATED),
               *(one <= 0 for one in short.values()))  # fmt: skip
    for at, column in enumerate(columns):
        out[:, at] = column
    return out


def _by(code: Ints, values: Floats, size: int) -> Floats:
    """Sums of rows by code, (size, columns): each row counts for each of its codes."""
    count, kinds = code.shape
    places = (np.ones(code.size), code.ravel(), np.arange(count + 1) * kinds)
    sums: Floats = sparse.csc_array(places, shape=(size, count)) @ values
    return sums


def seasonal_difference(total: Floats, count: Floats) -> Floats:
    """Mean squared seasonal difference of series; never nothing, and ``nan`` where not known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    return np.maximum(mean, LEAST_DIFFERENCE)


def learn_difference(panel: Panel, bucket: int, actual: Floats) -> None:
    """Keep each series' mean squared seasonal difference: the scale of its errors.

    Parameters
    ----------
    actual
        Demand of a closed bucket, shape (S,), in units; ``nan`` where it is not to be learned.
    """
    alike = panel.calendar.alike(bucket, bucket - 1, 1)
    if not alike:
        return  # an hour that clocks skipped a season ago
    before = panel.units(alike[0])
    sums, count = panel.columns["error_sum"], panel.columns["error_n"]
    fade = 1.0 - 1.0 / (8 * max(panel.season, 4))
    rows = np.flatnonzero(np.isfinite(actual) & np.isfinite(before))
    sums[rows] = sums[rows] * fade + (actual[rows] - before[rows]) ** 2
    count[rows] = count[rows] * fade + 1.0


def slices_of(panel: Panel, bucket: int) -> dict[str, Ints]:
    """What each series' scores of a bucket count for too, by number, shape (S,) each."""
    level, _ = panel.window(bucket - 1, panel.short)
    return {
        "store": panel.column("store").astype(np.intp),
        "category": panel.column("category").astype(np.intp),
        "volume_class": np.searchsorted(VOLUMES, level, side="right"),
    }


# -- telling -------------------------------------------------------------------------------


def summary(
    models: Sequence[str], scored: Sequence[int], sums: Floats, champion: str
) -> list[dict[str, Any]]:
    """Scores as rows; unscored ones are left out.

    A row has model, role, horizon and n; of the mean ``rmsse`` and ``bias``; of the median
    ``wape``; ``pinball``, over the series' root mean squared seasonal difference; ``hits``, by
    level the share of demand below it (a count that straddles it counts in part), which should
    be the level; ``covered``, the share that its quantile was not passed.

    Parameters
    ----------
    sums
        Shape (models, horizons, len(SUMS)); sums of several shards may be added up.
    """
    rows: list[dict[str, Any]] = []
    for m, model in enumerate(models):
        for h, horizon in enumerate(scored):
            of = dict(zip(SUMS, sums[m, h].tolist(), strict=True))
            if of["n"] < LEAST:
                continue
            rows.append(
                {
                    "model": model,
                    "role": role(model, champion),
                    "horizon": horizon,
                    "n": round(of["n"], 3),
                    "rmsse": _ratio(of["squared"], of["difference"], 0.5),
                    "bias": _ratio(of["error"], of["demand"]),
                    "wape": _ratio(of["absolute"], of["demand"]),
                    "pinball": _ratio(of["pinball"], of["scale"]),
                    "hits": {str(level): _ratio(of[f"hits_{level}"], of["n"])
                             for level in CALIBRATED},
                    "covered": {str(level): _ratio(of[f"covered_{level}"], of["n"])
                                for level in CALIBRATED},
                }
            )  # fmt: skip
    return rows


def role(model: str, champion: str) -> str:
    """What a model is: ``champion``, ``challenger`` or ``twin``."""
    return "champion" if model == champion else TWIN if model == TWIN else "challenger"


def _ratio(one: float, other: float, power: float = 1.0) -> float | None:
    return round((one / other) ** power, 6) if other > 0 else None
