"""Clients of kafka-python that leave nothing behind: when they cannot be had, and when they go.

kafka-python 3.0 starts a client's I/O thread before it has found a broker, and stops nothing when
it finds none; and a producer that cannot send what is under way raises instead of closing. Leaves
out: what the clients are asked (``kafka_log``, ``kafka_consumer``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kafka import errors as kafka_errors  # type: ignore[import-untyped]
from kafka.net.compat import KafkaNetClient  # type: ignore[import-untyped]

#: How long a producer's thread may take to leave once it is told to send no more.
LEAVE_S = 5.0


def connected(kind: type[Any], **options: Any) -> Any:
    """A consumer, producer or admin client; if it cannot be had, its thread and sockets go too."""
    made: list[Any] = []

    def client(**given: Any) -> Any:
        made.append(KafkaNetClient(**given))
        return made[-1]

    try:
        return kind(kafka_client=client, **options)
    except BaseException:
        for one in made:
            one.close()
            one._manager._net.stop()
        raise


def close_producer(producer: Any, timeout_s: float) -> None:
    """Wait so long for what is under way, then close a producer whatever the brokers do."""
    with suppress(kafka_errors.KafkaError):
        producer.close(timeout=timeout_s)
    producer._sender.force_close()  # what is not sent by now fails
    producer._sender.join(LEAVE_S)
    with suppress(kafka_errors.KafkaError):
        producer.close(timeout=0)  # nothing, if the first was enough


def close_consumer(consumer: Any) -> None:
    """Close a consumer whatever the brokers do, and commit nothing."""
    try:
        with suppress(kafka_errors.KafkaError):
            consumer.close(autocommit=False)
    finally:
        consumer._client.close()
