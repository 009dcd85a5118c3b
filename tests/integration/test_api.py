"""The API over a real log, store and port, answering what its contract says."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api import recompute
from infra.ports import free_ports
from learner.evaluation import SUMS
from stream.dead_letters import DeadLetter, DeadLetters
from stream.errors import LogUnavailable, StoreUnavailable
from stream.log import Entry, partition_of
from tests.api_parts import ORIGIN, Deployment, Down, context_of, keys_of, running, until

SALE: dict[str, Any] = {
    "type": "sale", "id": "1", "source": "till", "time": "2025-03-01T10:00:00+01:00",
    "store": "100", "product": "apple", "quantity": 2,
}  # fmt: skip
NDJSON = {"Content-Type": "application/x-ndjson"}
WRITE = {"kind": "freeze", "who": "ada", "reason": "test"}
LETTERS = {"action": "resend", "who": "ada", "reason": "test", "refused_for": "malformed"}
WHAT_IF = {"store": "100", "product": "apple"}
REPLAY = WRITE | {"kind": "rollback", "to": "2025-03-05T00:00:00Z", "replay": True}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two partitions with a snapshot each; stores whose names need escaping among them."""
    found = Deployment(tmp_path_factory.mktemp("api"), timezone="Europe/Paris")
    keys = keys_of(["100", "Nord/Süd 50%"], ["apple", "a/b c?", "pear"])
    for partition in (0, 1):
        mine = [key for key in keys if partition_of(key[0], 2) == partition]
        found.publish(partition, 3, keys=mine or [("1", "x")], seed=partition)
    yield found
    found.close()


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    with running(deployment.app()) as found:
        until(lambda: len(found.get("/v1/status").json()["partitions"]) == 2)
        until(lambda: found.get("/v1/series").json()["total"] >= 6)
        yield found


