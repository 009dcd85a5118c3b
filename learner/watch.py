"""The champion judged after its inputs: is it worse beside others than it has been?

At the close of a bucket its squared errors of the next bucket's means, each over its series' mean
squared seasonal difference, are held against the twin's on the same series, or against seasonal
naive's where there is no twin. Both read the same facts, and holidays are hard for all, so the
ratio stays within its band; a model gone wrong is alone. There is no absolute threshold: the band
is so many of the ratio's own tracked deviations. It trips after ``RUN`` buckets beyond the band,
and lets off after ``CALM`` within ``RELEASE`` of it. A fault may be within the band at first, so a
trip also tells the last bucket that was no worse than usual: about every second one is, and after
a fault hardly any. Leaves out: poison, which makes a champion that has learned it look good
(``guard``), and what a trip does (``effects``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from learner import bands
from learner.evaluation import NAIVE
from learner.findings import OK, STATES, SUSPECT, Finding, identity
from stream.buckets import Calendar
from stream.settings import TWIN

Floats = npt.NDArray[np.float64]

#: What the champion is held against: the first that is scored, and whose past is long enough.
BESIDE = (TWIN, NAIVE)
#: Deviations a band is wide; buckets beyond it before it trips; and to be let off.
BAND, RUN, RELEASE, CALM = 6.0, 2, 0.5, 3
#: Least deviation, beside each. Champion and twin differ by what a few weeks teach.
LEAST = np.array([0.002, 0.02])
#: Most squared error of a forecast, in mean squared seasonal differences.
MOST = 25.0
#: Series that must have been forecast for a bucket to count.
FEWEST = 5


class Watch:
    """What is usual of a champion's errors beside others'. Mutable; all of it is state.

    ``arrays`` by model of ``BESIDE``: ``count``, ``level``, ``spread``, ``furthest``; ``now``:
    buckets beyond the band, buckets within ``RELEASE``, state, and the bucket it began in;
    ``last``: score, and root mean squared error beside the one it is held against, found and usual;
    ``sound``, once there was one: the newest bucket at which it was no worse than usual.
    """

    def __init__(self, calendar: Calendar, partition: int) -> None:
        self.partition = partition
        self.warm = bands.warm_after(calendar)
        self.arrays: dict[str, npt.NDArray[Any]] = {
            **{name: np.zeros(len(BESIDE)) for name in ("count", "level", "spread", "furthest")},
            "now": np.zeros(4, np.int64),
            "last": np.zeros(3),
        }

    @property
    def suspect(self) -> bool:
        """Whether the champion is beyond its band, and was not let off since."""
        return bool(self.arrays["now"][2] == SUSPECT)

    def see(
        self, bucket: int, models: tuple[str, ...], champion: str, said: Floats, actual: Floats,
        difference: Floats, hold: bool,
    ) -> Finding | None:  # fmt: skip
        """Judge a bucket, and learn what is usual of it.

        Parameters
        ----------
        models, said
            Names of those scored, and their forecasts of the bucket, shape (models, S).
        actual
            Demand, shape (S,), in units; ``nan`` where it is not to be scored.
        difference
            Mean squared seasonal difference of each series, shape (S,); ``nan``: unknown.
        hold
            Whether a trip freezes what is served.
        """
        value = np.full(len(BESIDE), np.nan)
        own = models.index(champion)
        for at, name in enumerate(BESIDE):
            if name in models and name != champion:
                value[at] = _ratio(said[own], said[models.index(name)], actual, difference)
        a = self.arrays
        off = value - a["level"]
        width = np.maximum(BAND * np.maximum(a["spread"], LEAST), bands.MARGIN * a["furthest"])
        judged = np.isfinite(value) & (a["count"] >= self.warm)
        score, by = 0.0, int(np.argmax(judged))
        if judged.any():
            score = float(off[by] / width[by])
            a["last"][:] = score, np.exp(value[by] / 2), np.exp(a["level"][by] / 2)
            if score <= 0.0:
                a["sound"] = np.array([bucket])
        finding = self._decide(bucket, score, BESIDE[by], hold)
        self._learn(value, off, width)
        return finding

    def _decide(self, bucket: int, score: float, by: str, hold: bool) -> Finding | None:
        now = self.arrays["now"]
        now[0] = now[0] + 1 if score >= 1.0 else 0
        now[1] = now[1] + 1 if score < RELEASE else 0
        if now[2] == SUSPECT and now[1] >= CALM:
            now[2:] = OK, bucket
        if now[2] == SUSPECT or now[0] < RUN:
            return None
        now[2:] = SUSPECT, bucket - RUN + 1
        _, found, usual = self.arrays["last"].tolist()
        sound = self.arrays.get("sound")
        return Finding(
            id=identity(self.partition, "", bucket - RUN + 1), source="", partition=self.partition,
            bucket=bucket - RUN + 1, state="suspect", statistic=by, found=found,
            usual=usual, score=score, held=hold, sound=None if sound is None else int(sound[0]),
        )  # fmt: skip

    def _learn(self, value: Floats, off: Floats, width: Floats) -> None:
        a, use = self.arrays, np.isfinite(value)
        count, some = a["count"], np.where(use, off, 0.0)
        deviation = np.maximum(a["spread"], LEAST)
        cut, far, rate, narrow = bands.step(some, width, deviation, count, self.warm)
        spread = a["spread"] + narrow * (bands.NORMAL * np.abs(cut) - a["spread"])
        a["level"] = a["level"] + np.where(use, rate * cut, 0.0)
        a["spread"] = np.where(use & (count > 0), spread, a["spread"])
        a["furthest"] = np.where(use, bands.furthest(a["furthest"], far), a["furthest"])
        a["count"] = count + use


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where the champion stands: its error over that of who it is held against, and how far out
    of its band."""

    state: str
    since: int
    found: float
    usual: float
    score: float


def watched(arrays: Mapping[str, npt.NDArray[Any]]) -> Watched:
    """Where the champion stands, from a ``Watch``'s arrays."""
    state, since = arrays["now"][2:].tolist()
    score, found, usual = arrays["last"].tolist()
    return Watched(state=STATES[state], since=since, found=found, usual=usual, score=score)


def _ratio(own: Floats, other: Floats, actual: Floats, difference: Floats) -> float:
    """Logarithm of a model's squared errors over another's, on the series that both forecast."""
    use = np.isfinite(actual) & np.isfinite(own) & np.isfinite(other) & np.isfinite(difference)
    if use.sum() < FEWEST:
        return np.nan
    mine, others = (
        np.minimum((one - actual)[use] ** 2 / difference[use], MOST).sum() for one in (own, other)
    )
    return float(np.log((mine + 1) / (others + 1)))
