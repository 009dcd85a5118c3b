"""The twin: the champion as it was when it was last good, forecasting on, and learning nothing.

It reads the same facts as the champion, so what lies between their scores is what learning since
has been worth, and a champion that falls behind it is at fault, not the season. What it has
learned (weights, a series' own as well) stands still until it is taken anew: every
``twin_seasons`` seasons, once the champion's recent scores are hardly worse than the twin's and the
guard has no doubt of it. Leaves out: facts that stand still (nobody doubts that fresh ones are
better), and what is done about a champion that falls behind.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from learner.ensemble import Ensemble
from learner.evaluation import SUMS
from learner.features import Batch
from learner.models import Model, make
from learner.names import Places
from stream.settings import TWIN, Settings

Floats = npt.NDArray[np.float64]

#: Most squared error of a champion that is copied, over the twin's. Measured over a year of grocery
#: sales, a sound champion's is between 0.98 and 1.01 of it.
SLACK = 1.02


class Twin:
    """A model that learns nothing.

    Parameters
    ----------
    model
        What forecasts.
    since
        The bucket whose close it was taken at; ``None``: it has never learned anything.
    """

    def __init__(self, model: Model, since: int | None = None) -> None:
        self.model = model
        self.since = since

    def predict(self, batch: Batch) -> Floats:
        return self.model.predict(batch)

    def learn(self, batches: Sequence[tuple[Batch, Floats]]) -> None:
        """Nothing."""

    def digest(self) -> list[Floats]:
        since = -1.0 if self.since is None else float(self.since)
        return [np.array([since]), *self.model.digest()]


def make_models(settings: Settings) -> dict[str, Model]:
    """Champion first, then the challengers, then the twin: a champion that never learned.

    Raises
    ------
    SettingsError
        A name is no model's.
    """
    return {
        name: Twin(make(settings.champion, settings)) if name == TWIN else make(name, settings)
        for name in settings.models
    }


def renew(
    models: dict[str, Model], champion: str, bucket: int, *, first: int, every: int,
    sums: Mapping[str, Floats],
) -> None:  # fmt: skip
    """Take the twin anew from the champion at a bucket's close, if it is time, and it is good.

    Parameters
    ----------
    first
        The first bucket that was learned.
    every
        Buckets from one time to the next.
    sums
        Recent scores by model, shape (horizons, len(SUMS)).
    """
    twin = models.get(TWIN)
    if not isinstance(twin, Twin):
        return
    since = first if twin.since is None else twin.since
    if bucket - since >= every and no_worse(sums[champion], sums[TWIN]):
        take_anew(models, champion, bucket)


def take_anew(models: dict[str, Model], champion: str, bucket: int) -> None:
    """Let the twin, if there is one, be the champion as it is at a bucket's close."""
    if TWIN in models:
        models[TWIN] = Twin(copy.deepcopy(models[champion]), bucket)


def rearrange(model: Model, known: Places) -> None:
    """Let what a model has learned of single series go with them to other rows.

    Parameters
    ----------
    known
        The row that each series had before, shape (S,): see ``names.known_as``.
    """
    if isinstance(model, Twin):
        rearrange(model.model, known)
    elif isinstance(model, Ensemble):
        model.rearrange(known)


def no_worse(one: Floats, other: Floats) -> bool:
    """Whether a model's squared errors are hardly more than another's, horizons weighing alike.

    Examples
    --------
    >>> sums = np.zeros((2, len(SUMS)))
    >>> sums[:, SUMS.index("squared")] = [4.0, 9.0]
    >>> no_worse(sums, sums), no_worse(sums * 1.1, sums)
    (True, False)
    """
    ours, theirs = (sums[:, SUMS.index("squared")] for sums in (one, other))
    scored = theirs > 0
    return not scored.any() or bool(np.mean(ours[scored] / theirs[scored]) <= SLACK)
