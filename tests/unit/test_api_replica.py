"""The replica follows what is active, and goes on serving whatever happens to the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from api import search
from api.asked import parse
from api.replica import Replica
from learner.store import Pointer, Standstill
from stream.errors import StoreError, StoreUnavailable
from stream.log import Entry
from tests.api_parts import ORIGIN, Deployment, Down, context_of, keys_of, running, until

#: Asks for the largest answer there is.
MANY_LEVELS = b"horizon=28&quantiles=" + b",".join(b"%.2f" % (at / 100) for at in range(1, 51))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.close()


def replica_of(deployment: Deployment, **parts: object) -> Replica:
    return context_of(deployment.app(**parts)).replica


def served(replica: Replica) -> dict[int, str]:
    return {p: view.serving.snapshot for p, view in replica.state.views.items()}


def chunk_of(deployment: Deployment, partition: int, snapshot: str, part: str) -> Path:
    manifest = deployment.signer.verifier.open(
        deployment.store.get_manifest(partition, snapshot), partition, snapshot
    )
    digest = manifest.parts[part].chunks[0]
    (path,) = Path(deployment.settings.data_dir).rglob(digest)
    return path


def test_nothing_is_served_before_the_first_snapshot(deployment: Deployment) -> None:
    replica = replica_of(deployment)
    assert not replica.refresh()
    assert replica.polled
    assert served(replica) == {}
    assert replica.find("100", "apple") is None


def test_a_new_snapshot_is_swapped_in_and_the_next_look_changes_nothing(
    deployment: Deployment,
) -> None:
    replica = replica_of(deployment)
    first = deployment.publish(0, 5)
    assert replica.refresh()
    assert served(replica) == {0: first}
    second = deployment.publish(0, 9, seed=1)
    assert replica.refresh()
    assert served(replica) == {0: second}
    before = replica.state.views
    assert not replica.refresh()
    assert replica.state.views[0] is before[0]


def test_the_store_counts_as_read_only_once_what_it_holds_is_served(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.publish(0, 5)
    replica = replica_of(deployment)
    build, up = search.build, []

    def watched(*parts: Any) -> search.Index:
        up.append(replica.store_up)
        return build(*parts)

    monkeypatch.setattr(search, "build", watched)
    assert replica.refresh() and replica.store_up
    assert up == [False], "a probe would call it ready, and no forecast were answered"


def test_series_are_found_in_the_partition_that_serves_them(deployment: Deployment) -> None:
    deployment.publish(0, 5, keys=[("a", "x")])
    deployment.publish(1, 5, keys=[("b", "x"), ("b", "y")])
    replica = replica_of(deployment)
    replica.refresh()
    found = replica.find("b", "y")
    assert found is not None
    assert (found[0].serving.partition, found[1]) == (1, 1)
    assert replica.find("a", "y") is None


def test_a_damaged_snapshot_leaves_the_old_one_served_and_is_told_once(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    first = deployment.publish(0, 5)
    replica = replica_of(deployment)
    replica.refresh()
    second = deployment.publish(0, 9, seed=1)
    path = chunk_of(deployment, 0, second, "forecast")
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            replica.refresh()
    assert served(replica) == {0: first}
    assert not replica.store_up
    assert sum("partition 0" in record.message for record in caplog.records) == 1
    path.write_bytes(whole)
    replica.refresh()
    assert served(replica) == {0: second}
    assert replica.store_up


def test_a_foreign_signature_is_never_served(deployment: Deployment, tmp_path: Path) -> None:
    other = Deployment(tmp_path)
    other.publish(0, 5)
    replica = replica_of(deployment)
    replica.refresh()
    assert served(replica) == {}
    assert not replica.store_up
    other.close()


def test_a_store_that_is_down_leaves_what_is_served(deployment: Deployment) -> None:
    first = deployment.publish(0, 5)
    store = Down(deployment.store, StoreUnavailable("the store is down"))
    replica = replica_of(deployment, store=store)
    replica.refresh()
    store.down = True
    assert not replica.refresh()
    assert served(replica) == {0: first}
    assert not replica.store_up
    store.down = False
    deployment.publish(0, 9, seed=1)
    assert replica.refresh()
    assert replica.store_up


def test_a_store_whose_folder_has_gone_or_is_empty_leaves_what_is_served(
    deployment: Deployment,
) -> None:
    first = [deployment.publish(p, 5) for p in (0, 1)]
    replica = replica_of(deployment)
    replica.refresh()
    folder = Path(deployment.settings.data_dir) / "snapshots"
    aside = folder.rename(folder.with_name("aside"))
    for there in (False, True):  # a mount that is lost leaves its place behind, or does not
        if there:
            (folder / "chunks").mkdir(parents=True)
        assert not replica.refresh()
        assert served(replica) == dict(enumerate(first))
        assert not replica.store_up
        assert replica.find("100", "apple") or replica.find("101", "apple")
    (folder / "chunks").rmdir()
    folder.rmdir()
    aside.rename(folder)
    assert not replica.refresh()
    assert replica.store_up


def test_a_cut_is_switched_to_as_a_whole(deployment: Deployment) -> None:
    old = [deployment.publish(p, 5) for p in (0, 1)]
    new = [deployment.publish(p, 9, seed=1) for p in (0, 1)]
    replica = replica_of(deployment)
    replica.refresh()
    assert served(replica) == dict(enumerate(new))
    path = chunk_of(deployment, 1, old[1], "forecast")
    hidden = path.rename(path.with_suffix(".hidden"))
    for p in (0, 1):
        assert deployment.store.move_active(p, Pointer(old[p], 0, 5), "op", 0)
    replica.refresh()
    assert served(replica) == dict(enumerate(new))
    hidden.rename(path)
    replica.refresh()
    assert served(replica) == dict(enumerate(old))


def test_a_standstill_is_shown_until_the_head_is_past_it_and_serves_as_before(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deployment.publish(0, 5)
    for partition, offset in ((0, 7), (1, None)):
        deployment.store.put_standstill(partition, Standstill(offset, "why", "skip", 10**15))
    replica = replica_of(deployment)
    replica.refresh()
    assert replica.standstill(0) == {
        "offset": 7, "why": "why", "since": "2001-09-09T01:46:40+00:00", "remedy": "skip"
    }  # fmt: skip
    assert (replica.standstill(1) or {})["offset"] is None and replica.standstill(2) is None

    def refused() -> NoReturn:
        raise StoreError("not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(deployment.store, "standstills", refused)
        last = deployment.publish(0, 7, seed=1)
        assert replica.refresh() and replica.store_up
        assert served(replica) == {0: last} != {0: first}
        assert replica.standstill(0)
    deployment.publish(0, 8, seed=2)
    replica.refresh()
    assert replica.standstill(0) is None and replica.standstill(1)


def test_what_follows_the_head_is_stale_by_age(deployment: Deployment) -> None:
    long_ago = round((time.time() - 2 * deployment.settings.stale_after_s) * 1e6)
    deployment.publish(0, 5, created_us=long_ago)
    deployment.publish(1, 5)
    replica = replica_of(deployment)
    replica.refresh()
    old, fresh = replica.state.views[0], replica.state.views[1]
    assert replica.stale(old, replica.age_s(old))
    assert not replica.stale(fresh, replica.age_s(fresh))


def test_what_is_frozen_is_stale_only_beyond_its_last_horizon(deployment: Deployment) -> None:
    long_ago = round((time.time() - 2 * deployment.settings.stale_after_s) * 1e6)
    frozen = deployment.publish(0, 5, created_us=long_ago)
    deployment.store.move_active(0, Pointer(frozen, 0, 5), "op", 0)
    horizons = deployment.settings.horizons
    replica = replica_of(deployment)
    for position, ahead, stale in ((9, horizons - 1, False), (11, horizons, True)):
        deployment.publish(0, position, origin=ORIGIN + ahead, seed=position)
        replica.refresh()
        view = replica.state.views[0]
        assert view.serving.snapshot == frozen
        assert replica.stale(view, replica.age_s(view)) is stale


def test_answers_are_kept_up_to_a_size_and_the_oldest_go_first(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.replica.STEPS_BYTES", 100_000)
    deployment.publish(0, 5)
    replica = replica_of(deployment)
    replica.refresh()
    view = replica.state.views[0]
    small, large = (parse(b"horizon=1", 28), parse(MANY_LEVELS, 28))
    said = [view.steps(row, small) for row in range(6)]
    for row in range(6):
        view.steps(row, large)
    kept = view._steps.texts
    assert 0 < sum(map(len, kept.values())) <= 100_000
    assert (0, small) not in kept and (5, large) in kept
    assert [view.steps(row, small) for row in range(6)] == said


def test_search_finds_all_words_and_gives_the_busiest_first(deployment: Deployment) -> None:
    keys = keys_of(["North 1", "South 2"], ["Apple pie", "Pear"])
    deployment.publish(0, 5, keys=keys[:2], categories="Cakes")
    deployment.publish(1, 5, keys=keys[2:], categories="Fruit", seed=4)
    replica = replica_of(deployment)
    replica.refresh()
    index = replica.state.index

    def found(query: str) -> list[tuple[str, str]]:
        return [index.keys[place] for place in index.search(query)]

    assert set(found("")) == set(keys)
    assert found("APPLE north") == [("North 1", "Apple pie")]
    assert set(found("fruit")) == set(keys[2:])
    assert found("apple fruit 1") == []
    assert list(index.recent) == sorted(index.recent, reverse=True)
    volumes = {p: search.recent(view.serving, 7) for p, view in replica.state.views.items()}
    for place in index.search(""):
        partition, row = index.partition[place], index.row[place]
        assert index.recent[place] == volumes[partition][row]


def test_one_good_day_among_missing_ones_makes_no_busy_series(deployment: Deployment) -> None:
    deployment.publish(0, 5)
    replica = replica_of(deployment)
    replica.refresh()
    serving = replica.state.views[0].serving
    past = serving.past(0, 7)
    assert (past.status == 0).sum() == 1
    known = past.units[past.status != 0]
    assert search.recent(serving, 7)[0] == pytest.approx(known.sum() / 7)


def test_an_unknown_series_has_neighbours(deployment: Deployment) -> None:
    deployment.publish(0, 5, keys=[("330", "P-102"), ("330", "P-777"), ("406", "P-555")])
    replica = replica_of(deployment)
    replica.refresh()
    near = replica.state.index.near
    assert near("330", "p-1o2")[0] == "330/P-102"
    assert near("406", "P-102") == ["330/P-102"]
    assert near("331", "P-777") == ["330/P-777"]
    assert near("40", "nothing like it")[0] == "406/P-555"
    assert near("Ω", "Ω") == []


ASKED: list[tuple[str, str, dict[str, object] | None]] = [
    ("GET", "/v1/forecasts/100/apple", None),
    ("GET", "/v1/forecasts/100/apple?as_of=2025-03-02T06:00:00Z", None),
    ("GET", "/v1/forecasts?group_by=all", None),
    ("POST", "/v1/forecasts:batch", {"series": [["100", "apple"]]}),
    ("GET", "/v1/explain/100/apple", None),
    ("GET", "/v1/history/100/apple", None),
]


def test_a_snapshot_of_other_settings_is_not_served_and_the_difference_is_named(
    deployment: Deployment,
) -> None:
    deployment.publish(0, 5)
    deployment.publish(1, 5)
    deployment.settings = replace(deployment.settings, bucket="hour", timezone="Europe/Berlin")
    with running(deployment.app()) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 503
        (reason,) = ready.json()["reasons"]
        assert "bucket: 'day', now 'hour'" in reason and "timezone: 'UTC', now" in reason
        assert "Set the settings back" in reason
        for method, path, body in ASKED:
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/needs-operator")


def test_while_nothing_could_be_read_no_store_is_called_unknown(deployment: Deployment) -> None:
    deployment.publish(0, 5)
    store = Down(deployment.store, StoreUnavailable("down"))
    store.down = True
    deployment.events.append([Entry(0, None, b"[]")])
    with running(deployment.app(store=store)) as client:
        until(lambda: client.get("/v1/status").json()["log_up"])
        assert client.get("/readyz").json()["reasons"] == ["the snapshot store cannot be read"]
        for method, path, body in ASKED:
            answer = client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
