"""A log copied on Apache Kafka, with the append times it had, and out of an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.shard import Shard
from stream.adapters import open_log, open_target, target_begun
from stream.archive import keep
from stream.archived_log import ArchivedLog
from stream.errors import TopicMismatch
from stream.resharding import Copy, last_progress
from stream.settings import Settings
from tests.contract.test_archive import drop
from tests.learner_parts import chosen
from tests.unit.test_resharding import all_of, folded, shops, told


def settings(tmp_path: Path, kafka: str, prefix: str, partitions: int) -> Settings:
    return chosen(
        data_dir=str(tmp_path), log="kafka", kafka_bootstrap=kafka, topic_prefix=prefix,
        kafka_group=prefix, kafka_session_s=6.0, partitions=partitions,
        archive=str(tmp_path / "archive"),
    )  # fmt: skip


@pytest.mark.kafka
def test_a_copy_on_kafka_is_a_log_once_it_is_finished(
    tmp_path: Path, apache_kafka: str, unique_topic: str
) -> None:
    """Though the old log has dropped what is archived, and the copy is made in two runs."""
    old = settings(tmp_path, apache_kafka, unique_topic, 2)
    new = settings(tmp_path, apache_kafka, f"{unique_topic}.b", 3)
    source = open_log(old, "events")
    assert isinstance(source, ArchivedLog)
    told(source, shops(3))
    keep(source.live, source.kept)
    drop(source, dict(source.end()))
    assert not target_begun(new) and not target_begun(new), "looking makes no topic"
    target, notes = open_target(new)
    assert target_begun(new)
    Copy(source, target, notes, grace_s=0).run()
    with pytest.raises(TopicMismatch, match="is CreateTime and must be LogAppendTime"):
        open_log(new, "events")
    target.close()
    told(source, shops(2, first=3))
    target, _ = again = open_target(new)
    copy = Copy(source, *again, grace_s=0)
    assert not copy.finish(), "the old log has more by now"
    copy.run()
    assert copy.finish()
    progress = last_progress(notes)
    assert progress is not None and progress.finished
    with pytest.raises(TopicMismatch, match=r"there is a topic .*\.b\.events already"):
        open_target(new)
    with pytest.raises(TopicMismatch, match=r"there is a topic .*\.b\.events already"):
        target_begun(new)
    copied = open_log(new, "events")
    assert copied.partitions == 3
    assert {record.append_us for records in all_of(copied) for record in records} <= {
        record.append_us for records in all_of(source) for record in records
    }
    fresh = open_log(settings(tmp_path, apache_kafka, f"{unique_topic}.c", 3), "events")
    told(fresh, [*shops(3), *shops(2, first=3)])

    def digests(shards: list[Shard]) -> list[str]:
        return [shard.digest() for shard in shards]

    assert digests(folded(new, copied)) == digests(folded(new, fresh))
    told(copied, shops(1, first=5))
    for log in (source, target, notes, again[1], copied, fresh):
        log.close()
