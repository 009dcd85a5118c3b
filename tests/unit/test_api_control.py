"""Operations: written down before they take effect, carried out once, whatever is repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.control import Control
from api.cuts import Request
from api.problems import Problem
from learner.operations import GUARD, Operation, Outcome
from learner.replay import Exclusion, Replay
from stream.errors import LogUnavailable, StoreUnavailable
from stream.event import Marker, decode
from stream.log import Entry
from tests.api_parts import DAY_US, ORIGIN, Deployment, Down, context_of


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.close()


@pytest.fixture
def snapshots(deployment: Deployment) -> dict[int, list[str]]:
    """Three snapshots of each of two partitions, a day apart."""
    return {
        p: [
            deployment.publish(p, 10 * (i + 1), origin=ORIGIN + i, seed=i + 10 * p)
            for i in range(3)
        ]
        for p in (0, 1)
    }


def control_of(deployment: Deployment, **parts: Any) -> Control:
    return context_of(deployment.app(**parts)).control


def asked(kind: Any, **more: Any) -> Request:
    return Request(kind=kind, who="ada", reason="test", **more)


def active(deployment: Deployment) -> dict[int, tuple[str | None, str | None]]:
    found = {p: deployment.store.pointers(p) for p in (0, 1)}
    return {
        p: (one.active.snapshot if one.active else None, one.frozen_by) for p, one in found.items()
    }


def markers(deployment: Deployment, partition: int) -> list[str]:
    events = [decode(record.value)[0] for record in deployment.events.read(partition, 0)]
    return [event.id for event in events if isinstance(event, Marker)]


def refused(control: Control, request: Request) -> Problem:
    with pytest.raises(Problem) as caught:
        control.submit(request)
    assert caught.value.members["remedy"]
    return caught.value


def test_a_replay_begins_before_all_sales_of_after_its_time(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    """Sales come up to a grace ahead of the watermark, and are in a snapshot for good."""
    grace = timedelta(seconds=deployment.settings.grace_s)
    known = datetime.fromtimestamp(((ORIGIN + 2) * DAY_US + 5_000_000) / 1e6, UTC)
    control = control_of(deployment)
    without = {"replay": True, "exclude": Exclusion(sources=("till",))}
    for to, more, at in (
        (known, {}, 1), (known, without, 0), (known + grace / 2, without, 0),
        (known + grace, without, 1),
    ):  # fmt: skip
        entry = control.submit(asked("rollback", to=to, **more))
        assert entry.operation.cut == {p: snapshots[p][at] for p in (0, 1)}, (to, more)


def test_a_freeze_keeps_what_is_served_and_a_resume_follows_the_head(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    frozen = control.submit(asked("freeze", id="f1"))
    assert frozen.state == "applied"
    newer = deployment.publish(0, 99, seed=99)
    assert active(deployment) == {p: (snapshots[p][-1], "f1") for p in (0, 1)}
    resumed = control.submit(asked("resume"))
    assert resumed.state == "applied"
    assert resumed.operation.cut == frozen.operation.cut
    assert active(deployment) == {0: (newer, None), 1: (snapshots[1][-1], None)}


def test_a_freeze_to_a_time_takes_the_newest_snapshots_up_to_it(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    to = datetime.fromtimestamp(((ORIGIN + 2) * DAY_US + 6_000_000) / 1e6, UTC)
    assert control.submit(asked("freeze", to=to)).operation.cut == {
        p: snapshots[p][1] for p in (0, 1)
    }


@pytest.mark.parametrize("kind", ["freeze", "rollback"])
def test_what_a_replay_was_on_its_way_is_in_no_cut_up_to_a_time(
    deployment: Deployment, snapshots: dict[int, list[str]], kind: str
) -> None:
    under_way = Replay(operation="r", start=0, until=50)
    deployment.publish(0, 5, keys=[], origin=None, lineage=1, replay=under_way)
    deployment.publish(0, 15, origin=ORIGIN + 1, seed=5, lineage=1, replay=under_way)
    to = datetime.fromtimestamp(((ORIGIN + 2) * DAY_US + 6_000_000) / 1e6, UTC)
    control = control_of(deployment)
    assert control.plan(asked(kind, to=to)).cut == {p: snapshots[p][1] for p in (0, 1)}


def test_a_time_without_a_snapshot_that_was_ever_served_is_refused(deployment: Deployment) -> None:
    deployment.publish(0, 5, keys=[], origin=None)
    request = asked("freeze", to=datetime(2100, 1, 1, tzinfo=UTC))
    problem = refused(control_of(deployment), request)
    assert (problem.status, problem.members["field"]) == (404, "to")
    assert "first bucket has closed" in problem.members["remedy"]


def test_a_time_before_all_snapshots_is_refused_with_the_first_that_would_do(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    problem = refused(control, asked("freeze", to=datetime(2020, 1, 1, tzinfo=UTC)))
    assert (problem.status, problem.members["field"]) == (404, "to")
    assert "2025-03-02" in problem.members["remedy"]
    assert f"the oldest, `{snapshots[0][0]}`" in problem.members["detail"]
    assert "salescast rollback --replay --snapshot start" in problem.members["remedy"]


def test_named_snapshots_freeze_their_partitions_only(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    control.submit(asked("freeze", id="f", snapshots=(snapshots[1][0],)))
    assert active(deployment) == {0: (snapshots[0][-1], None), 1: (snapshots[1][0], "f")}


@pytest.mark.parametrize(
    ("more", "status", "field"),
    [
        ({"snapshots": ("nope",)}, 404, "snapshots"),
        ({"snapshots": ("both",)}, 422, "snapshots"),
        ({"snapshots": ("x",), "to": datetime(2025, 3, 2, tzinfo=UTC)}, 422, "to"),
    ],
)
def test_a_cut_that_cannot_be_is_refused_and_nothing_written(
    deployment: Deployment, snapshots: dict[int, list[str]], more: Any, status: int, field: str
) -> None:
    if more["snapshots"] == ("both",):
        more = {"snapshots": tuple(snapshots[0][:2])}
    problem = refused(control_of(deployment), asked("freeze", **more))
    assert (problem.status, problem.members["field"]) == (status, field)
    assert deployment.control.end()[0] == 0


def test_a_snapshot_that_lacks_a_chunk_is_in_no_cut(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    manifest = deployment.signer.verifier.open(
        deployment.store.get_manifest(0, snapshots[0][0]), 0, snapshots[0][0]
    )
    (path,) = Path(deployment.settings.data_dir).rglob(manifest.parts["forecast"].chunks[0])
    path.unlink()
    problem = refused(control_of(deployment), asked("rollback", snapshots=(snapshots[0][0],)))
    assert problem.status == 404


def test_a_resume_of_nothing_and_a_rollback_to_nowhere_are_refused(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    assert refused(control, asked("resume")).status == 409
    assert refused(control, asked("rollback")).members["field"] == "to"


@pytest.mark.parametrize(
    ("kind", "more", "field"),
    [
        ("freeze", {"replay": True}, "replay"),
        ("freeze", {"exclude": Exclusion(sources=("a",))}, "exclude"),
        ("resume", {"to": datetime(2025, 3, 5, tzinfo=UTC)}, "to"),
        ("resume", {"replay": True}, "replay"),
        ("resume", {"admit_late": True}, "admit_late"),
        ("quarantine", {"exclude": Exclusion(sources=("a",)), "replay": True}, "replay"),
        ("quarantine", {"exclude": Exclusion(sources=("a",)), "snapshots": ("a",)}, "snapshots"),
        ("readmit", {"readmits": "q1", "exclude": Exclusion(sources=("a",))}, "exclude"),
        ("readmit", {}, "readmits"),
        ("rollback", {"snapshots": ("a",), "readmits": "q1"}, "readmits"),
        ("rollback", {"snapshots": ("a",), "exclude": Exclusion(sources=("a",))}, "exclude"),
        ("rollback", {"snapshots": ("a",), "admit_late": True}, "admit_late"),
    ],
)
def test_what_means_nothing_to_a_kind_of_operation_is_refused_by_name(
    deployment: Deployment, snapshots: dict[int, list[str]], kind: str, more: Any, field: str
) -> None:
    control = control_of(deployment)
    problem = refused(control, asked(kind, **more))
    assert (problem.status, problem.members["field"]) == (422, field)
    assert not control.entries()


def test_letters_under_an_id_that_named_others_are_a_conflict(deployment: Deployment) -> None:
    control = control_of(deployment)
    request = asked("discard", id="d1")
    first = control.note(request, about="1 letters", letters=b"those of till-1")
    assert control.note(request, about="other words", letters=b"those of till-1") == first
    with pytest.raises(Problem) as caught:
        control.note(request, about="1 letters", letters=b"those of till-2")
    assert caught.value.members["type"] == "/problems/id-conflict"
    assert list(control.entries()) == ["d1"]


def test_without_snapshots_every_operation_is_refused(deployment: Deployment) -> None:
    assert refused(control_of(deployment), asked("freeze")).status == 409


def test_a_rollback_marks_every_partition_of_the_cut_and_waits_for_the_learner(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    cut = (snapshots[0][0], snapshots[1][1])
    entry = control.submit(asked("rollback", id="r1", snapshots=cut))
    assert entry.state == "pending"
    assert [markers(deployment, p) for p in (0, 1)] == [["r1"], ["r1"]]
    for partition in (0, 1):
        outcome = Outcome(
            operation="r1", partition=partition, outcome="applied", time=datetime.now(UTC), offset=0
        )
        deployment.control.append([Entry(0, None, msgspec.json.encode(outcome))])
    assert control.entries()["r1"].state == "applied"


def test_a_repeated_id_does_nothing_new_and_another_request_under_it_is_a_conflict(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    request = asked("rollback", id="r1", snapshots=(snapshots[0][0],))
    first = control.submit(request)
    end = deployment.control.end()[0]
    assert control.submit(request) == first
    assert control_of(deployment).submit(request) == first
    assert (deployment.control.end()[0], markers(deployment, 0)) == (end, ["r1"])
    other = request._replace(snapshots=(snapshots[0][1],))
    assert refused(control, other).status == 409


def test_a_plan_writes_nothing(deployment: Deployment, snapshots: dict[int, list[str]]) -> None:
    planned = control_of(deployment).plan(asked("rollback", snapshots=(snapshots[0][0],)))
    assert planned.cut == {0: snapshots[0][0]}
    assert deployment.control.end()[0] == 0
    assert markers(deployment, 0) == []


def test_a_store_that_fails_in_the_middle_leaves_the_rest_to_be_reconciled(
    deployment: Deployment, snapshots: dict[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    control = control_of(deployment)
    move = deployment.store.move_active

    def fail_second(partition: int, *more: Any) -> bool:
        if partition == 1:
            raise StoreUnavailable("down")
        return move(partition, *more)

    monkeypatch.setattr(deployment.store, "move_active", fail_second)
    assert control.submit(asked("freeze", id="f")).state == "pending"
    assert active(deployment)[0][1] == "f"
    assert active(deployment)[1][1] is None
    monkeypatch.undo()
    control.reconcile()
    assert control.entries()["f"].state == "applied"
    assert active(deployment) == {p: (snapshots[p][-1], "f") for p in (0, 1)}


def test_a_new_process_finishes_what_another_wrote_down_only(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    class Killed(BaseException):
        """What a kill looks like from inside."""

    dying = control_of(deployment)

    def killed(entry: object) -> None:
        raise Killed

    dying._carry_out = killed  # type: ignore[method-assign]
    requests = [
        asked("freeze", id="f", snapshots=(snapshots[0][0],)),
        asked("rollback", id="r", snapshots=(snapshots[1][0],)),
    ]
    for request in requests:
        with pytest.raises(Killed):
            dying.submit(request)
    assert active(deployment)[0][1] is None
    reborn = control_of(deployment)
    reborn.reconcile()
    assert active(deployment)[0] == (snapshots[0][0], "f")
    assert markers(deployment, 1) == ["r"]
    reborn.reconcile()
    assert markers(deployment, 1) == ["r"]
    assert [entry.state for entry in reborn.entries().values()] == ["applied", "pending"]


def test_an_operation_carried_out_late_does_not_undo_a_later_one(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    control = control_of(deployment)
    carry_out = control._carry_out
    control._carry_out = lambda entry: None  # type: ignore[method-assign]
    control.submit(asked("freeze", id="early", snapshots=(snapshots[0][0],)))
    control._carry_out = carry_out  # type: ignore[method-assign]
    control.submit(asked("freeze", id="late", snapshots=(snapshots[0][1],)))
    control_of(deployment).reconcile()
    assert active(deployment)[0] == (snapshots[0][1], "late")
    assert control.entries()["early"].outcomes[0].detail == "a later operation is in force"


def test_what_the_guard_froze_and_did_not_finish_leaves_an_operators_freeze_alone(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    """A learner died between writing it down and its outcome."""
    control = control_of(deployment)
    control.submit(asked("freeze", id="f", snapshots=(snapshots[0][0],)))
    cut = {p: snapshots[p][1] for p in (0, 1)}
    trip = Operation(id="guard-0-1-e3b0", kind="freeze", who=GUARD, reason="the champion",
                     time=datetime(2024, 2, 1, tzinfo=UTC), cut=cut)  # fmt: skip
    deployment.control.append([Entry(0, None, msgspec.json.encode(trip))])
    control_of(deployment).reconcile()
    assert active(deployment) == {0: (snapshots[0][0], "f"), 1: (snapshots[1][1], trip.id)}
    left, moved = control.entries()[trip.id].outcomes
    assert (left.outcome, moved.outcome) == ("refused", "applied")
    assert left.detail == "it stays as `f` by ada has frozen it, until it is resumed"


def test_a_control_log_that_is_down_is_an_error_and_has_no_effect(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    log = Down(deployment.control, LogUnavailable("down"))
    log.down = True
    with pytest.raises(LogUnavailable):
        control_of(deployment, control=log).submit(asked("freeze"))
    assert active(deployment)[0][1] is None


def test_what_is_no_control_record_is_passed_over(
    deployment: Deployment, snapshots: dict[int, list[str]]
) -> None:
    deployment.control.append([Entry(0, None, json.dumps({"type": "else"}).encode())])
    control = control_of(deployment)
    assert control.submit(asked("freeze", id="f")).state == "applied"
    assert list(control.entries()) == ["f"]
