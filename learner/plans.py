"""Plans: the known future, as it was known at each origin.

A plan is kept from the bucket in which it came; what is asked is the value for a target bucket
*as known at* an origin. Where plans overlap, the more particular one wins (one product in one
store, then a product, a category, a store), then the highest (revision, id). Of versions with
the same revision the one told last counts. A plan covers a bucket if it covers the bucket's
middle. Leaves out: what plans do to demand (``features``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from stream.buckets import Calendar
from stream.event import Plan, time_us
from stream.identities import identify

if TYPE_CHECKING:
    from learner.panel import Panel

Floats = npt.NDArray[np.float64]


#: Marks the name of a covariate among the fields of a plan.
_COVARIATE = "covariate "


class Kept(msgspec.Struct, frozen=True):
    """A version of a plan; ``known`` is the first bucket at whose close it may be used."""

    plan: Plan
    known: int
    start_us: int
    end_us: int


def covered(calendar: Calendar, start_us: int, end_us: int) -> tuple[int, int] | None:
    """First and last bucket whose middle a span covers; ``None``: it covers none.

    Examples
    --------
    >>> from stream.settings import Settings
    >>> hour = 3_600_000_000
    >>> days = Calendar(Settings())
    >>> covered(days, 0, 36 * hour), covered(days, 13 * hour, 36 * hour)
    ((0, 0), None)
    """

    def middle(bucket: int) -> int:
        start, end = calendar.span(bucket)
        return (start + end) // 2

    first, last = calendar.index(start_us), calendar.index(end_us)
    first += middle(first) < start_us
    last -= middle(last) >= end_us
    return (first, last) if first <= last else None


class Plans:
    """All versions of all plans that a forecast or a kept origin can still need."""

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self.kept: dict[bytes, list[Kept]] = {}
        self._covering: dict[int, dict[bytes, None]] = {}  # bucket → identities, in order
        self._painted: dict[tuple[int, int, str, int], Floats] = {}
        self._ordered: dict[tuple[int, int], list[Plan]] = {}

    def add(self, plan: Plan, known: int) -> bool:
        """Take in a plan or a revision of one. ``False``: it was known already."""
        identity = identify(plan.source, plan.id)
        plan = msgspec.structs.replace(plan, x=None)
        if any(one.plan == plan for one in self.kept.get(identity, ())):
            return False
        self._keep(identity, Kept(plan, known, time_us(plan.start), time_us(plan.end)))
        return True

    def _keep(self, identity: bytes, one: Kept) -> None:
        self.kept.setdefault(identity, []).append(one)
        for bucket in range(self.calendar.index(one.start_us), self.calendar.index(one.end_us) + 1):
            self._covering.setdefault(bucket, {})[identity] = None
        self.repaint()

    def apart(self) -> Plans:
        """The same plans for a part of a panel, to be read only."""
        out = Plans(self.calendar)
        out.kept, out._covering = self.kept, self._covering
        return out

    def restore(self, versions: Iterable[Kept]) -> None:
        """Take in what ``kept`` held, in its order."""
        for one in versions:
            self._keep(identify(one.plan.source, one.plan.id), one)

    def repaint(self) -> None:
        """Forget what was worked out; needed when series change what they belong to."""
        self._painted.clear()
        self._ordered.clear()

    def forget(self, floor: int) -> None:
        """Drop what covers only buckets before ``floor``: nothing can ask for it."""
        self.repaint()
        for bucket in [b for b in self._covering if b < floor]:
            for identity in self._covering.pop(bucket):
                versions = self.kept.get(identity, ())
                if all(self.calendar.index(one.end_us) < floor for one in versions):
                    self.kept.pop(identity, None)

    def promotion(self, panel: Panel, target: int, origin: int) -> Floats:
        """Planned promotion of a bucket as known at an origin, in [0, 1], shape (S,)."""
        return np.nan_to_num(self._paint(panel, target, origin, "promotion"))

    def price(self, panel: Panel, target: int, origin: int) -> Floats:
        """Planned price as known at an origin, shape (S,); ``nan`` where none is."""
        return self._paint(panel, target, origin, "price")

    def closed(self, panel: Panel, target: int, origin: int) -> npt.NDArray[np.bool_]:
        """Where a closure is planned, as known at an origin, shape (S,)."""
        return np.nan_to_num(self._paint(panel, target, origin, "closed")) > 0

    def covariate(self, panel: Panel, target: int, origin: int, name: str) -> Floats:
        """Value of a named covariate as known at an origin, shape (S,); ``nan``: none is."""
        return self._paint(panel, target, origin, f"{_COVARIATE}{name}")

    def _paint(self, panel: Panel, target: int, origin: int, what: str) -> Floats:
        """Values of one field over all series, the winning plan painted last."""
        at = (target, origin, what, panel.size)
        found = self._painted.get(at)
        if found is None:
            found = np.full(panel.size, np.nan)
            # Plans for a product in all stores follow one another: they are gathered by product,
            # so that the series are gone through once for all of them.
            gathered: Floats | None = None
            for plan in self._in_force(target, origin):
                if what.startswith(_COVARIATE):
                    value = (plan.covariates or {}).get(what.removeprefix(_COVARIATE))
                else:
                    value = getattr(plan, what)
                if value is None:
                    continue
                if plan.product is not None and plan.store == "*":
                    if gathered is None:
                        gathered = np.full(len(panel.product_codes.texts) + 1, np.nan)
                    code = panel.product_codes.codes.get(plan.product, -1)
                    gathered[code] = float(value)
                    continue
                if gathered is not None:
                    _pour(panel, gathered, found)
                    gathered = None
                found[_rows(panel, plan)] = float(value)
            if gathered is not None:
                _pour(panel, gathered, found)
            self._painted[at] = found
        return found

    def _in_force(self, target: int, origin: int) -> list[Plan]:
        """Plans that cover a bucket, as known at an origin, in ascending precedence."""
        ordered = self._ordered.get((target, origin))
        if ordered is not None:
            return ordered
        start, end = self.calendar.span(target)
        middle = (start + end) // 2
        plans = []
        for identity in self._covering.get(target, ()):
            known = [one for one in self.kept[identity] if one.known <= origin]
            if not known:
                continue
            newest = known[0]
            for one in known[1:]:
                if outdates(one.plan, newest.plan):
                    newest = one
            if newest.start_us <= middle < newest.end_us and not newest.plan.withdrawn:
                plans.append(newest.plan)
        ordered = self._ordered[target, origin] = sorted(plans, key=precedence)
        return ordered


def outdates(later: Plan, earlier: Plan) -> bool:
    """Whether a version told later takes the earlier one's place: an older revision does not."""
    return later.revision >= earlier.revision


