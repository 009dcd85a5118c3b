"""Forecasts waiting for their bucket, and scores by model and horizon.

Every forecast is scored before anything is learned from its bucket. Scores are sums that
forget, so that they say how it goes *now*; means are judged by RMSSE and bias, WAPE stands
beside them. RMSSE here is pooled: the root of the sum of squared errors over the sum of each
series' own mean squared seasonal difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Share of the scores' sums that survives a scored bucket.
DECAY = 0.97
#: Sums kept: forecasts scored, error, absolute error, squared error, demand, squared difference.
SUMS = ("n", "error", "absolute", "squared", "demand", "difference")


class Evaluation:
    """Scores of all models at all scored horizons. Mutable; all of it is state.

    ``sums`` has shape (models, horizons, len(SUMS)); ``pending[h]`` has shape (h, models, room):
    the forecast for bucket ``t`` made at ``t - h`` waits in slot ``t % h``.
    """

    def __init__(self, models: tuple[str, ...], scored: tuple[int, ...]) -> None:
        self.models = models
        self.scored = scored
        self.sums: Floats = np.zeros((len(models), len(scored), len(SUMS)))
        self.pending = {h: np.zeros((h, len(models), 0), np.float32) for h in scored}
        self.last: int | None = None

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
        self, bucket: int, horizon: int, actual: Floats, difference: Floats
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Score a horizon's forecasts of a bucket, all models on the same series.

        Parameters
        ----------
        actual
            Demand, shape (S,); ``nan`` where it is not to be scored.
        difference
            Mean squared seasonal difference of each series, shape (S,); ``nan``: unknown.

        Returns
        -------
        The forecasts, shape (models, S), and which series were scored, shape (S,).
        """
        forecasts = self.waiting(bucket, horizon, len(actual))
        use = np.isfinite(actual) & np.isfinite(forecasts).all(axis=0) & np.isfinite(difference)
        if use.any():
            at = self.scored.index(horizon)
            error = forecasts[:, use] - actual[use]
            sums = self.sums[:, at]
            sums *= DECAY
            sums[:, 0] += use.sum()
            sums[:, 1] += error.sum(axis=1)
            sums[:, 2] += np.abs(error).sum(axis=1)
            sums[:, 3] += (error**2).sum(axis=1)
            sums[:, 4] += actual[use].sum()
            sums[:, 5] += difference[use].sum()
        return forecasts, use

    def summary(self, champion: str) -> list[dict[str, Any]]:
        """Scores as rows; see ``summary``."""
        return summary(self.models, self.scored, self.sums, champion)


def summary(
    models: tuple[str, ...], scored: tuple[int, ...], sums: Floats, champion: str
) -> list[dict[str, Any]]:
    """Scores as rows of model, role, horizon, n, rmsse, wape, bias; unscored ones left out.

    Parameters
    ----------
    sums
        Shape (models, horizons, len(SUMS)); sums of several shards may be added up.
    """
    rows: list[dict[str, Any]] = []
    for m, model in enumerate(models):
        for h, horizon in enumerate(scored):
            n, error, absolute, squared, demand, difference = sums[m, h].tolist()
            if n == 0:
                continue
            rows.append(
                {
                    "model": model,
                    "role": "champion" if model == champion else "challenger",
                    "horizon": horizon,
                    "n": round(n, 3),
                    "rmsse": (squared / difference) ** 0.5 if difference > 0 else None,
                    "wape": absolute / demand if demand > 0 else None,
                    "bias": error / demand if demand > 0 else None,
                }
            )
    return rows
