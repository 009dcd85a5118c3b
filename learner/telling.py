"""What metrics are told of an owner's shards: where each stands, and how good its models are.

Leaves out: how often (``worker``), and the metrics themselves (``telemetry``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from learner.evaluation import summary
from learner.ownership import Owned, restored
from learner.telemetry import Telemetry
from learner.watch import watched


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
