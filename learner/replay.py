"""What is passed over on purpose, and what a replay is.

A *rule* says which items of a partition are excluded or quarantined, from one offset to another;
rules are state, and a replay takes over those that stand. A replay is a shard that has gone back
to a snapshot and learns again up to the marker that sent it there. Leaves out: what a passed-over
item does to its bucket (``stream.gaps``), and reading logs and stores (``worker``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stream.event import AnyEvent, Marker, Name, Tick, Time
from stream.gaps import Passed
from stream.log import Record
from stream.window import EXCLUDED, QUARANTINED

if TYPE_CHECKING:
    from learner.models import Model
    from learner.shard import Shard

#: Names the beginning of the log where a snapshot is named: the empty shard.
START = "start"
#: What a snapshot can hold of an offset; logs do not reach it.
MAX_OFFSET = 2**63 - 1
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]


class Exclusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True,
                kw_only=True):  # fmt: skip
    """Which items are meant: those that match every kind of criterion given, one of its values.

    Parameters
    ----------
    sources, stores, products, categories
        Names; an item without such a name does not match. A product's category is the one known
        when the item is folded.
    since, until
        Event time, [since, until).
    offsets
        Partition → first offset and the one after the last.
    surplus
        What remains is whole: the items were sent twice or invented, and leave no gap.
    """

    sources: tuple[Name, ...] = ()
    stores: tuple[Name, ...] = ()
    products: tuple[Name, ...] = ()
    categories: tuple[Name, ...] = ()
    since: Time | None = None
    until: Time | None = None
    offsets: dict[int, tuple[Offset, Offset]] = {}
    surplus: bool = False

    @property
    def empty(self) -> bool:
        """Whether no criterion is given: then nothing is meant, not everything."""
        return not (
            self.sources or self.stores or self.products or self.categories or self.offsets
            or self.since is not None or self.until is not None
        )  # fmt: skip


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """An exclusion or quarantine in force in one partition over the offsets [start, end).

    ``skipped``: so is a marker where it begins. ``readmitted``: nothing is passed over; the guard
    does not judge the sources.
    """

    operation: str
    kind: Literal["excluded", "quarantined", "skipped", "readmitted"]
    what: Exclusion
    start: int
    end: int | None = None

    def covers(self, offset: int) -> bool:
        """Whether the rule is in force at an offset."""
        return self.start <= offset and (self.end is None or offset < self.end)

    def means(self, event: AnyEvent, partition: int, offset: int, category: str | None) -> bool:
        """Whether an item is passed over; see ``matches``."""
        if isinstance(event, Marker):
            return self.kind == "skipped" and self.start == offset
        return (
            self.kind != "readmitted"
            and self.covers(offset)
            and matches(self.what, event, partition, offset, category)
        )


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion that stands: from its operation's marker on, ``model`` is served."""

    operation: str
    model: str


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's way back: it learns [start, until) again, and then is what it should have been.

    ``until`` is the marker's offset. ``admitted`` are late items, as (offset, item), that were
    folded before all others and are passed over at their own place.
    """

    operation: str
    start: int
    until: int
    admitted: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """An operation that the fold carries out: models and spread return to a snapshot's.

    ``order`` is the operation's offset in the control log, as of the others; ``learned`` is what
    the snapshot's shard had learned beside its models, by the shard's own names for it, and whose
    it is (``snapshot.Learned``). The champion returns too: promotions that came after no longer
    stand.
    """

    order: int
    models: Mapping[str, Model]
    learned: Mapping[str, Any]
    champion: str
    promotions: Sequence[Promotion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An operation that the fold carries out: the shard of a snapshot takes over.

    It learns again what came after, without ``exclude`` and without the rule of the operation
    ``readmits``.
    """

    order: int
    snapshot: str
    shard: Shard
    exclude: Exclusion | None
    readmits: str | None
    admit_late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """An operation that the fold carries out: items are passed over from here on."""

    order: int
    what: Exclusion


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """An operation that the fold carries out: ``model`` is served, if ``over`` still is."""

    order: int
    model: str
    over: str


