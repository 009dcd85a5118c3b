"""What was forecast then, from the newest snapshot that knew no more than then."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.past import VIEWS_KEPT
from learner.replay import Replay
from stream.errors import StoreUnavailable
from tests.api_parts import ORIGIN, Deployment, Down, context_of, running
from tests.integration.test_api import problem

KEYS = [("100", "apple"), ("100", "a/explain")]
#: The watermark of the first snapshot: see ``tests.api_parts``.
KNEW = datetime(2025, 3, 2, 0, 0, 5, tzinfo=UTC)
DAYS = VIEWS_KEPT + 3
PATH = "/v1/forecasts/100/apple"


class Week:
    """Days with a snapshot each, a series more from the fifth on, and what was served on each."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.store = Down(deployment.store, StoreUnavailable("no store"))
        app = deployment.app(store=self.store)
        self.context = context_of(app)
        self.served: list[dict[str, Any]] = []
        self.answers = running(app)
        self.client = self.answers.__enter__()
        for day in range(DAYS):
            keys = KEYS if day < 4 else [*KEYS, ("100", "late")]
            deployment.publish(0, 5 + day, keys=keys, origin=ORIGIN + day, seed=day)
            self.context.replica.refresh()
            self.served.append(self.get())

    def get(self, path: str = PATH, **asked: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(path, params=asked).raise_for_status().json()
        return {name: value for name, value in found.items() if name != "age_s"}


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    deployment = Deployment(tmp_path_factory.mktemp("past"), partitions=1, replica_poll_s=60)
    found = Week(deployment)
    yield found
    found.answers.__exit__(None, None, None)
    deployment.close()


def at(day: int, **later: float) -> str:
    return (KNEW + timedelta(days=day, **later)).isoformat()


def test_each_time_is_answered_as_it_was_then(week: Week) -> None:
    assert len({one["snapshot"] for one in week.served}) == DAYS
    for day in [*range(DAYS), 0, DAYS - 1]:
        for moment in (at(day), at(day, hours=23)):
            assert week.get(as_of=moment) == week.served[day]
    assert week.get(as_of="2100-01-01T00:00:00Z") == week.get() == week.served[-1]


def test_horizon_and_quantiles_count_as_ever(week: Week) -> None:
    found = week.get(as_of=at(1), horizon=2, quantiles="0.25,0.9")
    assert [list(step["quantiles"]) for step in found["steps"]] == [["0.25", "0.9"]] * 2
    assert found["steps"][0]["mean"] == week.served[1]["steps"][0]["mean"]
    problem(week.client.get(PATH, params={"as_of": at(1), "horizon": 29}), 422, "horizon")


def test_few_snapshots_are_kept_in_memory_without_their_histories(week: Week) -> None:
    for day in range(DAYS):
        week.get(as_of=at(day))
    kept = week.context.past._kept
    assert len(kept) == VIEWS_KEPT
    assert all(view.serving.units.size == 0 for view in kept.values())
    week.store.down = True
    try:
        assert week.get() == week.served[-1]
        problem(week.client.get(PATH, params={"as_of": at(0)}), 503)
    finally:
        week.store.down = False
    assert week.get(as_of=at(0)) == week.served[0]


def test_before_the_oldest_that_is_kept_the_answer_says_what_is(week: Week) -> None:
    answer = week.client.get(PATH, params={"as_of": at(0, seconds=-1)})
    found = problem(answer, 404, "as_of")
    assert found["kept"] == {"oldest": at(0), "newest": at(DAYS - 1)}
    assert at(0) in found["remedy"]


def test_a_series_that_was_not_known_then_is_told_from_one_that_never_was(week: Week) -> None:
    late = "/v1/forecasts/100/late"
    assert week.get(late, as_of=at(4))["product"] == "late"
    assert problem(week.client.get(late, params={"as_of": at(3)}), 404, "as_of")
    never = week.client.get("/v1/forecasts/100/never", params={"as_of": at(3)})
    problem(never, 404, "product")
    problem(week.client.get("/v1/forecasts/9/x", params={"as_of": at(3)}), 404, "store")


@pytest.mark.parametrize("text", ["", "yesterday", "2025-03-02", "2025-03-02T00:00:00", "1e9"])
def test_a_time_without_a_zone_is_refused(week: Week, text: str) -> None:
    problem(week.client.get(PATH, params={"as_of": text}), 422, "as_of")


def test_a_plus_sign_need_not_be_quoted(week: Week) -> None:
    assert (
        week.client.get(f"{PATH}?as_of={at(2)}").json()["snapshot"] == (week.served[2]["snapshot"])
    )


def test_a_product_may_be_called_explain(week: Week) -> None:
    """Why there is no …/explain below a forecast: it would hide this product."""
    assert week.get("/v1/forecasts/100/a/explain")["product"] == "a/explain"


def test_before_a_replay_is_answered_what_was_served_and_not_what_it_was_on_its_way(
    tmp_path: Path,
) -> None:
    deployment = Deployment(tmp_path, partitions=1)
    served = [deployment.publish(0, 5 + day, keys=KEYS, origin=ORIGIN + day) for day in range(3)]
    under_way = Replay(operation="r", start=0, until=20)
    deployment.publish(0, 2, keys=[], origin=None, lineage=1, replay=under_way)
    deployment.publish(0, 6, keys=KEYS, origin=ORIGIN, seed=1, lineage=1, replay=under_way)
    ended = deployment.publish(0, 20, keys=KEYS, origin=ORIGIN + 3, seed=2, lineage=1)
    app = deployment.app()
    context_of(app).replica.refresh()
    with running(app) as client:
        then = [client.get(PATH, params={"as_of": at(day)}).json() for day in range(4)]
    assert [one.get("snapshot") for one in then] == [*served, ended], then
    deployment.close()


def test_what_retention_deleted_is_no_longer_kept(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, partitions=1)
    first = deployment.publish(0, 5, keys=KEYS)
    deployment.publish(0, 6, keys=KEYS, origin=ORIGIN + 1, seed=1)
    app = deployment.app()
    context_of(app).replica.refresh()
    with running(app) as client:
        assert client.get(PATH, params={"as_of": at(0)}).json()["snapshot"] == first
        deployment.store.delete(0, [first])
        problem(client.get(PATH, params={"as_of": at(0)}), 404, "as_of")
    deployment.close()
