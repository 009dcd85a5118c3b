"""The guard in a running deployment: named, withheld, audited, and undone by what it says."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from stream.event import Sale
from tests.guard_parts import SMALL, WRONG, twelvefold, weeks, wrong
from tests.integration.deployment import Deployment, deployment, until

ONE: dict[str, Any] = {**SMALL, "challengers": "", "partitions": 1, "grace_s": 0}


def told(one: Deployment, sales: Sequence[Sale]) -> None:
    events: list[dict[str, Any]] = msgspec.to_builtins(sales)
    for at in range(0, len(events), 160):
        one.send(events[at : at + 160])
    one.settle()


def source(one: Deployment, name: str) -> dict[str, Any]:
    rows = one.api.get("/v1/guard").json()["sources"]
    found: dict[str, Any] = next(row for row in rows if row["source"] == name)
    return found


def statuses(one: Deployment, store: str) -> list[str]:
    items = one.api.get(f"/v1/history/{store}/p1").json()["items"]
    return [each["status"] for each in items[-2:]]


def run(one: Deployment, command: str) -> str:
    """Run a command as the guard gives it."""
    program, *arguments = shlex.split(command)
    assert program == "salescast"
    return one.cli(*arguments)


def test_a_source_gone_wrong_is_kept_out_through_kills_and_let_in_again(tmp_path: Path) -> None:
    every = weeks(0, WRONG + 3)
    cut = next(n for n, one in enumerate(every) if one.id.startswith(f"{WRONG}-"))
    good, bad = every[:cut], wrong(every[cut:], "b", twelvefold)
    with deployment(tmp_path, "learner", "api", snapshot_interval_s=0.05, **ONE) as one:
        told(one, good)
        assert {row["state"] for row in one.api.get("/v1/guard").json()["sources"]} == {"ok"}
        for at in range(0, len(bad), 240):
            told(one, bad[at : at + 240])
            one.end("learner", signal.SIGKILL)
            one.start("learner")
        row = source(one, "b")
        assert (row["state"], row["partition"]) == ("quarantined", 0)
        assert statuses(one, "store-b") == ["missing"] * 2
        assert statuses(one, "store-a") == ["observed"] * 2
        # One record, however often the same was folded, and as an operator's.
        trail = one.api.get("/v1/operations").json()["items"]
        assert [(each["id"], each["kind"], each["who"], each["state"]) for each in trail] == [
            (row["operation"], "quarantine", "guard", "applied")
        ]
        exported = one.cli("audit", "--who", "guard", "--export", "ndjson").splitlines()
        assert [json.loads(line)["id"] for line in exported] == [row["operation"]]
        rules = one.api.get("/v1/excluded").json()["rules"]
        assert [(rule["operation"], rule["what"]["sources"]) for rule in rules] == [
            (row["operation"], ["b"])
        ]
        assert row["operation"] in one.cli("status") and "units a sale" in one.cli("guard")

        def told_of() -> bool | None:
            said = one.learner.get("/metrics").text
            wanted = 'salescast_guard_sources{partition="0",state="quarantined"} 1.0'
            return True if wanted in said else None

        until(told_of, "the metric")
        (command,) = row["commands"]
        assert "readmit applied" in run(one, command)
        until(lambda: True if statuses(one, "store-b") == ["observed"] * 2 else None, "its sales")
        assert source(one, "b")["state"] == "ok"
        assert len(one.api.get("/v1/operations").json()["items"]) == 2


def test_with_warn_the_commands_take_back_what_was_learned_of_it(tmp_path: Path) -> None:
    every = wrong(weeks(0, WRONG + 3), "b", twelvefold)
    with deployment(tmp_path, "learner", "api", guard="warn", snapshot_interval_s=0.05,
                    **ONE) as one:  # fmt: skip
        told(one, every)
        row = source(one, "b")
        assert row["state"] == "suspect" and statuses(one, "store-b") == ["observed"] * 2
        quarantine, rollback = row["commands"]
        assert "quarantine applied" in run(one, quarantine)
        assert "rollback applied" in run(one, rollback)
        until(lambda: True if statuses(one, "store-b") == ["missing"] * 2 else None, "the repair")
        kinds = [each["kind"] for each in one.api.get("/v1/operations").json()["items"]]
        assert kinds == ["rollback", "quarantine", "suspect"]
        told(one, wrong(weeks(WRONG + 3, WRONG + 5), "b", twelvefold))
        row = source(one, "b")
        assert row["state"] == "quarantined"
        # By people's hands: that is undone from the newest on.
        assert row["operation"] == one.api.get("/v1/operations").json()["items"][0]["id"]
        assert row["commands"] == [f"salescast readmit --operation {row['operation']} --reason ..."]
