"""The embedded mode as a user runs it: processes, kills, operations."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from tests.integration.deployment import Deployment, days_of_sales, deployment, until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, "learner", "api") as one:
        yield one


def test_a_sale_goes_in_and_a_forecast_comes_out(running: Deployment) -> None:
    sent = running.send(days_of_sales(range(30)))
    running.settle()
    found = running.api.get(
        "/v1/forecasts/store-1/product-2", params={"horizon": 3, "quantiles": ".1,.9"}
    ).json()
    assert found["origin"].startswith("2024-01-29")
    assert [step["start"][:10] for step in found["steps"]] == [
        "2024-01-30", "2024-01-31", "2024-02-01"
    ]  # fmt: skip
    today = found["steps"][0]
    assert today["sold"] == days_of_sales(range(29, 30))[6]["quantity"]
    assert today["mean"] >= today["sold"]
    assert today["remains"] == pytest.approx(today["mean"] - today["sold"], abs=1e-3)
    for step in found["steps"]:
        assert step["quantiles"]["0.1"] <= step["median"] <= step["quantiles"]["0.9"]
    receipt = sent["items"][0]["receipt"]
    assert running.api.get(f"/v1/receipts/{receipt}").json()["state"] == "folded"
    rows = running.api.get("/v1/quality").json()["rows"]
    assert {row["model"] for row in rows} >= {"ensemble", "seasonal_naive", "river_plain"}
    parts = running.api.get("/v1/status").json()["partitions"]
    served = [part["snapshot"] for part in parts if part["snapshot"]]
    assert 0 < len(served) < len(parts)  # of few stores: some partitions hold nothing
    said = running.cli("status")
    assert all(name in said for name in served)

    def told() -> bool | None:
        text = running.learner.get("/metrics").text
        wanted = ("salescast_closes_total{", 'salescast_forecast_rmsse_ratio{horizon="1",')
        return True if all(one in text for one in wanted) else None

    until(told, "the metrics")  # of scores they tell once a second


def test_a_forecast_is_explained_and_supposed_otherwise(running: Deployment) -> None:
    running.send(days_of_sales(range(40)))
    running.settle()
    path = "/v1/explain/store-1/product-2"
    served = running.api.get(
        "/v1/forecasts/store-1/product-2", params={"horizon": 7, "quantiles": ".5"}
    ).json()["steps"]
    why = running.api.get(path, params={"horizon": 5}).json()
    assert why["start"] == served[4]["start"]
    assert why["mean"] == pytest.approx(served[4]["mean"], abs=1e-3)
    assert sum(why["parts"].values()) == pytest.approx(why["mean"], abs=1e-3)
    assert sum(one["units"] for one in why["experts"]) == pytest.approx(why["mean"], abs=1e-3)
    assert sum(one["weight"] for one in why["experts"]) == pytest.approx(1.0, abs=0.25)

    asked = {"store": "store-1", "product": "product-2", "horizon": 7, "closed": [None, True]}
    steps = running.api.post("/v1/forecasts:what-if", json=asked).json()["steps"]
    assert [step["base"] for step in steps][1:] == pytest.approx(
        [step["mean"] for step in served][1:], abs=1e-3
    )
    assert steps[1]["mean"] == 0.0
    assert [step["mean"] for step in steps][2:] == [step["base"] for step in steps][2:]

    for changed, field in (
        ({"promotion": 1.5}, "promotion"), ({"promotion": [0.1] * 8}, "promotion"),
        ({"price": -1}, "price"), ({"horizon": 99}, "horizon"), ({"store": "nowhere"}, "store"),
        ({"closed": None}, "promotion"), ({"colour": 1}, "colour"), ({"price": "x"}, "price"),
        ({"covariates": {"rain": 1}}, "covariates.rain"),
        ({"covariates": {"rain": ["x"]}}, "covariates.rain"),
    ):  # fmt: skip
        problem = running.api.post("/v1/forecasts:what-if", json=asked | changed)
        assert problem.status_code in (404, 422), changed
        assert problem.json()["field"].startswith(field) and problem.json()["remedy"], changed
        assert "float" not in problem.json()["field"]
    assert running.api.get(path, params={"horizon": 0}).status_code == 422


def test_what_was_forecast_then_is_answered_and_what_is_now_is_exported(
    running: Deployment, tmp_path: Path
) -> None:
    path = "/v1/forecasts/store-1/product-2"
    running.send(days_of_sales(range(12)))
    running.settle()
    then = running.api.get(path).json()
    running.send(days_of_sales(range(12, 20)))
    running.settle()
    now = running.api.get(path).json()
    assert now["origin"] > then["origin"]
    again = running.api.get(path, params={"as_of": then["as_of"]}).json()
    assert (again["origin"], again["as_of"]) == (then["origin"], then["as_of"])
    assert again["steps"] == then["steps"]
    said = running.cli("export", "--out", str(tmp_path / "all.parquet"), "--horizon", "14")
    assert "336 rows of 24 series" in said
    rows = [
        row
        for row in pq.read_table(tmp_path / "all.parquet").to_pylist()
        if (row["store"], row["product"]) == ("store-1", "product-2")
    ]
    assert [row["start"].isoformat() for row in rows] == [step["start"] for step in now["steps"]]
    assert [row["mean"] for row in rows] == pytest.approx(
        [step["mean"] for step in now["steps"]], abs=1e-3
    )


#: A learner with a fault that nobody thought of.
FAULTY = """
import runpy, sys
from learner.shard import Shard
know = Shard._know
def faulty(shard, event):
    if event.id == "bad":
        raise ZeroDivisionError("a fault nobody thought of")
    return know(shard, event)
