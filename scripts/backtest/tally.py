"""Scores of a backtest: sums by series and by bucket, of which every table and plot is made.

RMSSE is each series' root mean squared error over the root of its mean squared seasonal
difference (over all that was replayed), then the mean over series; WAPE is of medians, since a
mean is not made for absolute error. Leaves out: how it is shown (``command``, ``report``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scripts.backtest.replay import Asked, Block

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Sums kept of each series, model and horizon, and of each bucket.
SUMS = ("n", "error", "absolute", "squared", "demand")
N, ERROR, ABSOLUTE, SQUARED, DEMAND = range(len(SUMS))
#: Upper bounds of the volume classes, in units a bucket.
VOLUMES = (0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one model at one horizon over some series; ``nan`` where nothing can be said.

    ``n`` forecasts; ``pinball`` is twice the mean over levels as a share of demand. By level:
    ``hits``, the share of the non-randomised PIT at or below it, which is the level where
    distributions are right; ``covered``, the share of demand that is not above the quantile.
    """

    n: int
    rmsse: float
    bias: float
    wape: float
    pinball: float
    hits: tuple[float, ...]
    covered: tuple[float, ...]


class Tally:
    """Sums over blocks. Mutable.

    Parameters
    ----------
    models
        Names, in the blocks' order.
    asked
        What was forecast.
    season
        Buckets of a season.
    partitions
        How many shards there are.
    """

    def __init__(self, models: Sequence[str], asked: Asked, season: int, partitions: int) -> None:
        self.models = tuple(models)
        self.horizons = asked.horizons
        self.levels = asked.levels
        self.season = season
        self._shape = (len(self.models), len(self.horizons))
        # by partition: (models, horizons, SUMS, S), (models, horizons, 3 levels, S) and (2, S)
        self._sums = [np.zeros((*self._shape, len(SUMS), 0)) for _ in range(partitions)]
        self._losses = [np.zeros((*self._shape, 3 * len(self.levels), 0))
                        for _ in range(partitions)]  # fmt: skip
        self._differences = [np.zeros((2, 0)) for _ in range(partitions)]
        self._past: list[dict[int, Floats]] = [{} for _ in range(partitions)]
        #: By target bucket: (models, horizons, SUMS + levels), the levels' hits last.
        self.by_bucket: dict[int, Floats] = {}

    def closed(self, partition: int, bucket: int, actual: Floats) -> None:
        """Take in a bucket's demand, (S,): of it the seasonal differences are made."""
        past, sums = self._past[partition], self._differences[partition]
        past[bucket] = actual
        sums = _grown(sums, len(actual))
        before = past.pop(bucket - self.season, None)
        for gone in [old for old in past if old < bucket - self.season]:
            del past[gone]
        if before is not None:
            squared = (actual[: len(before)] - before) ** 2
            known = np.isfinite(squared)
            sums[0, : len(before)][known] += squared[known]
            sums[1, : len(before)][known] += 1
        self._differences[partition] = sums

    def told(self, block: Block) -> None:
        """Score a block."""
        size = len(block.actual)
        sums = self._sums[block.partition] = _grown(self._sums[block.partition], size)
        losses = self._losses[block.partition] = _grown(self._losses[block.partition], size)
        use = np.isfinite(block.actual) & np.isfinite(block.mean).all(axis=0)
        if not use.any():
            return
        at = self.horizons.index(block.horizon)
        rows = np.flatnonzero(use)
        actual = block.actual[rows]
        error = block.mean[:, rows] - actual
        found = np.stack(
            [
                np.ones_like(error),
                error,
                np.abs(block.median[:, rows] - actual),
                error**2,
                np.broadcast_to(actual, error.shape),
            ],
            axis=1,
        )  # (models, SUMS, n)
        sums[:, at, :, rows] += found.transpose(2, 0, 1)
        quantiles = block.quantiles[:, :, rows]
        levels = np.asarray(self.levels)[:, None]
        over = actual - quantiles
        loss = np.maximum(levels * over, (levels - 1) * over)
        # A count straddles levels: it lies below one in part (Czado, Gneiting, Held, 2009).
        lower, upper = block.cells[:, :, rows].transpose(1, 0, 2)[:, :, None]
        hit = np.clip((levels - lower) / np.maximum(upper - lower, 1e-12), 0.0, 1.0)
        of_levels = np.concatenate([loss, hit, over <= 0], axis=1)  # (models, 3 levels, n)
        losses[:, at, :, rows] += of_levels.transpose(2, 0, 1)
        of_bucket = self.by_bucket.setdefault(
            block.target, np.zeros((*self._shape, len(SUMS) + len(self.levels)))
        )
        of_bucket[:, at, : len(SUMS)] += found.sum(axis=2)
        of_bucket[:, at, len(SUMS) :] += hit.sum(axis=2)

    # -- reading ---------------------------------------------------------------------------

    @property
    def sums(self) -> Floats:
        """Sums of all series, partition after partition, (models, horizons, SUMS, S)."""
        return np.concatenate(self._sums, axis=3)

    @property
    def scale(self) -> Floats:
        """Mean squared seasonal difference of all series, (S,); ``nan``: not known."""
        parts = []
        for sums, of_models in zip(self._differences, self._sums, strict=True):
            squared, count = _grown(sums, of_models.shape[3])[:, : of_models.shape[3]]
            parts.append(np.where(squared > 0, squared / np.maximum(count, 1), np.nan))
        return np.concatenate(parts)

    def rmsse(self) -> Floats:
        """RMSSE of every series, (models, horizons, S); ``nan`` where there is none."""
        sums = self.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_squared: Floats = sums[:, :, SQUARED] / sums[:, :, N]
            return np.sqrt(mean_squared / self.scale)

    def scores(self, chosen: Mask | None = None) -> Mapping[tuple[str, int], Score]:
        """Scores by (model, horizon) over the chosen series, (S,); ``None``: all."""
        sums, rmsse = self.sums, self.rmsse()
        losses = np.concatenate(self._losses, axis=3)
        if chosen is not None:
            sums, rmsse, losses = sums[..., chosen], rmsse[..., chosen], losses[..., chosen]
        out = {}
        levels = len(self.levels)
        for m, model in enumerate(self.models):
            for h, horizon in enumerate(self.horizons):
                n, error, absolute, _, demand = sums[m, h].sum(axis=1).tolist()
                loss, hit, covered = np.split(losses[m, h].sum(axis=1), 3)
                known = rmsse[m, h][np.isfinite(rmsse[m, h])]
                out[model, horizon] = Score(
                    n=int(n),
                    rmsse=float(known.mean()) if len(known) else float("nan"),
                    bias=_share(error, demand),
                    wape=_share(absolute, demand),
                    pinball=_share(2 * float(loss.sum()) / max(levels, 1), demand),
                    hits=tuple(_share(float(one), n) for one in hit),
                    covered=tuple(_share(float(one), n) for one in covered),
                )
        return out

    def volumes(self) -> Floats:
        """Mean demand of every series where it was scored, (S,), in units a bucket."""
        sums = self.sums[0].sum(axis=0)  # over horizons
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: Floats = sums[DEMAND] / sums[N]
        return mean


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def _grown(values: Floats, size: int) -> Floats:
    """Room for as many series, along the last axis."""
    more = size - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, more)]) if more > 0 else values
