"""A better challenger is promoted, a worse one is not, and the promotion outlives what happens."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.deployment import Deployment, deployment, poisoned, until

#: The mean of a phase has half the squared error of its last value, where there is only chance.
CHAMPION, CHALLENGER = "seasonal_naive", "phase_mean"
WHEN = datetime(2024, 1, 1, 9, tzinfo=UTC)


def days_of_chance(days: range, stores: int = 4, products: int = 4) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(days.start)
    return [
        {
            "type": "sale", "id": f"{day}-{store}-{product}", "source": f"till-{store}",
            "store": f"store-{store}", "product": f"product-{product}", "price": 2.0,
            "time": (WHEN + timedelta(days=day, minutes=7 * store + product)).isoformat(),
            "quantity": int(drawn.poisson(6 + 3 * product)) + 1,
        }
        for day in days
        for store in range(stores)
        for product in range(products)
    ]  # fmt: skip


def told(one: Deployment, days: range) -> list[dict[str, Any]]:
    events = days_of_chance(days)
    for at in range(0, len(events), 160):
        one.send(events[at : at + 160])
    one.settle()
    return events


def learned(one: Deployment, days: range) -> None:
    """Wait for the head, and not for what is served."""
    one.send(days_of_chance(days))

    def folded() -> bool | None:
        shards = one.api.get("/v1/shards").json()["items"]
        return True if all(shard["lag"] == 0 for shard in shards) else None

    until(folded, "the head")


def heads(one: Deployment) -> list[str]:
    items = one.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]
    return [item["id"] for item in items if item["head"]]


def served(one: Deployment) -> str:
    found: str = one.api.get("/v1/forecasts/store-1/product-1").json()["model"]
    return found


def refusal(one: Deployment, model: str) -> dict[str, Any]:
    body = {"kind": "promote", "model": model, "who": "ann", "reason": "try"}
    answer = one.api.post("/v1/operations", json=body)
    assert answer.status_code in (404, 409), answer.text
    found: dict[str, Any] = answer.json()
    assert found["remedy"]
    return found


def test_a_better_challenger_is_promoted_and_a_worse_one_refused_with_the_gate_named(
    tmp_path: Path,
) -> None:
    with deployment(
        tmp_path, "learner", "api", partitions=2, champion=CHAMPION, challengers=CHALLENGER,
        horizon=7, snapshots_kept=200,
    ) as one:  # fmt: skip
        told(one, range(20))
        early = refusal(one, CHALLENGER)
        assert (early["type"], early["gate"]) == ("/problems/gate-failed", "evidence")
        told(one, range(20, 78))
        one.send(poisoned(days_of_chance(range(76, 78)), "bad"))
        one.settle()
        before = heads(one)
        assert refusal(one, "twin")["type"] == "/problems/not-a-challenger"
        assert refusal(one, "phase_maen")["near"] == [CHALLENGER]

        models = one.api.get("/v1/models").json()
        assert models["champion"] == CHAMPION
        roles = {item["model"]: item for item in models["items"]}
        assert (roles[CHALLENGER]["role"], roles[CHALLENGER]["promotable"]) == ("challenger", True)

        command = ("promote", CHALLENGER, "--reason", "it forecasts better", "--who", "ann")
        said = one.cli(*command)
        assert "promote applied" in said
        assert "squared loss" in said
        until(lambda: True if served(one) == CHALLENGER else None, "the new champion")
        rows = one.api.get("/v1/quality").json()["rows"]
        assert {row["model"] for row in rows if row["role"] == "champion"} == {CHALLENGER}

        # Back again would be worse, and the gates say so.
        worse = refusal(one, CHAMPION)
        assert worse["gate"] == "better"
        assert {gate["gate"] for gate in worse["gates"] if not gate["passed"]} >= {
            "better", "worthwhile", "nowhere_worse",
        }  # fmt: skip
        assert "gate `better`" in one.cli("promote", CHAMPION, "--reason", "x", status=2)

        # It outlives a kill, and a replay from the very beginning.
        one.end("learner", signal.SIGKILL)
        one.start("learner")
        told(one, range(78, 80))
        assert served(one) == CHALLENGER
        said = one.cli("rollback", "--replay", "--snapshot", "start", "--exclude-source", "bad",
                       "--surplus", "--reason", "twelvefold")  # fmt: skip
        assert "rollback applied" in said
        one.settle()
        assert served(one) == CHALLENGER
        for head in heads(one):
            assert "identical" in one.cli("verify", head, "--from-start")
        lineage = one.api.get("/v1/lineage").json()["partitions"]
        nodes = [node for each in lineage for node in each["snapshots"] if node["head"]]
        assert {node["champion"] for node in nodes} == {CHALLENGER}
        audit = one.cli("audit", "--kind", "promote", "--export", "csv")
        assert "it forecasts better" in audit
        assert "squared loss" in audit

        # What was before it can be had back, by going back.
        one.cli("rollback", *before, "--reason", "the old one after all")
        until(lambda: True if served(one) == CHAMPION else None, "the old champion")


def test_what_is_frozen_forecasts_on_beyond_its_last_horizon(tmp_path: Path) -> None:
    path = "/v1/forecasts/store-1/product-1"
    with deployment(
        tmp_path, "learner", "api", partitions=1, champion="ensemble", challengers="",
        horizon=3, snapshots_kept=200,
    ) as one:  # fmt: skip
        told(one, range(20))
        frozen = one.api.get(path).json()
        one.cli("freeze", "--reason", "odd")
        learned(one, range(20, 22))
        answer = one.api.get(path).json()
        assert (answer["snapshot"], answer["stale"]) == (frozen["snapshot"], False)
        learned(one, range(22, 25))

        def beyond() -> dict[str, Any] | None:
            """What goes on from the last day closed; from one before it, another one follows."""
            found: dict[str, Any] = one.api.get(path).json()
            on = found["snapshot"] != frozen["snapshot"]
            return found if on and found["origin"].startswith("2024-01-24") else None

        answer = until(beyond, "what goes on")
        assert answer["snapshot"].startswith(f"{frozen['snapshot']}+")
        assert (answer["stale"], answer["frozen"]) == (True, True)
        assert answer["origin"] > frozen["steps"][-1]["start"]
        assert all(step["quantiles"]["0.9"] >= step["median"] > 0 for step in answer["steps"])
        body = {"store": "store-1", "product": "product-1", "promotion": 1.0, "horizon": 3}
        supposed = one.api.post("/v1/forecasts:what-if", json=body).raise_for_status().json()
        base = [step["base"] for step in supposed["steps"]]
        plain = [step["mean"] for step in answer["steps"]]
        assert base[1:] == pytest.approx(plain[1:], abs=1e-3), "the first is being sold"
        said = one.cli("verify", "--forecast", path, "--snapshot", answer["snapshot"])
        assert "identical" in said
        one.cli("resume", "--reason", "it was right")
        assert until(lambda: None if one.api.get(path).json()["frozen"] else True, "the head")
        assert "+" not in one.api.get(path).json()["snapshot"]
