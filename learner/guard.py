"""Inputs judged before they are learned from: which source is outside its own band.

At the close of a bucket each source's part of it is held against the source's own past, and
against what the champion expected of the series it touched. Where a whole chain moves together
no source is at fault: what most sources of the partition have in common is taken off first.
There are no absolute thresholds: a band is so many times the source's own tracked deviation, and
at least somewhat more than the furthest it has been out before. Leaves out: what becomes of a
suspect (``shard``), sales that come after their bucket's close, and faults of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from learner import bands
from learner.findings import OK, QUARANTINED, SILENT, STATES, SUSPECT, Finding, identity
from learner.inputs import (
    ABOVE,
    BANDS,
    DRIFT,
    HARMLESS,
    IDENTITY,
    MODEL,
    SALES,
    SEASONAL,
    SIZE,
    STATISTICS,
    Measured,
    Rows,
    amounts,
    measure,
    rows_of,
)
from learner.panel import Panel
from stream.brought import Open
from stream.buckets import Calendar
from stream.event import ALL_SOURCES
from stream.window import Window

Floats = npt.NDArray[np.float64]

#: Sources that a partition needs before anything is common to them.
COMMON = 3
#: Deviation of recent units a sale about their level, to that of a bucket's, as ``RECENT`` has it.
FOLLOWS = 0.35
#: Share of a new bucket in a phase, and in the recent and the earlier size.
PHASE, RECENT, EARLIER = 0.25, 0.2, 0.02
#: Share of its band within which a suspect must stay, and for how many buckets, to be let off.
RELEASE, CALM = 0.5, 3
#: Share of its band past which a source is out if it has been so for three buckets.
LASTING = 0.4

#: Arrays of the guard: name → (dtype, value of a new source, whether one a statistic).
ARRAYS: dict[str, tuple[type[np.generic], float, bool]] = {
    "count": (np.int64, 0, True),
    "level": (np.float64, 0.0, True),
    "spread": (np.float64, 0.0, True),
    "furthest": (np.float64, 0.0, True),
    "size": (np.float64, np.nan, False),  # units a sale when last seen, as a logarithm
    "recent": (np.float64, 0.0, False),
    "earlier": (np.float64, 0.0, False),
    "before": (np.float64, 0.0, True),  # scores of the last two buckets, with their sign
    "before_that": (np.float64, 0.0, True),
    "quiet": (np.int64, 0, False),  # buckets in a row without a sale
    "calm": (np.int64, 0, False),
    "state": (np.int8, OK, False),
    "since": (np.int64, 0, False),  # bucket that the state began in
    "cause": (np.int8, 0, False),  # the statistic nearest to, or furthest out of, its band
    "score": (np.float64, 0.0, False),  # its distance, 1: the band's edge
    "found": (np.float64, 0.0, False),  # what it was; see ``Finding``
    "usual": (np.float64, 0.0, False),
}


class Guard:
    """What is usual of each source of a partition. Mutable; all of it is state.

    Parameters
    ----------
    calendar
        Of the deployment.
    partition
        The shard's.
    """

    def __init__(self, calendar: Calendar, partition: int) -> None:
        self.calendar = calendar
        self.partition = partition
        self.warm = bands.warm_after(calendar)
        self.rows: dict[str, int] = {}
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, _, wide) in ARRAYS.items():
            self.arrays[name] = np.zeros((0, len(STATISTICS)) if wide else (0,), dtype)
        self.owner = np.zeros(0, np.int32)  # of each series: the source that sent it first
        # By phase of the season: nan where none was seen yet.
        self.arrays["phase"] = np.zeros((0, len(SEASONAL), calendar.season))

    def judge(
        self,
        bucket: int,
        here: Open,
        window: Window,
        panel: Panel,
        expected: Floats | None,
        kept_out: Callable[[str], bool],
        pardoned: Callable[[str], bool],
        hold: bool,
    ) -> list[Finding]:
        """Judge a bucket that is about to close, and learn what is usual of it.

        Parameters
        ----------
        here
            What came, by source.
        expected
            The champion's forecast of the bucket, shape (S,), in units; ``nan`` where none.
        kept_out
            Whether a source is passed over at present.
        pardoned
            Whether it is being learned again on an operator's word: then it is not judged.
        hold
            Whether what a suspect brought will be withheld: then nothing is learned of it.
        """
        self._know(name for name in here.by if name != ALL_SOURCES)
        a, names = self.arrays, list(self.rows)
        if not names:
            return []
        out = np.array([kept_out(name) for name in names])
        seen = measure(bucket, names, here, window, panel, expected, self._owned(panel))
        self._weigh(bucket, seen)
        seen.values[out] = np.nan
        usual = self._usual(bucket)
        off = seen.values - usual
        warm = a["count"] >= self.warm
        warm[:, MODEL] &= a["count"][:, SALES] >= self.warm
        off -= _common(off, warm)
        level, spread, furthest = self._lent(warm)
        off[:, MODEL] -= level
        spread[:, DRIFT] = FOLLOWS * spread[:, SIZE]
        width = np.maximum(spread, seen.least) * np.array(list(BANDS.values()))
        width = np.maximum(width, bands.MARGIN * furthest)
        score = np.abs(off) / width
        score[:, ABOVE] = np.where(off[:, ABOVE] > 0, score[:, ABOVE], 0.0)
        score = self._lasting(self._agreed(score, off, warm, here, names), off)
        findings = self._decide(bucket, names, score, seen, usual, off, out, pardoned, hold)
        held = out | ((a["state"] == QUARANTINED) & hold)
        self._learn(bucket, seen, off, width, held)
        for at in np.flatnonzero(~held).tolist():
            if names[at] in here.by:
                rows, _ = rows_of(here.by[names[at]], panel)
                self.owner[rows[self.owner[rows] < 0]] = at
        return findings

    def _know(self, names: Iterable[str]) -> None:
        """Give new sources their rows, in the order of their names."""
        new = sorted(name for name in names if name not in self.rows)
        if not new:
            return
        known = len(self.rows)
        self.rows.update((name, known + at) for at, name in enumerate(new))
        for name, array in self.arrays.items():
            value = np.nan if name == "phase" else ARRAYS[name][1]
            pad = [(0, len(new)), *((0, 0) for _ in array.shape[1:])]
            self.arrays[name] = np.pad(array, pad, constant_values=value)

    def _owned(self, panel: Panel) -> list[Rows]:
        """Rows of the series that each source was the first to send; a silent one has none."""
        self.owner = np.pad(self.owner, (0, panel.size - len(self.owner)), constant_values=-1)
        order = np.argsort(self.owner, kind="stable")
        ends = np.searchsorted(self.owner[order], np.arange(len(self.rows) + 1))
        return [order[first:end] for first, end in pairwise(ends.tolist())]

    def _weigh(self, bucket: int, seen: Measured) -> None:
        """Take in what only the past can say: how long a source is silent, how its size drifts."""
        a, quiet = self.arrays, seen.sales == 0
        a["quiet"] = np.where(quiet, a["quiet"] + 1, 0)
        known = (a["count"][:, SIZE] > 0) & np.isfinite(seen.values[:, SIZE])
        seen.values[known, DRIFT] = (a["recent"] - a["earlier"])[known]
        # Chance is that of the fewer: one that starts again has no usual number of sales.
        usual = self._usual(bucket)[:, SALES]
        told = np.exp(np.minimum(usual, 30.0))
        few = ~quiet & np.isfinite(told)
        chance = 1.0 / np.sqrt(np.maximum(np.minimum(seen.sales[few] + 1, told[few]), 1e-6))
        for one in SEASONAL:
            seen.least[few, one] = chance
        # Silence weighs by all the sales that it lacks: none where none are usual.
        silent = quiet & np.isfinite(usual)
        lacking = (told[silent] - 1.0) * a["quiet"][silent]
        seen.values[silent, SALES] = usual[silent] - np.log(lacking + 1)
        seen.least[silent, SALES] = 1.0 / np.sqrt(lacking + 1)

    # -- judging ---------------------------------------------------------------------------

    def _usual(self, bucket: int) -> Floats:
        """What is expected of each statistic, shape (n, K); ``nan``: nothing is known yet."""
        usual = np.where(self.arrays["count"] > 0, self.arrays["level"], np.nan)
        usual[:, list(SEASONAL)] += self.arrays["phase"][:, :, self.calendar.phase(bucket)]
        # Nobody sells less than nothing.
        usual[:, SALES] = np.maximum(usual[:, SALES], 0.0)
        usual[:, DRIFT] = 0.0
        usual[:, MODEL] = 0.0  # its level is taken off later: a new source borrows one
        return usual

    def _lent(self, warm: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
        """Level of ``model``, and deviations and furthest of all; new sources borrow ``model``'s.

        A source that sends for the first time has no past; what it does to series that others
        have sent is held against how far those others usually are from the forecast.
        """
        a = self.arrays
        level, spread, furthest = a["level"][:, MODEL].copy(), a["spread"].copy(), a["furthest"]
        known = warm[:, MODEL]
        furthest = furthest.copy()
        if known.any():
            level[~known] = np.median(level[known])
            spread[~known, MODEL] = np.median(spread[known, MODEL])
            furthest[~known, MODEL] = furthest[known, MODEL].max()
        return level, spread, furthest

    def _agreed(
        self, score: Floats, off: Floats, warm: npt.NDArray[np.bool_], here: Open,
        names: Sequence[str],
    ) -> Floats:  # fmt: skip
        """Scores that count, shape (n, K): volume is out only where own past and forecast agree.

        A promotion explains itself by the forecast; a model gone wrong does not by the past.
        """
        score = np.where(np.isfinite(score), score, 0.0)
        model = np.isfinite(off[:, MODEL])
        for one in SEASONAL:
            agree = np.sign(off[:, one]) == np.sign(off[:, MODEL])
            both = np.where(agree, np.minimum(score[:, one], score[:, MODEL]), 0.0)
            score[:, one] = np.where(model, both, score[:, one])
        alone = score[:, MODEL] * (off[:, MODEL] > 0) * warm[:, MODEL].any()
        score = np.where(warm, score, 0.0)
        score[:, MODEL] = 0.0
        for at in np.flatnonzero(~warm[:, SALES] & model & (alone >= RELEASE)).tolist():
            if _most(here, names[at]):
                score[at, MODEL] = alone[at]
        return score

    def _lasting(self, score: Floats, off: Floats) -> Floats:
        """Scores, raised where a source has been out on one side for some buckets, if less far."""
        a = self.arrays
        now = np.where(np.isfinite(off), np.sign(off), 0.0) * score
        three = np.stack([now, a["before"], a["before_that"]])
        lowest = np.maximum(three.min(axis=0), (-three).min(axis=0))
        lowest[:, DRIFT] = 0.0  # it lasts by its nature
        a["before"], a["before_that"] = now, a["before"]
        out: Floats = np.maximum(score, lowest / LASTING)
        return out

    def _decide(
        self, bucket: int, names: Sequence[str], score: Floats, seen: Measured, usual: Floats,
        off: Floats, out: npt.NDArray[np.bool_], pardoned: Callable[[str], bool], hold: bool,
    ) -> list[Finding]:  # fmt: skip
        a, findings = self.arrays, []
        harmful = score.copy()
        harmful[:, list(HARMLESS)] = 0.0
        grave = harmful.max(axis=1) >= 1.0
        worst = np.where(grave, harmful.argmax(axis=1), score.argmax(axis=1))
        for at, name in enumerate(names):
            state, cause = int(a["state"][at]), int(worst[at])
            if out[at]:
                self._become(at, QUARANTINED, bucket)
                continue
            if state == QUARANTINED or (state == SILENT and seen.sales[at]):
                self._become(at, OK, bucket)  # it is let in again, or speaks again
                state = OK
            height = float(score[at, cause])
            if state != SILENT:
                a["score"][at], a["cause"][at] = height, cause
                found, a["usual"][at] = amounts(cause, seen, usual, at)
                a["found"][at] = np.nan_to_num(found)  # no units where nothing came
            if height < 1.0:
                a["calm"][at] = a["calm"][at] + 1 if height < RELEASE else 0
                if state == SUSPECT and a["calm"][at] >= CALM:
                    self._become(at, OK, bucket)
                continue
            a["calm"][at] = 0
            if pardoned(name):
                # What was unusual is to be usual: its past begins anew.
                a["count"][at], a["phase"][at], off[at], a["before"][at] = 0, np.nan, np.nan, 0.0
                continue
            silent = not seen.sales[at]
            held = hold and not silent and cause not in HARMLESS
            if state == SILENT or (state == SUSPECT and not held):
                continue
            self._become(at, SILENT if silent else QUARANTINED if held else SUSPECT, bucket)
            findings.append(
                Finding(
                    id=identity(self.partition, name, bucket),
                    source=name,
                    partition=self.partition,
                    bucket=bucket,
                    state=STATES[int(a["state"][at])],
                    statistic=STATISTICS[cause],
                    found=float(a["found"][at]),
                    usual=float(a["usual"][at]),
                    score=height,
                    held=held,
                )
            )
        return findings

    def _become(self, at: int, state: int, bucket: int) -> None:
        if self.arrays["state"][at] != state:
            self.arrays["state"][at], self.arrays["since"][at] = state, bucket
            self.arrays["calm"][at] = 0

    # -- learning --------------------------------------------------------------------------

    def _learn(
        self, bucket: int, seen: Measured, off: Floats, width: Floats, held: npt.NDArray[np.bool_]
    ) -> None:
        """Learn what is usual; what is far out is cut, so that no single bucket teaches much."""
        a = self.arrays
        count = a["count"].astype(np.float64)
        use = np.isfinite(seen.values) & ~held[:, None]
        use[a["quiet"] > 0, SALES] &= a["state"][a["quiet"] > 0] != SILENT
        new = use & ~np.isfinite(off)
        some = np.where(np.isfinite(off), off, 0.0)
        deviation = np.maximum(a["spread"], seen.least)
        cut, far, rate, narrow = bands.step(some, width, deviation, count, self.warm)
        at = self.calendar.phase(bucket)
        for place, one in enumerate(SEASONAL):
            phase, rows = a["phase"][:, place, at], use[:, one]
            first = rows & ~np.isfinite(phase)
            phase[first] = seen.values[first, one] - a["level"][first, one]
            phase[rows & ~first] += PHASE * cut[rows & ~first, one]
        level, first = a["level"], new & (a["count"] == 0)
        moved = level + rate * cut
        moved[:, list(SEASONAL)] = (level + bands.LEVEL * cut)[:, list(SEASONAL)]
        start = first.copy()
        start[:, list(SEASONAL)] = False
        moved[start] = seen.values[start]
        keep = use.copy()
        keep[:, DRIFT] = False
        a["level"] = np.where(keep, moved, level)
        spread = a["spread"] + narrow * (bands.NORMAL * np.abs(cut) - a["spread"])
        spread[:, SIZE] = self._learn_size(seen.values[:, SIZE], deviation[:, SIZE], use[:, SIZE])
        a["spread"] = np.where(use & ~new, spread, a["spread"])
        a["furthest"] = np.where(use, bands.furthest(a["furthest"], far), a["furthest"])
        a["count"] = a["count"] + use

    def _learn_size(self, size: Floats, deviation: Floats, use: npt.NDArray[np.bool_]) -> Floats:
        """Let recent and earlier units a sale follow; the new deviation of a bucket's, shape (n,).

        The deviation is that from bucket to bucket: a drift must not widen its own band.

        Reference: J. von Neumann et al., "The mean square successive difference", 1941.
        """
        a = self.arrays
        count = a["count"][:, SIZE].astype(np.float64)
        step = np.where(np.isfinite(a["size"]), np.abs(size - a["size"]), np.nan)
        early = count < self.warm / 2
        step = np.where(early, step, np.minimum(step, bands.CUT * deviation))
        spread, narrow = a["spread"][:, SIZE], np.maximum(bands.SPREAD, 1.0 / (count + 1))
        told = spread + narrow * (bands.NORMAL / np.sqrt(2.0) * step - spread)
        a["size"] = np.where(use, size, a["size"])
        for name, least in (("recent", RECENT), ("earlier", EARLIER)):
            rate = np.maximum(least, 1.0 / (count + 1))
            off = bands.bounded(size - a[name], deviation, early)
            a[name] = np.where(use, a[name] + rate * off, a[name])
        out: Floats = np.where(np.isfinite(told), told, spread)
        return out

    # -- telling ---------------------------------------------------------------------------

    def states(self) -> dict[str, int]:
        """How many sources are in each state."""
        counts = np.bincount(self.arrays["state"], minlength=len(STATES))
        return dict(zip(STATES, counts.tolist(), strict=True))


def _most(here: Open, name: str) -> bool:
    """Whether a source brought most of what the series it touched came to."""
    mine = here.by[name]
    own = sum(cell[0] for cell in mine.cells.values())
    rest = sum(
        one.cells[key][0]
        for other, one in here.by.items()
        if other != name
        for key in mine.cells.keys() & one.cells.keys()
    )
    return own > rest


def _common(off: Floats, warm: npt.NDArray[np.bool_]) -> Floats:
    """What most sources have in common, shape (K,)."""
    common = np.zeros(off.shape[1])
    for k in range(off.shape[1]):
        found = off[warm[:, k] & np.isfinite(off[:, k]), k]
        if k not in IDENTITY and len(found) >= COMMON:
            common[k] = np.median(found)
    return common