def precedence(plan: Plan) -> tuple[int, int, int, str, str]:
    """Sorts plans that overlap: the greatest is in force, field by field."""
    subject = 2 if plan.product is not None else 1 if plan.category is not None else 0
    return subject, int(plan.store != "*"), plan.revision, plan.id, plan.source


def _pour(panel: Panel, gathered: Floats, found: Floats) -> None:
    """Paint what is said by product, the last entry being no product's, over all series."""
    values = gathered[:-1][np.asarray(panel.column("product"))]
    said = np.isfinite(values)
    found[said] = values[said]


def _rows(panel: Panel, plan: Plan) -> npt.NDArray[np.bool_] | list[int]:
    """Rows of the series that a plan is about."""
    if plan.product is not None and plan.store != "*":
        row = panel.rows.get((plan.store, plan.product))
        return [] if row is None else [row]
    chosen = np.ones(panel.size, dtype=bool)
    if plan.store != "*":
        chosen &= np.asarray(panel.column("store")) == panel.stores.codes.get(plan.store, -1)
    if plan.product is not None:
        product = panel.product_codes.codes.get(plan.product, -1)
        chosen &= np.asarray(panel.column("product")) == product
    elif plan.category is not None:
        chosen &= np.asarray(panel.column("category")) == panel.categories.codes.get(
            plan.category, -1
        )
    return chosen