Effect = Rollback | Turn | Quarantine | Promote
#: Says what a marker's operation is, or why there is none to carry out.
Resolve = Callable[[str], Effect | str]


def matches(
    what: Exclusion, event: AnyEvent, partition: int, offset: int, category: str | None
) -> bool:
    """Whether an item is meant. Ticks and markers never are: they are Salescast's own.

    Parameters
    ----------
    category
        Of the event's product, or the event's own; ``None`` where there is none.
    """
    if what.empty or isinstance(event, Tick | Marker):
        return False
    if what.sources and event.source not in what.sources:
        return False
    if what.stores and event.store not in what.stores:
        return False
    if what.products and getattr(event, "product", None) not in what.products:
        return False
    if what.categories and category not in what.categories:
        return False
    if what.since is not None and event.time < what.since:
        return False
    if what.until is not None and event.time >= what.until:
        return False
    if what.offsets:
        first, end = what.offsets.get(partition, (0, 0))
        return first <= offset < end
    return True


def passing(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules by which something is passed over."""
    return tuple(rule for rule in rules if rule.kind != "readmitted")


def names(rules: Iterable[Rule], kinds: Sequence[str], source: str, offset: int) -> bool:
    """Whether a rule of some kinds is about all that a source sends, at an offset."""
    return any(
        rule.kind in kinds
        and rule.covers(offset)
        and source in rule.what.sources
        and rule.what in (Exclusion(sources=rule.what.sources, surplus=s) for s in (False, True))
        for rule in rules
    )


def category_of(event: AnyEvent, of: Callable[[str, str], str | None]) -> str | None:
    """The category an event is about: its own, or that of (store, product), which ``of`` knows."""
    own: str | None = getattr(event, "category", None)
    if own is not None:
        return own
    product: str | None = getattr(event, "product", None)
    return None if product is None else of(event.store, product)


def judge(
    rules: Sequence[Rule],
    replay: Replay | None,
    partition: int,
    category: Callable[[AnyEvent], str | None],
) -> Callable[[AnyEvent, Record, int], Passed | None] | None:
    """The question that the window asks of every item; ``None``: nothing can be passed over."""
    admitted = frozenset(replay.admitted if replay is not None else ())
    rules = passing(rules)
    if not rules and not admitted:
        return None

    def passes(event: AnyEvent, record: Record, item: int) -> Passed | None:
        if (record.offset, item) in admitted:
            return Passed(None)
        for rule in rules:
            if rule.means(event, partition, record.offset, category(event)):
                what = rule.what
                outcome = QUARANTINED if rule.kind == "quarantined" else EXCLUDED
                feed = not (what.products or what.categories)
                return Passed(outcome, gap=not what.surplus, feed=feed and not what.surplus)
        return None

    return passes


def only(
    wanted: Iterable[tuple[int, int]],
    passes: Callable[[AnyEvent, Record, int], Passed | None] | None,
) -> Callable[[AnyEvent, Record, int], Passed | None]:
    """As ``passes`` for the wanted items, as (offset, item); all others are passed over."""
    chosen = frozenset(wanted)

    def asked(event: AnyEvent, record: Record, item: int) -> Passed | None:
        if (record.offset, item) not in chosen:
            return Passed(None)
        return None if passes is None else passes(event, record, item)

    return asked


def fit(before: Sequence[Rule], position: int, standing: Sequence[Rule]) -> bool:
    """Whether a snapshot has passed over what the standing rules say, and nothing else.

    Parameters
    ----------
    before, position
        The snapshot's own rules, and the next offset it folds.
    standing
        The rules that the shard which goes back to it must obey.
    """

    def in_force(rules: Sequence[Rule]) -> set[str]:
        return {rule.operation for rule in passing(rules) if rule.start < position}

    return in_force(before) == in_force(standing)
