"""What is told of an owner's shards: metrics where each stands and how good its models are, and
the store, for the API, what stands still.

Leaves out: how often (``worker``), and the metrics themselves (``telemetry``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np

from learner.evaluation import summary
from learner.ownership import Owned, restored
from learner.standstill import to_say
from learner.store import SnapshotStore, Standstill
from learner.telemetry import Telemetry
from learner.watch import watched
from stream.errors import LogUnavailable, StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

#: How long a store that could not be told of a standstill is left alone, s.
AGAIN_S = 10.0

#: What does not go on while a dependency is away.
_WITHOUT = {
    "log": "nothing new is learned while the event log cannot be reached",
    "store": "nothing is published or taken up while the snapshot store cannot be used",
}


class Dependencies:
    """Tells whether log and store answer: to metrics each time, to the learner's log once."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._away: dict[str, tuple[type, str]] = {}

    def answers(self, name: str) -> None:
        """One does."""
        self._telemetry.dependency(name, True)
        if self._away.pop(name, None) is not None:
            logger.info("the %s is well again", "event log" if name == "log" else "snapshot store")

    def fails(self, error: LogUnavailable | StoreUnavailable) -> None:
        """One does not. It is said anew only when there is something else to do about it."""
        name = "log" if isinstance(error, LogUnavailable) else "store"
        self._telemetry.dependency(name, False)
        kind = type(error), error.remedy
        if self._away.get(name) != kind:
            self._away[name] = kind
            logger.warning("%s: %s", _WITHOUT[name], error)

    def holds_up(
        self, partition: int, what: str, error: LogUnavailable | StoreUnavailable
    ) -> None:  # fmt: skip
        """A partition cannot be published or taken up, which is ``what``, for want of one."""
        if isinstance(error, StoreUnavailable):
            self.fails(error)
        else:  # what is read of the log may be there, and what is written not
            logger.warning("partition %d: not %s: %s", partition, what, error)


def tell(telemetry: Telemetry, shards: Mapping[int, Owned], ends: Mapping[int, int]) -> None:
    """Tell metrics where all stands.

    Parameters
    ----------
    shards, ends
        The owner's shards, and where the log ends, by partition.
    """
    for partition, owned in shards.items():
        telemetry.position(partition, owned.shard.position, ends[partition])
        replay = owned.shard.replay
        left = 0 if replay is None else replay.until - owned.shard.position
        telemetry.replaying(partition, left)
        telemetry.restored(partition, restored(owned))
        telemetry.guarded(partition, owned.shard.guard.states())
        telemetry.watched(partition, watched(owned.shard.watch.arrays))
    if not shards:
        return
    evaluations = [owned.shard.evaluation for owned in shards.values()]
    sums = np.sum([one.sums for one in evaluations], axis=0)
    champion = next(iter(shards.values())).shard.champion
    rows = summary(evaluations[0].models, evaluations[0].scored, sums, champion)
    telemetry.scored(rows, champion=champion)


def said(store: SnapshotStore, partition: int) -> Standstill | None:
    """What the store says that a partition stands still at; nothing if it cannot be asked."""
    try:
        return store.standstills().get(partition)
    except StoreError as error:
        logger.warning("partition %d: what it stood still at cannot be read: %s", partition, error)
        return None


def say(store: SnapshotStore, owned: Owned) -> None:
    """Let the store say what a shard stands still at, or that it is past it."""
    standstill, now = to_say(owned.said, owned.standstill, owned.shard.position), time.monotonic()
    if standstill == owned.said or now < owned.say_s:
        return
    if _put(store, owned.shard.partition, standstill):
        owned.said = standstill
    else:
        owned.say_s = now + AGAIN_S


def say_held(store: SnapshotStore, partition: int, error: StoreError, now_s: float) -> None:
    """Let the store say that a partition stands still before a head that cannot be taken up."""
    _put(store, partition, Standstill(None, error.args[0], error.remedy, round(now_s * 1e6)))


def _put(store: SnapshotStore, partition: int, standstill: Standstill | None) -> bool:
    """Whether that could be done. It is for display: folding goes on."""
    try:
        store.put_standstill(partition, standstill)
    except StoreError as error:
        logger.warning("partition %d: the store does not say how it stands: %s", partition, error)
        return False
    return True
