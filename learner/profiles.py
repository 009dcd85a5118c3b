"""What categories share: profile of the season, course of the year, answers to what is planned.

All of it is slow and small, and kept by category; row 0 stands for all series. The profile of a
past origin is kept too, so that learning looks back on what was known then. Leaves out: the
facts themselves (``panel``), and what is made of the profiles (``features``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from stream.buckets import Calendar
from stream.settings import LEARN_LAG

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int_]

#: Share of a new bucket in a profile, at least: in the first seasons it is a mean, with one of 1.
PHASE_SHARE = 0.15
#: Most that a bucket may be of the usual, and a category's prior weight in units.
MOST, PRIOR_UNITS = 5.0, 20.0
#: Weeks kept of each category: two years, and what lies around them.
WEEKS, YEAR = 112, 52
#: Weeks that a level stands for, looked back on a year ago.
LEVEL_WEEKS = 4
#: Weights of the weeks before, at and after the target, a year ago.
AROUND = (0.2, 0.6, 0.2)
#: Bounds of a year's course: last year's target week against its level then.
YEAR_BOUNDS = (0.2, 5.0)
#: What is answered to beside covariates: promotion beyond the usual, and log price over the usual.
OFFERS = ("promotion", "price")
#: Share of an answer that survives a bucket with a value; prior weight of the answer of all, for
#: scores of covariates and, which are smaller, of offers.
ANSWER_KEPT, ANSWER_PRIOR, OFFER_PRIOR = 0.99, 4.0, 0.45
#: Share of a new bucket in a covariate's mean and variance, at least; buckets before it has a
#: score, and the bound of that.
COVARIATE_SHARE, FEWEST, MOST_SCORE = 0.01, 3, 4.0
#: How far from its mean a value may be and still be learned whole: in deviations, and at least.
#: One that was always the same has no deviation to measure by, and one that is rare a small one.
MOST_DEVIATIONS, LEAST_STEP = 16.0, 1.0


class Profiles:
    """Profiles of categories. Mutable; all of it is state.

    Parameters
    ----------
    ring
        Buckets back that a profile can be asked for.
    covariates
        How many covariates are answered to; offers come after them.
    """

    def __init__(self, calendar: Calendar, ring: int, covariates: int) -> None:
        self.calendar = calendar
        self.ring = ring
        self.lag = LEARN_LAG[calendar.bucket]
        self.phases: Floats = np.ones((1, calendar.season))  # 1 is the mean
        self.past = np.ones((ring, 1), np.float32)  # the phase of a bucket, at its close
        self.weeks: Floats = np.zeros((WEEKS, 1))  # units by week
        self.week: int | None = None  # the newest week
        self.first_week = 0  # the first that was seen whole
        self.answers: Floats = np.zeros((1, covariates + len(OFFERS), 2))  # z², z × (ratio − 1)
        self.scores: Floats = np.zeros((covariates, 3))  # weight, mean, variance of values

    def __len__(self) -> int:
        return len(self.phases)

    def make_room(self, code: int) -> None:
        """Make room for a category; it starts from what holds for all."""
        if code >= len(self.phases):
            more = max(code + 1, 2 * code) - code
            self.phases = np.pad(self.phases, ((0, more), (0, 0)))
            self.past = np.pad(self.past, ((0, 0), (0, more)))
            self.weeks = np.pad(self.weeks, ((0, 0), (0, more)))
            self.answers = np.pad(self.answers, ((0, more), (0, 0), (0, 0)))
        self.phases[code] = self.phases[0]
        self.past[:, code] = self.past[:, 0]

    def digest(self, order: list[int]) -> list[bytes]:
        """All of it as bytes, categories in an order that no arrival decides."""
        rows = np.asarray(order, np.intp)
        arrays = (self.phases[rows], self.past[:, rows], self.weeks[:, rows], self.answers[rows],
                  self.scores)  # fmt: skip
        counted = repr((self.week, self.first_week)).encode()
        return [counted, *(np.ascontiguousarray(one).tobytes() for one in arrays)]

    # -- the season ------------------------------------------------------------------------

    def phase(self, origin: int, target: int) -> Floats:
        """Profile at a target's phase as it was known at an origin, shape (categories,)."""
        season, phase = self.calendar.season, self.calendar.phase(target)
        back = target - season * -(-(target - origin) // season)
        for bucket in (back, back - 1, back - season, back - season + 1):
            known = origin - self.ring < bucket <= origin - self.lag
            if known and self.calendar.phase(bucket) == phase:
                return np.asarray(self.past[bucket % self.ring], np.float64)
        return self.phases[:, phase]

    def pass_by(self, bucket: int) -> None:
        """A bucket closed of which nothing is learned: the profile stays as it is."""
        self.past[bucket % self.ring] = self.phases[:, self.calendar.phase(bucket)]

    def learn_phase(self, bucket: int, units: Floats, level: Floats, code: Codes,
                    effect: Floats, seasons: int) -> None:  # fmt: skip
        """Move the profiles towards what a bucket was.

        Parameters
        ----------
        units, level
            Demand and usual demand of the series that count, shape (n,).
        code
            Their categories, shape (n,).
        effect
            What was planned did to each category, as a share, shape (categories,).
        seasons
            Seasons that are known before.
        """
        groups, share = len(self), max(PHASE_SHARE, 1.0 / (seasons + 2))
        sold = np.bincount(code, units, groups)
        usual = np.bincount(code, level * (1.0 + effect[code]), groups)
        total = usual.sum()
        if self.calendar.season > 1 and total > 0:
            phase = self.calendar.phase(bucket)
            overall = self.phases[0, phase]
            overall += share * (min(sold.sum() / total, MOST) - overall)
            # A category's own profile counts as much as it has volume.
            ratio = np.minimum((sold + PRIOR_UNITS * overall) / (usual + PRIOR_UNITS), MOST)
            known = usual > 0
            self.phases[known, phase] += share * (ratio[known] - self.phases[known, phase])
            self.phases[0, phase] = overall
        self.pass_by(bucket)

    # -- the year --------------------------------------------------------------------------

    def week_of(self, bucket: int) -> int:
        """Number of the week that a bucket is in; its days start where numbers do."""
        if self.calendar.bucket == "week":
            return bucket
        return self.calendar.day_of(bucket) // 7

    def learn_week(self, bucket: int, units: Floats, code: Codes) -> None:
        """Add a bucket's demand to its week."""
        week = self.week_of(bucket)
        if self.week is None:
            self.week, self.first_week = week, week + (self.calendar.bucket != "week")
        for fresh in range(max(self.week + 1, week - WEEKS + 1), week + 1):
            self.weeks[fresh % WEEKS] = 0.0
        self.week = max(self.week, week)
        if week > self.week - WEEKS:
            self.weeks[week % WEEKS] += np.bincount(code, units, len(self))

    def year(self, origin: int, target: int) -> Floats:
        """Last year's course from an origin's level to a target, shape (categories,); 1: none."""
        now, then = self.week_of(origin) - YEAR, self.week_of(target) - YEAR
        nothing = np.ones(len(self))
        oldest = max(self.first_week, (self.week or 0) - WEEKS + 1)
        last = self.week_of(origin) - 1  # the last that was whole
        if now - LEVEL_WEEKS + 1 < oldest or then - 1 < oldest or then + 1 > last:
            return nothing
        level = np.zeros(len(self))
        for week in range(now - LEVEL_WEEKS + 1, now + 1):
            level += self.weeks[week % WEEKS] / LEVEL_WEEKS
        there = np.zeros(len(self))
        for weight, week in zip(AROUND, range(then - 1, then + 2), strict=True):
            there += weight * self.weeks[week % WEEKS]
        if level.sum() <= 0:
            return nothing
        overall = there.sum() / level.sum()
        course = (there + PRIOR_UNITS * overall) / (level + PRIOR_UNITS)
        course[0] = overall
        bounded: Floats = np.clip(course, *YEAR_BOUNDS)
        return bounded

    # -- what is planned -------------------------------------------------------------------

    def score(self, at: int, values: Floats) -> Floats:
        """A covariate's values in deviations from its mean, bounded; 0 where not known."""
        weight, mean, variance = self.scores[at]
        if weight < FEWEST:
            return np.zeros(len(values))
        spread = max(float(variance), 1e-12) ** 0.5
        found: Floats = np.clip((values - mean) / spread, -MOST_SCORE, MOST_SCORE)
        return np.nan_to_num(found, nan=0.0)

    def answer(self, at: int) -> Floats:
        """What a unit of a score does, as a share of demand, shape (categories,)."""
        prior = ANSWER_PRIOR if at < len(self.scores) else OFFER_PRIOR
        squares, products = self.answers[:, at, 0], self.answers[:, at, 1]
        overall = products[0] / (squares[0] + prior)
        answer: Floats = (products + prior * overall) / (squares + prior)
        return answer

    def to_offers(self) -> tuple[Floats, Floats]:
        """Answers to promotion and to price, shape (categories,) each."""
        first = len(self.scores)
        return self.answer(first), self.answer(first + 1)

    def effect(self, scores: Mapping[int, Floats]) -> Floats:
        """What is planned does together, from each category's mean scores; shape (categories,)."""
        total = np.zeros(len(self))
        for at, score in scores.items():
            total += self.answer(at) * score
        bounded: Floats = np.clip(total, -0.9, 4.0)
        return bounded

    def learn_answers(self, bucket: int, units: Floats, level: Floats, code: Codes,
                      scores: Mapping[int, Floats]) -> None:  # fmt: skip
        """Learn how each category answered in a bucket to what was planned.

        Parameters
        ----------
        units, level, code
            As for ``learn_phase``.
        scores
            Mean score of each category by covariate or offer, shape (categories,).
        """
        if not scores:
            return
        groups = len(self)
        expected = np.bincount(code, level, groups) * self.phases[:, self.calendar.phase(bucket)]
        sold = np.bincount(code, units, groups)
        sold[0], expected[0] = sold.sum(), expected.sum()
        ratio = np.clip((sold + PRIOR_UNITS) / (expected + PRIOR_UNITS) - 1.0, -1.0, 3.0)
        rest = ratio - self.effect(scores)
        for at, score in scores.items():
            there = (score != 0) & (expected > 0)
            sums = self.answers[there, at]
            own = rest[there] + (self.answer(at) * score)[there]
            sums *= ANSWER_KEPT
            sums[:, 0] += score[there] ** 2
            sums[:, 1] += score[there] * own
            self.answers[there, at] = sums

    def learn_score(self, at: int, values: Floats) -> None:
        """Move a covariate's mean and variance towards a bucket's values.

        One far out is bounded first: it would hide all that the covariate says for long.
        """
        known = values[np.isfinite(values)]
        if len(known) == 0:
            return
        weight, mean, variance = self.scores[at].tolist()
        if weight >= FEWEST:
            most = max(MOST_DEVIATIONS * variance**0.5, LEAST_STEP)
            known = np.clip(known, mean - most, mean + most)
        share = max(1.0 / (weight + 1.0), COVARIATE_SHARE)
        step = float(known.mean()) - mean
        spread = float(((known - mean - share * step) ** 2).mean())
        self.scores[at] = (
            weight + 1.0,
            mean + share * step,
            variance + share * (spread - variance) if weight else spread,
        )