Shard._know = faulty
sys.argv = ["salescast", "learner"]
runpy.run_module("scripts.cli", run_name="__main__")
"""


def test_a_standstill_is_told_by_the_api_until_another_learner_is_past_it(tmp_path: Path) -> None:
    with deployment(tmp_path, "api") as running:
        running.processes["learner"] = subprocess.Popen(
            [sys.executable, "-c", FAULTY], env=running.environ, stdin=subprocess.DEVNULL
        )
        running.send(days_of_sales(range(3)))
        running.settle()
        plan = {"type": "plan", "id": "bad", "source": "desk", "time": "2024-01-03T12:00:00Z",
                "store": "store-1", "start": "2024-01-05T00:00:00Z", "promotion": 1,
                "end": "2024-01-06T00:00:00Z"}  # fmt: skip
        receipt = running.send([plan])["items"][0]["receipt"]
        partition, offset, _ = map(int, receipt.split("-"))

        def told(path: str = "/v1/status", items: str = "partitions") -> dict[int, Any]:
            found = running.api.get(path).json()[items]
            return {p["partition"]: p["standstill"] for p in found if p["standstill"]}

        until(lambda: told() or None, "the standstill")
        (one,) = told().values()
        assert told() == told("/v1/shards", "items") == {partition: one}
        assert (one["offset"], one["why"]) == (
            offset,
            "ZeroDivisionError: a fault nobody thought of",
        )
        command = f"salescast skip {partition}:{offset} --reason"
        assert command in one["remedy"]
        for name in ("status", "shards"):
            said = running.cli(name)
            assert f"Partition {partition} stands still at offset {offset} since 20" in said
            assert one["why"] in said and command in said
        assert running.api.get("/v1/forecasts/store-1/product-2").status_code == 200
        running.end("learner", signal.SIGTERM)
        assert told() == {partition: one}
        running.start("learner")
        running.settle()
        until(lambda: None if told() else True, "the end of it")
        assert "stands still" not in running.cli("status")


def test_a_plan_is_in_the_forecast_until_it_is_withdrawn(running: Deployment) -> None:
    running.send(days_of_sales(range(20)))
    running.settle()
    path = "/v1/forecasts/store-1/product-2"

    def means() -> list[float]:
        found = running.api.get(path, params={"horizon": 5}).json()["steps"]
        return [step["mean"] for step in found]

    before = means()
    span = {"start": "2024-01-21T00:00:00Z", "end": "2024-01-23T00:00:00Z"}
    put = running.api.put(
        "/v1/plans/stocktaking", json={"store": "store-1", "closed": True, **span}
    )
    assert (put.status_code, put.json()["series"]) == (201, 4)
    until(lambda: means() == [before[0], 0.0, 0.0, *before[3:]] or None, "the closure")
    read = until(
        lambda: (
            one
            if (one := running.api.get("/v1/plans/stocktaking").json())["state"] == "folded"
            else None
        ),
        "the plan in a snapshot",
    )
    assert read["closed"] is True
    again = running.api.put(
        "/v1/plans/stocktaking", json={"store": "store-1", "closed": True, **span}
    )
    assert again.json()["unchanged"] is True
    promotion = {"product": "product-2", "promotion": 1, **span}
    shadows = running.api.put("/v1/plans/week-4", json=promotion).json()["shadowed_by"]
    assert [one["id"] for one in shadows] == ["stocktaking"]
    assert running.api.delete("/v1/plans/week-4").json()["withdrawn"] is True
    assert running.api.delete("/v1/plans/stocktaking").json()["withdrawn"] is True
    until(lambda: means() == before or None, "the closure to be withdrawn")
    over = {"store": "store-1", "closed": True, "start": "2024-01-02T00:00:00Z",
            "end": "2024-01-05T00:00:00Z"}  # fmt: skip
    assert running.api.put("/v1/plans/over", json=over).json()["field"] == "end"


def test_what_is_told_of_a_product_is_in_the_next_snapshot(running: Deployment) -> None:
    running.send(days_of_sales(range(10)))
    running.settle()
    body = {"category": "DRINKS", "unit_size": 0.5}
    assert running.api.put("/v1/products/product-2", json=body).status_code == 200

    def category() -> str | None:
        return str(running.api.get("/v1/forecasts/store-1/product-2").json()["category"]) or None

    assert until(category, "the category") == "DRINKS"
    running.api.put("/v1/products/product-2", json={"delisted": "2024-03-01T00:00:00Z"})
    found = until(
        lambda: (
            one
            if (one := running.api.get("/v1/products/product-2").json())["state"] == "folded"
            else None
        ),
        "the product in a snapshot",
    )
    assert (found["category"], found["unit_size"], found["series"]) == ("DRINKS", 0.5, 6)
    assert found["delisted"].startswith("2024-03-01")
    plan = {"category": "DRINKS", "promotion": 0.5, "start": "2024-01-12T00:00:00Z",
            "end": "2024-01-14T00:00:00Z"}  # fmt: skip
    assert running.api.put("/v1/plans/drinks", json=plan).json()["series"] == 6


def test_what_is_refused_in_the_log_is_kept_with_its_reason(running: Deployment) -> None:
    late = days_of_sales(range(1))[0] | {"id": "straggler"}
    running.send(days_of_sales(range(10)))
    running.settle()
    receipt = running.send([late])["items"][0]["receipt"]
    found = until(
        lambda: (
            one
            if (one := running.api.get(f"/v1/receipts/{receipt}").json())["state"] == "dead_letter"
            else None
        ),
        "the dead letter",
    )
    assert found["reason"] == "late"
    assert "replay" in found["remedy"]


def test_kill_9_at_any_moment_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    events = days_of_sales(range(40))
    chance = random.Random(7)
    with deployment(_made(tmp_path / "calm"), "learner", "api") as calm:
        for at in range(0, len(events), 60):
            calm.send(events[at : at + 60])
        calm.settle()
        wanted = calm.digests()
        forecast = calm.api.get("/v1/forecasts/store-3/product-1").json()["steps"]
    with deployment(_made(tmp_path / "harsh"), "learner", "api") as harsh:
        for at in range(0, len(events), 60):
            harsh.send(events[at : at + 60])
            time.sleep(chance.uniform(0, 0.3))
            if chance.random() < 0.3:
                harsh.end("learner", signal.SIGKILL)
                harsh.start("learner")
            if chance.random() < 0.2:
                harsh.end("api", signal.SIGKILL)
                harsh.start("api")
                harsh.send(events[at : at + 60])  # the producer cannot know, and sends again
        harsh.settle()
        assert harsh.digests() == wanted
        assert harsh.api.get("/v1/forecasts/store-3/product-1").json()["steps"] == forecast
        items = harsh.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]
        learned = 0
        for one in items:
            if one["head"]:
                detail = harsh.api.get(f"/v1/snapshots/{one['id']}").json()
                learned += sum(line.get("learned", 0) for line in detail["counts"].values())
        assert learned == len(events)


def test_an_operator_freezes_resumes_and_rolls_back(running: Deployment) -> None:
    running.send(days_of_sales(range(20)))
    parts = running.settle()
    good = {part["partition"]: part["snapshot"] for part in parts if part["snapshot"]}
    said = running.cli("freeze", "--reason", "a promotion looks wrong", "--who", "ann")
    assert "freeze applied" in said
    running.send(days_of_sales(range(20, 30)))

    def learned_behind() -> bool | None:
        items = running.api.get("/v1/snapshots", params={"limit": 200}).json()["items"]
        heads = {one["partition"]: one["id"] for one in items if one["head"]}
        return True if all(heads[p] != good[p] for p in good) else None

    until(learned_behind, "learning behind the freeze")
    status = running.api.get("/v1/status").json()["partitions"]
    assert {p["partition"]: p["snapshot"] for p in status if p["snapshot"]} == good
    assert all(part["frozen"] for part in status if part["partition"] in good)
    frozen = running.api.get("/v1/forecasts/store-1/product-1").json()
    assert frozen["frozen"] and frozen["origin"].startswith("2024-01-19")

    assert "resume applied" in running.cli("resume", "--reason", "it was right", "--who", "ann")
    running.settle()
    assert not running.api.get("/v1/forecasts/store-1/product-1").json()["frozen"]

    shown = running.cli("rollback", *good.values(), "--reason", "try", "--who", "ann", "--dry-run")
    assert "would be done" in shown
    before = running.api.get("/v1/history/store-1/product-1").json()["items"]
    said = running.cli("rollback", *good.values(), "--reason", "models drifted", "--who", "bob")
    assert "rollback applied" in said
    running.settle()
    assert running.api.get("/v1/history/store-1/product-1").json()["items"] == before
    trail = json.loads(running.cli("operations", "--json"))["items"]
    assert [(one["kind"], one["who"], one["state"]) for one in trail] == [
        ("rollback", "bob", "applied"), ("resume", "ann", "applied"), ("freeze", "ann", "applied")
    ]  # fmt: skip
    assert "models drifted" in running.cli("operations")


def test_up_starts_again_what_dies_and_leaves_nothing_behind(tmp_path: Path) -> None:
    one = Deployment(tmp_path)
    try:
        one.start("up")
        one.send(days_of_sales(range(15)))
        one.settle()
        victims = _children(one.processes["up"].pid)
        assert len(victims) == 3  # learner, API, console
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: True if _children(one.processes["up"].pid).isdisjoint(victims) else None,
            "new processes",
        )
        until(lambda: True if one.api.get("/livez").status_code == 200 else None, "the API")
        one.send(days_of_sales(range(15, 20)))
        one.settle()
        orphans = _children(one.processes["up"].pid)
        one.end("up", signal.SIGKILL)
        until(
            lambda: True if not any(_alive(pid) for pid in orphans) else None,
            "the children of a killed parent to leave",
        )
    finally:
        one.close()


def test_a_second_learner_on_the_same_log_is_told_who_owns_it(running: Deployment) -> None:
    running.environ["SALESCAST_METRICS_PORT"] = "0"
    said = running.cli("learner", status=2)
    assert str(running.processes["learner"].pid) in said
    assert "Stop the other learner" in said


def test_other_settings_than_the_snapshots_are_refused_by_name(tmp_path: Path) -> None:
    with deployment(tmp_path, "learner", "api") as one:
        one.send(days_of_sales(range(5)))
        one.settle()
    one = Deployment(tmp_path, bucket="week")
    said = one.cli("learner", status=2)
    assert "bucket: 'day', now 'week'" in said


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
