"""Plans and products through the API: told, revised, withdrawn, read back, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from api.problems import Problem
from api.writing import append
from stream.event import Plan, Product, decode, encode
from stream.log import partition_of
from tests.api_parts import ORIGIN, Deployment, context_of, keys_of, running, until
from tests.integration.test_api import problem

#: Noon of the day after the last closed one, 1 March 2025 in Paris.
NOW_S = (ORIGIN + 1.5) * 86_400
HERE, THERE = (
    next(s for s in map(str, range(100, 120)) if partition_of(s, 2) == p) for p in (0, 1)
)
WEEK: dict[str, Any] = {
    "product": "apple", "start": "2025-03-05T00:00:00+01:00", "end": "2025-03-08T00:00:00+01:00",
    "promotion": 0.5,
}  # fmt: skip
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    found = Deployment(
        tmp_path_factory.mktemp("plans"), timezone="Europe/Paris", covariates=("rain",)
    )
    for partition, store in enumerate((HERE, THERE)):
        found.publish(partition, 0, keys=keys_of([store], ["apple", "pear", "a/b c?"]))
    yield found
    found.close()


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    with running(deployment.app(clock=lambda: NOW_S)) as found:
        until(lambda: found.get("/v1/series").json()["total"] == 6)
        yield found


def events(deployment: Deployment, receipts: list[str]) -> list[Plan | Product]:
    """What the log holds at some receipts."""
    out = []
    for receipt in receipts:
        partition, offset, item = map(int, receipt.split("-"))
        event = decode(deployment.events.read(partition, offset, 1)[0].value)[item]
        assert isinstance(event, Plan | Product)
        out.append(event)
    return out


# -- plans -------------------------------------------------------------------------------------


def test_a_plan_of_all_stores_is_written_to_every_partition_and_read_back(
    client: httpx.Client, deployment: Deployment
) -> None:
    answer = client.put("/v1/plans/first", json=WEEK | {"price": 0.99})
    assert answer.status_code == 201
    found = answer.json()
    assert (found["revision"], found["state"], found["series"]) == (0, "waiting", 2)
    assert [one.split("-")[0] for one in found["receipts"]] == ["0", "1"]
    (one, other) = events(deployment, found["receipts"])
    assert one == other
    assert isinstance(one, Plan)
    assert (one.id, one.source, one.price, one.promotion) == ("first", "api", 0.99, 0.5)
    for receipt in found["receipts"]:
        assert client.get(f"/v1/receipts/{receipt}").json()["state"] == "waiting"
    read = client.get("/v1/plans/first").json()
    assert read == {k: v for k, v in found.items() if k not in ("receipts", "unchanged")}
    assert read["start"] == "2025-03-05T00:00:00+01:00"


def test_a_plan_is_over_where_it_is_about_however_quiet_another_partition_is(
    tmp_path: Path,
) -> None:
    deployment = Deployment(tmp_path)
    for partition, store, origin in ((0, HERE, ORIGIN), (1, THERE, ORIGIN - 60)):
        deployment.publish(partition, 0, keys=keys_of([store], ["apple"]), origin=origin)
    over = WEEK | {"start": "2025-02-18T00:00:00Z", "end": "2025-02-20T00:00:00Z"}
    with running(deployment.app(clock=lambda: NOW_S)) as client:
        until(lambda: client.get("/v1/series").json()["total"] == 2)
        for store in ("*", HERE):
            answer = client.put("/v1/plans/over", json=over | {"store": store})
            assert "over" in problem(answer, 422, "end")["detail"]
        found = client.put("/v1/plans/quiet", json=over | {"store": THERE})
        assert found.status_code == 201 and "beyond" in found.json()["notes"][0]
        found = client.put("/v1/plans/next", json=WEEK).json()
        assert found["notes"] == []
    deployment.close()


def test_the_same_plan_put_twice_is_one_plan(client: httpx.Client, deployment: Deployment) -> None:
    first = client.put("/v1/plans/twice", json=WEEK).json()
    before = deployment.events.end()
    for again in (WEEK, WEEK | {"revision": 0}, WEEK | {"start": "2025-03-04T23:00:00Z"}):
        answer = client.put("/v1/plans/twice", json=again)
        assert answer.status_code == 200
        assert (answer.json()["unchanged"], answer.json()["revision"]) == (True, 0)
        assert "receipts" not in answer.json()
    assert deployment.events.end() == before
    assert first["unchanged"] is False


def test_revisions_go_up_by_themselves_and_an_old_one_is_refused(client: httpx.Client) -> None:
    put = "/v1/plans/revised"
    assert client.put(put, json=WEEK).json()["revision"] == 0
    assert client.put(put, json=WEEK | {"promotion": 0.6}).json()["revision"] == 1
    assert client.put(put, json=WEEK | {"promotion": 0.7, "revision": 9}).json()["revision"] == 9
    for old in (0, 8, 9):
        answer = client.put(put, json=WEEK | {"promotion": 0.8, "revision": old})
        assert "10 or more" in problem(answer, 409, "revision")["remedy"]
    assert client.get(put).json()["promotion"] == 0.7
    assert client.put(put, json=WEEK | {"promotion": 0.8}).json()["revision"] == 10


def test_a_plan_is_withdrawn_and_may_be_put_again(client: httpx.Client) -> None:
    put = "/v1/plans/withdrawn"
    client.put(put, json=WEEK)
    gone = client.delete(put).json()
    assert (gone["withdrawn"], gone["revision"], gone["promotion"]) == (True, 1, None)
    again = client.delete(put).json()
    assert (again["unchanged"], again["revision"]) == (True, 1)

    def listed(**asked: Any) -> list[str]:
        items = client.get("/v1/plans", params=asked).json()["items"]
        return [one["id"] for one in items]

    assert "withdrawn" not in listed()
    assert "withdrawn" in listed(withdrawn=True)
    back = client.put(put, json=WEEK).json()
    assert (back["withdrawn"], back["revision"]) == (False, 2)
    assert "withdrawn" in listed()
    problem(client.delete("/v1/plans/never"), 404, "id")
    problem(client.get("/v1/plans/withdrawm"), 404, "id")
    assert client.get("/v1/plans/withdrawm").json()["near"] == ["withdrawn"]


def test_a_plan_that_moves_to_another_store_is_withdrawn_where_it_was(
    client: httpx.Client, deployment: Deployment
) -> None:
    put = "/v1/plans/moves"
    client.put(put, json=WEEK | {"store": HERE})
    moved = client.put(put, json=WEEK | {"store": THERE}).json()
    assert (moved["store"], moved["revision"]) == (THERE, 1)
    versions: dict[int, list[tuple[str, int, bool]]] = {}
    for partition in (0, 1):
        for record in deployment.events.read(partition, 0):
            for event in decode(record.value):
                if isinstance(event, Plan) and event.id == "moves":
                    said = (event.store, event.revision, event.withdrawn)
                    versions.setdefault(partition, []).append(said)
    assert versions == {
        0: [(HERE, 0, False), (HERE, 0, True)], 1: [(THERE, 1, False)],
    }  # fmt: skip
    read = client.get(put).json()
    assert (read["store"], read["withdrawn"]) == (THERE, False)


def test_a_plan_at_the_last_revision_there_is_stays_as_it_is(
    client: httpx.Client, deployment: Deployment
) -> None:
    last = Plan(
        id="last", source="erp", time=datetime.fromtimestamp(NOW_S, UTC), store=HERE,
        product="apple", promotion=0.5, revision=2**31,
        start=datetime(2025, 3, 5, tzinfo=UTC), end=datetime(2025, 3, 8, tzinfo=UTC),
    )  # fmt: skip
    sent = client.post("/v1/events", content=encode(last))
    assert sent.status_code == 200, sent.text
    before = deployment.events.end()
    url = "/v1/plans/last?source=erp"
    problem(client.put(url, json=WEEK | {"store": THERE}), 409, "revision")
    problem(client.put(url, json=WEEK | {"store": HERE, "promotion": 0.6}), 409, "revision")
    problem(client.delete(url), 409, "revision")
    assert deployment.events.end() == before
    assert client.get(url).json()["store"] == HERE


def test_of_several_facts_one_that_is_refused_keeps_all_from_being_written(
    deployment: Deployment,
) -> None:
    context = context_of(deployment.app(clock=lambda: NOW_S))
    good = Product(id="p", source="api", time=datetime.fromtimestamp(NOW_S, UTC), product="kiwi")
    bad = msgspec.structs.replace(good, product="")
    before = deployment.events.end()
    for facts in ([good, bad], [bad, good], [bad]):
        with pytest.raises(Problem):
            append(context, facts)
    assert deployment.events.end() == before


def test_plans_of_other_sources_are_told_apart_and_found(
    client: httpx.Client, deployment: Deployment
) -> None:
    raw = {"type": "plan", "id": "raw", "source": "office", "time": "2025-02-01T00:00:00Z",
           "revision": 3, **WEEK}  # fmt: skip
    assert client.post("/v1/events", json=raw).status_code == 200
    problem(client.get("/v1/plans/raw"), 404, "source")
    assert "office" in client.get("/v1/plans/raw").json()["remedy"]
    found = client.get("/v1/plans/raw?source=office").json()
    assert (found["source"], found["revision"]) == ("office", 3)
    put = client.put("/v1/plans/raw?source=office", json=WEEK | {"promotion": 0.1}).json()
    assert (put["source"], put["revision"]) == ("office", 4)
    assert client.put("/v1/plans/raw", json=WEEK).status_code == 201


def test_plans_are_found_by_what_they_bear_on(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    for partition, store in enumerate((HERE, THERE)):
        deployment.publish(partition, 0, keys=keys_of([store], ["apple", "pear"]))
    plans: dict[str, dict[str, Any]] = {
        "all": {"product": None},
        "food": {"product": None, "category": "food"},
        "apple": {},
        "pear-here": {"product": "pear", "store": HERE},
        "late": {"start": "2025-04-01T00:00:00Z", "end": "2025-04-02T00:00:00Z"},
    }
    with running(deployment.app(clock=lambda: NOW_S)) as client:
        until(lambda: client.get("/v1/series").json()["total"] == 4)
        client.put("/v1/products/kiwi", json={"category": "fruit"})
        for name, changed in plans.items():
            assert client.put(f"/v1/plans/{name}", json=WEEK | changed).status_code == 201, name

        def found(**asked: Any) -> list[str]:
            asked = {name.rstrip("_"): value for name, value in asked.items()}
            whole = client.get("/v1/plans", params=asked).raise_for_status().json()
            assert whole["total"] == len(whole["items"])
            return [one["id"] for one in whole["items"]]

        assert found() == ["all", "apple", "food", "pear-here", "late"]
        assert found(product="pear") == ["all", "food", "pear-here"]
        assert found(product="pear", store=THERE) == ["all", "food"]
        assert found(product="kiwi") == ["all"]
        assert found(category="food") == ["all", "apple", "food", "pear-here", "late"]
        assert found(category="fruit") == ["all"]
        assert len(found(from_="2025-03-07T23:59:59+01:00")) == 5
        assert found(from_="2025-03-08T00:00:00+01:00") == ["late"]
        assert found(from_="2025-03-09T00:00:00Z") == ["late"]
        assert found(to="2025-03-09T00:00:00Z", product="apple") == ["all", "apple", "food"]
        assert found(source="nobody") == []
        assert len(client.get("/v1/plans?from=2025-03-09T00:00:00+00:00").json()["items"]) == 1
        page = client.get("/v1/plans?limit=2&offset=2").json()
        assert [one["id"] for one in page["items"]] == ["food", "pear-here"]
        assert (page["total"], page["next_offset"]) == (5, 4)
        for name in ("from", "to"):
            for text in ("soon", "2025-03-09", "2025-03-09T00:00:00", ""):
                problem(client.get("/v1/plans", params={name: text}), 422, name)
    deployment.close()


def test_a_plan_is_told_what_stands_before_it_and_what_it_does_not_change(
    client: httpx.Client,
) -> None:
    span = {"start": "2025-03-10T00:00:00Z", "end": "2025-03-12T00:00:00Z", "product": "pear"}
    client.put("/v1/plans/narrow", json=WEEK | span | {"store": HERE})
    client.put("/v1/plans/shut", json=span | {"product": None, "store": THERE, "closed": True})
    wide = client.put("/v1/plans/wide", json=WEEK | span).json()
    assert [(one["id"], one["fields"]) for one in wide["shadowed_by"]] == [
        ("narrow", ["promotion"]), ("shut", ["closed"]),
    ]  # fmt: skip
    assert wide["notes"] == []
    begun = client.put("/v1/plans/begun", json=WEEK | {"start": "2025-02-01T00:00:00Z"}).json()
    assert "2025-03-02" in begun["notes"][0]
    far = {"start": "2025-06-01T00:00:00Z", "end": "2025-06-08T00:00:00Z"}
    assert "28 buckets" in client.put("/v1/plans/far", json=WEEK | far).json()["notes"][0]
    client.put("/v1/products/kiwi", json={"category": "food"})
    new = client.put("/v1/plans/new", json=WEEK | {"product": "kiwi"}).json()
    assert (new["series"], len(new["notes"])) == (0, 1)


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"price": -0.01}, 422, "price"),
        ({"price": 1e7}, 422, "price"),
        ({"promotion": 1.01}, 422, "promotion"),
        ({"promotion": None}, 422, "promotion"),
        ({"promotion": None, "covariates": {}}, 422, "promotion"),
        ({"end": WEEK["start"]}, 422, "end"),
        ({"end": "2025-03-01T00:00:00Z"}, 422, "end"),
        ({"start": "2025-02-01T00:00:00Z", "end": "2025-03-02T00:00:00+01:00"}, 422, "end"),
        ({"start": "2025-03-05T13:00:00+01:00", "end": "2025-03-06T11:00:00+01:00"}, 422, "end"),
        ({"end": "2028-01-01T00:00:00Z"}, 422, "end"),
        ({"start": "2025-03-05T00:00:00"}, 422, "start"),
        ({"start": "2300-03-05T00:00:00Z", "end": "2300-03-09T00:00:00Z"}, 422, "start"),
        ({"start": "0001-01-01T00:00:00+14:00", "end": "0001-01-03T00:00:00Z"}, 422, "start"),
        ({"start": "9999-12-30T00:00:00Z", "end": "9999-12-31T23:59:59-12:00"}, 422, "start"),
        ({"start": None}, 422, "start"),
        ({"product": "appel"}, 404, "product"),
        ({"store": "99"}, 404, "store"),
        ({"product": None, "category": "fod"}, 404, "category"),
        ({"category": "food"}, 422, "category"),
        ({"product": None, "price": 1}, 422, "price"),
        ({"closed": True}, 422, "closed"),
        ({"revision": -1}, 422, "revision"),
        ({"revision": 2**31}, 422, "revision"),
        ({"store": ""}, 422, "store"),
        ({"product": "x" * 129}, 422, "product"),
        ({"covariates": {"rain": "wet"}}, 422, "covariates.rain"),
        ({"covariates": {"rian": 1}}, 422, "covariates.rian"),
        ({"covariates": {"rain": 1.1e9}}, 422, "covariates.rain"),
        ({"covariates": {"rain": -1e308}}, 422, "covariates.rain"),
        ({"withdrawn": True}, 422, "withdrawn"),
        ({"start": 1795910400}, 422, "start"),
        ({"promotion": True}, 422, "promotion"),
        ({"closed": "off", "promotion": None}, 422, "closed"),
        ({"revision": "3"}, 422, "revision"),
    ],
)
def test_a_bad_plan_is_refused_by_field_with_a_remedy_and_nothing_is_written(
    client: httpx.Client, deployment: Deployment, changed: Any, status: int, field: str
) -> None:
    before = deployment.events.end()
    problem(client.put("/v1/plans/bad", json=WEEK | changed), status, field)
    assert deployment.events.end() == before


def test_a_covariate_is_planned_by_a_name_that_the_settings_have(client: httpx.Client) -> None:
    found = client.put("/v1/plans/wet", json=WEEK | {"covariates": {"rain": 0.0}}).json()
    assert found["covariates"] == {"rain": 0.0}
    bad = client.put("/v1/plans/wet", json=WEEK | {"covariates": {"rian": 0.0}}).json()
    assert "setting `covariates`" in bad["detail"]
    assert bad["near"] == ["rain"]


def test_a_name_nobody_knows_comes_with_near_ones(client: httpx.Client) -> None:
    for changed, near in (
        ({"product": "appel"}, "apple"), ({"product": None, "category": "fod"}, "food"),
        ({"store": f"{HERE}0"}, HERE),
    ):  # fmt: skip
        found = client.put("/v1/plans/bad", json=WEEK | changed).json()
        assert near in found["near"]


def test_not_a_number_and_bodies_of_other_kinds_are_refused(client: httpx.Client) -> None:
    for text in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        body = json.dumps(WEEK | {"product": "apple"}).encode()[:-1]
        for field in (b"price", b"promotion"):
            whole = body.replace(b"promotion", b"x") if field == b"promotion" else body
            whole = whole.replace(b', "x": 0.5', b"") + b', "%b": %b}' % (field, text)
            answer = client.put("/v1/plans/bad", content=whole, headers=JSON)
            problem(answer, 422, field.decode())
        whole = body + b', "covariates": {"rain": %b}}' % text
        problem(client.put("/v1/plans/bad", content=whole, headers=JSON), 422, "covariates.rain")
    for body in (b"", b"[]", b"3", b"{", b"\xff", b"null"):
        answer = client.put("/v1/plans/bad", content=body, headers=JSON)
        problem(answer, answer.status_code, answer.json().get("field"))
        assert answer.status_code in (400, 422)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.put("/v1/plans/bad", content=json.dumps(WEEK), headers=form)
    assert "application/json" in problem(answer, 422, "body")["remedy"]


@pytest.mark.parametrize("name", ["a/b c?", "Süd 50%", "x/../y", "plans/", "0", "\x00", "💶" * 30])
def test_ids_may_hold_any_letter(client: httpx.Client, name: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    assert client.put(f"/v1/plans/{quoted}", json=WEEK).json()["id"] == name
    assert client.get(f"/v1/plans/{quoted}").json()["id"] == name
    assert client.delete(f"/v1/plans/{quoted}").json()["withdrawn"] is True
    put = client.put(f"/v1/products/{quoted}", json={"category": "odd"})
    assert put.json()["product"] == name
    assert client.get(f"/v1/products/{quoted}").json()["category"] == "odd"


def test_an_id_too_long_or_empty_is_refused(client: httpx.Client) -> None:
    for kind, body in (("plans", WEEK), ("products", {"category": "food"})):
        for name in ("x" * 129, ""):
            problem(client.put(f"/v1/{kind}/{name}", json=body), 422, "id")
    problem(client.put("/v1/plans/x?source=", json=WEEK), 422, "source")


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
_TIMES = st.datetimes().map(lambda one: one.isoformat() + "Z") | st.sampled_from(
    ["2025-03-05T00:00:00Z", "2025-03-09T00:00:00+14:00", "2025-03-09", 5, 1e18, -(2**70)]
)
_BODIES = st.fixed_dictionaries(
    {"start": _TIMES, "end": _TIMES},
    optional={
        **dict.fromkeys(("store", "product", "category"), _VALUES | st.just("apple")),
        **dict.fromkeys(("price", "promotion", "closed", "revision", "unit_size", "x"), _VALUES),
        "covariates": st.dictionaries(st.text(max_size=3), _VALUES, max_size=2) | _VALUES,
        **dict.fromkeys(("listed", "delisted"), _TIMES),
        "replaces": _VALUES,
    },
)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.sampled_from(["plans", "products"]), _BODIES)
def test_any_fact_is_answered_below_500(client: httpx.Client, kind: str, body: Any) -> None:
    if kind == "products":
        body = {k: v for k, v in body.items() if k not in ("start", "end", "store", "product")}
    answer = client.put(f"/v1/{kind}/fuzzed", content=json.dumps(body), headers=JSON)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["remedy"]


# -- products ----------------------------------------------------------------------------------


def test_what_is_told_of_a_product_is_added_to_what_was_known(
    client: httpx.Client, deployment: Deployment
) -> None:
    answer = client.put("/v1/products/cider", json={"category": "DRINKS", "unit_size": 0.5})
    assert answer.status_code == 201
    assert answer.json()["notes"] == ["`DRINKS` is a new category"]
    for receipt, event in zip(
        answer.json()["receipts"], events(deployment, answer.json()["receipts"]), strict=True
    ):
        assert isinstance(event, Product)
        assert (event.product, event.store, event.category) == ("cider", "*", "DRINKS")
        assert client.get(f"/v1/receipts/{receipt}").status_code == 200
    client.put("/v1/products/cider", json={"listed": "2025-03-05T00:00:00+01:00"})
    found = client.put("/v1/products/cider", json={"unit_size": None, "replaces": "apple"}).json()
    assert found["category"] == "DRINKS"
    assert (found["unit_size"], found["replaces"]) == (1.0, "apple")
    assert found["listed"] == "2025-03-05T00:00:00+01:00"
    read = client.get("/v1/products/cider").json()
    assert read == {k: v for k, v in found.items() if k not in ("receipts", "unchanged")}
    assert client.get("/v1/products/apple").json()["replaced_by"] == ["cider"]
    before = deployment.events.end()
    again = client.put("/v1/products/cider", json={"category": "DRINKS"})
    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    assert deployment.events.end() == before
    like = client.put("/v1/products/perry", json={"category": "DRINK"}).json()["notes"]
    assert like == ["`DRINK` is a new category; there is `DRINKS`"]


def test_a_product_known_by_its_sales_only_is_read_too(client: httpx.Client) -> None:
    found = client.get("/v1/products/pear").json()
    assert (found["product"], found["category"], found["series"]) == ("pear", "food", 2)
    assert found["told"] is None
    assert client.put("/v1/products/pear", json={"unit_size": 1}).status_code == 200
    assert client.get("/v1/products/pear").json()["told"] == "2025-03-02T13:00:00+01:00"
    assert problem(client.get("/v1/products/appel"), 404, "id")["near"] == ["apple"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "body"),
        ({"category": ""}, 422, "category"),
        ({"unit_size": 0}, 422, "unit_size"),
        ({"unit_size": -1}, 422, "unit_size"),
        ({"listed": "2025-03-05"}, 422, "listed"),
        ({"listed": "2025-03-05T00:00:00Z", "delisted": "2025-03-05T00:00:00Z"}, 422, "delisted"),
        ({"delisted": "2025-02-01T00:00:00Z"}, 422, "delisted"),
        ({"delisted": "0001-01-01T00:00:00+01:00"}, 422, "delisted"),
        ({"listed": "9999-12-31T23:59:59-01:00"}, 422, "listed"),
        ({"listed": "0001-01-01T00:00:00+14:00"}, 422, "listed"),
        ({"replaces": "melon"}, 422, "replaces"),
        ({"replaces": "nothing known"}, 404, "replaces"),
        ({"colour": "green"}, 422, "colour"),
    ],
)
def test_a_bad_product_is_refused_by_field_with_a_remedy(
    client: httpx.Client, body: Any, status: int, field: str
) -> None:
    client.put("/v1/products/melon", json={"listed": "2025-03-01T00:00:00Z"})
    problem(client.put("/v1/products/melon", json=body), status, field)


def test_a_listing_after_the_known_delisting_names_the_field_that_was_given(
    client: httpx.Client,
) -> None:
    client.put("/v1/products/fig", json={"delisted": "2025-03-05T00:00:00Z"})
    answer = client.put("/v1/products/fig", json={"listed": "2025-03-06T00:00:00Z"})
    problem(answer, 422, "listed")
    both = {"listed": "2025-03-06T00:00:00Z", "delisted": None}
    assert client.put("/v1/products/fig", json=both).json()["delisted"] is None


def test_what_is_told_of_a_store_goes_before_what_is_told_of_all(
    client: httpx.Client, deployment: Deployment
) -> None:
    put = "/v1/products/quince"
    client.put(put, json={"category": "food", "delisted": "2025-06-01T00:00:00Z"})
    here = client.put(f"{put}?store={HERE}", json={"category": "toys", "unit_size": 2}).json()
    assert [one.split("-")[0] for one in here["receipts"]] == ["0"]
    assert (here["category"], here["unit_size"]) == ("toys", 2)
    assert here["delisted"] == "2025-06-01T02:00:00+02:00"
    everywhere = client.get(put).json()
    assert (everywhere["category"], everywhere["stores"]) == ("food", [HERE])
    assert client.get(f"{put}?store={THERE}").json()["category"] == "food"
    listed = {"listed": "2025-07-01T00:00:00Z"}
    problem(client.put(f"{put}?store={HERE}", json=listed), 422, "listed")
    back = client.put(f"{put}?store={HERE}", json={"category": None, "unit_size": None}).json()
    assert (back["category"], back["unit_size"]) == ("food", 1.0)
    problem(client.put(f"{put}?store=nowhere", json={"category": "food"}), 404, "store")


def test_products_cannot_replace_each_other_in_a_circle(client: httpx.Client) -> None:
    for name, before in (("v2", None), ("v3", "v2"), ("v4", "v3")):
        body = {"category": "food", "replaces": before}
        assert client.put(f"/v1/products/{name}", json=body).status_code == 201
    found = problem(client.put("/v1/products/v2", json={"replaces": "v4"}), 422, "replaces")
    assert "v2 ← v4 ← v3 ← v2" in found["detail"]


# -- keys, and what is down --------------------------------------------------------------------


def test_facts_need_the_key_to_be_written_and_not_to_be_read(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, api_key="sesame")
    deployment.publish(0, 0, keys=[(HERE, "apple")])
    app = deployment.app(clock=lambda: NOW_S)
    context_of(app).replica.refresh()
    with running(app) as client:
        for method, path, body in (
            ("PUT", "/v1/plans/x", WEEK), ("DELETE", "/v1/plans/x", None),
            ("PUT", "/v1/products/x", {"category": "food"}),
        ):  # fmt: skip
            problem(client.request(method, path, json=body), 401, "X-API-Key")
        assert client.get("/v1/plans").json()["total"] == 0
        key = {"X-API-Key": "sesame"}
        assert client.put("/v1/plans/x", json=WEEK, headers=key).status_code == 201
        assert client.get("/v1/plans/x").status_code == 200
        found = client.get("/openapi.json").json()["paths"]
        for path in ("/v1/plans/{id}", "/v1/products/{id}"):
            assert found[path]["put"]["security"] and "security" not in found[path]["get"]
        asked = {
            (method, path): client.request(method, re.sub("{.*?}", "x", path)).status_code == 401
            for path, methods in found.items() for method in methods if method != "get"
        }  # fmt: skip
        marked = {
            (method, path): "security" in operation
            for path, methods in found.items() for method, operation in methods.items()
        }  # fmt: skip
        assert marked == asked | {one: False for one in marked if one[0] == "get"}
        assert asked["post", "/v1/dead-letters"] and not asked["post", "/v1/forecasts:batch"]
    deployment.close()


def test_another_replica_knows_at_once_what_one_took_in(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.publish(0, 0, keys=[(HERE, "apple")])
    apps = [deployment.app(clock=lambda: NOW_S) for _ in range(2)]
    for app in apps:
        context_of(app).replica.refresh()
    with running(apps[0]) as one, running(apps[1]) as other:
        assert one.put("/v1/plans/x", json=WEEK).json()["revision"] == 0
        assert other.put("/v1/plans/x", json=WEEK).json()["unchanged"] is True
        assert other.put("/v1/plans/x", json=WEEK | {"promotion": 1}).json()["revision"] == 1
        assert one.get("/v1/plans/x").json()["promotion"] == 1
        assert one.put("/v1/plans/x", json=WEEK).json()["revision"] == 2
        one.put("/v1/products/kiwi", json={"category": "fruit"})
        other.put("/v1/products/kiwi", json={"unit_size": 2})
        found = one.get("/v1/products/kiwi").json()
        assert (found["category"], found["unit_size"]) == ("fruit", 2)
    deployment.close()


def test_before_the_first_snapshot_products_can_be_told_and_planned_for(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with running(deployment.app(clock=lambda: NOW_S)) as client:
        assert client.get("/v1/plans").json() == {"total": 0, "items": [], "next_offset": None}
        problem(client.put("/v1/plans/x", json=WEEK), 404, "product")
        assert client.put("/v1/products/apple", json={"category": "food"}).status_code == 201
        assert client.put("/v1/plans/x", json=WEEK).json()["series"] == 0
        over = {"start": "2025-02-01T00:00:00Z", "end": "2025-02-08T00:00:00Z"}
        assert "POST /v1/events" in problem(
            client.put("/v1/plans/y", json=WEEK | over), 422, "end"
        )["remedy"]  # fmt: skip
    deployment.close()
