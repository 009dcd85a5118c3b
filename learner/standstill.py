"""How a partition gets past a record that stops it: an operator's *skip*.

A fold that raises stands still at the record's offset. A skip names that offset; it cannot take
effect at its marker, which lies after it. So a rule says from the standstill on what is passed
over, and the outcome in the control log says where it began: who folds the log anew passes over
the same, whether or not the fold would raise there by then. Leaves out: reading the control log,
and restoring (``worker``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from learner.operations import Entry
from learner.replay import Rule
from learner.shard import Shard
from learner.store import Standstill
from stream.errors import SalescastError, ShardStopped

#: What is told of an error, characters.
LONGEST = 500


class Skip(NamedTuple):
    """A rule of a skip; ``fresh``: no outcome tells of it yet."""

    rule: Rule
    fresh: bool


def standing(shard: Shard, error: Exception, since_s: float) -> Standstill:
    """A shard that no fold gets on from where it is, with the command that helps."""
    if isinstance(error, SalescastError):
        why, first = error.args[0], error.remedy
    else:
        why = f"{type(error).__name__}: {error}"
        first = "The record is kept; report it with the traceback"
    return Standstill(
        offset=shard.position,
        why=why[:LONGEST],
        remedy=f"{first}. To go on without it: "
        f"salescast skip {shard.partition}:{shard.position} --reason ...",
        since_us=round(since_s * 1e6),
    )


def stopped(partition: int, standstill: Standstill) -> ShardStopped:
    """What is said of a partition that stands still at a record."""
    return ShardStopped(
        f"partition {partition} stands still at offset {standstill.offset}: {standstill.why}",
        remedy=standstill.remedy,
    )


def to_say(said: Standstill | None, now: Standstill | None, position: int) -> Standstill | None:
    """What the store is to say of a partition, after what it says already.

    One that was taken up anew has passed nothing until it is past the record; one that stands
    still again at the same has done so ever since.

    Examples
    --------
    >>> said = Standstill(7, "an error", "skip it", 100)
    >>> to_say(said, None, 7) is said, to_say(said, None, 8)
    (True, None)
    >>> to_say(said, Standstill(7, "another error", "skip it", 200), 7).since_us
    100
    """
    if said is None or said.offset is None:
        return now
    if now is None:
        return said if position <= said.offset else None
    return (
        msgspec.structs.replace(now, since_us=said.since_us) if now.offset == said.offset else now
    )


def skips(shard: Shard, entries: Mapping[str, Entry], at: int | None = None) -> list[Skip]:
    """Skips that a shard has yet to heed.

    Parameters
    ----------
    entries
        All operations of the control log.
    at
        Where the shard stood still, if it did: skips without an outcome begin there.
    """
    partition = shard.partition
    lifted = {entries[name].operation.readmits for name in shard.operations if name in entries}
    found = []
    for entry in entries.values():
        operation = entry.operation
        if operation.kind != "skip" or operation.id in lifted | shard.operations.keys():
            continue
        assert operation.exclude is not None
        first, end = operation.exclude.offsets.get(partition, (0, 0))
        told = [one for one in entry.outcomes if one.partition == partition]
        start = at if not told else told[0].offset if told[0].outcome == "applied" else None
        if start is not None and first <= start < end and start >= shard.position:
            rule = Rule(
                operation=operation.id, kind="skipped", what=operation.exclude,
                start=start, end=end,
            )  # fmt: skip
            found.append(Skip(rule, fresh=not told))
    return found


def heed(shard: Shard, rules: Iterable[Rule]) -> None:
    """Let a shard pass over what skips say."""
    for rule in rules:
        shard.rules.append(rule)
        shard.operations[rule.operation] = rule.start
