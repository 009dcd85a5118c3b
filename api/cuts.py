"""Which snapshots an operation goes back to, or why there are none.

Guarantees: a cut of a replay obeys every rule that stands, and the log reaches back to it. All of
it blocks. Leaves out: what is done with the cut (``control``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from api.catalog import Catalog, candidate
from api.problems import Problem, invalid
from learner.operations import Candidate, Entry, Kind, as_served, choose_cut
from learner.replay import START, Exclusion, Rule, fit
from learner.store import Pointers
from stream.event import FIRST_US, MICRO, time_us
from stream.log import EventLog, partition_of


class Request(NamedTuple):
    """What an operator asks for."""

    kind: Kind
    who: str
    reason: str
    id: str | None = None
    snapshots: tuple[str, ...] = ()
    to: datetime | None = None
    replay: bool = False
    exclude: Exclusion | None = None
    admit_late: bool = False
    readmits: str | None = None
    model: str | None = None


#: What may be asked of each kind of operation, beside who, why and its id.
FIELDS: Mapping[str, frozenset[str]] = {
    "freeze": frozenset(("snapshots", "to")),
    "resume": frozenset(("snapshots",)),
    "rollback": frozenset(("snapshots", "to", "replay", "exclude", "admit_late")),
    "quarantine": frozenset(("exclude",)),
    "skip": frozenset(("exclude",)),
    "readmit": frozenset(("readmits", "admit_late")),
    "promote": frozenset(("model",)),
}


def check_fields(request: Request) -> None:
    """Refuse what means nothing to the kind of operation, and what it cannot be without.

    Raises
    ------
    Problem
    """
    allowed = FIELDS[request.kind]
    for name in ("snapshots", "to", "replay", "exclude", "admit_late", "readmits", "model"):
        if name not in allowed and getattr(request, name) not in (None, False, ()):
            raise invalid(
                name, f"a {request.kind} does nothing with `{name}`",
                f"leave it out; a {request.kind} takes {', '.join(sorted(allowed))}",
            )  # fmt: skip
    if request.kind == "readmit" and not request.readmits:
        raise invalid("readmits", "say what is to be readmitted",
                      "give the id of an operation of GET /v1/excluded")  # fmt: skip
    if request.kind == "promote" and not request.model:
        raise invalid("model", "say which model is to be champion", "name a challenger")


class Cuts:
    """Chooses cuts.

    Parameters
    ----------
    catalog, events
        Snapshots there are, and the log that a replay reads again.
    """

    def __init__(self, catalog: Catalog, events: EventLog) -> None:
        self._catalog = catalog
        self._events = events

    def choose(self, request: Request, entries: Mapping[str, Entry]) -> dict[int, str]:
        """The cut of a request.

        Raises
        ------
        Problem
            It cannot be as asked.
        """
        pointers = self._catalog.pointers()
        if request.kind == "quarantine":
            return self._quarantine(request, pointers)
        if request.kind == "skip":
            return self._skip(request, pointers)
        if not any(one.head for one in pointers.values()):
            raise Problem(
                409, "no-snapshots", "Nothing to operate on", "no snapshot was published yet",
                remedy="start the learner, and wait for its first snapshot",
            )  # fmt: skip
        if request.kind == "readmit":
            return self._readmission(request, entries, pointers)
        if request.snapshots and request.to is not None:
            raise invalid("to", "give `snapshots` or `to`, not both", "leave one of them out")
        if request.kind == "resume":
            return _frozen(pointers, request)
        if request.replay:
            return self._replay(request, pointers)
        for name, given in (("exclude", request.exclude), ("admit_late", request.admit_late)):
            if given:
                raise invalid(name, f"only a replay can do what `{name}` says", "set `replay`")
        if request.snapshots:
            return self._named(request.snapshots)
        if request.to is not None:
            return self._until(request.to, {p: self._served(p) for p in pointers})
        if request.kind == "rollback":
            raise invalid(
                "to", "a rollback needs to know how far", "give `to`, a time, or `snapshots`, ids"
            )
        return {p: one.active.snapshot for p, one in pointers.items() if one.active is not None}

    # -- replays ---------------------------------------------------------------------------

    def _replay(self, request: Request, pointers: Mapping[int, Pointers]) -> dict[int, str]:
        if request.exclude is not None:
            _check(request.exclude)
        rules = self._catalog.rules(pointers)
        wanted = self._concerned(request.exclude) & rules.keys()
        standing = {partition: rules[partition] for partition in sorted(wanted)}
        if request.snapshots == (START,):
            cut = dict.fromkeys(standing, START)
        elif request.snapshots:
            cut = self._named(request.snapshots)
            for partition, snapshot in cut.items():
                found = self._catalog.manifest(partition, snapshot)
                if not fit(found.rules, found.position, rules[partition]):
                    raise Problem(
                        409, "unfit-snapshot", "The snapshot has learned otherwise",
                        f"`{snapshot}` has learned what is excluded by now, or lacks what was "
                        "readmitted since", field="snapshots",
                        remedy=f"name one of before, or `{START}`; or give `to`",
                    )  # fmt: skip
        elif request.to is not None:
            cut = self._until(request.to, {p: self._fit(p, those) for p, those in standing.items()})
        else:
            raise invalid(
                "to", "a rollback needs to know how far",
                f"give `to`, a time, or `snapshots`, ids, or `{START}` alone",
            )  # fmt: skip
        for partition, snapshot in cut.items():
            self._reaches(partition, snapshot)
        return cut

    def _readmission(
        self, request: Request, entries: Mapping[str, Entry], pointers: Mapping[int, Pointers]
    ) -> dict[int, str]:
        """From where each partition has to learn again what a rule has kept out."""
        entry = entries.get(request.readmits or "")
        if entry is None:
            raise Problem(
                404, "unknown-operation", "No such operation",
                f"no operation `{request.readmits}`", field="readmits",
                remedy="choose one of GET /v1/excluded",
            )  # fmt: skip
        cut = {}
        for partition, rules in self._catalog.rules(pointers).items():
            start = min((r.start for r in rules if r.operation == request.readmits), default=None)
            if start is None:
                continue
            standing = [rule for rule in rules if rule.operation != request.readmits]
            manifests, _ = self._catalog.newest(partition)
            good = [
                one
                for one in manifests
                if one.position <= start and fit(one.rules, one.position, standing)
            ]
            best = max(good, key=lambda one: (one.position, one.lineage), default=None)
            cut[partition] = START if best is None else best.snapshot
            self._reaches(partition, cut[partition])
        if not cut:
            raise Problem(
                409, "nothing-excluded", "Nothing to readmit",
                f"`{request.readmits}` passes nothing over: it never did, was readmitted, or "
                "waits for the learner", field="readmits",
                remedy="choose one of GET /v1/excluded",
            )  # fmt: skip
        return cut

    def _quarantine(self, request: Request, pointers: Mapping[int, Pointers]) -> dict[int, str]:
        what = request.exclude
        if what is None or what.empty:
            raise invalid("exclude", "say what is to be quarantined",
                          "give `sources`, `stores` or `products`")  # fmt: skip
        if what.categories or what.offsets or what.since or what.until or what.surplus:
            raise invalid(
                "exclude", "a quarantine is of sources, stores or products, from now on",
                "leave out everything else; a rollback with `replay` takes back what was learned",
            )  # fmt: skip
        heads = {p: one.head.snapshot for p, one in pointers.items() if one.head is not None}
        return {p: heads.get(p, START) for p in sorted(self._concerned(what))}

    def _skip(self, request: Request, pointers: Mapping[int, Pointers]) -> dict[int, str]:
        """Offsets that are not learned yet, and what their partitions have learned up to there."""
        what = request.exclude
        if what is None or what != Exclusion(offsets=what.offsets, surplus=what.surplus):
            raise invalid("exclude", "a skip is of offsets, and of nothing else",
                          "give `offsets`, which GET /v1/status names")  # fmt: skip
        _check(what)
        if request.snapshots or request.to or request.replay or request.admit_late:
            raise invalid("exclude", "a skip takes nothing back",
                          "give `exclude`, `who` and `reason` only")  # fmt: skip
        cut, ends = {}, self._events.end()
        for partition in sorted(self._concerned(what)):
            head = pointers[partition].head if partition in pointers else None
            first, end = what.offsets[partition]
            learned = 0 if head is None else head.position
            if not learned <= first or end > ends[partition]:
                raise Problem(
                    409, "no-standstill", "The partition does not stand still there",
                    f"partition {partition} has learned what is before {learned}, and its log "
                    f"ends at {ends[partition]}", field="exclude.offsets",
                    remedy="name the offset that GET /v1/status says; what is learned is "
                    "taken back by: salescast rollback --replay --exclude-offsets",
                )  # fmt: skip
            cut[partition] = START if head is None else head.snapshot
        return cut

    def _concerned(self, what: Exclusion | None) -> set[int]:
        """Partitions that an exclusion can mean anything in."""
        every = set(range(self._events.partitions))
        if what is not None and what.stores:
            every &= {partition_of(store, len(every)) for store in what.stores}
        if what is not None and what.offsets:
            unknown = sorted(what.offsets.keys() - every)
            if unknown:
                raise invalid("exclude.offsets", f"there is no partition {unknown[0]} of them",
                              "name partitions of GET /v1/status")  # fmt: skip
            every &= what.offsets.keys()
        return every

    def _reaches(self, partition: int, snapshot: str) -> None:
        """See that the log can be read again from a snapshot's position on."""
        at = 0 if snapshot == START else self._catalog.manifest(partition, snapshot).position
        first = self._events.begin()[partition]
        if at < first:
            raise Problem(
                409, "log-expired", "The log does not reach back so far",
                f"partition {partition} begins at offset {first}, a replay needs it from {at} on",
                field="snapshots", remedy="go back less far, or roll back without `replay`",
            )  # fmt: skip

    # -- snapshots -------------------------------------------------------------------------

    def _named(self, named: Sequence[str]) -> dict[int, str]:
        cut: dict[int, str] = {}
        for snapshot in dict.fromkeys(named):
            partition = self._catalog.partition_of(snapshot)
            if partition is None:
                raise Problem(
                    404, "unknown-snapshot", "No such snapshot",
                    f"no partition keeps a snapshot `{snapshot}`", field="snapshots",
                    remedy="choose one of GET /v1/snapshots; older ones are thinned out",
                )  # fmt: skip
            if partition in cut:
                raise invalid(
                    "snapshots",
                    f"`{cut[partition]}` and `{snapshot}` are both of partition {partition}",
                    "name one snapshot a partition",
                )
            cut[partition] = snapshot
        return cut

    def _served(self, partition: int) -> list[Candidate]:
        """What may be served again: a replay's snapshots only from its end on."""
        return as_served(map(candidate, self._catalog.newest(partition)[0]))

    def _fit(self, partition: int, rules: Sequence[Rule]) -> list[Candidate]:
        """What a replay may begin from; any state will do, a replay's that is under way too.

        Sales come up to ``grace_s`` ahead of the watermark, and those that a snapshot has are in it
        for good: nothing of them is learned again, or left out.
        """
        manifests, _ = self._catalog.newest(partition)
        fitting = [candidate(one) for one in manifests if fit(one.rules, one.position, rules)]
        graces_us = {one.snapshot: round(one.settings["grace_s"] * MICRO) for one in manifests}
        return [
            msgspec.structs.replace(one, watermark_us=one.watermark_us + graces_us[one.snapshot])
            for one in fitting
        ]

    def _until(self, to: datetime, candidates: Mapping[int, Sequence[Candidate]]) -> dict[int, str]:
        """The newest of each partition that knew nothing after a time."""
        cut = choose_cut([one for some in candidates.values() for one in some], to_us=time_us(to))
        oldest = {
            partition: min(some, key=lambda one: one.watermark_us)
            for partition, some in candidates.items()
            if some
        }
        if not oldest:
            raise Problem(
                404, "unknown-snapshot", "No snapshot will do",
                "none is kept that has forecasts and has learned what is in force now", field="to",
                remedy="wait until a replay has ended (GET /v1/status says whether one is under "
                "way) or a first bucket has closed; or learn all anew, from the log's beginning: "
                f"salescast rollback --replay --snapshot {START}",
            )  # fmt: skip
        lacking = sorted(oldest.keys() - cut.keys())
        if lacking:
            first = max((oldest[one] for one in lacking), key=lambda one: one.watermark_us)
            # Before the first sale there is no watermark, only a very low number.
            since = datetime.fromtimestamp(max(first.watermark_us, FIRST_US) / 1e6, UTC)
            raise Problem(
                404, "unknown-snapshot", "No snapshot is that old",
                f"partitions {', '.join(map(str, lacking))} keep none up to {to.isoformat()}; the "
                f"oldest, `{first.snapshot}`, knows sales up to {since.isoformat()}",
                field="to",
                remedy=f"give a time from {since.isoformat()} on, or name `snapshots`; a rollback "
                "can learn all anew, from the log's beginning: salescast rollback --replay "
                f"--snapshot {START}",
            )  # fmt: skip
        return cut


