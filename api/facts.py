"""What is planned, and what is known of products: the head's knowledge and what the log holds
since.

The head is the newest snapshot, whatever is served. Of the log no more is read than what came
after it, and nothing twice, so that any replica knows what another one took in a moment ago.
Leaves out: what plans do (``learner.plans``), and writing them (``routes.plans``).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from api.catalog import Catalog
from api.problems import RETRY_AFTER_S, Problem
from learner.parts import Part
from learner.plans import outdates
from learner.products import Products
from learner.served import Knowledge, read_knowledge
from learner.store import SnapshotStore
from stream.event import Plan, Product, decode
from stream.log import EventLog, partition_of
from stream.window import Key

#: Records read from the log at once, and how long a request may read before it is put off.
READ_RECORDS = 5000
BUDGET_S = 3.0
#: Whether a record may hold a plan or a product: a type that begins with p, or an escape.
_MAYBE = re.compile(rb'"type"\s*:\s*"p|\\u')

#: Source and id of a plan.
Identity = tuple[str, str]
Fact = Plan | Product


@dataclass(frozen=True, slots=True)
class Facts:
    """Of all partitions: the newest version of each plan, products by store and name.

    ``plans`` and ``told`` pair each with whether it is folded wherever it belongs; ``products``
    says what that comes to in a store; ``names`` and ``categories`` are those that products were
    told of; ``last`` are the last closed buckets, by partition that has closed one.
    """

    plans: Mapping[Identity, tuple[Plan, bool]]
    told: Mapping[Key, tuple[Product, bool]]
    products: Products
    names: frozenset[str]
    categories: frozenset[str]
    last: Mapping[int, int]


@dataclass(slots=True)
class _Side:
    """One partition: its head's knowledge, and (offset, fact) of what the log holds since."""

    snapshot: str | None = None
    position: int = 0
    part: Part | None = None
    knowledge: Knowledge = field(default_factory=lambda: Knowledge(None, [], []))
    read_to: int = 0
    since: list[tuple[int, Fact]] = field(default_factory=list)


