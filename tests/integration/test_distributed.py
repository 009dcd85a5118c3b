"""Learner and API on a real Apache Kafka and a real Redis."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from learner.keys import make_keys
from tests.integration.deployment import Deployment, days_of_sales, deployment, poisoned, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def running(tmp_path: Path, apache_kafka: str, redis_url: str) -> Iterator[Deployment]:
    make_keys(tmp_path / "signing.pem", tmp_path / "verify.pem")
    name = f"t{uuid.uuid4().hex[:8]}"
    with deployment(
        tmp_path,
        "learner",
        "api",
        log="kafka",
        store="redis",
        kafka_bootstrap=apache_kafka,
        redis_url=redis_url,
        redis_prefix=name,
        topic_prefix=name,
        signing_key_file=tmp_path / "signing.pem",
        verify_key_file=tmp_path / "verify.pem",
    ) as one:
        one.environ["TOPIC"] = f"{name}.events"
        yield one


def test_sales_by_any_kafka_client_become_forecasts_and_a_kill_loses_none(
    running: Deployment, apache_kafka: str
) -> None:
    events = days_of_sales(range(30))
    producer = KafkaProducer(bootstrap_servers=apache_kafka, acks="all")

    def send(event: dict[str, Any]) -> None:
        """As any client does: keyed by the store."""
        value, key = json.dumps(event).encode(), event["store"].encode()
        running.note(producer.send(running.environ["TOPIC"], value, key).get(20))

    try:
        for event in events[: len(events) // 2]:
            send(event)
        running.settle()
        running.end("learner", signal.SIGKILL)
        for event in events[len(events) // 2 :]:
            send(event)
        still = running.api.get("/v1/forecasts/store-1/product-2")
        assert still.status_code == 200, "forecasts are answered while no learner runs"
        running.start("learner")
        running.settle()
    finally:
        producer.close()
    found = running.api.get("/v1/forecasts/store-1/product-2").json()
    assert found["origin"].startswith("2024-01-29")
    counts = [
        line
        for one in running.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]
        if one["head"]
        for line in running.api.get(f"/v1/snapshots/{one['id']}").json()["counts"].values()
    ]
    assert sum(line.get("learned", 0) for line in counts) == len(events)


def test_what_is_no_event_on_the_topic_becomes_a_dead_letter(
    running: Deployment, apache_kafka: str
) -> None:
    producer = KafkaProducer(bootstrap_servers=apache_kafka, acks="all")
    try:
        sent = producer.send(running.environ["TOPIC"], b"\xff not json", partition=2).get(20)
    finally:
        producer.close()
    found = until(
        lambda: (
            one
            if (one := running.api.get(f"/v1/receipts/2-{sent.offset}-0").json()).get("state")
            == "dead_letter"
            else None
        ),
        "the dead letter",
    )
    assert found["reason"] == "malformed"


def test_a_rollback_takes_effect_through_kafka(running: Deployment) -> None:
    running.send(days_of_sales(range(20)))
    good = [p["snapshot"] for p in running.settle() if p["snapshot"]]
    running.send(days_of_sales(range(20, 25)))
    running.settle()
    assert "rollback applied" in running.cli("rollback", *good, "--reason", "drift", "--who", "ann")


def test_a_replay_undoes_poison_through_kafka_and_redis(running: Deployment) -> None:
    running.send(days_of_sales(range(20)))
    good = [p["snapshot"] for p in running.settle() if p["snapshot"]]
    before = running.digests()
    running.send(poisoned(days_of_sales(range(18, 22)), "bad"))
    running.settle()
    assert running.digests() != before
    body = {
        "id": "repair", "kind": "rollback", "who": "ann", "reason": "twelvefold", "replay": True,
        "snapshots": good, "exclude": {"sources": ["bad"], "surplus": True},
    }  # fmt: skip
    running.api.post("/v1/operations", json=body)
    running.end("learner", signal.SIGKILL)
    running.start("learner")
    found = until(
        lambda: (
            one
            if (one := running.api.get("/v1/operations/repair").json())["state"] != "pending"
            else None
        ),
        "the outcome",
    )
    assert found["state"] == "applied"
    running.settle()
    assert running.digests() == before, "nothing came after the cut but the poison"


def test_without_keys_a_distributed_learner_does_not_start(running: Deployment) -> None:
    running.environ |= {"SALESCAST_SIGNING_KEY_FILE": "nowhere.pem", "SALESCAST_METRICS_PORT": "0"}
    assert "Make a pair with: salescast keys" in running.cli("learner", status=2)
