"""An operator undoes poison while the deployment serves, and processes are killed under it."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

from tests.integration.deployment import (
    Deployment,
    days_of_sales,
    deployment,
    poisoned,
    until,
)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def in_parts(one: Deployment, events: list[dict[str, Any]]) -> None:
    for at in range(0, len(events), 48):
        one.send(events[at : at + 48])


def outcome(one: Deployment, id: str) -> dict[str, Any]:
    """An operation once it is over."""

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = one.api.get(f"/v1/operations/{id}").json()
        return found if found["state"] != "pending" else None

    return until(over, "the outcome")


def test_poison_is_undone_through_kills_with_no_request_failed(tmp_path: Path) -> None:
    """As if the source had never sent: it only said twice what the tills had said."""
    before, spoilt, after = (days_of_sales(range(a, b)) for a, b in ((0, 20), (20, 30), (30, 34)))
    with deployment(made(tmp_path / "clean"), "learner", "api") as clean:
        in_parts(clean, before + spoilt + after)
        clean.settle()
        wanted = clean.digests()
        forecast = clean.api.get("/v1/forecasts/store-3/product-1").json()["steps"]
    chance = random.Random(11)
    with deployment(
        made(tmp_path / "spoilt"), "learner", "api", poll_records=20, snapshot_interval_s=0.05
    ) as one:
        in_parts(one, before)
        good = [part["snapshot"] for part in one.settle() if part["snapshot"]]
        for at in range(0, len(spoilt), 48):
            one.send(spoilt[at : at + 48])
            one.send(poisoned(spoilt[at : at + 48], "bad"))
        one.settle()
        command = ("rollback", *good, "--replay", "--exclude-source", "bad", "--surplus",
                   "--reason", "twelvefold", "--who", "ann")  # fmt: skip
        said = one.cli(*command, "--dry-run")
        assert "records to learn again" in said and "passed over (bad " in said
        request = {
            "id": "repair", "kind": "rollback", "who": "ann", "reason": "twelvefold",
            "snapshots": good, "replay": True, "exclude": {"sources": ["bad"], "surplus": True},
        }  # fmt: skip
        one.api.post("/v1/operations", json=request)
        answers = []
        for _ in range(5):
            time.sleep(chance.uniform(0.0, 0.5))
            one.end("learner", signal.SIGKILL)
            answers.append(one.api.get("/v1/forecasts/store-3/product-1").status_code)
            one.start("learner")
        one.api.post("/v1/operations", json=request)  # nobody knows whether the first one arrived
        found = outcome(one, "repair")
        assert {each["outcome"] for each in found["outcomes"]} == {"applied"}
        in_parts(one, after)
        one.settle()
        assert set(answers) == {200}
        assert one.digests() == wanted
        assert one.api.get("/v1/forecasts/store-3/product-1").json()["steps"] == forecast
        rules = one.api.get("/v1/excluded").json()["rules"]
        assert {rule["operation"] for rule in rules} == {"repair"}
        items = one.api.get("/v1/excluded", params={"operation": "repair", "limit": 1000}).json()[
            "items"
        ]
        assert len(items) == len(spoilt)
        assert {json.loads(item["value"])["source"] for item in items} == {"bad"}
        status = one.api.get("/v1/status").json()["partitions"]
        assert [part["replaying"] for part in status] == [None] * len(status)


def test_a_quarantined_source_is_kept_out_and_comes_back_when_it_is_readmitted(
    tmp_path: Path,
) -> None:
    with deployment(tmp_path, "learner", "api") as one:
        in_parts(one, days_of_sales(range(20)))
        one.settle()
        said = one.cli("quarantine", "--source", "till-2", "--reason", "odd", "--who", "bob")
        assert "quarantine applied" in said
        in_parts(one, days_of_sales(range(20, 25)))
        one.settle()

        def store_2() -> list[str]:
            found = one.api.get("/v1/history/store-2/product-1").json()["items"]
            return [bucket["status"] for bucket in found[-4:]]

        assert store_2() == ["missing"] * 4
        (id,) = {rule["operation"] for rule in one.api.get("/v1/excluded").json()["rules"]}
        assert '"type": "sale"' in one.cli("excluded", "--operation", id)
        said = one.cli("readmit", "--operation", id, "--reason", "it was right", "--who", "bob")
        assert "readmit applied" in said
        until(lambda: True if store_2() == ["observed"] * 4 else None, "its sales")
        assert "nothing is passed over" in one.cli("excluded")
        said = one.cli("readmit", "--operation", id, "--reason", "again", status=2)
        assert "Nothing to readmit" in said


def test_a_replay_that_cannot_be_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with deployment(tmp_path, "learner", "api") as one:
        in_parts(one, days_of_sales(range(5)))
        good = [part["snapshot"] for part in one.settle() if part["snapshot"]]
        body = {"kind": "rollback", "who": "x", "reason": "x", "snapshots": good}

        def refused(**more: Any) -> dict[str, Any]:
            answer = one.api.post("/v1/operations", json={**body, **more})
            assert answer.status_code in (404, 409, 422), answer.text
            found: dict[str, Any] = answer.json()
            assert found["remedy"]
            return found

        assert refused(exclude={"sources": ["a"]})["field"] == "exclude"
        assert refused(replay=True, exclude={})["field"] == "exclude"
        assert (
            refused(replay=True, exclude={"offsets": {"9": [0, 1]}})["field"] == "exclude.offsets"
        )
        assert (
            refused(replay=True, exclude={"offsets": {"1": [4, 4]}})["field"] == "exclude.offsets"
        )
        assert refused(kind="quarantine", snapshots=[])["field"] == "exclude"
        assert refused(kind="readmit", readmits="nobody", snapshots=[])["field"] == "readmits"
        one.cli("rollback", "--replay", "--snapshot", "start", "--exclude-source", "till-1",
                "--reason", "x")  # fmt: skip
        unfit = refused(replay=True)
        assert unfit["type"] == "/problems/unfit-snapshot"
