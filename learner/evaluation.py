"""Forecasts waiting for their bucket, and scores by model, horizon and slice.

Every forecast is scored before anything is learned from its bucket. Scores are sums that
forget, so that they say how it goes *now*: RMSSE and bias of the mean, WAPE of the median, the
pinball loss of quantiles, and whether they hold what they say (calibration). RMSSE here is
pooled: the root of the sum of squared errors over the sum of each series' own mean squared
seasonal difference. What waits is the mean; its distribution is made as the spread stands just
before the bucket is learned, which is newer than the origin by the horizon less one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]

from learner.intervals import Tables, Traits, Verdict, hits, scores_at
from learner.judging import BLOCK, Bundle, Piece, join, judged
from learner.panel import Panel
from learner.spread import Gained, gain, own_dispersion
from stream.settings import TWIN

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
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
_ERROR, _ABSOLUTE = SUMS.index("error"), SUMS.index("absolute")
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

    ``gained`` is by model; so is ``own`` (models, 2, n) at the first horizon, see
    ``spread.own_dispersion``, which has no models at others. ``marks`` are of the models asked
    for, by name; ``sums`` of each kind of slice, (values, models, len(SUMS)).
    """

    horizon: int
    rows: Ints
    gained: Gained
    own: Floats
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
        actual: Floats,
        difference: Floats,
        tables: Tables,
        traits: Traits,
        codes: Mapping[str, Ints],
        marked: Collection[str],
    ) -> list[Scored]:
        """Score all forecasts of a bucket: at each horizon all models on the same series.

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
        What the forecasts came to, by horizon; of one with nothing to score there is none.
        """
        known = np.isfinite(actual) & np.isfinite(difference)
        code = np.stack([np.minimum(codes[kind], MOST_SLICES - 1) for kind in SLICES], axis=1)
        scored: dict[int, Scored] = {}
        facts: dict[int, _Facts] = {}
        pieces: list[Piece] = []
        for at, horizon in enumerate(self.scored):
            said = self.waiting(bucket, horizon, len(actual))
            rows = np.flatnonzero(known & np.isfinite(said).all(axis=0))
            if not len(rows):
                continue
            scored[at] = self._unscored(horizon, rows, marked)
            facts[at] = _Facts(code[rows], difference[rows])
            pieces += _pieces(at, said[:, rows], actual[rows], traits.take(rows))
        if not pieces:
            return []
        self._make_room(np.max([one.code.max(axis=0) for one in facts.values()], axis=0) + 1)
        sizes = [len(one) for one in self.slices.values()]
        for one in facts.values():
            one.code[:] += np.cumsum([0, *sizes[:-1]])
        sums = {at: np.zeros((len(self.models), sum(sizes), len(SUMS))) for at in scored}
        for bundle in judged(pieces, tables, scores_at(tables, np.asarray(CALIBRATED))):
            self._take_in(bundle, scored, sums, facts)
        for at, of_all in sums.items():
            split = np.split(of_all.swapaxes(0, 1), np.cumsum(sizes)[:-1])
            for kind, more in zip(SLICES, split, strict=True):
                kept = self.slices[kind][:, :, at]
                kept *= self.kept
                kept += more
                scored[at].sums[kind] = more
        return list(scored.values())

    def _unscored(self, horizon: int, rows: Ints, marked: Collection[str]) -> Scored:
        """Room for what a horizon's forecasts come to."""
        models, count = len(self.models), len(rows)
        own = np.zeros((models if horizon == self.scored[0] else 0, 2, count))
        marks = {name: Marks(*np.zeros((3, count))) for name in self.models if name in marked}
        return Scored(horizon, rows, Gained.nothing((models,)), own, marks, {})

    def _take_in(
        self, bundle: Bundle, scored: Mapping[int, Scored], sums: Mapping[int, Floats],
        facts: Mapping[int, _Facts],
    ) -> None:  # fmt: skip
        """Put what some forecasts came to where it belongs."""
        pieces = [piece for piece, _ in bundle.spans]
        some = [facts[piece.slot[1]].some(piece.place) for piece in pieces]
        mean = join([piece.mean for piece in pieces])
        actual = join([piece.actual for piece in pieces])
        values = _values(bundle.verdict, mean, actual, join([one.difference for one in some]))
        size = sums[pieces[0].slot[1]].shape[1]
        code = join([one.code + number * size for number, one in enumerate(some)])
        by_code = _by(code, values, size * len(pieces)).reshape(-1, size, len(SUMS))
        gained = gain(bundle.verdict)
        first = any(len(scored[piece.slot[1]].own) for piece in pieces)
        own = own_dispersion(bundle.verdict) if first else None
        for number, (piece, here) in enumerate(bundle.spans):
            model, at = piece.slot
            one = scored[at]
            sums[at][model] += by_code[number]
            one.gained.at(model).add(gained.at(number))
            if own is not None and len(one.own):
                one.own[model][:, piece.place] = own[:, here]
            marks = one.marks.get(self.models[model])
            if marks is not None:
                marks.error[piece.place] = values[here, _ERROR]
                marks.absolute[piece.place] = values[here, _ABSOLUTE]
                inside = values[here, _INSIDE[1]] - values[here, _INSIDE[0]]
                marks.inside[piece.place] = inside

    def _make_room(self, needed: Ints) -> None:
        for (kind, sums), size in zip(self.slices.items(), needed.tolist(), strict=True):
            more = size - len(sums)
            if more > 0:
                pad = [(0, more), *((0, 0) for _ in sums.shape[1:])]
                self.slices[kind] = np.pad(sums, pad)

    def summary(self, champion: str) -> list[dict[str, Any]]:
        """Scores as rows; see ``summary``."""
        return summary(self.models, self.scored, self.sums, champion)


class _Facts(NamedTuple):
    """Of a horizon's series: the slices that each counts for, (n, kinds), and its difference."""

    code: Ints
    difference: Floats

    def some(self, place: slice) -> _Facts:
        return _Facts(self.code[place], self.difference[place])


def _pieces(at: int, said: Floats, actual: Floats, traits: Traits) -> Iterator[Piece]:
    """A horizon's forecasts by all models, (models, n), no more than ``BLOCK`` in a piece."""
    for model, (mean, factor) in enumerate(zip(said, traits.factor, strict=True)):
        own = traits._replace(factor=factor)
        for start in range(0, len(mean), BLOCK):
            some = slice(start, min(start + BLOCK, len(mean)))
            yield Piece((model, at), mean[some], actual[some], own.take(some), some)


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


def seasonal_difference(total: Singles, count: Singles) -> Floats:
    """Mean squared seasonal difference of series; never nothing, and ``nan`` where not known."""
    mean = np.full(len(total), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    np.maximum(mean, LEAST_DIFFERENCE, out=mean)
    return mean


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
