"""Online aggregation of experts: the default champion.

Few experts forecast; the ensemble only weighs what they say. Weights are a series' own, per
scored horizon, exponential in a forgetting sum of squared errors, each measured in the series'
own variance, and drawn towards the weights that serve all series best. What experts would have
said is worked out at the close, before anything is learned from it, so that nothing waits.
A last factor per horizon keeps the mean unbiased. Leaves out: what the experts are
(``models``).

Reference: V. Vovk, "Aggregating strategies", COLT 1990.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from learner.features import Batch
from learner.names import Places, placed

if TYPE_CHECKING:
    from learner.models import Model

Floats = npt.NDArray[np.float64]

#: Learning rates of a series' own loss and of the loss of all series.
RATE, COMMON_RATE = 1.0, 2.0
#: Share of a loss, of a variance and of the balance that survives a day.
LOSS_KEPT, VARIANCE_KEPT, BALANCE_KEPT = 0.97, 0.97, 0.98
#: Most loss of one bucket: an outlier says little of who is right.
MOST_LOSS = 9.0
#: Bounds of the factor that keeps the mean unbiased, and the prior weight of 1, in buckets.
BALANCE_BOUNDS, BALANCE_PRIOR = (0.85, 1.2), 5.0


class Ensemble:
    """Experts weighed per series and horizon.

    Parameters
    ----------
    experts
        Models by name; none may be an ensemble.
    horizons
        Scored horizons, ascending, as shares of the farthest.
    pace
        Length of a bucket in days, as far as what is learned of one goes.
    warm
        Buckets of a horizon that the balance leaves out: what experts say at first is no guide.
    """

    def __init__(
        self, experts: Mapping[str, Model], horizons: Sequence[float], pace: float = 1.0,
        warm: int = 0,
    ) -> None:  # fmt: skip
        self.experts = dict(experts)
        self.loss_kept = LOSS_KEPT**pace
        self.variance_kept = VARIANCE_KEPT**pace
        self.balance_kept = BALANCE_KEPT**pace
        self.horizons = np.asarray(horizons, np.float64)
        count = len(self.experts)
        self.loss = np.zeros((len(horizons), count, 0), np.float32)  # a series' own
        self.common: Floats = np.zeros((len(horizons), count))  # of all series
        self.variance = np.zeros((len(horizons), 0), np.float32)  # 0: not known yet
        self.balance: Floats = np.zeros((len(horizons), 2))  # relative demand, forecast
        self.warm = warm
        self.buckets: Floats = np.zeros(len(horizons))  # weighed, by horizon

    # -- forecasting -----------------------------------------------------------------------

    def predict(self, batch: Batch) -> Floats:
        said = self._said(batch)
        at, share = self._between(batch.ahead)
        mean = self._mixed(said, batch.rows, at)
        if share > 0:
            mean = (1 - share) * mean + share * self._mixed(said, batch.rows, at + 1)
        return mean

    def weights(self, batch: Batch) -> dict[str, Floats]:
        """Weight of each expert in a forecast, the balance's factor included, (n,) each."""
        at, share = self._between(batch.ahead)
        weights = self._weights(batch.rows, at) * self._factor(at)
        if share > 0:
            far = self._weights(batch.rows, at + 1) * self._factor(at + 1)
            weights = (1 - share) * weights + share * far
        return dict(zip(self.experts, weights, strict=True))

    def _said(self, batch: Batch) -> Floats:
        return np.stack([expert.predict(batch) for expert in self.experts.values()])

    def _between(self, ahead: float) -> tuple[int, float]:
        """Place of a horizon among the scored ones: the one below, and the share of the next."""
        place = float(np.interp(ahead, self.horizons, np.arange(len(self.horizons))))
        return int(place), place - int(place)

    def _weights(self, rows: npt.NDArray[np.intp], at: int) -> Floats:
        """Weights, shape (experts, n); they sum to 1."""
        known = self.loss.shape[2]
        own = np.zeros((len(self.experts), len(rows)))
        there = rows < known
        own[:, there] = self.loss[at][:, rows[there]]
        sums = -RATE * own - COMMON_RATE * self.common[at][:, None]
        sums -= sums.max(axis=0)
        weights: Floats = np.exp(sums)
        weights /= weights.sum(axis=0)
        return weights

    def _factor(self, at: int) -> float:
        demand, forecast = self.balance[at] + BALANCE_PRIOR
        return float(np.clip(demand / forecast, *BALANCE_BOUNDS))

    def _mixed(self, said: Floats, rows: npt.NDArray[np.intp], at: int) -> Floats:
        mixed: Floats = np.einsum("en,en->n", said, self._weights(rows, at)) * self._factor(at)
        return mixed

    # -- learning --------------------------------------------------------------------------

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        for batch, demand in batches:
            good = np.isfinite(demand) & np.isfinite(batch.scale) & np.isfinite(batch.X).all(axis=1)
            if good.any():
                self._weigh(batch.take(good), demand[good])
        for expert in self.experts.values():
            expert.learn(batches)

    def _weigh(self, batch: Batch, demand: Floats) -> None:
        """Hold what the experts say, not having learned it, against what came."""
        at = int(np.argmin(np.abs(self.horizons - batch.ahead)))
        self._grow(int(batch.rows.max()) + 1)
        said = self._said(batch)
        mean = self._mixed(said, batch.rows, at)
        squared = (said - demand) ** 2
        rows = batch.rows
        usual = np.asarray(self.variance[at, rows], np.float64)
        error = np.minimum((mean - demand) ** 2, 25.0 * (batch.scale**2 + batch.scale))
        usual = np.where(usual > 0, usual, batch.scale**2 / 4 + batch.scale)
        relative = np.minimum(squared / np.maximum(usual, 1e-9), MOST_LOSS)
        # Only differences between experts say who is right.
        relative -= relative.min(axis=0)
        self.loss[at][:, rows] = self.loss_kept * self.loss[at][:, rows] + relative
        volume = np.minimum(batch.scale, 200.0)
        step = (relative * volume).sum(axis=1) / max(volume.sum(), 1e-9)
        self.common[at] = self.loss_kept * self.common[at] + step
        kept = self.variance_kept
        self.variance[at, rows] = kept * usual + (1 - kept) * error
        # Balance: of the plain mixture, as if the factor were 1; outliers weigh no more than
        # eight levels.
        self.buckets[at] += 1
        if self.buckets[at] <= self.warm:
            return
        plain = mean / self._factor(at)
        total = max(float(batch.scale.sum()), 1e-9)
        sold = float(np.minimum(demand, 8 * batch.scale + 12).sum() / total)
        said_of_it = float(plain.sum() / total)
        self.balance[at] *= self.balance_kept
        self.balance[at] += (min(sold, 3 * said_of_it + 0.1), said_of_it)

    def _grow(self, room: int) -> None:
        more = room - self.loss.shape[2]
        if more > 0:
            self.loss = np.pad(self.loss, ((0, 0), (0, 0), (0, more)))
            self.variance = np.pad(self.variance, ((0, 0), (0, more)))

    def rearrange(self, known: Places) -> None:
        """Go over to other rows.

        Parameters
        ----------
        known
            The row that each series had before, shape (S,): see ``names.known_as``.
        """
        self.loss, self.variance = placed(self.loss, known), placed(self.variance, known)

    def digest(self) -> list[Floats]:
        own = [np.asarray(self.loss, np.float64), np.asarray(self.variance, np.float64)]
        said = [array for expert in self.experts.values() for array in expert.digest()]
        return [*own, self.common, self.balance, self.buckets, *said]
