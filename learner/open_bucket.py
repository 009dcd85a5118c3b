"""The open bucket: what is still to come of it, given what it has sold so far.

A profile says what share of a bucket's sales has usually come by a time in it: of all stores by
phase of the season (weekdays, for days), drawn towards each store's own hours. It is learned
from sales' event times, as whole counts, so that arrival leaves no trace. What remains is then
forecast by linear credibility: the forecast made before the bucket opened is moved towards what
the sales so far say, as far as such surprises have meant something until now, by volume class.

With mean ``m``, share passed ``p`` and sold ``x``, in grains (``intervals``), demand's rate has
variance ``T m``, and what comes at a given rate scatters by ``K`` times its mean. Then what
remains is forecast as ``(1 - p) (m + T (x - p m) / (p T + K))``; with ``K = 1`` and ``T = m / a``
this is the gamma-Poisson posterior of shape ``a``. ``T`` and ``K`` are learned from what came in
the early slots and after them. Leaves out: which buckets are open (``stream.window``), and
quantiles (``intervals``).

Reference: H. Buehlmann, A. Gisler, "A course in credibility theory and its applications", 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.intervals import CLASSES, FACTOR, Tables, Traits, grains, volume_class
from learner.panel import Panel
from stream.buckets import Calendar
from stream.event import MICRO
from stream.window import Closed, Open, Window

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

#: Share of counts that survives a bucket of the same phase; of a store; of the moments.
PHASE_KEPT, STORE_KEPT, MOMENTS_KEPT = 0.8, 0.97, 0.98
#: Sales' worth of the common profile in that of a phase, and of that in a store's own.
PHASE_PRIOR, STORE_PRIOR = 200.0, 50.0
#: Probability that a store's sales come in at once, before its silence is looked at.
PROMPT = 0.98
#: Buckets' worth of doubt whether a store sells in a slot.
ACTIVE_PRIOR = 1.0
#: Moments by volume class: sums of (x - pm)(y - x - (1 - p)m), (x - pm)², p(1 - p), p², p,
#: the first two divided by m + 1/4.
MOMENTS = 5
#: Series-buckets' worth of the prior, by which surprises mean nothing and scatter is a count's.
MOMENTS_PRIOR = 50.0
#: Most standard deviations of what is sold so far that are taken at their word.
MOST_SURPRISE = 4.0
#: Bounds of the ratio of a remainder's standard deviation to that of a whole bucket.
NARROWEST, WIDEST = 0.3, 2.0
#: Smallest scatter at a given rate.
LEAST_SCATTER = 0.25
#: Smallest remainder whose dispersion is asked for, in grains.
LEAST = 1e-6


class OpenPart(NamedTuple):
    """What is known of the buckets after the last closed one, shape (K, S) each.

    ``sold`` so far and the mean of what ``remains``, in units; ``open_factor``: the dispersion of
    what remains, as a multiple of its class's; ``passed``: the share of a usual bucket that has
    come.
    """

    sold: Singles
    remains: Singles
    open_factor: Singles
    passed: Singles


class OpenBucket:
    """Profiles of stores, and what surprises have meant. Mutable; all of it is state.

    ``common`` (phases, slots) and ``own`` (stores, slots) count sales and forget; ``active``
    (stores, slots + 1) counts the buckets in which a store sold in a slot, last in any;
    ``moments`` has shape (CLASSES, MOMENTS).
    """

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        phases = calendar.season if calendar.bucket == "day" else 1
        self.common: Floats = np.zeros((phases, calendar.slots))
        self.own: Singles = np.zeros((0, calendar.slots), np.float32)
        self.active: Singles = np.zeros((0, calendar.slots + 1), np.float32)
        self.moments: Floats = np.zeros((CLASSES, MOMENTS))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of its state, by name."""
        return {name: getattr(self, name) for name in ("common", "own", "active", "moments")}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what ``arrays`` gave."""
        for name in self.arrays():
            setattr(self, name, arrays[name])

    def return_to(self, before: OpenBucket) -> None:
        """Take back what surprises were learned to mean; profiles are facts and stay."""
        self.moments = before.moments.copy()

    def _phase(self, bucket: int) -> int:
        return self.calendar.phase(bucket) if len(self.common) > 1 else 0

    # -- the profile -----------------------------------------------------------------------

    def learn_profile(
        self, bucket: int, counts: Mapping[str, Sequence[int]], stores: Sequence[str]
    ) -> None:
        """Count a closed bucket's sales by slot.

        Parameters
        ----------
        counts
            Sales by slot of each store that had any.
        stores
            All stores, in the order of their codes.
        """
        more = len(stores) - len(self.own)
        if more > 0:
            self.own = np.pad(self.own, ((0, more), (0, 0)))
            self.active = np.pad(self.active, ((0, more), (0, 0)))
        sums = np.zeros(self.own.shape)
        for code, store in enumerate(stores):
            if store in counts:
                sums[code] = counts[store]
        there = sums.any(axis=1)
        self.own[there] = STORE_KEPT * self.own[there] + sums[there]
        self.active[there] *= STORE_KEPT
        self.active[there] += np.pad(sums[there] > 0, ((0, 0), (0, 1)), constant_values=True)
        if there.any():  # a bucket in which nobody sold says nothing of how buckets come
            kept = PHASE_KEPT if len(self.common) > 1 else STORE_KEPT
            phase = self._phase(bucket)
            self.common[phase] = kept * self.common[phase] + sums.sum(axis=0)

    def shares(self, bucket: int, stores: int) -> Floats:
        """Share of a bucket that has usually come by the end of each slot, (stores, slots + 1).

        Starts at 0 and ends at 1.
        """
        slots = self.calendar.slots
        total = self.common.sum(axis=0)
        base = total / total.sum() if total.any() else np.full(slots, 1 / slots)
        phase = self.common[self._phase(bucket)] + PHASE_PRIOR * base
        phase = phase / phase.sum()
        own = np.zeros((stores, slots))
        known = min(stores, len(self.own))
        # A store's own hours, as the phase bends those of all.
        own[:known] = self.own[:known] * np.where(base > 0, phase / np.maximum(base, 1e-12), 1.0)
        own += STORE_PRIOR * phase
        out = np.zeros((stores, slots + 1))
        np.cumsum(own / own.sum(axis=1, keepdims=True), axis=1, out=out[:, 1:])
        out[:, -1] = 1.0
        return np.minimum(out, 1.0)

    def passed(
        self, bucket: int, mark_us: int, counts: Mapping[str, Sequence[int]],
        complete_us: Mapping[str, int], stores: Sequence[str],
    ) -> Floats:  # fmt: skip
        """Share of a bucket's demand that has come, if it came as usual, by store.

        Time is that of the partition's latest event, so that it stands still with the log. A
        store that is silent is believed as far as its silence is usual: the longer it would
        have sold by now, the more its sales are rather on their way than not made, and the less
        of the time since its last sale or *complete* has passed for it.

        Parameters
        ----------
        mark_us
            The latest event time seen, µs since 1970 UTC.
        counts
            Sales so far by slot of each store that had any in this bucket.
        complete_us
            Up to when stores have said to have sent all.
        stores
            In the order of their codes.

        Returns
        -------
        Shape (stores,), in [0, 1].
        """
        slots = self.calendar.slots
        start, end = self.calendar.span(bucket)

        def place(time_us: int) -> float:
            return slots * min(max((time_us - start) / (end - start), 0.0), 1.0)

        shares = self.shares(bucket, len(stores))
        mark = place(mark_us)
        now = _by(shares, np.full(len(stores), mark))
        heard = np.zeros(len(stores))
        for code, store in enumerate(stores):
            line = counts.get(store)
            if line is not None:
                heard[code] = max(at + 1 for at, count in enumerate(line) if count)
            if store in complete_us:
                heard[code] = max(heard[code], place(complete_us[store]))
        heard = np.minimum(heard, mark)
        silent = PROMPT * self._silence(heard, mark)
        before = _by(shares, heard)
        return before + (now - before) * silent / (silent + 1 - PROMPT)

    def _silence(self, since: Floats, until: float) -> Floats:
        """Probability that a store that works makes no sale between two places, (stores,)."""
        slots = self.calendar.slots
        known = min(len(since), len(self.active))
        busy = np.zeros((len(since), slots))
        busy[:known] = self.active[:known, :-1] / (self.active[:known, -1:] + ACTIVE_PRIOR)
        at = np.arange(slots)
        share = np.clip(until - at, 0.0, 1.0) - np.clip(since[:, None] - at, 0.0, 1.0)
        out: Floats = np.prod((1.0 - busy) ** share, axis=1)
        return out

    # -- what surprises mean ---------------------------------------------------------------

    def learn(
        self, panel: Panel, closed: Closed, early: int, mean: Floats, actual: Floats,
        grain: Floats,
    ) -> None:  # fmt: skip
        """Learn how a bucket came, and what its early slots have said of the rest.

        Parameters
        ----------
        early
            How many of the slots are.
        mean, actual
            The forecast of the bucket and its demand, shape (S,), in units; ``nan`` where there
            is none.
        grain
            In units, shape (S,); 0 where nobody told.
        """
        stores = panel.stores.texts
        use = np.isfinite(actual) & (mean > 0)
        if use.any():
            came = np.zeros(panel.size, np.int64)
            rows, sums = panel.table(closed.cells)
            came[rows] = sums[:, 5]
            share = self.shares(closed.bucket, len(stores))[panel.column("store")[use], early]
            size = grains(mean, grain)[use]
            first = np.minimum(came[use] / MICRO, actual[use])
            self.learn_moments(mean[use] / size, first / size, actual[use] / size, share)
        self.learn_profile(closed.bucket, closed.heard, stores)

    def learn_moments(self, mean: Floats, early: Floats, actual: Floats, passed: Floats) -> None:
        """Learn what the early slots have said of the rest of a closed bucket.

        Parameters
        ----------
        mean
            The forecast of the bucket, shape (n,), in grains; positive.
        early, actual
            Demand of the early slots and of all, shape (n,), in grains.
        passed
            Share that usually comes in the early slots, shape (n,).
        """
        rate, scatter = self._credit(mean)
        # One outlier must not decide of all.
        bound = 2 * MOST_SURPRISE * np.sqrt((rate + scatter) * (mean + 0.25))
        first = np.clip(early - passed * mean, -bound, bound)
        rest = np.clip(actual - early - (1 - passed) * mean, -bound, bound)
        klass = np.rint(volume_class(mean)).astype(np.intp)
        said = (first * rest / (mean + 0.25), first**2 / (mean + 0.25), passed * (1 - passed),
                passed**2, passed)  # fmt: skip
        sums = np.stack([np.bincount(klass, one, CLASSES) for one in said], axis=1)
        self.moments[np.bincount(klass, minlength=CLASSES) > 0] *= MOMENTS_KEPT
        self.moments += sums

    def credit(self) -> Floats:
        """``T`` and ``K`` by volume class, shape (CLASSES, 2)."""
        padded = np.pad(self.moments, ((1, 1), (0, 0)))
        sums = 0.125 * padded[:-2] + 0.75 * padded[1:-1] + 0.125 * padded[2:]
        sums = sums + MOMENTS_PRIOR * np.array([0.0, 0.5, 0.25, 0.25, 0.5])
        rate = np.maximum(sums[:, 0] / sums[:, 2], 0.0)
        scatter = np.maximum((sums[:, 1] - rate * sums[:, 3]) / sums[:, 4], LEAST_SCATTER)
        return np.stack([rate, scatter], axis=1)

    def _credit(self, mean: Floats) -> tuple[Floats, Floats]:
        by_class, position = self.credit(), volume_class(mean)
        classes = np.arange(CLASSES)
        return (
            np.interp(position, classes, by_class[:, 0]),
            np.interp(position, classes, by_class[:, 1]),
        )

    def remaining(self, mean: Floats, sold: Floats, passed: Floats) -> tuple[Floats, Floats]:
        """What is still to come of an open bucket.

        Parameters
        ----------
        mean
            The forecast made before the bucket opened, shape (n,), in grains.
        sold
            Demand so far, shape (n,), in grains.
        passed
            Share that has usually come by now, shape (n,); 0: nothing is known that the forecast
            did not know.

        Returns
        -------
        The mean of what remains, shape (n,), in grains, never negative; and its standard
        deviation against that of a whole bucket of such a mean, shape (n,).
        """
        rate, scatter = self._credit(mean)
        known = passed * rate + scatter
        usual = np.sqrt(passed * mean * known + 0.25)
        surprise = np.clip(sold - passed * mean, -MOST_SURPRISE * usual, MOST_SURPRISE * usual)
        remains = (1 - passed) * np.maximum(mean + rate * surprise / known, 0.0)
        variance = scatter + (1 - passed) * rate * scatter / known
        narrowing = np.clip(np.sqrt(variance / sum(self._credit(remains))), NARROWEST, WIDEST)
        return remains, np.where(passed > 0, narrowing, 1.0)


def open_part(
    profiles: OpenBucket, panel: Panel, window: Window, forecast: Singles, tables: Tables,
    traits: Traits, *, mark_us: int, net: bool,
) -> OpenPart:  # fmt: skip
    """What is sold so far in the buckets after the last closed one, and what remains.

    Parameters
    ----------
    forecast
        Means of the next buckets, shape (H, S), in units.
    tables
        Of the first horizon.
    mark_us
        The latest event time seen, µs since 1970 UTC.
    net
        Whether demand is what is sold less what came back.
    """
    last = panel.last
    assert last is not None, "nothing has closed yet"
    mark_us = max(mark_us, profiles.calendar.span(last)[1])  # or it would not have closed
    ahead = [bucket - last for bucket in (*window.open, profiles.calendar.index(mark_us))]
    reach = min(max([1, *ahead]), len(forecast))
    out = OpenPart(*(np.zeros((reach, panel.size), np.float32) for _ in OpenPart._fields))
    stores = panel.stores.texts
    for step in range(reach):
        bucket = last + 1 + step
        found = window.open.get(bucket) or Open()
        mean, sold = np.asarray(forecast[step], np.float64), _sold(panel, found, net)
        passed = profiles.passed(bucket, mark_us, found.heard, window.alive.complete_us, stores)
        passed = passed[panel.column("store")]
        grain = grains(mean, traits.grain)
        remains, narrowing = profiles.remaining(mean / grain, sold / grain, passed)
        # Dispersion such that the deviation is that of a whole bucket, narrowed.
        dispersion = np.interp(volume_class(remains), np.arange(CLASSES), tables.dispersion)
        beyond = dispersion * np.maximum(remains, LEAST)
        factor = narrowing**2 * traits.factor + (narrowing**2 - 1) / beyond
        out.sold[step], out.passed[step] = sold, passed
        out.remains[step] = np.where(passed > 0, remains * grain, np.maximum(mean - sold, 0.0))
        out.open_factor[step] = np.clip(factor, 0.0, FACTOR**2)
    return out


def _sold(panel: Panel, found: Open, net: bool) -> Floats:
    """Demand so far of a bucket, shape (S,), in units."""
    sold = np.zeros(panel.size)
    for key, cell in found.cells.items():
        row = panel.rows.get(key)
        if row is not None:
            sold[row] = (max(cell[0] - cell[1], 0) if net else cell[0]) / MICRO
    return sold


def _by(shares: Floats, places: Floats) -> Floats:
    """Read rows of ``shares`` at places among the slots, linear in between, shape (stores,)."""
    slots = shares.shape[1] - 1
    left = np.minimum(places.astype(np.intp), slots - 1)
    rows = np.arange(len(shares))
    low, high = shares[rows, left], shares[rows, left + 1]
    out: Floats = low + (places - left) * (high - low)
    return out
