"""Sums over a lead time and forecasts of groups, over a real log, store, fold and port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner.manifest import Signer
from learner.parts import cut
from learner.shard import Shard
from learner.snapshot import describe, lay_down
from learner.store import Pointer
from stream.event import AnyEvent, Product, Sale, encode, time_us
from stream.log import Entry, Record, partition_of
from tests.api_parts import Deployment, running, until
from tests.learner_parts import chosen, day, market, sale, tick

DAYS = 40
STORES = ("100", "101", "102", "103", "104", "105")
CATEGORY = {"p0": "fruit", "p1": "fruit", "p2": "dairy"}


def events() -> list[AnyEvent]:
    """Six stores of two partitions, and a morning of the day that is open."""
    out: list[AnyEvent] = [
        Product(id=name, source="hq", time=day(0, 0), product=name, category=category)
        for name, category in CATEGORY.items()
    ]
    for n in range(DAYS):
        for at, store in enumerate(STORES):
            out += [
                Sale(id=f"{store}{one.id}", source="till", time=one.time, store=store,
                     product=one.product, quantity=one.quantity)
                for one in market(1, first=n, seed=50 * n + at)
            ]  # fmt: skip
    for store in STORES:
        out.append(sale(DAYS, 2, id=f"open {store}", store=store, product="p0", hour=9))
    return [*out, tick(DAYS, hour=15)]


def publish(deployment: Deployment, until_day: dict[int, int]) -> None:
    """Fold and publish each partition; of some only the days before one."""
    for partition in range(2):
        settings = chosen(partitions=2, grace_s=7200, challengers=("seasonal_naive",))
        shard = Shard(settings, partition)
        mine = [
            one for one in events()
            if (one.store == "*" or partition_of(one.store, 2) == partition)
            and one.time < day(until_day.get(partition, DAYS + 1), 0)
        ]  # fmt: skip
        records = [
            Record(partition, at, time_us(one.time), None, encode(one))
            for at, one in enumerate(mine)
        ]
        shard.fold(records)
        tables, chunks = cut(lay_down(shard))
        head = deployment.store.pointers(partition).head
        parent = None if head is None else head.snapshot
        manifest = describe(shard, tables, topic_id=deployment.events.topic_id,
                            lineage=0 if head is None else head.lineage + 1, parent=parent,
                            created_us=time_us(day(DAYS)))  # fmt: skip
        for digest, chunk in chunks.items():
            deployment.store.put_chunk(digest, bytes(chunk))
        sealed = deployment.signer.seal(manifest)
        deployment.store.put_manifest(partition, manifest.snapshot, sealed)
        to = Pointer(manifest.snapshot, manifest.lineage, shard.position)
        assert deployment.store.move_head(partition, parent, to)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    deployment = Deployment(tmp_path_factory.mktemp("sums"), grace_s=7200, guard="off",
                            champion="ensemble", challengers=("seasonal_naive",))  # fmt: skip
    deployment.signer = Signer(Ed25519PrivateKey.generate())
    publish(deployment, {})
    with running(deployment.app()) as found:
        until(lambda: found.get("/v1/series").json().get("total") == len(STORES) * len(CATEGORY))
        yield found
    deployment.close()


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    return client.get(path, params=query).raise_for_status().json()


def problem(client: httpx.Client, path: str, status: int, field: str | None, **query: Any) -> str:
    found = client.get(path, params=query)
    assert found.status_code == status, found.text
    assert found.json().get("field") == field and found.json()["remedy"]
    return str(found.json()["detail"])


# -- sums ----------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(1, 7), (3, 9), (1, 28), (5, 5)])
def test_a_sum_has_the_mean_of_its_steps_and_one_distribution(
    client: httpx.Client, span: tuple[int, int]
) -> None:
    first, last = span
    found = get(client, "/v1/forecasts/100/p2", horizon=28, sum=f"{first}..{last}",
                quantiles="0.1,0.5,0.9,0.975")  # fmt: skip
    total, steps = found["sum"], found["steps"][first - 1 : last]
    assert (total["from"], total["to"]) == span
    assert (total["start"], total["end"]) == (steps[0]["start"], steps[-1]["end"])
    assert total["mean"] == pytest.approx(sum(step["mean"] for step in steps), abs=2e-3)
    levels = list(total["quantiles"].values())
    assert levels == sorted(levels) and levels[0] < total["mean"] < levels[-1]
    if first < last:
        # The total of many is relatively more certain than each, and less so than if all were one.
        assert levels[-1] < sum(step["quantiles"]["0.975"] for step in steps)
        assert levels[0] > sum(step["quantiles"]["0.1"] for step in steps)
    else:
        assert total["quantiles"] == steps[0]["quantiles"]
        assert total["median"] == steps[0]["median"]


def test_a_sum_over_the_open_bucket_is_never_below_what_is_sold(client: httpx.Client) -> None:
    found = get(client, "/v1/forecasts/100/p0", sum="1..3", quantiles="0.001,0.5")
    total, first = found["sum"], found["steps"][0]
    assert total["sold"] == first["sold"] == 2
    assert total["remains"] == pytest.approx(total["mean"] - 2, abs=1e-3)
    assert total["quantiles"]["0.001"] >= 2
    assert first["mean"] == pytest.approx(first["sold"] + first["remains"], abs=2e-4)
    later = get(client, "/v1/forecasts/100/p0", sum="2..3")["sum"]
    assert later["sold"] is None and later["remains"] is None


def test_a_sum_may_reach_beyond_the_steps_asked_for(client: httpx.Client) -> None:
    found = get(client, "/v1/forecasts/100/p0", horizon=1, sum="2..20")
    assert len(found["steps"]) == 1 and found["sum"]["to"] == 20


@pytest.mark.parametrize(
    "text", ["", "3", "0..3", "9..3", "1..29", "1...3", "a..b", "1..2..3", "-1..3", "1..٣"]
)
def test_a_sum_that_is_none_is_named_with_its_bounds(client: httpx.Client, text: str) -> None:
    for path, more in (("/v1/forecasts/100/p0", {}), ("/v1/forecasts", {"group_by": "store"})):
        assert "28" in problem(client, path, 422, "sum", sum=text, **more)
    body = {"series": [["100", "p0"]], "sum": text}
    found = client.post("/v1/forecasts:batch", json=body)
    assert (found.status_code, found.json()["field"]) == (422, "sum")


def test_a_batch_has_the_sums_of_single_answers(client: httpx.Client) -> None:
    body = {"all": True, "horizon": 2, "sum": "1..7", "quantiles": [0.1, 0.9]}
    found = client.post("/v1/forecasts:batch", json=body).raise_for_status().json()
    (group,) = found["groups"]
    for at, (store, product) in enumerate(zip(group["store"], group["product"], strict=True)):
        one = get(client, f"/v1/forecasts/{store}/{product}", sum="1..7", horizon=2,
                  quantiles="0.1,0.9")  # fmt: skip
        total = one["sum"]
        assert group["sum"]["mean"][at] == pytest.approx(total["mean"], abs=1e-4)
        assert group["sum"]["median"][at] == pytest.approx(total["median"], abs=1e-4)
        assert group["sum"]["sold"][at] == total["sold"]
        for name, level in total["quantiles"].items():
            assert group["sum"]["quantiles"][name][at] == pytest.approx(level, abs=1e-4)
        # The open bucket's own step agrees as well.
        assert group["mean"][0][at] == pytest.approx(one["steps"][0]["mean"], abs=1e-4)
        for name, level in one["steps"][0]["quantiles"].items():
            assert group["quantiles"][name][0][at] == pytest.approx(level, abs=1e-4)
    assert {key: group["sum"][key] for key in ("from", "to", "start", "end")} == {
        "from": 1, "to": 7, "start": group["start"][0], "end": one["sum"]["end"],
    }  # fmt: skip


# -- groups --------------------------------------------------------------------------------


def all_steps(client: httpx.Client, horizon: int = 14) -> dict[tuple[str, str], list[Any]]:
    return {
        (store, product): get(client, f"/v1/forecasts/{store}/{product}", horizon=horizon)["steps"]
        for store in STORES for product in CATEGORY
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["store", "category", "product", "all"])
def test_a_groups_mean_is_the_sum_of_its_series(client: httpx.Client, kind: str) -> None:
    found = get(client, "/v1/forecasts", group_by=kind, quantiles="0.1,0.9", sum="2..8")
    series = all_steps(client)

    def names(store: str, product: str) -> str:
        of = {"store": store, "category": CATEGORY[product], "product": product, "all": "all"}
        return of[kind]

    assert found["total"] == len({names(*key) for key in series})
    assert found["next_offset"] is None and set(found["partitions"]) == {"0", "1"}
    volumes = []
    for item in found["items"]:
        mine = [steps for key, steps in series.items() if names(*key) == item["group"]]
        assert item["series"] == len(mine) and len(item["steps"]) == 14
        for at, step in enumerate(item["steps"]):
            assert step["mean"] == pytest.approx(sum(one[at]["mean"] for one in mine), abs=0.01)
            assert step["start"] == mine[0][at]["start"]
            low, high = step["quantiles"]["0.1"], step["quantiles"]["0.9"]
            # All that is usually sold in a day has come by now.
            assert low < step["mean"] < high if at else low <= step["mean"] <= high
            sold = [one[at]["sold"] for one in mine]
            assert step["sold"] == (None if sold[0] is None else pytest.approx(sum(sold)))
        first = item["steps"][0]
        assert first["remains"] == pytest.approx(first["mean"] - first["sold"], abs=1e-3)
        assert first["quantiles"]["0.1"] >= first["sold"]
        seven = sum(step["mean"] for step in item["steps"][1:8])
        assert item["sum"]["mean"] == pytest.approx(seven, abs=0.01)
        volumes.append(seven)
    assert volumes == sorted(volumes, reverse=True)


def test_groups_come_by_pages_and_filters_leave_some_of_their_series(client: httpx.Client) -> None:
    whole = get(client, "/v1/forecasts", group_by="product", horizon=1)["items"]
    pages = [
        get(client, "/v1/forecasts", group_by="product", horizon=1, limit=1, offset=at)
        for at in range(3)
    ]
    assert [page["items"][0] for page in pages] == whole
    assert [page["next_offset"] for page in pages] == [1, 2, None]
    assert get(client, "/v1/forecasts", group_by="product", offset=9)["items"] == []
    found = get(client, "/v1/forecasts", group_by="category", store="101", category="fruit")
    (item,) = found["items"]
    assert (item["group"], item["series"], len(found["partitions"])) == ("fruit", 2, 1)
    of_store = get(client, "/v1/forecasts", group_by="store", store="101")["items"]
    of_all = get(client, "/v1/forecasts", group_by="all", store="101")["items"]
    assert of_all[0]["steps"] == of_store[0]["steps"]


def test_what_no_series_has_is_named(client: httpx.Client) -> None:
    said = problem(client, "/v1/forecasts", 404, "store", group_by="category", store="nowhere")
    assert "nowhere" in said
    assert client.get("/v1/forecasts").status_code == 422
    assert client.get("/v1/forecasts?group_by=shelf").status_code == 422
    problem(client, "/v1/forecasts", 422, "horizon", group_by="all", horizon=99)


def test_partitions_that_are_apart_say_one_span_or_how_far_apart_they_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    deployment = Deployment(tmp_path_factory.mktemp("apart"), grace_s=7200, guard="off",
                            champion="ensemble", challengers=("seasonal_naive",))  # fmt: skip
    publish(deployment, {1: DAYS - 5})
    behind = [store for store in STORES if partition_of(store, 2) == 1]
    with running(deployment.app()) as client:
        until(lambda: client.get("/v1/series").json().get("total") == 18)
        found = get(client, "/v1/forecasts", group_by="store", horizon=14)
        ahead = next(store for store in STORES if store not in behind)
        newest = get(client, f"/v1/forecasts/{ahead}/p0")
        oldest = get(client, f"/v1/forecasts/{behind[0]}/p0", horizon=28)
        assert found["origin"] == newest["origin"] > oldest["origin"]
        assert found["partitions"]["1"]["origin"] == oldest["origin"]
        items = {item["group"]: item for item in found["items"]}
        apart = [step["start"] for step in oldest["steps"]].index(newest["steps"][0]["start"])
        assert apart > 3
        said = [
            get(client, f"/v1/forecasts/{behind[0]}/{product}", horizon=28)["steps"]
            for product in CATEGORY
        ]
        for at, step in enumerate(items[behind[0]]["steps"]):
            mean = sum(one[at + apart]["mean"] for one in said)
            assert step["mean"] == pytest.approx(mean, abs=1e-3)
            assert step["start"] == said[0][at + apart]["start"]
        detail = problem(client, "/v1/forecasts", 503, "horizon", group_by="store", horizon=28)
        assert str(apart) in detail
    deployment.close()


def test_a_partition_that_is_quiet_for_good_is_left_out_and_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    deployment = Deployment(tmp_path_factory.mktemp("quiet"), grace_s=7200, guard="off",
                            champion="ensemble", challengers=("seasonal_naive",))  # fmt: skip
    publish(deployment, {1: DAYS - 30})
    quiet = [store for store in STORES if partition_of(store, 2) == 1]
    open_still = [store for store in STORES if store not in quiet]
    with running(deployment.app()) as client:
        until(lambda: client.get("/v1/series").json().get("total") == 18)
        found = get(client, "/v1/forecasts", group_by="store", horizon=28)
        assert sorted(item["group"] for item in found["items"]) == open_still
        left_out = {name: one["left_out"] for name, one in found["partitions"].items()}
        assert left_out == {"0": False, "1": True}
        elsewhere = get(client, "/v1/forecasts", group_by="store", store=open_still[0], horizon=28)
        assert list(elsewhere["partitions"]) == ["0"]
        # By itself it says what its stores' series say.
        alone = get(client, "/v1/forecasts", group_by="all", store=quiet[0], horizon=28)
        assert alone["origin"] == get(client, f"/v1/forecasts/{quiet[0]}/p0")["origin"]
        assert alone["partitions"]["1"]["left_out"] is False
        # One that has yet to catch up is waited for: totals without it would be of a part.
        head = deployment.store.pointers(1).head
        assert head is not None
        more = [Entry(1, None, b"{}")] * (head.position + 1100)
        deployment.events.append(more)
        asked: dict[str, Any] = {"group_by": "store", "horizon": 28}
        until(lambda: client.get("/v1/forecasts", params=asked).status_code == 503)
        detail = problem(client, "/v1/forecasts", 503, "horizon", **asked)
        assert detail == "partition 1 is catching up, and forecasts none of these buckets yet"
    deployment.close()


def test_groups_are_never_asked_for_by_a_series_name(client: httpx.Client) -> None:
    """``/v1/forecasts`` is a collection; what is below it stays one series."""
    assert get(client, "/v1/forecasts/100/p0")["product"] == "p0"
    problem(client, "/v1/forecasts/100/p0", 422, "group_by", group_by="store")
    assert np.isfinite(get(client, "/v1/forecasts", group_by="all")["items"][0]["steps"][0]["mean"])


@pytest.mark.parametrize(
    ("name", "value"), [("as_of", "2024-01-05T00:00:00Z"), ("point", "mape"), ("point", "mean")]
)
def test_what_groups_do_not_have_is_refused_and_not_passed_over(
    client: httpx.Client, name: str, value: str
) -> None:
    problem(client, "/v1/forecasts", 422, name, group_by="store", **{name: value})
    paths = client.get("/openapi.json").json()["paths"]
    known = {one["name"] for one in paths["/v1/forecasts"]["get"]["parameters"]}
    assert name not in known and {"horizon", "quantiles", "sum", "group_by"} <= known
    single = paths["/v1/forecasts/{store}/{product}"]["get"]["parameters"]
    assert name in {one["name"] for one in single}
