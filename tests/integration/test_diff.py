"""Why a forecast moved, asked of a whole deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.routes.diff import Diff
from tests.integration.deployment import Deployment, days_of_sales, deployment

PATH = "/v1/diff/store-1/product-2"


def served(one: Deployment, horizon: int) -> dict[str, Any]:
    query = {"horizon": horizon}
    steps = one.api.get("/v1/forecasts/store-1/product-2", params=query).json()["steps"]
    found: dict[str, Any] = steps[-1]
    return found


def snapshot(one: Deployment) -> str:
    found: str = one.api.get("/v1/forecasts/store-1/product-2").json()["snapshot"]
    return found


def test_a_change_is_told_by_bucket_source_and_part_and_adds_up(tmp_path: Path) -> None:
    with deployment(
        tmp_path, "learner", "api", partitions=1, champion="level_phase", challengers="",
        snapshots_kept=200, replica_poll_s=1,
    ) as one:  # fmt: skip
        one.send(days_of_sales(range(20)))
        one.settle()
        first, before = snapshot(one), served(one, 5)
        later = days_of_sales(range(20, 23))
        odd = {**next(e for e in later if e["id"] == "21-1-2"), "id": "odd", "source": "bad",
               "quantity": 70}  # fmt: skip
        one.send(sorted([*later, odd], key=lambda event: str(event["time"])))
        one.settle()
        second, after = snapshot(one), served(one, 2)
        assert (before["start"], before["end"]) == (after["start"], after["end"])

        asked: dict[str, Any] = {"from": first, "to": second, "horizon": 2}
        found = one.api.get(PATH, params=asked).raise_for_status().json()
        Diff.model_validate(found, strict=True)
        assert (found["start"], found["end"]) == (after["start"], after["end"])
        assert found["from"]["mean"] == pytest.approx(before["mean"], abs=1e-3)
        assert found["to"]["mean"] == pytest.approx(after["mean"], abs=1e-3)
        assert sum(found["parts"].values()) == pytest.approx(found["change"], abs=1e-6)
        effects = {bucket["start"][:10]: bucket for bucket in found["closed"]}
        assert list(effects) == ["2024-01-20", "2024-01-21", "2024-01-22"]
        worst = max(found["closed"], key=lambda bucket: bucket["effect"])
        assert worst is effects["2024-01-22"]
        assert worst["sources"][0] == {"source": "bad", "units": 70.0, "items": 1,
                                       "passed_over": False}  # fmt: skip
        assert {each["source"] for each in worst["sources"]} == {"bad", "till-1"}
        assert found["log"]["complete"] is True

        said = one.cli("diff", "store-1", "product-2", "--from", first, "--horizon", "2")
        assert "bad 70" in said
        assert "what the model learned since" in said

        def refused(**more: Any) -> dict[str, Any]:
            answer = one.api.get(PATH, params={**asked, **more})
            assert answer.status_code in (404, 409, 422), answer.text
            problem: dict[str, Any] = answer.json()
            assert problem["remedy"]
            return problem

        assert refused(**{"from": "nobody"})["field"] == "from"
        assert refused(**{"from": second, "to": first})["field"] == "from"
        assert refused(horizon=28)["field"] == "horizon"
        assert one.api.get("/v1/diff/store-1/nothing").status_code == 404

        # Without the source it is as it was, and the exclusion is named. The command waits for
        # the API, which looks at the store but once a second.
        one.cli("rollback", first, "--replay", "--exclude-source", "bad", "--surplus",
                "--reason", "odd", "--who", "ann")  # fmt: skip
        (operation,) = {rule["operation"] for rule in one.api.get("/v1/excluded").json()["rules"]}
        mended = one.api.get(PATH, params={"from": second, "horizon": 2}).json()
        assert mended["operations"] == [operation]
        assert [bucket["before"] - bucket["after"] for bucket in mended["amended"]] == [70]
        assert mended["parts"]["amended"] < -1
        assert sum(mended["parts"].values()) == pytest.approx(mended["change"], abs=1e-6)
