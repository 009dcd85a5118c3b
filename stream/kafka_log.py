"""EventLog on Kafka, by kafka-python.

Guarantees, beyond ``log``: an append is acknowledged by all in-sync replicas, once, in the order
given; a topic whose settings would lose events is refused at the start; a topic recreated while
it is read is noticed within two seconds. Leaves out: append times that never decrease where
the brokers' clocks do not agree: after a change of leader they step back by that much. They
are handed on as they are, since a correction would depend on where the reading began; who
needs a running maximum takes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient  # type: ignore[import-untyped]
from kafka.coordinator.assignors.cooperative_sticky import (  # type: ignore[import-untyped]
    CooperativeStickyAssignor,
)
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from stream.errors import LogError, LogUnavailable, OffsetExpired, TopicMismatch
from stream.kafka_clients import close_consumer, close_producer, connected
from stream.kafka_consumer import LOST, KafkaLogConsumer, KafkaMember, assigned, to_records
from stream.log import Entry, Record, here

#: How long an append, a question and the first connection may take before the log is unavailable.
APPEND_S = 30.0
ASK_S = 5.0
CONNECT_S = 10.0
MAX_POLL_MS = 300_000
#: Largest record before compression; what a broker takes is the topic's ``max.message.bytes``.
MAX_REQUEST_BYTES = 8 << 20
#: What is fetched of a partition at a time: while a backlog is read, they are so far apart.
FETCH_BYTES = 1 << 20

#: What a topic must be set to, or events would be lost or their time be the producer's.
REQUIRED = {
    "message.timestamp.type": "LogAppendTime",
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "unclean.leader.election.enable": "false",
}
#: Those that an archive makes up for.
_RETENTION = ("retention.ms", "retention.bytes")
_DENIED = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
)


class KafkaLog:
    """One topic of a Kafka cluster, made if it is not there.

    Parameters
    ----------
    bootstrap
        Brokers to ask first, ``host:port``, comma-separated.
    topic
        The topic's name.
    partitions, replication
        Of the topic, if it has to be made; one that is there keeps its own.
    group
        Consumer group that shares the topic, and under which ``commit`` shows positions.
    session_s
        Silence after which the group takes a member for dead, s.
    security_protocol, ssl_cafile, sasl_mechanism, username, password
        As kafka-python names them; empty: its defaults.

    record_bytes
        Largest record of a topic that is made here.
    archived
        Whether an archive keeps what the topic may drop: then its retention may be limited.

    Raises
    ------
    LogUnavailable
        No broker answers.
    TopicMismatch
        The topic's settings would lose events; the message says which, and how to mend them.
    """

    _required: ClassVar[dict[str, str]] = REQUIRED

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        partitions: int,
        replication: int = 1,
        group: str = "salescast",
        session_s: float = 10.0,
        security_protocol: str = "PLAINTEXT",
        ssl_cafile: str = "",
        sasl_mechanism: str = "",
        username: str = "",
        password: str = "",
        record_bytes: int = 1 << 20,
        archived: bool = False,
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._group = group
        self._session_s = session_s
        self._options: dict[str, Any] = {
            "bootstrap_servers": bootstrap.split(","),
            "client_id": "salescast",
            "security_protocol": security_protocol,
            "ssl_cafile": ssl_cafile or None,
            "sasl_mechanism": sasl_mechanism or None,
            "sasl_plain_username": username or None,
            "sasl_plain_password": password or None,
            "bootstrap_timeout_ms": int(CONNECT_S * 1000),
            # The default of 30 s would keep us away long after the broker is back.
            "reconnect_backoff_max_ms": 1000,
        }
        self._admin_lock = threading.Lock()
        self._producer_lock = threading.Lock()
        self._reader_lock = threading.Lock()
        self._producer: Any = None
        self._reader: Any = None
        self._reading: tuple[int, int] | None = None
        self._wanted = {
            n: v for n, v in self._required.items() if not (archived and n in _RETENTION)
        }
        with self._unavailable():
            self._admin: Any = connected(
                KafkaAdminClient, **self._options, request_timeout_ms=int(ASK_S * 1000)
            )
        try:
            with self._unavailable():
                if (about := self._describe()) is None:
                    self._make(partitions, replication, record_bytes)
                    about = self._appeared()
                self._partitions = len(about["partitions"])
                self._id = str(about["topic_id"])
                self._check(min(len(p["replica_nodes"]) for p in about["partitions"]))
        except BaseException:
            self._admin.close()
            raise

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def topic_id(self) -> str:
        """The id the cluster gave the topic when it was made."""
        return self._id

    @property
    def partitions(self) -> int:
        """How many partitions the topic has, whatever was asked for."""
        return self._partitions

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append entries durably; their offsets, in the order given. Any thread may."""
        for entry in entries:
            if not 0 <= entry.partition < self._partitions:
                raise ValueError(
                    f"no partition {entry.partition}: the topic has {self._partitions}, from 0"
                )
        if not entries:
            return []
        producer = None
        try:
            with self._unavailable():
                producer = self._connected_producer()
                send, topic = producer.send, self._topic
                sent = [
                    send(topic, value, key, list(headers), partition)
                    for partition, key, value, headers in entries
                ]
                deadline = time.monotonic() + APPEND_S + ASK_S
                return [future.get(max(0.0, deadline - time.monotonic())).offset for future in sent]
        except LogError:
            # After a failure its sequence numbers are in doubt, so the next append starts anew.
            self._drop(producer)
            raise

    def begin(self) -> Mapping[int, int]:
        """First offset kept, by partition."""
        with self._reader_lock, self._unavailable():
            return self._bounds("beginning_offsets", range(self._partitions))

    def end(self) -> Mapping[int, int]:
        """Offset the next entry will get at the earliest, by partition."""
        with self._reader_lock, self._unavailable():
            return self._bounds("end_offsets", range(self._partitions))

    def read(self, partition: int, offset: int, max_records: int = 1000) -> list[Record]:
        """Records from ``offset`` on, at once; empty at the end. Owns nothing.

        Raises
        ------
        OffsetExpired
            ``offset`` is before the first record that is kept.
        """
        there = TopicPartition(self._topic, partition)
        with self._reader_lock, self._unavailable():
            end = self._bounds("end_offsets", [partition])[partition]
            if offset >= end:
                return []
            reader = self._connected_reader()
            # Going on where the last read ended keeps what has been fetched ahead.
            if self._reading != (partition, offset):
                reader.assign([there])
                reader.seek(there, offset)
            self._reading = None
            found: list[Record] = []
            deadline = time.monotonic() + ASK_S
            while len(found) < max_records and reader.position(there) < end:
                try:
                    polled = reader.poll(100, max_records - len(found))
                except LOST as error:
                    raise self._expired({partition: offset}) from error
                for records in polled.values():
                    found += to_records(partition, records)
                if time.monotonic() > deadline:
                    if found:
                        break
                    raise LogUnavailable(
                        f"Kafka at {self._bootstrap} gave no record of {self._topic}[{partition}] "
                        f"at {offset} within {ASK_S:g} s"
                    )
            self._reading = (partition, reader.position(there))
            return found

    def consume(self, positions: Mapping[int, int]) -> KafkaLogConsumer:
        """Read these partitions from these offsets. Whether they are ours is not checked."""
        for partition in positions:
            if not 0 <= partition < self._partitions:
                raise ValueError(f"no partition {partition}: the topic has {self._partitions}")
        with self._unavailable():
            return KafkaLogConsumer(self, self._consumer(), positions)

    def join(self) -> KafkaMember:
        """Share the topic with the other members of the group."""
        with self._unavailable():
            return KafkaMember(
                self,
                self._consumer(
                    client_id=here(),
                    group_id=self._group,
                    session_timeout_ms=int(self._session_s * 1000),
                    heartbeat_interval_ms=int(min(self._session_s / 4, 3.0) * 1000),
                    # Longer than any restore; a member that hangs longer gives its share up.
                    max_poll_interval_ms=MAX_POLL_MS,
                    partition_assignment_strategy=[CooperativeStickyAssignor],
                ),
            )

    def owners(self) -> Mapping[int, str]:
        """Which member folds a partition, by what it calls itself; those that one does."""
        try:
            with self._admin_lock, self._unavailable():
                members = self._admin.describe_groups([self._group])[self._group]["members"]
        except LogUnavailable as error:
            if not isinstance(error.__cause__, kafka_errors.CoordinatorNotAvailableError):
                raise
            return {}  # so it is until the cluster's first group is made
        return {
            partition: member["client_id"]
            for member in members
            for topic, partitions in assigned(member["member_assignment"])
            if topic == self._topic
            for partition in partitions
        }

    def close(self) -> None:
        """Send what is under way, and release connections. Safe to call twice."""
        with self._producer_lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, ASK_S)
        with self._reader_lock:
            if self._reader is not None:
                close_consumer(self._reader)
                self._reader = None
        with self._admin_lock:
            self._admin.close()

    def _describe(self) -> dict[str, Any] | None:
        """What the brokers say of the topic; ``None`` if it is not there."""
        with self._admin_lock:
            about: dict[str, Any] = self._admin.describe_topics([self._topic])[0]
        if about["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno:
            return None
        if about["error_code"]:
            raise kafka_errors.for_code(about["error_code"])()
        return about

    def _appeared(self) -> dict[str, Any]:
        """What the brokers say of a topic just made: each hears of it in its own time."""
        deadline = time.monotonic() + CONNECT_S
        while (about := self._describe()) is None:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"the topic {self._topic} was made, but is not there yet")
            time.sleep(0.05)
        return about

    def _make(self, partitions: int, replication: int, record_bytes: int) -> None:
        """Make the topic, unless another process is quicker, and wait until it has leaders."""
        wanted = {
            "num_partitions": partitions,
            "replication_factor": replication,
            "configs": {
                **self._required,
                "min.insync.replicas": str(min(2, replication)),
                "max.message.bytes": str(record_bytes),
            },
        }
        with self._admin_lock:
            try:
                self._admin.create_topics({self._topic: wanted})
            except kafka_errors.TopicAlreadyExistsError:
                pass
            except kafka_errors.InvalidReplicationFactorError:
                raise TopicMismatch(
                    f"the cluster has too few brokers for a topic with {replication} replicas",
                    remedy="Start more, or set `kafka_replication` to how many there are",
                ) from None
            self._admin.wait_for_topics([self._topic], timeout_ms=int(CONNECT_S * 1000))

    def _check(self, replicas: int) -> None:
        """Refuse a topic whose settings would lose events."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self._topic)
        with self._admin_lock:
            # By default kafka-python leaves out what is inherited from the broker.
            answer = self._admin.describe_configs([resource], config_filter="all")
        found = {
            name: config["value"] for name, config in answer["topic"].get(self._topic, {}).items()
        }
        wrong = {n: v for n, v in self._wanted.items() if n in found and found[n] != v}
        in_sync = int(found.get("min.insync.replicas", min(2, replicas)))
        if not min(2, replicas) <= in_sync <= replicas:
            wrong["min.insync.replicas"] = str(min(2, replicas))
        if wrong:
            said = ", ".join(f"{n} is {found[n]} and must be {v}" for n, v in wrong.items())
            mend = ",".join(f"{n}={v}" for n, v in wrong.items())
            raise TopicMismatch(
                f"the topic {self._topic} would lose events or their time: {said}",
                remedy=f"Run: kafka-configs.sh --bootstrap-server {self._bootstrap} --alter "
                f"--topic {self._topic} --add-config {mend}",
            )

    def _same_topic(self) -> None:
        """Refuse to go on with a topic that was deleted, or made anew under the same name."""
        about = self._describe()
        if about is None or str(about["topic_id"]) != self._id:
            what = "deleted" if about is None else "recreated"
            raise TopicMismatch(
                f"the topic {self._topic} was {what}: positions belong to its id {self._id}",
                remedy="Restore it, or begin anew with another `redis_prefix` (or `data_dir`)",
            )
        if len(about["partitions"]) != self._partitions:
            raise TopicMismatch(
                f"the topic {self._topic} was given {len(about['partitions'])} partitions while "
                f"it has {self._partitions}: stores would move to others",
                remedy="Stop producers that hash over all of them; topics do not shrink, so "
                "replay into a new one with: salescast reshard --help",
            )

    def _expired(self, positions: Mapping[int, int]) -> LogError:
        """Why Kafka has no record at one of these positions."""
        try:
            self._same_topic()
        except TopicMismatch as mismatch:
            return mismatch
        begin = self._bounds("beginning_offsets", positions)
        end = self._bounds("end_offsets", positions)
        for partition, position in positions.items():
            first, last = begin[partition], end[partition]
            where = f"position {position} of {self._topic}[{partition}]"
            if position < first:
                return OffsetExpired(f"{where} is before the first record kept, {first}")
            if position > last:
                return OffsetExpired(f"{where} is past the end at {last}: its tail was lost")
        return OffsetExpired(f"records at the positions of {self._topic} were lost and rewritten")

    def _bounds(self, question: str, partitions: Any) -> dict[int, int]:
        """First or next offsets; the reader's lock is held, or the reader is not shared."""
        there = [TopicPartition(self._topic, partition) for partition in partitions]
        answer = getattr(self._connected_reader(), question)(there)
        return {place.partition: offset for place, offset in answer.items()}

    def _consumer(self, **options: Any) -> Any:
        """A consumer; by default without a group: reading must not wait for a coordinator."""
        return connected(
            KafkaConsumer,
            **{**self._options, **options},
            request_timeout_ms=int(ASK_S * 1000),
            allow_auto_create_topics=False,
            auto_offset_reset="none",
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            metrics_enabled=False,
        )

    def _connected_reader(self) -> Any:
        if self._reader is None:
            self._reader = self._consumer()
        return self._reader

    def _connected_producer(self) -> Any:
        with self._producer_lock:
            if self._producer is None:
                self._producer = connected(
                    KafkaProducer,
                    **self._options,
                    allow_auto_create_topics=False,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    # Not waiting for more is best: batches form while a request is under way.
                    linger_ms=0,
                    batch_size=256 << 10,
                    max_request_size=MAX_REQUEST_BYTES,
                    max_block_ms=int(CONNECT_S * 1000),
                    request_timeout_ms=int(CONNECT_S * 1000),
                    delivery_timeout_ms=int(APPEND_S * 1000),
                    metrics_enabled=False,
                )
            return self._producer

    def _drop(self, producer: Any) -> None:
        with self._producer_lock:
            if producer is None or self._producer is not producer:
                return
            self._producer = None
        close_producer(producer, 0)

    def _commit(self, positions: Mapping[int, int]) -> None:
        """Show positions as the group's offsets."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in positions.items()
        }
        with self._admin_lock:
            self._admin.alter_group_offsets(self._group, offsets)

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Say what kafka-python says in our own errors."""
        try:
            yield
        except _DENIED as error:
            raise LogError(
                f"Kafka at {self._bootstrap} denies access to {self._topic}: {error}",
                remedy="Check `kafka_username`, `kafka_password` and the topic's ACLs",
            ) from error
        except kafka_errors.MessageSizeTooLargeError as error:
            raise LogError(
                f"a record is larger than {self._topic} takes",
                remedy=f"Raise the topic's max.message.bytes (at most {MAX_REQUEST_BYTES} here)",
            ) from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise LogUnavailable(
                f"Kafka at {self._bootstrap} is unavailable: {error or type(error).__name__}"
            ) from error