def problem(answer: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    """The members of a problem, which names its remedy, and its field where it has one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    members: dict[str, Any] = answer.json()
    assert members["status"] == status
    assert members["title"] and members["detail"] and members["remedy"]
    assert members.get("field") == field
    return members


# -- forecasts -------------------------------------------------------------------------------


def test_a_forecast_has_a_step_a_bucket_from_the_close_on(client: httpx.Client) -> None:
    found = client.get("/v1/forecasts/100/apple").raise_for_status().json()
    assert (found["store"], found["product"], found["category"]) == ("100", "apple", "food")
    assert (found["bucket"], found["timezone"], found["model"]) == (
        "day",
        "Europe/Paris",
        "ensemble",
    )
    assert found["origin"] == "2025-03-01T00:00:00+01:00"
    assert found["as_of"] == "2025-03-02T00:00:05+00:00"
    assert (found["stale"], found["frozen"]) == (False, False)
    assert len(found["steps"]) == 14
    first = found["steps"][0]
    assert first["start"] == "2025-03-02T00:00:00+01:00"
    assert list(first["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert first["sold"] is not None
    assert first["remains"] == pytest.approx(max(first["mean"] - first["sold"], 0), abs=1e-4)
    for step, following in zip(found["steps"], found["steps"][1:], strict=False):
        assert step["end"] == following["start"]
        assert list(step["quantiles"].values()) == sorted(step["quantiles"].values())
        assert following["sold"] is None


@pytest.mark.parametrize(
    "path", ["Nord%2FS%C3%BCd%2050%25/apple", "100/a%2Fb%20c%3F", "100/a/b%20c%3F"]
)
def test_names_may_hold_any_letter(client: httpx.Client, path: str) -> None:
    for of in ("forecasts", "history"):
        found = client.get(f"/v1/{of}/{path}").raise_for_status().json()
        assert (found["store"], found["product"]) in {
            ("Nord/Süd 50%", "apple"), ("100", "a/b c?"),
        }  # fmt: skip


@pytest.mark.parametrize(
    "query", ["", "?horizon=3&sum=1..7&quantiles=.1,.9", "?point=mape&sum=2..3&horizon=1"]
)
def test_an_answer_is_made_again_from_its_snapshot_to_the_byte(
    client: httpx.Client, deployment: Deployment, query: str
) -> None:
    path = f"/v1/forecasts/100/apple{query}"
    given = client.get(path)
    again = recompute.forecast(
        deployment.store, deployment.signer.verifier, partition_of("100", 2),
        given.json()["snapshot"], path,
    )  # fmt: skip
    assert again == recompute.without_clock(given.content)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("horizon=0", "horizon"), ("horizon=29", "horizon"), ("horizon=x", "horizon"),
        ("horizon=1_0", "horizon"), ("horizon=--5", "horizon"),
        ("quantiles=0", "quantiles"), ("quantiles=1", "quantiles"), ("quantiles=nan", "quantiles"),
        ("quantiles=.1,,.2", "quantiles"),
        ("quantiles=" + ",".join(str(i / 100) for i in range(1, 60)), "quantiles"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named_with_its_bounds(
    client: httpx.Client, query: str, field: str
) -> None:
    problem(client.get(f"/v1/forecasts/100/apple?{query}"), 422, field)


def test_an_unknown_series_comes_with_near_ones(client: httpx.Client) -> None:
    assert problem(client.get("/v1/forecasts/100/appel"), 404, "product")["near"][0] == "100/apple"
    assert problem(client.get("/v1/history/101/pear"), 404, "store")["near"][0] == "100/pear"


@pytest.mark.parametrize("prefix", ["forecasts", "history", "accuracy", "explain", "diff"])
def test_a_store_with_a_slash_is_found_wherever_a_series_is_named(
    client: httpx.Client, prefix: str
) -> None:
    store = quote("Nord/Süd 50%", safe="")
    found = problem(client.get(f"/v1/{prefix}/{store}/appel"), 404, "product")
    assert found["detail"] == "store `Nord/Süd 50%` has no product `appel`"
    # One that begins with it is as good a name, and so is one of two lines.
    for store, product in (("/ab", "appel"), ("a\nb", "appel"), ("ab", "/ap\npel\n")):
        path = f"{quote(store, safe='')}/{quote(product, safe='')}"
        found = problem(client.get(f"/v1/{prefix}/{path}"), 404, "store")
        assert found["detail"] == f"no store `{store}` is known"


def test_a_product_or_plan_of_two_lines_is_found(client: httpx.Client) -> None:
    for kind in ("products", "plans"):
        assert "a\nb" in problem(client.get(f"/v1/{kind}/a%0Ab"), 404, "id")["detail"]


def test_a_store_alone_is_asked_for_its_product(client: httpx.Client) -> None:
    assert "name a product" in problem(client.get("/v1/forecasts/100"), 404, "product")["remedy"]


def test_a_batch_has_the_numbers_of_single_answers(client: httpx.Client) -> None:
    asked = [["100", "pear"], ["Nord/Süd 50%", "apple"], ["no", "such"], ["100", "apple"]]
    body = {"series": asked, "horizon": 3, "quantiles": [0.25, 0.75]}
    found = client.post("/v1/forecasts:batch", json=body).raise_for_status().json()
    assert found["unknown"] == [["no", "such"]]
    (group,) = found["groups"]
    pairs = list(zip(group["store"], group["product"], strict=True))
    assert sorted(pairs) == sorted(map(tuple, asked[:2] + asked[3:]))
    for i, pair in enumerate(pairs):
        path = "/".join(part.replace("%", "%25").replace("/", "%2F") for part in pair)
        one = client.get(f"/v1/forecasts/{path}?horizon=3&quantiles=.25,.75").json()
        for h, step in enumerate(one["steps"]):
            assert (group["start"][h], group["end"][h]) == (step["start"], step["end"])
            assert group["mean"][h][i] == pytest.approx(step["mean"], abs=1.1e-4)
            assert group["median"][h][i] == pytest.approx(step["median"], abs=1.1e-4)
            for level, value in step["quantiles"].items():
                assert group["quantiles"][level][h][i] == pytest.approx(value, abs=1.1e-4)
        assert group["partitions"][str(group["partition"][i])]["snapshot"] == one["snapshot"]


def test_a_batch_of_all_and_of_a_store(client: httpx.Client) -> None:
    total = client.get("/v1/series").json()["total"]
    found = client.post("/v1/forecasts:batch", json={"all": True}).json()
    assert sum(len(group["store"]) for group in found["groups"]) == total
    found = client.post("/v1/forecasts:batch", json={"all": True, "store": "100"}).json()
    assert [set(group["store"]) for group in found["groups"]] == [{"100"}]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "series"),
        ({"series": [["a"]]}, 422, "series"),
        ({"series": [], "all": True}, 422, "series"),
        ({"all": True, "horizon": 99}, 422, "horizon"),
        ({"all": True, "quantiles": [2]}, 422, "quantiles"),
        ({"serie": []}, 422, "serie"),
        ({"store": "no such"}, 404, "store"),
    ],
)
def test_a_bad_batch_names_its_field(
    client: httpx.Client, body: Any, status: int, field: str
) -> None:
    problem(client.post("/v1/forecasts:batch", json=body), status, field)


def test_a_batch_that_would_not_fit_is_refused_before_it_is_worked_out(
    client: httpx.Client,
) -> None:
    levels = [round(0.01 * one, 2) for one in range(1, 51)]
    body = {"series": [["100", "apple"]] * 20_000, "horizon": 28, "quantiles": levels}
    found = problem(client.post("/v1/forecasts:batch", json=body), 422, "series")
    for name in ("series", "horizon", "quantiles"):
        assert f"`{name}`" in found["detail"]
    smaller = body | {"horizon": 1, "quantiles": [0.5]}
    (group,) = client.post("/v1/forecasts:batch", json=smaller).raise_for_status().json()["groups"]
    assert len(group["mean"][0]) == 20_000


def test_origins_that_differ_are_groups_of_their_own(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.publish(0, 5, keys=[("a", "x")])
    deployment.publish(1, 5, keys=[("b", "x")], origin=ORIGIN + 1)
    app = deployment.app()
    context_of(app).replica.refresh()
    with running(app) as client:
        found = client.post("/v1/forecasts:batch", json={"all": True, "horizon": 1}).json()
    assert [group["store"] for group in found["groups"]] == [["a"], ["b"]]
    assert found["groups"][0]["end"] == found["groups"][1]["start"]
    deployment.close()


def test_history_tells_missing_from_zero(client: httpx.Client) -> None:
    found = client.get("/v1/history/100/apple?limit=5").raise_for_status().json()
    *before, last = found["items"]
    assert len(before) == 4
    assert all(one["status"] == "observed" and one["units"] >= 0 for one in before)
    assert (last["status"], last["units"], last["returns"]) == ("missing", None, 0.0)
    assert last["start"] == "2025-03-01T00:00:00+01:00"
    problem(client.get("/v1/history/100/apple?limit=0"), 422, "limit")


def test_series_are_searched_and_paged(client: httpx.Client) -> None:
    first = client.get("/v1/series", params={"limit": 2}).json()
    assert len(first["items"]) == 2
    seen, offset = list(first["items"]), first["next_offset"]
    while offset is not None:
        page = client.get("/v1/series", params={"limit": 2, "offset": offset}).json()
        seen += page["items"]
        offset = page["next_offset"]
    assert len(seen) == first["total"] == len({(one["store"], one["product"]) for one in seen})
    found = client.get("/v1/series", params={"q": "süd FOOD pear"}).json()
    assert [(one["store"], one["product"]) for one in found["items"]] == [("Nord/Süd 50%", "pear")]
    problem(client.get("/v1/series?limit=0"), 422, "limit")


def test_quality_is_summed_over_the_partitions(client: httpx.Client) -> None:
    found = client.get("/v1/quality").json()
    assert (found["partitions"], found["slice"]) == ([0, 1], None)
    (row,) = found["rows"]
    at = {name: place + 1 for place, name in enumerate(SUMS)}
    assert (row["model"], row["role"], row["horizon"]) == ("ensemble", "champion", 1)
    assert row["n"] == 26.0
    assert row["bias"] == pytest.approx(at["error"] / at["demand"])
    assert row["wape"] == pytest.approx(at["absolute"] / at["demand"])
    assert row["hits"]["0.9"] == pytest.approx(at["hits_0.9"])


def test_quality_by_slice_names_its_values(client: httpx.Client) -> None:
    def rows(**asked: str | int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get("/v1/quality", params=asked).json()["rows"]
        return found

    (category,) = rows(slice="category")
    assert (category["value"], category["n"]) == ("food", 26.0)
    by_store = rows(slice="store")
    assert len(by_store) == 2 and sum(row["n"] for row in by_store) == 26.0
    assert by_store == sorted(by_store, key=lambda row: -row["n"]), "the largest demand first"
    assert rows(slice="store", value=by_store[1]["value"]) == by_store[1:]
    assert rows(slice="volume_class")[0]["value"] == "under 0.1"
    assert rows(horizon=7) == []  # it is scored, and nothing has come of it yet
    problem(client.get("/v1/quality?slice=store&model=no such"), 422, "model")
    problem(client.get("/v1/quality?slice=till"), 422, "slice")
    problem(client.get("/v1/quality?value=1"), 422, "value")


def test_accuracy_of_a_series_is_beside_seasonal_naive(client: httpx.Client) -> None:
    series = client.get("/v1/series?limit=1").json()["items"][0]
    path = "/v1/accuracy/" + "/".join(quote(series[one], safe="") for one in ("store", "product"))
    found = client.get(path).json()
    assert (found["store"], found["product"]) == (series["store"], series["product"])
    assert found["memory"] == 56
    first, second, *_ = found["horizons"]
    assert (first["horizon"], first["n"], first["demand"]) == (1, 20, 5.0)
    assert first["champion"] == {"model": "ensemble", "rmsse": 0.5, "bias": 0.0, "wape": 0.3,
                                 "coverage_80": 0.8}  # fmt: skip
    assert first["naive"]["model"] == "seasonal_naive"
    assert (second["n"], second["champion"], second["naive"]) == (0, None, None)
    problem(client.get("/v1/accuracy/nowhere/pear"), 404, "store")


@pytest.mark.parametrize("point, metric", [("mean", "RMSSE"), ("median", "WAPE"), ("mape", "MAPE")])
def test_a_point_comes_with_the_metric_that_it_is_for(
    client: httpx.Client, point: str, metric: str
) -> None:
    series = client.get("/v1/series?limit=1").json()["items"][0]
    key = [series["store"], series["product"]]
    path = "/v1/forecasts/" + "/".join(quote(one, safe="") for one in key)
    one = client.get(path, params={"point": point, "horizon": 5}).json()
    assert one["metric"] == metric
    batch = client.post("/v1/forecasts:batch", json={"series": [key], "horizon": 5, "point": point})
    (group,) = batch.json()["groups"]
    assert group["metric"] == metric
    for step, (said,) in zip(one["steps"], group["point"], strict=True):
        assert step["point"] == pytest.approx(said, abs=1e-3)
        if point != "mape":
            assert step["point"] == step[point]
    assert "point" not in client.get(path).json()["steps"][0]


def test_a_point_that_is_none_is_refused(client: httpx.Client) -> None:
    body = problem(client.get("/v1/forecasts/x/y?point=mode"), 422, "point")
    assert "mean, median, mape" in body["detail"] and "metric" in body["remedy"]
    problem(client.post("/v1/forecasts:batch", json={"all": True, "point": "mode"}), 422, "point")


# -- events ----------------------------------------------------------------------------------


def test_what_is_accepted_is_in_the_log_as_it_was_sent(
    client: httpx.Client, deployment: Deployment
) -> None:
    body = json.dumps(SALE, indent=2).encode()
    answer = client.post("/v1/events", content=body)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (1, 0)
    partition, offset, item = map(int, found["items"][0]["receipt"].split("-"))
    assert (partition, item) == (partition_of("100", 2), 0)
    assert deployment.events.read(partition, offset, 1)[0].value == body


def test_answers_are_in_order_and_say_what_to_mend(client: httpx.Client) -> None:
    answer = client.post("/v1/events", json=[SALE, SALE | {"quantity": "2"}, SALE | {"colour": 1}])
    assert answer.status_code == 207
    items = answer.json()["items"]
    assert [item["status"] for item in items] == ["accepted", "refused", "refused"]
    assert [item.get("field") for item in items] == [None, "quantity", "colour"]
    assert all(item["remedy"] and item["detail"] for item in items[1:])


def test_brief_answers_tell_only_what_was_refused(client: httpx.Client) -> None:
    body = "\n".join(map(json.dumps, [SALE, {}, SALE, SALE | {"type": "tick"}]))
    answer = client.post("/v1/events?brief=true", content=body, headers=NDJSON)
    found = answer.json()
    assert (answer.status_code, found["accepted"], found["refused"]) == (207, 2, 2)
    assert [item["index"] for item in found["items"]] == [1, 3]


def test_torn_lines_are_refused_one_by_one(client: httpx.Client) -> None:
    whole = json.dumps(SALE)
    body = f"{whole}\n{whole[:30]}\r\n\n{whole[30:]}\n{whole}"
    found = client.post("/v1/events", content=body, headers=NDJSON).json()
    assert [item["status"] for item in found["items"]] == [
        "accepted", "refused", "refused", "accepted",
    ]  # fmt: skip


def test_lines_are_known_without_their_content_type(client: httpx.Client) -> None:
    lines = "\n".join(json.dumps(SALE | {"id": f"line-{n}"}) for n in range(3))
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        found = client.post("/v1/events", content=lines.encode(), headers=headers).json()
        assert (found["accepted"], found["refused"]) == (3, 0)
    pretty = json.dumps(SALE | {"id": "pretty", "x": {"a": [{}, {}]}}, indent=1)
    assert client.post("/v1/events", content=pretty.encode()).json()["accepted"] == 1


def test_when_all_is_refused_the_status_says_so(client: httpx.Client) -> None:
    for body in (b"", b"{", b"[]", b"7", b"[1,2]", b"\xff\xfe", b"[" * 10_000):
        answer = client.post("/v1/events", content=body)
        assert answer.status_code == 422
        assert answer.json()["accepted"] == 0
        assert answer.json()["refused"] == len(answer.json()["items"]) > 0


def test_a_body_too_large_or_encoded_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, max_body_bytes=2000)
    with running(deployment.app()) as client:
        for path in ("/v1/events", "/v1/forecasts:batch", "/v1/operations"):
            problem(client.post(path, content=b" " * 2001), 413)

        def unannounced() -> Iterator[bytes]:
            yield from [b" " * 700] * 3

        problem(client.post("/v1/events", content=unannounced()), 413)
        answer = client.post("/v1/events", content=b"x", headers={"Content-Encoding": "gzip"})
        problem(answer, 415, "Content-Encoding")
        problem(client.post("/v1/events?brief=perhaps", json=SALE), 422, "brief")
    assert sum(deployment.events.end().values()) == 0
    deployment.close()


def test_a_client_that_leaves_amid_its_body_is_no_fault_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = Deployment(tmp_path)
    with running(deployment.app()) as client:
        for path in ("/v1/events", "/v1/forecasts:batch"):
            with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n["
                raw.sendall(head.encode())
        until(lambda: client.get("/metrics").text.count(',status="499"') == 2)
        assert 'status="500"' not in client.get("/metrics").text
    assert not [one for one in caplog.records if one.exc_info]
    deployment.close()


def test_a_receipt_tells_waiting_folded_and_dead(
    client: httpx.Client, deployment: Deployment
) -> None:
    partition = partition_of("100", 2)
    folded = deployment.store.pointers(partition).head
    assert folded is not None
    while deployment.events.end()[partition] < folded.position:
        client.post("/v1/events", json=SALE)
    receipt = client.post("/v1/events", json=SALE).json()["items"][0]["receipt"]
    found = client.get(f"/v1/receipts/{receipt}").json()
    assert found == {"receipt": receipt, "state": "waiting", "served": False}
    found = client.get(f"/v1/receipts/{partition}-0-0").json()
    assert (found["state"], found["served"], found["snapshot"]) == (
        "folded", True, folded.snapshot,
    )  # fmt: skip
    letters = DeadLetters(deployment.dead_letters, deployment.events)
    letters.append([DeadLetter(partition, 1, 0, "late", "too late", b"{}")])
    url = f"/v1/receipts/{partition}-1-0"
    found = client.get(url).json()
    assert found["state"] == "dead_letter"
    assert (found["reason"], found["detail"]) == ("late", "too late")
    assert found["remedy"]


def test_what_was_just_accepted_is_behind_at_once(client: httpx.Client) -> None:
    receipt = client.post("/v1/events", json=SALE).json()["items"][0]["receipt"]
    partition, offset, _ = map(int, receipt.split("-"))
    row = client.get("/v1/status").json()["partitions"][partition]
    behind = max(offset + 1 - row["position"], 0)
    assert (row["log_end"], row["lag"]) == (offset + 1, behind)


def test_a_receipt_nobody_gave_is_unknown(client: httpx.Client) -> None:
    for receipt in ("0-99999-0", "9-0-0", "0-0-5"):
        members = problem(client.get(f"/v1/receipts/{receipt}"), 404, "receipt")
        assert (members["receipt"], members["state"]) == (receipt, "unknown")
    problem(client.get("/v1/receipts/0-0"), 422, "receipt")


_BODIES = st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*SALE, *WRITE, "series", "all", "to", "x"]), inner)
    ),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["/v1/events", "/v1/forecasts:batch", "/v1/operations"]),
    _BODIES,
    st.sampled_from(["application/json", "application/x-ndjson", "text/plain", ""]),
)
def test_any_body_is_answered_below_500(
    client: httpx.Client, path: str, body: bytes, kind: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code < 500, answer.text
    answer.json()


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_path_is_answered_below_500(client: httpx.Client, path: bytes) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in path)
    for prefix in ("forecasts", "history", "receipts", "snapshots", "operations"):
        answer = client.get(f"/v1/{prefix}/{quoted}")
        assert answer.status_code < 500, answer.text


# -- operations and snapshots ------------------------------------------------------------------


def test_an_operation_by_http_and_its_trail(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    old = [deployment.publish(p, 5, seed=1) for p in (0, 1)]
    new = [deployment.publish(p, 9, seed=2) for p in (0, 1)]
    with running(deployment.app()) as client:
        asked = WRITE | {"snapshots": old, "id": "op/1"}
        dry = client.post("/v1/operations", json=asked | {"dry_run": True}).json()
        assert (dry["dry_run"], dry["cut"]) == (True, {"0": old[0], "1": old[1]})
        assert client.get("/v1/operations").json() == {"items": []}
        done = client.post("/v1/operations", json=asked)
        assert (done.status_code, done.json()["state"]) == (200, "applied")
        assert client.post("/v1/operations", json=asked).json() == done.json()
        again = client.post("/v1/operations", json=asked | {"dry_run": True}).json()
        assert again == done.json() | {"dry_run": True}
        other = asked | {"dry_run": True, "reason": "else"}
        problem(client.post("/v1/operations", json=other), 409, "id")
        problem(client.post("/v1/operations", json=asked | {"who": "eve"}), 409, "id")

        def snapshots() -> list[str]:
            rows = client.get("/v1/status").json()["partitions"]
            return [row["snapshot"] for row in rows if row["frozen_by"] == "op/1"]

        until(lambda: snapshots() == old)
        assert client.get(f"/v1/forecasts/{_key(deployment, 0)}").json()["frozen"] is True
        (group,) = client.post("/v1/forecasts:batch", json={"all": True}).json()["groups"]
        grouped = client.get("/v1/forecasts?group_by=all").json()
        for found in (group, grouped):
            assert all(one["frozen"] for one in found["partitions"].values())
        then = f"/v1/forecasts/{_key(deployment, 0)}?as_of=2030-01-01T00:00:00Z"
        now = client.get(then).raise_for_status().json()
        assert now["frozen"] is (now["snapshot"] == old[0])
        listed = client.get("/v1/snapshots").json()["items"]
        assert {one["id"] for one in listed if one["active"]} == set(old)
        assert {one["id"] for one in listed if one["head"]} == set(new)

        resumed = client.post("/v1/operations", json=WRITE | {"kind": "resume"}).json()
        until(lambda: {row["snapshot"] for row in client.get("/v1/status").json()["partitions"]}
              == set(new))  # fmt: skip
        problem(client.post("/v1/operations", json=WRITE | {"kind": "resume"}), 409)
        back = client.post(
            "/v1/operations", json=WRITE | {"kind": "rollback", "to": "2025-03-05T00:00:00Z"}
        )
        assert (back.status_code, back.json()["state"]) == (202, "pending")
        trail = client.get("/v1/operations").json()["items"]
        assert [one["id"] for one in trail] == [back.json()["id"], resumed["id"], "op/1"]
        assert client.get("/v1/operations/op%2F1").json() == trail[-1]
        problem(client.get("/v1/operations/none"), 404, "id")
    deployment.close()


def _key(deployment: Deployment, partition: int) -> str:
    store = next(s for s in map(str, range(100, 120)) if partition_of(s, 2) == partition)
    return f"{store}/apple"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (WRITE | {"kind": "melt"}, "kind"),
        (WRITE | {"reason": ""}, "reason"),
        ({"kind": "freeze", "reason": "r"}, "who"),
        (WRITE | {"to": "2025-01-01T00:00:00"}, "to"),
        (WRITE | {"extra": 1}, "extra"),
        (WRITE | {"snapshots": ["no such"]}, "snapshots"),
        (REPLAY | {"exclude": {"offsets": {"1": [0, 2**63]}}}, "exclude.offsets.1.1"),
        (REPLAY | {"exclude": {"offsets": {"1": [0, 10**22]}}}, "exclude.offsets.1.1"),
    ],
)
def test_a_bad_operation_names_its_field(client: httpx.Client, body: Any, field: str) -> None:
    answer = client.post("/v1/operations", json=body)
    problem(answer, 404 if field == "snapshots" else 422, field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/v1/operations", WRITE | {"snapshots": ["\ud800"]}, "snapshots.0"),
        ("POST", "/v1/operations", WRITE | {"\ud800": 1}, "body"),
        ("POST", "/v1/dead-letters", LETTERS | {"set": {"x": ["\ud800"]}}, "set"),
        ("POST", "/v1/dead-letters", LETTERS | {"rename": {"a": "\ud800"}}, "rename.a"),
        ("POST", "/v1/dead-letters", LETTERS | {"receipts": ["\ud800"]}, "receipts.0"),
        ("GET", f"/v1/excluded?after=1-{10**30}-1", None, "after"),
        ("GET", f"/v1/excluded?after=1-{'1' * 5000}-1", None, "after"),
    ],
)
def test_what_no_text_or_number_holds_is_refused_by_field(
    client: httpx.Client, method: str, path: str, body: Any, field: str
) -> None:
    headers = {"Content-Type": "application/json"}
    content = None if body is None else json.dumps(body)
    problem(client.request(method, path, content=content, headers=headers), 422, field)


@pytest.mark.parametrize(
    ("path", "field", "near"),
    [
        ("/v1/forecasts/100/apple?horizn=1", "horizn", ["horizon"]),
        ("/v1/forecasts/100/apple?horizon=1&horizon=2", "horizon", None),
        ("/v1/forecasts?group_by=all&quantile=0.9", "quantile", ["quantiles"]),
        ("/v1/series?store=100", "store", None),
        ("/v1/series?limit=1&limit=2", "limit", None),
        ("/v1/history/100/apple?limt=1", "limt", ["limit"]),
        ("/v1/accuracy/100/apple?horizon=1", "horizon", None),
        ("/v1/quality?horizon=5", "horizon", None),
        ("/v1/quality?model=ensembl", "model", ["ensemble"]),
        ("/v1/quality?slice=category&value=fod", "value", ["food"]),
        ("/v1/status?verbose=1", "verbose", None),
    ],
)
def test_a_parameter_that_nothing_comes_of_is_refused_by_name(
    client: httpx.Client, path: str, field: str, near: list[str] | None
) -> None:
    found = problem(client.get(path), 422, field)
    assert near is None or found["near"][:1] == near


def test_probes_take_any_parameter_and_quantiles_may_be_repeated(client: httpx.Client) -> None:
    assert client.get("/livez?x=1").status_code == client.get("/metrics?x=1").status_code == 200
    found = client.get("/v1/forecasts/100/apple?horizon=1&quantiles=0.1&quantiles=0.9").json()
    assert list(found["steps"][0]["quantiles"]) == ["0.1", "0.9"]


WRITES = [
    ("POST", "/v1/forecasts:what-if"), ("PUT", "/v1/plans/a"), ("PUT", "/v1/products/a"),
    ("POST", "/v1/operations"), ("POST", "/v1/dead-letters"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_body_that_cannot_be_read_is_refused_with_what_to_send(
    client: httpx.Client, method: str, path: str
) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"\xff", b'{"a": "\xff"}', b"[" * 100_000, gzip.compress(b"{}")):
        answer = client.request(method, path, content=body, headers=headers)
        assert "JSON" in problem(answer, 422, "body")["remedy"]
    gzipped = headers | {"Content-Encoding": "gzip"}
    answer = client.request(method, path, content=gzip.compress(b"{}"), headers=gzipped)
    problem(answer, 415, "Content-Encoding")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/operations", WRITE | {"to": 1795910400}, "to"),
        ("/v1/operations", WRITE | {"to": "1795910400"}, "to"),
        ("/v1/operations", WRITE | {"dry_run": "on"}, "dry_run"),
        ("/v1/operations", REPLAY | {"replay": 1}, "replay"),
        ("/v1/forecasts:what-if", WHAT_IF | {"price": True}, "price"),
        ("/v1/forecasts:what-if", WHAT_IF | {"promotion": ["1"]}, "promotion"),
        ("/v1/forecasts:what-if", WHAT_IF | {"horizon": "3", "price": 1}, "horizon"),
        ("/v1/forecasts:what-if", WHAT_IF | {"covariates": {"rain": 1e10}}, "covariates.rain"),
        ("/v1/forecasts:what-if", WHAT_IF | {"closed": "off"}, "closed"),
    ],
)
def test_a_value_of_another_type_is_not_made_into_what_it_may_mean(
    client: httpx.Client, path: str, body: Any, field: str
) -> None:
    problem(client.post(path, json=body), 422, field)


@pytest.mark.parametrize(
    "path", ["/v1/forecasts/100/%FF%FE", "/v1/products/%FF%FE", "/v1/history/%FF/apple"]
)
def test_a_path_that_is_not_utf8_names_nothing(client: httpx.Client, path: str) -> None:
    problem(client.get(path), 422, "path")


def test_snapshots_are_listed_newest_first_and_shown_whole(
    client: httpx.Client, deployment: Deployment
) -> None:
    found = client.get("/v1/snapshots").json()
    assert found["unreadable"] == []
    published = [one["published_at"] for one in found["items"]]
    assert published == sorted(published, reverse=True)
    one = found["items"][0]
    assert client.get("/v1/snapshots", params={"partition": one["partition"]}).json()["items"] == [
        one
    ]
    whole = client.get(f"/v1/snapshots/{one['id']}").json()
    assert one.items() <= whole.items()
    assert whole["counts"] == {"till-1": {"learned": 3}}
    assert whole["settings"]["timezone"] == "Europe/Paris"
    assert {part["name"] for part in whole["parts"]} >= {"keys", "forecast", "ring.units"}
    problem(client.get("/v1/snapshots/none"), 404, "id")
    problem(client.get("/v1/snapshots?limit=x"), 422, "limit")


def test_a_snapshot_before_the_first_close_serves_nothing_and_breaks_nothing(
    tmp_path: Path,
) -> None:
    deployment = Deployment(tmp_path)
    early = deployment.publish(0, 1, keys=[], origin=None)
    deployment.publish(1, 5, keys=[("b", "x")])
    with running(deployment.app()) as client:
        until(lambda: client.get("/v1/series").json()["total"] == 1)
        row = client.get("/v1/status").json()["partitions"][0]
        assert (row["snapshot"], row["as_of"], row["series"]) == (early, None, 0)
        assert row["catching_up"] is False
        found = client.post("/v1/forecasts:batch", json={"all": True}).json()
        assert [group["store"] for group in found["groups"]] == [["b"]]
        items = client.get("/v1/snapshots?partition=0").json()["items"]
        assert [(one["as_of"], one["origin"]) for one in items] == [(None, None)]
        asked = WRITE | {"kind": "rollback", "to": "1995-01-01T00:00:00Z"}
        problem(client.post("/v1/operations", json=asked), 404, "to")
    deployment.close()


# -- keys, probes, failures ---------------------------------------------------------------------


def test_writes_need_the_key_and_reads_do_not(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, api_key="sésame")
    with running(deployment.app()) as client:
        wrong: list[dict[str, str]] = [
            {}, {"X-API-Key": "no"}, {"Authorization": "Bearer no"}, {"Authorization": "Basic x"},
        ]  # fmt: skip
        for path, body in (("/v1/events", SALE), ("/v1/operations", WRITE)):
            for headers in wrong:
                problem(client.post(path, json=body, headers=headers), 401, "X-API-Key")
        right = "sésame".encode()
        for name, value in ((b"X-API-Key", right), (b"Authorization", b"Bearer " + right)):
            answer = client.post("/v1/events", json=SALE, headers={name: value})
            assert answer.status_code == 200
        for path in ("/v1/status", "/v1/operations", "/v1/series"):
            assert client.get(path).status_code == 200
    assert sum(deployment.events.end().values()) == 2
    deployment.close()


def test_without_a_key_no_page_of_another_site_writes(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    plain = {"Content-Type": "text/plain"}  # which a browser sends without asking first
    foreign = {
        "Origin": [{"Origin": "https://evil.example"}, {"Origin": "null"}],
        "Host": [
            {"Host": "evil.example"},
            {"Host": "evil.example", "Origin": "http://evil.example"},
        ],
    }
    paths = (
        ("POST", "/v1/events"),
        ("POST", "/v1/operations"),
        ("POST", "/v1/dead-letters"),
        ("PUT", "/v1/plans/p"),
        ("DELETE", "/v1/plans/p"),
        ("PUT", "/v1/products/p"),
    )
    with running(deployment.app()) as client:
        for field, requests in foreign.items():
            for headers in requests:
                for method, path in paths:
                    asked = client.request(method, path, headers=headers | plain, json=SALE)
                    members = problem(asked, 403, field)
                    assert "set `api_key`" in members["remedy"]
                assert client.get("/v1/status", headers=headers).status_code == 200
                asked = client.post("/v1/forecasts:batch", headers=headers, json={"series": []})
                assert asked.status_code != 403
        assert sum(deployment.events.end().values()) == 0
        for own in ({"Origin": str(client.base_url).rstrip("/")}, {"Host": "localhost"}):
            assert client.post("/v1/events", json=SALE, headers=own).status_code == 200
    deployment.close()
    beyond = Deployment(tmp_path / "beyond", host="0.0.0.0")
    with running(beyond.app()) as client:
        shop = {"Host": "shop.example", "Origin": "https://shop.example"}
        assert client.post("/v1/events", json=SALE, headers=shop).status_code == 200
        shop["Origin"] = "https://evil.example"
        problem(client.post("/v1/events", json=SALE, headers=shop), 403, "Origin")
    beyond.close()


def test_forecasts_are_answered_while_log_and_store_are_down(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.publish(0, 5, keys=[("100", "apple")])
    events = Down(deployment.events, LogUnavailable("no log"))
    store = Down(deployment.store, StoreUnavailable("no store"))
    with running(deployment.app(events=events, store=store)) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        events.down = store.down = True
        for path in ("/v1/forecasts/100/apple", "/v1/history/100/apple", "/v1/series", "/readyz"):
            assert client.get(path).status_code == 200
        answer = client.post("/v1/events", json=SALE)
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        for path in ("/v1/snapshots", "/v1/snapshots/x", "/v1/receipts/0-9-0"):
            problem(client.get(path), 503)
        until(lambda: not client.get("/v1/status").json()["store_up"])
        until(lambda: b'dependency_up{dependency="log"} 0.0' in client.get("/metrics").content)
        store.down = events.down = False
        deployment.publish(0, 9, keys=[("100", "apple"), ("100", "pear")], seed=1)
        until(lambda: client.get("/v1/forecasts/100/pear").status_code == 200)
        assert client.post("/v1/events", json=SALE).status_code == 200
    deployment.close()


def test_readiness_needs_a_snapshot_once_there_are_events(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with running(deployment.app()) as client:
        assert client.get("/livez").status_code == 200
        until(lambda: client.get("/startupz").status_code == 200)
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/events", json=SALE).status_code == 200
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["reasons"]
        deployment.publish(0, 1)
        until(lambda: client.get("/readyz").status_code == 200)
    deployment.close()


def test_an_unforeseen_error_says_nothing_of_its_insides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = Deployment(tmp_path)
    app = deployment.app()

    def broken() -> None:
        raise RuntimeError("a secret of the inside")

    app.add_api_route("/broken", broken)
    with running(app) as client:
        answer = client.get("/broken")
    problem(answer, 500)
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    deployment.close()


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    problem(client.get("/v1/nothing"), 404)
    problem(client.get("/static/../app.py"), 404)
    problem(client.get("/static/..%2fapp.py"), 404)
    answer = client.post("/v1/series")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET"
    assert client.post("/v1/plans/week-48").headers["allow"] == "DELETE, GET, PUT"


def test_probes_answer_head_and_static_files_say_how_long_they_hold(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    for path in ("/static/app.js", "/static/style.css", "/static/plotly.min.js"):
        headers = client.get(path).raise_for_status().headers
        assert headers["cache-control"] and headers["x-content-type-options"] == "nosniff"


def test_metrics_count_by_template(client: httpx.Client) -> None:
    client.get("/v1/forecasts/100/apple")
    text = client.get("/metrics").text
    assert 'route="/v1/forecasts/{store}/{product:path}",status="200"' in text
    assert "apple" not in text
    swapped = 'salescast_replica_position_offset{partition="0"} 3.0'
    until(lambda: swapped in client.get("/metrics").text)  # told once it is served


def test_the_page_and_its_script_are_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "Salescast" in page.text
    assert len(client.get("/static/plotly.min.js").content) > 1_000_000


def test_the_interactive_api_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    docs = client.get("/docs").raise_for_status().text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', docs)
    assert len(loaded) >= 3
    assert all(one.startswith("/static/") for one in loaded), loaded
    assert "http" not in docs
    for one in loaded:
        assert len(client.get(one).raise_for_status().content) > 1000
    assert "SwaggerUIBundle" in client.get("/static/swagger-ui-bundle.js").text


def test_openapi_knows_every_route_and_every_reference(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    assert {
        "/v1/events", "/v1/receipts/{receipt}", "/v1/series", "/v1/forecasts/{store}/{product}",
        "/v1/forecasts", "/v1/forecasts:batch", "/v1/forecasts:what-if",
        "/v1/explain/{store}/{product}", "/v1/history/{store}/{product}",
        "/v1/accuracy/{store}/{product}", "/v1/quality", "/v1/snapshots", "/v1/snapshots/{id}",
        "/v1/operations", "/v1/operations/{id}", "/v1/status", "/v1/shards",
        "/v1/plans", "/v1/plans/{id}", "/v1/products/{id}", "/v1/updates", "/metrics", "/livez",
        "/readyz", "/startupz",
        "/v1/excluded", "/v1/guard", "/v1/lineage", "/v1/dead-letters", "/v1/models",
        "/v1/diff/{store}/{product}",
    } == set(found["paths"])  # fmt: skip
    references = {part.split('"')[0] for part in json.dumps(found).split('"#/')[1:]}
    for reference in references:
        at = found
        for name in reference.split("/"):
            at = at[name]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            for name in [part[1:-1] for part in path.split("/") if part.startswith("{")]:
                declared = [one["name"] for one in operation.get("parameters", [])]
                assert declared.count(name) == 1, (path, declared)
    problems = found["paths"]["/v1/forecasts/{store}/{product}"]["get"]["responses"]["404"]
    assert "application/problem+json" in problems["content"]


# -- news, and the process ----------------------------------------------------------------------


def _events(lines: Iterator[str], count: int) -> list[dict[str, Any]]:
    """The next server-sent events."""
    found: list[dict[str, Any]] = []
    now: dict[str, Any] = {}
    while len(found) < count:
        line = next(lines)
        name, _, value = line.partition(": ")
        if line == "" and "data" in now:
            found.append({"id": now["id"], "event": now["event"], **json.loads(now["data"])})
        now = {} if line == "" else now | {name: value}
    return found


def test_news_of_snapshots_come_as_they_are_swapped_in_and_what_was_missed_first(
    tmp_path: Path,
) -> None:
    deployment = Deployment(tmp_path)
    app = deployment.app()
    with running(app) as client:
        until(lambda: client.get("/startupz").status_code == 200)
        with client.stream("GET", "/v1/updates") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            one = deployment.publish(0, 5)
            (first,) = _events(lines, 1)
            assert (first["event"], first["partition"], first["snapshot"]) == ("snapshot", 0, one)
            assert first["origin"] == "2025-03-01T00:00:00+00:00"
        two = deployment.publish(0, 9, seed=1)
        three = deployment.publish(1, 9, seed=2)
        until(lambda: {v.serving.snapshot for v in context_of(app).replica.state.views.values()}
              == {two, three})  # fmt: skip
        with client.stream("GET", "/v1/updates", headers={"Last-Event-ID": first["id"]}) as stream:
            missed = _events(stream.iter_lines(), 2)
        assert {one["snapshot"] for one in missed} == {two, three}
        boot = first["id"].partition("-")[0]
        for strange in ("other-9", f"{boot}-{'9' * 5000}"):
            headers = {"Last-Event-ID": strange}
            with client.stream("GET", "/v1/updates", headers=headers) as stream:
                present = _events(stream.iter_lines(), 2)
            assert {one["snapshot"] for one in present} == {two, three}
    deployment.close()


def test_a_stream_of_news_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with running(deployment.app()) as client:
        stream = client.send(client.build_request("GET", "/v1/updates"), stream=True)
        lines = stream.iter_lines()
        assert next(lines) == "retry: 2000"
        began = datetime.now(UTC)
    assert (datetime.now(UTC) - began).total_seconds() < 8
    stream.close()
    deployment.close()


def refuses(port: int) -> bool:
    """Whether nobody takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_process_serves_until_sigterm_and_leaves_with_zero(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    code = (
        "import sys; from stream.settings import Settings; from api import server; "
        "server.DRAIN_S = 10.0; "  # long enough on a busy machine; it is not waited for in full
        "sys.exit(server.serve(Settings(data_dir=sys.argv[1], port=int(sys.argv[2]))))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(port)], env={**os.environ}
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            def ready() -> bool:
                assert process.poll() is None
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            until(ready)
            stream = client.send(client.build_request("GET", "/v1/updates"), stream=True)
            assert client.post("/v1/events", json=SALE).status_code == 200
            process.send_signal(signal.SIGTERM)
            until(lambda: refuses(port))
            # What is asked over a connection that is kept alive may be on its way.
            last = client.get("/livez")
            assert (last.status_code, last.headers["connection"]) == (200, "close")
            assert process.wait(20) == 0
            stream.close()
    finally:
        process.kill()
        process.wait()


def test_a_log_that_is_down_at_the_start_is_opened_later(tmp_path: Path) -> None:
    from api.later_log import LaterLog

    deployment = Deployment(tmp_path)
    up = False

    def open_log() -> Any:
        if not up:
            raise LogUnavailable("no broker answers")
        return deployment.events

    log = LaterLog(open_log, "sales.events", 2)
    assert (log.topic, log.topic_id, log.partitions) == ("sales.events", "", 2)
    with running(deployment.app(events=log)) as client:
        problem(client.post("/v1/events", json=SALE), 503)
        assert client.get("/v1/status").json()["log_up"] is False
        up = True
        until(lambda: client.post("/v1/events", json=SALE).status_code == 200)
    assert log.read(partition_of("100", 2), 0)[0] is not None
    log.append([Entry(0, None, b"{}")])
    deployment.close()
