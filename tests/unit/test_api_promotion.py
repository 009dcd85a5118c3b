"""Promotions at the API: judged over all heads, refused with the gate named, written down once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.control import Control
from api.cuts import Request
from api.operation_schemas import Models
from api.problems import Problem
from learner.replay import START, Exclusion
from scripts import show
from scripts.console import out
from stream.event import Marker, decode
from tests.api_parts import Deployment, context_of, running


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.close()


@pytest.fixture
def heads(deployment: Deployment) -> dict[int, str]:
    return {partition: deployment.publish(partition, 30, seed=partition) for partition in (0, 1)}


def control_of(deployment: Deployment) -> Control:
    return context_of(deployment.app()).control


def asked(model: str | None, **more: Any) -> Request:
    return Request(kind="promote", who="ada", reason="test", model=model, **more)


def refused(control: Control, request: Request) -> Problem:
    with pytest.raises(Problem) as caught:
        control.submit(request)
    assert caught.value.members["remedy"]
    return caught.value


def markers(deployment: Deployment) -> dict[int, list[str]]:
    return {
        partition: [
            event.id
            for record in deployment.events.read(partition, 0)
            for event in decode(record.value)
            if isinstance(event, Marker)
        ]
        for partition in range(deployment.events.partitions)
    }


def test_a_better_challenger_is_written_down_with_what_the_gates_found_and_marked_everywhere(
    deployment: Deployment, heads: dict[int, str]
) -> None:
    control = control_of(deployment)
    entry = control.submit(asked("river_plain", id="up"))
    operation = entry.operation
    assert (operation.kind, operation.model, operation.over) == (
        "promote", "river_plain", "ensemble",
    )  # fmt: skip
    partitions = range(deployment.events.partitions)
    assert operation.cut == {partition: heads.get(partition, START) for partition in partitions}
    assert "squared loss" in operation.about
    assert entry.state == "pending", "it waits for the learner"
    assert markers(deployment) == {partition: ["up"] for partition in partitions}
    again = control.submit(asked("river_plain", id="up"))
    assert again.operation == operation
    assert markers(deployment) == {partition: ["up"] for partition in partitions}
    assert refused(control, asked("seasonal_naive", id="up")).status == 409


def test_a_worse_challenger_is_refused_and_nothing_is_written(
    deployment: Deployment, heads: dict[int, str]
) -> None:
    control = control_of(deployment)
    problem = refused(control, asked("seasonal_naive"))
    assert (problem.status, problem.members["gate"]) == (409, "better")
    failed = [gate["gate"] for gate in problem.members["gates"] if not gate["passed"]]
    assert failed == ["better", "worthwhile", "nowhere_worse", "fair"]
    assert not control.entries()
    assert not any(markers(deployment).values())


@pytest.mark.parametrize(
    ("model", "more", "status", "field"),
    [
        ("ensemble", {}, 409, "model"),
        ("twin", {}, 409, "model"),
        ("river_plian", {}, 404, "model"),
        (None, {}, 422, "model"),
        ("river_plain", {"snapshots": ("p0-l0-o1-00000000",)}, 422, "snapshots"),
        ("river_plain", {"to": datetime(2025, 1, 1, tzinfo=UTC)}, 422, "to"),
        ("river_plain", {"replay": True}, 422, "replay"),
        ("river_plain", {"exclude": Exclusion(sources=("a",))}, 422, "exclude"),
        ("river_plain", {"admit_late": True}, 422, "admit_late"),
    ],
)
def test_what_is_no_promotion_is_refused_with_what_to_do(
    deployment: Deployment, heads: dict[int, str], model: str | None, more: dict[str, Any],
    status: int, field: str,
) -> None:  # fmt: skip
    problem = refused(control_of(deployment), asked(model, **more))
    assert (problem.status, problem.members["field"]) == (status, field)


def test_only_a_promotion_is_of_a_model(deployment: Deployment, heads: dict[int, str]) -> None:
    request = Request(kind="freeze", who="ada", reason="test", model="river_plain")
    assert refused(control_of(deployment), request).members["field"] == "model"


def test_nothing_is_promoted_before_anything_is_published(deployment: Deployment) -> None:
    problem = refused(control_of(deployment), asked("river_plain"))
    assert problem.members["type"] == "/problems/no-snapshots"


def test_the_route_of_models_tells_roles_and_gates(
    deployment: Deployment, heads: dict[int, str]
) -> None:
    with running(deployment.app()) as client:
        found = client.get("/v1/models").raise_for_status()
        said = Models.model_validate(found.json(), strict=True)
        assert said.champion == "ensemble"
        assert {(one.model, one.role, one.promotable) for one in said.items} == {
            ("ensemble", "champion", False), ("seasonal_naive", "challenger", False),
            ("river_plain", "challenger", True), ("twin", "twin", False),
        }  # fmt: skip
        gates = {gate.gate: gate for one in said.items[2:3] for gate in one.gates}
        assert list(gates) == [
            "evidence", "better", "worthwhile", "floor", "nowhere_worse", "fair",
        ]  # fmt: skip
        assert all(test.blocks == 16 for test in gates["better"].tests)
        tried = dry(client, "river_plain")
        assert (tried["state"], tried["dry_run"], tried["model"]) == (
            "pending", True, "river_plain",
        )  # fmt: skip
        assert not client.get("/v1/operations").json()["items"]


def test_the_command_line_tells_gates_and_the_tests_of_a_challenger(
    deployment: Deployment, heads: dict[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with running(deployment.app()) as client:
        found = client.get("/v1/models").raise_for_status().json()
    out.print(show.gates_table(found))
    said = capsys.readouterr().out
    assert "passes better" in said
    assert "FAILS better" in said
    out.print(show.tests_table(found, "river_plain"))
    said = capsys.readouterr().out
    assert "squared" in said
    assert "-10" in said, "a tenth less is lost"


def dry(client: httpx.Client, model: str) -> dict[str, Any]:
    body = {"kind": "promote", "model": model, "who": "ada", "reason": "try", "dry_run": True}
    found: dict[str, Any] = client.post("/v1/operations", json=body).raise_for_status().json()
    return found