def _check(what: Exclusion) -> None:
    """See that an exclusion can mean something."""
    if what.empty:
        raise invalid(
            "exclude", "an exclusion without a criterion means nothing",
            "give sources, stores, products, categories, a span of time or offsets",
        )  # fmt: skip
    if what.since is not None and what.until is not None and what.since >= what.until:
        raise invalid("exclude.until", "`until` is not after `since`", "give a span of time")
    for partition, (first, end) in what.offsets.items():
        if first >= end:
            raise invalid("exclude.offsets", f"the span of partition {partition} is empty",
                          "give the first offset and the one after the last")  # fmt: skip


def _frozen(pointers: Mapping[int, Pointers], request: Request) -> dict[int, str]:
    """What a resume is about: partitions that are frozen, and on what."""
    frozen = {
        partition: one.active.snapshot
        for partition, one in pointers.items()
        if one.frozen_by is not None and one.active is not None
    }
    if request.snapshots:
        wrong = sorted(set(request.snapshots) - set(frozen.values()))
        if wrong:
            raise Problem(
                409, "not-frozen", "Not frozen", f"nothing is frozen on `{wrong[0]}`",
                field="snapshots", remedy="leave `snapshots` out to resume all that is frozen",
            )  # fmt: skip
        frozen = {p: one for p, one in frozen.items() if one in request.snapshots}
    if not frozen:
        raise Problem(
            409, "not-frozen", "Nothing is frozen", "every partition follows its head already",
            remedy="nothing needs to be done; GET /v1/status shows what is served",
        )  # fmt: skip
    return frozen
