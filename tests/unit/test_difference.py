"""Why a forecast moved: parts that add up, each of what alone has changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from learner.difference import Change, difference
from learner.forecaster import Forecaster
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from tests.learner_parts import Told, chosen, market, plan, sale, tick

KEY = ("s", "p1")
DAYS = 40


def fresh() -> Told:
    return Told(Shard(chosen(challengers=(), twin_seasons=0, revise_buckets=5), 0))


def frozen(one: Told) -> Forecaster:
    """The champion as a snapshot has it."""
    shard = take_up(one.shard.settings, 0, lay_down(one.shard))
    return Forecaster(shard.panel, shard.models["ensemble"])


@pytest.fixture(scope="module")
def snapshots() -> tuple[Forecaster, Forecaster, Told]:
    """Before, and five days later, in which p1 sold a lot on one of them."""
    one = fresh()
    one.tell(*market(DAYS), tick(DAYS))
    before = frozen(one)
    later = [event for event in market(DAYS + 5) if event.time >= sale(DAYS, hour=0).time]
    one.tell(*later, sale(DAYS + 2, 60, product="p1", hour=20), tick(DAYS + 5))
    return before, frozen(one), one


def total(change: Change) -> float:
    closed = sum(units for _, units in change.closed)
    return change.plans + change.amended + closed + change.model


@pytest.mark.parametrize("horizon", [1, 7, 20])
def test_the_parts_add_up_from_one_forecast_to_the_other(
    snapshots: tuple[Forecaster, Forecaster, Told], horizon: int
) -> None:
    before, after, _ = snapshots
    row = after.panel.rows[KEY]
    found = difference(before, after, KEY, after.origin + horizon)
    assert found.before == pytest.approx(before.forecast(row, horizon + 5)[-1], abs=1e-4)
    assert found.after == pytest.approx(after.forecast(row, horizon)[-1], abs=1e-4)
    assert found.before + total(found) == pytest.approx(found.after, abs=1e-9)
    assert [bucket for bucket, _ in found.closed] == [*range(before.origin + 1, after.origin + 1)]


def test_the_bucket_that_stands_out_moves_the_forecast_most(
    snapshots: tuple[Forecaster, Forecaster, Told],
) -> None:
    before, after, one = snapshots
    closed = dict(difference(before, after, KEY, after.origin + 2).closed)
    assert max(closed, key=lambda bucket: closed[bucket]) == one.bucket(DAYS + 2)
    assert closed[one.bucket(DAYS + 2)] > 1.0


def test_a_snapshot_differs_from_itself_in_nothing(
    snapshots: tuple[Forecaster, Forecaster, Told],
) -> None:
    _, after, _ = snapshots
    found = difference(after, after, KEY, after.origin + 3)
    assert (found.plans, found.amended, found.closed, found.model) == (0, 0, (), 0)
    assert found.revised == ()


def test_another_model_on_the_same_facts_is_all_the_models_doing(
    snapshots: tuple[Forecaster, Forecaster, Told],
) -> None:
    before, after, _ = snapshots
    other = Forecaster(after.panel, before.model)
    found = difference(other, after, KEY, after.origin + 3)
    assert (found.plans, found.amended, found.closed) == (0, 0, ())
    assert found.model == pytest.approx(found.after - found.before, abs=1e-9)
    assert found.model != 0


def test_a_plan_that_became_known_is_its_own_part() -> None:
    one = fresh()
    one.tell(*market(DAYS), tick(DAYS))
    before = frozen(one)
    one.tell(plan("shut", DAYS + 2, DAYS + 3, said=DAYS, store="s", closed=True))
    found = difference(before, frozen(one), KEY, one.bucket(DAYS + 2))
    assert (found.amended, found.closed, found.model, found.after) == (0, (), 0, 0)
    assert found.plans == -found.before < 0


def test_what_came_late_is_told_with_its_bucket() -> None:
    one = fresh()
    one.tell(*market(DAYS), tick(DAYS))
    before = frozen(one)
    one.tell(sale(DAYS - 2, 50, product="p1", hour=21), sale(DAYS, 6, product="p1"),
             tick(DAYS + 1))  # fmt: skip
    found = difference(before, frozen(one), KEY, one.bucket(DAYS + 3))
    ((bucket, was, now),) = found.revised
    assert (bucket, now - was) == (one.bucket(DAYS - 2), 50)
    assert found.amended > 0.5


def test_weights_of_a_series_are_found_though_its_row_is_another(
    snapshots: tuple[Forecaster, Forecaster, Told],
) -> None:
    """After a replay series may have come in another order; a model knows its own."""
    before, after, _ = snapshots
    order = np.array([2, 0, 1])
    panel = before.panel.part(order)
    model = copy.deepcopy(before.model)
    model.loss = model.loss[:, :, order]  # type: ignore[attr-defined]
    model.variance = model.variance[:, order]  # type: ignore[attr-defined]
    moved = Forecaster(panel, model)
    target = after.origin + 2
    assert difference(moved, after, KEY, target) == difference(before, after, KEY, target)