class FactReader:
    """Reads facts; safe to ask from many threads. All of it blocks.

    Parameters
    ----------
    clock
        Seconds, monotonic.
    """

    def __init__(
        self,
        store: SnapshotStore,
        catalog: Catalog,
        events: EventLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._events = events
        self._clock = clock
        self._sides: dict[int, _Side] = {}
        self._lock = threading.Lock()
        self._kept: Facts | None = None
        # What is not in `_kept` yet: facts that came since, or so much that it is made anew.
        self._news: list[Fact] = []
        self._outdated = True

    def read(self) -> Facts:
        """The facts as they are now.

        Raises
        ------
        Problem
            503: so much came since the last snapshot that it could not be read in time; what
            was read is kept, so a later call goes on from there.
        SnapshotMissing, SnapshotCorrupt, StoreUnavailable, LogUnavailable
        """
        until = self._clock() + BUDGET_S
        with self._lock:
            for partition, end in self._events.end().items():
                self._follow(partition, end, until)
            if self._kept is None or self._outdated:
                self._kept = _merged(self._sides)
            elif self._news:
                self._kept = _added(self._kept, self._news)
            self._news, self._outdated = [], False
            return self._kept

    def _follow(self, partition: int, end: int, until: float) -> None:
        """Bring one partition up to date."""
        side = self._sides.setdefault(partition, _Side())
        self._take_up(partition, side)
        if side.read_to > end:
            # A log recreated empty, or one put back from a backup.
            side.read_to, side.since = min(side.position, end), []
            self._outdated = True
        if side.snapshot is None and side.read_to < end:
            side.read_to = max(side.read_to, self._events.begin()[partition])
        while side.read_to < end:
            records = self._events.read(partition, side.read_to, READ_RECORDS)
            if not records:
                break
            for record in records:
                if _MAYBE.search(record.value):
                    found = _facts(record.value, partition, self._events.partitions)
                    side.since += [(record.offset, one) for one in found]
                    self._news += found
            side.read_to = records[-1].offset + 1
            if side.read_to < end and self._clock() > until:
                raise _behind(partition, end - side.read_to)

    def _take_up(self, partition: int, side: _Side) -> None:
        """Take up the head, if it is another one."""
        head = self._store.pointers(partition).head
        if head is None or head.snapshot == side.snapshot:
            return
        manifest = self._catalog.manifest(partition, head.snapshot)
        part = manifest.parts.get("knowledge")
        if part is None or part != side.part:
            side.knowledge = read_knowledge(self._store, manifest)
            self._outdated = True
        if manifest.position < side.position:
            # A replay has gone back: what came after its cut is in no head until it is learned.
            side.read_to, side.since, self._outdated = manifest.position, [], True
        side.snapshot, side.position, side.part = head.snapshot, manifest.position, part
        since = [one for one in side.since if one[0] >= manifest.position]
        self._outdated = self._outdated or len(since) < len(side.since)
        side.since = since
        side.read_to = max(side.read_to, manifest.position)


def _facts(value: bytes, partition: int, partitions: int) -> list[Fact]:
    """Plans and products of a record that the fold will take."""
    return [
        one
        for one in decode(value)
        if isinstance(one, Plan | Product)
        and (one.store == "*" or partition_of(one.store, partitions) == partition)
    ]


def _merged(sides: Mapping[int, _Side]) -> Facts:
    """One view over all partitions: a fact of all stores is told to each of them."""
    plans: dict[Identity, tuple[Plan, bool]] = {}
    told: dict[Key, tuple[Product, bool]] = {}
    ordered = [sides[partition] for partition in sorted(sides)]
    for side in ordered:
        for plan in side.knowledge.plans:
            identity = (plan.source, plan.id)
            known = plans.get(identity)
            if known is None or outdates(plan, known[0]):
                plans[identity] = (plan, True)
        for product in side.knowledge.products:
            key = (product.store, product.product)
            if key not in told or product.time > told[key][0].time:
                told[key] = (product, True)
    last = {
        partition: side.knowledge.last
        for partition, side in sorted(sides.items())
        if side.knowledge.last is not None
    }
    return _facts_of(plans, told, last, [fact for side in ordered for _, fact in side.since])


def _added(facts: Facts, news: Sequence[Fact]) -> Facts:
    """The same facts and some that came since; those who read the old ones are not disturbed."""
    return _facts_of(dict(facts.plans), dict(facts.told), facts.last, news)


def _facts_of(
    plans: dict[Identity, tuple[Plan, bool]], told: dict[Key, tuple[Product, bool]],
    last: Mapping[int, int], since: Sequence[Fact],
) -> Facts:  # fmt: skip
    """Facts that are folded, or were told before, with those that no snapshot holds yet."""
    for fact in since:
        if isinstance(fact, Plan):
            identity = (fact.source, fact.id)
            plan = plans.get(identity)
            if plan is None or outdates(fact, plan[0]):
                plans[identity] = (fact, False)
        else:
            key = (fact.store, fact.product)
            product = told.get(key)
            # Partitions tell the same; whichever is read first, the one told last counts.
            if product is None or product[1] or fact.time >= product[0].time:
                told[key] = (fact, False)
    products = Products()
    products.restore((product for product, _ in told.values()), ())
    return Facts(
        plans=plans,
        told=told,
        products=products,
        names=frozenset(name for _, name in told),
        categories=frozenset(one.category for one, _ in told.values() if one.category),
        last=last,
    )


def _behind(partition: int, records: int) -> Problem:
    return Problem(
        503, "behind", "The learner is behind",
        f"{records:,} records of partition {partition} came after its last snapshot, and have "
        "not been looked through for plans and products yet",
        remedy="try again: each request looks further; what is urgent can be sent as an event "
        "with POST /v1/events",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )  # fmt: skip
