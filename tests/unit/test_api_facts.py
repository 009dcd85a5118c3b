"""What is planned and known, read from the head's snapshot and from the log since."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.facts import FactReader, Facts
from api.problems import Problem
from stream.event import Plan, Product, Sale, encode
from stream.log import Entry, partition_of
from tests.api_parts import Deployment, context_of

NOON = datetime(2025, 3, 2, 12, tzinfo=UTC)
HOME = partition_of("100", 2)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.close()


def plan(id: str = "w", revision: int = 0, **what: Any) -> Plan:
    said = {"start": datetime(2025, 3, 5, tzinfo=UTC), "end": datetime(2025, 3, 8, tzinfo=UTC)}
    return Plan(id=id, source="hq", time=NOON, revision=revision, promotion=0.5, **(said | what))


def product(name: str = "apple", at: datetime = NOON, **what: Any) -> Product:
    return Product(id=name, source="hq", time=at, product=name, **what)


def log(deployment: Deployment, *events: Any, partition: int | None = None) -> list[int]:
    """Append each event where it belongs, or to one partition; offsets."""
    entries = []
    for event in events:
        everywhere = range(2) if event.store == "*" else (partition_of(event.store, 2),)
        for where in everywhere if partition is None else (partition,):
            entries.append(Entry(where, None, encode(event)))
    return deployment.events.append(entries)


def versions(facts: Facts) -> dict[str, tuple[int, bool]]:
    return {id: (one.revision, folded) for (_, id), (one, folded) in facts.plans.items()}


def test_what_a_snapshot_knows_is_folded_and_what_the_log_holds_since_waits(
    deployment: Deployment,
) -> None:
    log(deployment, plan("old"), product())
    for partition in (0, 1):
        deployment.publish(partition, 2, facts=[plan("old"), product(category="fruit")])
    log(deployment, plan("new"), plan("old", 1))
    facts = context_of(deployment.app()).facts.read()
    assert versions(facts) == {"old": (1, False), "new": (0, False)}
    known, folded = facts.told["*", "apple"]
    assert (known.category, folded) == ("fruit", True)


def test_a_fact_is_folded_once_it_is_wherever_it_belongs(deployment: Deployment) -> None:
    reader = context_of(deployment.app()).facts
    log(deployment, plan())
    assert versions(reader.read()) == {"w": (0, False)}
    deployment.publish(0, 1, facts=[plan()])
    assert versions(reader.read()) == {"w": (0, False)}
    deployment.publish(1, 1, facts=[plan()])
    assert versions(reader.read()) == {"w": (0, True)}


def test_a_plan_that_moved_to_another_store_is_the_one_it_moved_to(deployment: Deployment) -> None:
    moved = plan("w", 1, store="100")
    log(deployment, plan(), plan("w", 0, withdrawn=True), moved)
    facts = context_of(deployment.app()).facts.read()
    assert facts.plans["hq", "w"] == (moved, False)


def test_the_product_told_last_counts_and_its_store_before_all(deployment: Deployment) -> None:
    late = NOON.replace(hour=18)
    log(deployment, product(category="a"), product(at=late, category="b"))
    log(deployment, product(store="100", category="c"))
    facts = context_of(deployment.app()).facts.read()
    assert facts.told["*", "apple"][0].category == "b"
    about = facts.products.about
    assert (about("*", "apple").category, about("100", "apple").category) == ("b", "c")
    assert (set(facts.names), set(facts.categories)) == ({"apple"}, {"b", "c"})


def test_facts_of_strange_shape_are_found_and_what_the_fold_refuses_is_not(
    deployment: Deployment,
) -> None:
    packed = b"[" + encode(product("in an array")) + b"]"
    spaced = encode(plan("spaced")).replace(b'"type":"plan"', b'"type" :\n "\\u0070lan"')
    deployment.events.append([Entry(0, None, packed), Entry(0, None, spaced)])
    log(deployment, plan("astray", store="100"), partition=1 - HOME)
    deployment.events.append(
        [Entry(0, None, b'{"type":"plan","id":"torn'), Entry(1, None, b"\xff")]
    )
    facts = context_of(deployment.app()).facts.read()
    assert facts.names == {"in an array"}
    assert list(facts.plans) == [("hq", "spaced")]


def test_facts_read_step_by_step_are_those_read_at_once(deployment: Deployment) -> None:
    context = context_of(deployment.app())
    steps = [
        (plan("a"), product("p", category="x")),
        (plan("a", 1), plan("b", store="100")),
        (plan("a", 1, withdrawn=True), product("p", NOON.replace(hour=13), category="y")),
        (plan("a", 0), product("p", store="100", category="z"), plan("b", 5, store="101")),
    ]
    folded: list[Any] = []
    for at, events in enumerate(steps):
        log(deployment, *events)
        for reader in (context.facts, context_of(deployment.app()).facts):
            found = reader.read()
            if reader is context.facts:
                step_by_step = found
        assert dict(found.plans) == dict(step_by_step.plans)
        assert dict(found.told) == dict(step_by_step.told)
        if at == 1:
            folded += [one for events in steps[:2] for one in events]
            for partition, end in deployment.events.end().items():
                mine = [one for one in folded
                        if one.store == "*" or partition_of(one.store, 2) == partition]  # fmt: skip
                deployment.publish(partition, end, facts=mine, seed=1)
    assert versions(found) == {"a": (1, False), "b": (5, False)}
    assert found.plans["hq", "a"][0].withdrawn


def test_what_was_told_is_not_lost_when_a_read_is_put_off(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.facts.READ_RECORDS", 1)
    context = context_of(deployment.app())
    reader = FactReader(deployment.store, context.catalog, deployment.events, lambda: 0.0)
    assert versions(reader.read()) == {}
    log(deployment, plan("first"), plan("second"))
    deployment.publish(1, 1, facts=[plan("first")])
    times = iter([0.0])
    monkeypatch.setattr(reader, "_clock", lambda: next(times, 1e9))
    with pytest.raises(Problem):
        reader.read()
    monkeypatch.setattr(reader, "_clock", lambda: 0.0)
    assert versions(reader.read()) == {"first": (0, False), "second": (0, False)}


def test_nothing_of_the_log_is_read_twice_nor_before_the_head(deployment: Deployment) -> None:
    sale = Sale(id="1", source="till", time=NOON, store="100", product="apple", quantity=1)
    log(deployment, sale, sale)
    deployment.publish(HOME, 2)
    app = deployment.app()
    asked: list[int] = []
    read = deployment.events.read

    def counting(partition: int, offset: int, max_records: int = 1000) -> Any:
        asked.append(offset)
        return read(partition, offset, max_records)

    deployment.events.read = counting  # type: ignore[method-assign]
    reader = context_of(app).facts
    reader.read()
    assert asked == []
    log(deployment, sale)
    log(deployment, plan("w", store="100"))
    first = reader.read()
    assert asked == [2]
    assert reader.read() is first
    assert asked == [2]


def test_a_head_that_has_gone_back_loses_no_plan_that_came_before_it_went(
    deployment: Deployment,
) -> None:
    log(deployment, plan("early", store="100"))
    deployment.publish(HOME, 1, facts=[plan("early", store="100")])
    log(deployment, plan("late", 3, store="100"))
    deployment.publish(HOME, 2, facts=[plan("early", store="100"), plan("late", 3, store="100")])
    reader = context_of(deployment.app()).facts
    assert versions(reader.read()) == {"early": (0, True), "late": (3, True)}
    # A replay begins from a cut of before the plan, which it has yet to learn again.
    deployment.publish(HOME, 1, facts=[plan("early", store="100")], lineage=1, seed=1)
    assert versions(reader.read()) == {"early": (0, True), "late": (3, False)}
    deployment.publish(HOME, 2, facts=[plan("late", 3, store="100")], lineage=1, seed=2)
    assert versions(reader.read()) == {"late": (3, True)}


def test_a_log_too_long_to_look_through_is_told_and_looked_through_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.facts.READ_RECORDS", 2)
    context = context_of(deployment.app())
    times = iter(range(0, 1000, 2))
    reader = FactReader(
        deployment.store, context.catalog, deployment.events, lambda: float(next(times))
    )
    sale = Sale(id="1", source="till", time=NOON, store="100", product="apple", quantity=1)
    log(deployment, *[sale] * 9, plan("w", store="100"))
    refused = 0
    for _ in range(5):
        try:
            facts = reader.read()
        except Problem as problem:
            assert (problem.status, problem.members["type"]) == (503, "/problems/behind")
            assert int(problem.headers["Retry-After"]) > 0
            refused += 1
        else:
            break
    assert 0 < refused < 5
    assert list(facts.plans) == [("hq", "w")]
