"""Logs that take records with the append times they had in another log (``resharding.Target``).

These may step back where partitions of the other log had come apart.
Until it is finished, such a topic cannot be taken for a log: in SQLite it has another name, and in
Kafka it has its producer's times, which every other opener refuses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]

from stream.errors import TopicMismatch
from stream.kafka_log import APPEND_S, ASK_S, REQUIRED, KafkaLog
from stream.log import Entry, Record
from stream.sqlite_log import (
    BATCH_BYTES,
    BATCH_RECORDS,
    SqliteLog,
    _unavailable,
    encode_batch,
    open_file,
)

#: What the name of an unfinished topic of a SQLite file ends in.
UNFINISHED = ".unfinished"
_ELSEWHERE = "It is no unfinished copy: give the new one another topic_prefix, or data folder"


class SqliteTarget(SqliteLog):
    """A topic of a SQLite file under a name that nobody looks for, until it is finished."""

    def __init__(self, path: Path, topic: str, partitions: int) -> None:
        self._final = topic
        self.begun(path, topic)
        super().__init__(path, topic + UNFINISHED, partitions)

    @staticmethod
    def begun(path: Path, topic: str) -> bool:
        """Whether an unfinished copy is there.

        Raises
        ------
        TopicMismatch
            There is such a topic already, and it is none.
        """
        with closing(open_file(path)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM topic")}
        if topic in names:
            raise TopicMismatch(f"{path} has a topic {topic} already", remedy=_ELSEWHERE)
        return topic + UNFINISHED in names

    @property
    def topic(self) -> str:
        """The topic's name, once it is finished."""
        return self._final

    def load(self, entries: Sequence[Entry], append_us: Sequence[int]) -> None:
        """Append entries durably, all or none, each with its append time."""
        with self._writing, _unavailable(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(
                    "INSERT INTO batch VALUES (?, ?, ?, ?)",
                    [
                        (self._position(batch[0].partition, batch[0].offset), len(batch),
                         max(record.append_us for record in batch), encode_batch(batch))
                        for batch in self._batches(entries, append_us)
                    ],
                )  # fmt: skip
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def finish(self) -> None:
        """Give the topic the name by which it is looked for."""
        with self._writing, _unavailable(self._path):
            self._writer.execute(
                "UPDATE topic SET name = ? WHERE name = ?",
                (self._final, self._final + UNFINISHED),
            )

    def _batches(self, entries: Sequence[Entry], append_us: Sequence[int]) -> list[list[Record]]:
        ends: dict[int, int] = {}
        open_: dict[int, tuple[list[Record], int]] = {}
        done: list[list[Record]] = []
        for (partition, key, value, headers), at in zip(entries, append_us, strict=True):
            end = ends.get(partition)
            if end is None:
                end = self._last(self._writer, partition)[0]
            record = Record(partition, end, at, key, value, headers)
            ends[partition] = end + 1
            batch, size = open_.get(partition, ([], 0))
            if not batch or len(batch) >= BATCH_RECORDS or size + len(value) > BATCH_BYTES:
                batch, size = [], 0
                done.append(batch)
            batch.append(record)
            open_[partition] = batch, size + len(value)
        return done


class KafkaTarget(KafkaLog):
    """A topic whose records have their producer's time, until it is finished."""

    _required: ClassVar[dict[str, str]] = {**REQUIRED, "message.timestamp.type": "CreateTime"}

    def __init__(self, bootstrap: str, topic: str, **options: Any) -> None:
        try:
            super().__init__(bootstrap, topic, **options)
        except TopicMismatch as error:
            if "must be CreateTime" not in str(error):
                raise
            raise TopicMismatch(f"there is a topic {topic} already", remedy=_ELSEWHERE) from None

    @classmethod
    def begun(cls, topic: str, **options: Any) -> bool:
        """As ``SqliteTarget.begun``: the topic is looked for, and not made."""
        try:
            _Looking(topic=topic, **options).close()
        except _NotThere:
            return False
        return True

    def load(self, entries: Sequence[Entry], append_us: Sequence[int]) -> None:
        """Append entries durably, each with its append time, to the ms."""
        producer = None
        try:
            with self._unavailable():
                producer = self._connected_producer()
                sent = [
                    producer.send(self._topic, value, key, list(headers), partition, at // 1000)
                    for (partition, key, value, headers), at in zip(entries, append_us, strict=True)
                ]
                deadline = time.monotonic() + APPEND_S + ASK_S
                for future in sent:
                    future.get(max(0.0, deadline - time.monotonic()))
        except BaseException:
            self._drop(producer)
            raise

    def finish(self) -> None:
        """From now on append times are the broker's; those of the records there stay."""
        resource = ConfigResource(
            ConfigResourceType.TOPIC, self._topic, {"message.timestamp.type": "LogAppendTime"}
        )
        with self._admin_lock, self._unavailable():
            self._admin.alter_configs([resource], incremental=True)


class _NotThere(Exception):
    """A topic that is looked for is not there."""


class _Looking(KafkaTarget):
    """A target that is only looked for."""

    def _make(self, partitions: int, replication: int, record_bytes: int) -> None:
        raise _NotThere
