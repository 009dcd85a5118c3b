"""Groups of series: what they learn from, how parts are put together, and how well it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import groups as learner_groups
from learner import intervals
from learner.groups import KINDS, Came, Groups, PartOf, put_together
from learner.intervals import Traits
from learner.judging import Bundle
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from stream.event import Product, Sale
from tests.learner_parts import Told, chosen, day, market, tick

CATEGORY = {"p0": "fruit", "p1": "fruit", "p2": "milk"}


def trading(days: int, stores: str = "abc") -> list[Any]:
    """Stores with the same products, of two categories."""
    out: list[Any] = [
        Product(id=name, source="hq", time=day(0, 0), product=name, category=category)
        for name, category in CATEGORY.items()
    ]
    for n in range(days):
        for at, store in enumerate(stores):
            out += [
                Sale(id=f"{store}{one.id}", source="till", time=one.time, store=store,
                     product=one.product, quantity=one.quantity, price=one.price)
                for one in market(1, first=n, seed=10 * n + at)
            ]  # fmt: skip
    return [*out, tick(days)]


class Given(Groups):
    """Groups that remember what they were given."""

    def __init__(self, slots: int, bucket: str) -> None:
        super().__init__(slots, bucket)
        self.given: list[tuple[str, int, list[float], list[float]]] = []

    def _learn_some(self, bundle: Bundle, summed: Sequence[Any]) -> None:
        self.given += [
            (KINDS[piece.slot[0]], piece.slot[1], piece.mean.tolist(), piece.actual.tolist())
            for piece, _ in bundle.spans
        ]
        super()._learn_some(bundle, summed)


def test_groups_learn_from_the_plain_sums_of_their_series() -> None:
    shard = Shard(chosen(challengers=("seasonal_naive",)), 0)
    shard.groups = Given(7, "day")
    waited: dict[int, dict[tuple[str, str], float]] = {}
    expected: list[dict[str, dict[str, list[float]]]] = []

    def after(bucket: int) -> None:
        if bucket in waited:
            sums: dict[str, dict[str, list[float]]] = {kind: defaultdict(lambda: [0.0, 0.0])
                                                       for kind in KINDS}  # fmt: skip
            for (store, product), mean in waited[bucket].items():
                units = float(shard.panel.units(bucket)[shard.panel.rows[store, product]])
                names = (store, CATEGORY[product], product, "all")
                for kind, name in zip(KINDS, names, strict=True):
                    sums[kind][name][0] += mean
                    sums[kind][name][1] += units
            expected.append(sums)
        means = shard.predict("ensemble", 1)
        waited[bucket + 1] = {key: float(means[row]) for key, row in shard.panel.rows.items()}

    Told(shard).tell(*trading(20), after_close=after)
    for kind in KINDS:
        found = [given for given in shard.groups.given if given[:2] == (kind, 0)]
        assert len(found) == len(expected) == 19
        for (_, _, means, actuals), sums in zip(found, expected, strict=True):
            plain = sorted(tuple(both) for both in sums[kind].values())
            np.testing.assert_allclose(sorted(zip(means, actuals, strict=True)), plain, rtol=1e-5)


def test_a_series_that_is_not_known_of_is_left_out_on_both_sides() -> None:
    shard = Shard(chosen(), 0)
    Told(shard).tell(*trading(3))
    one = Given(1, "day")
    mean, actual = np.ones(9), np.full(9, 2.0)
    mean[3], actual[4] = np.nan, np.nan
    one.learn(shard.panel, [Came(0, mean, actual)], np.ones(9, bool))
    (of_all,) = [given for given in one.given if given[0] == "all"]
    assert of_all[2:] == ([7.0], [14.0])


def test_what_a_bucket_teaches_of_one_horizon_is_not_known_yet_where_others_are_judged() -> None:
    shard = Shard(chosen(), 0)
    Told(shard).tell(*trading(12))
    came = [Came(slot, np.full(9, 3.0), np.arange(9.0) * (slot + 1)) for slot in range(3)]
    digests = set()
    for order in (came, came[::-1]):
        one = Groups(3, "day")
        for _ in range(5):
            one.learn(shard.panel, order, np.ones(9, bool))
        digests.add(_told(one, shard))
    assert len(digests) == 1


def test_the_order_in_which_categories_came_leaves_no_trace() -> None:
    digests = set()
    for step in (1, -1):
        events = trading(25)
        told = [*events[:30], *events[30:]]
        products, rest = told[:3], told[3:]
        shard = Shard(chosen(), 0)
        # Told once the series are listed, so that their order decides the categories' codes.
        Told(shard).tell(*rest[:60], *products[::step], *rest[60:])
        digests.add(_told(shard.groups, shard))
    assert len(digests) == 1


def _told(groups: Groups, shard: Shard) -> bytes:
    texts = shard.panel.categories.texts
    by_name = sorted(range(len(texts)), key=texts.__getitem__)
    return b"".join(one.tobytes() for one in groups.digest({"category": by_name}))


def test_a_snapshot_brings_all_of_it_back_and_a_rollback_takes_back_what_was_learned() -> None:
    shard = Shard(chosen(), 0)
    Told(shard).tell(*trading(30))
    again = take_up(shard.settings, 0, lay_down(shard))
    assert _told(again.groups, shard) == _told(shard.groups, shard)
    before = Groups(len(shard.groups.common[0]), "day")
    shard.groups.return_to(before)
    assert (shard.groups.common == 0).all()
    for kind in KINDS:
        assert (shard.groups.spreads[kind].counts == before.spreads[kind].counts).all()


# -- putting parts together ----------------------------------------------------------------


def part(mean: float, deviation: float, common: tuple[float, float] = (1.0, 100.0)) -> PartOf:
    deviations = np.array([[-deviation], [deviation]])
    return PartOf(np.array([mean]), deviations, np.array([deviation]), np.array(common))


def test_one_part_is_taken_as_it_is() -> None:
    mean, quantiles = put_together([part(50, 9)])
    assert mean.tolist() == [50] and quantiles.ravel().tolist() == [41, 59]


def test_nothing_in_common_is_independence_and_all_in_common_the_sum() -> None:
    apart = [part(50, 3, (0.0, 1.0)), part(50, 4, (0.0, 1.0))]
    assert put_together(apart)[1].ravel() == pytest.approx([95, 105])
    alike = [part(50, 3, (1.0, 1.0)), part(50, 4, (1.0, 1.0))]
    assert put_together(alike)[1].ravel() == pytest.approx([93, 107])


def test_where_nothing_was_measured_parts_are_taken_to_miss_alike() -> None:
    assert put_together([part(50, 3, (0, 0)), part(50, 4, (0, 0))])[1].ravel().tolist() == [93, 107]


positive = st.floats(0.01, 1e4)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=6), st.floats(-1, 10))
def test_the_whole_is_never_wider_than_its_parts_nor_narrower_than_independence(
    parts: list[tuple[float, float]], alike: float
) -> None:
    mean, quantiles = put_together([part(m, w, (alike, 100.0)) for m, w in parts])
    width = np.array([w for _, w in parts])
    assert mean[0] == pytest.approx(sum(m for m, _ in parts))
    above = quantiles[1, 0] - mean[0]
    assert np.sqrt((width**2).sum()) * (1 - 1e-9) <= above <= width.sum() * (1 + 1e-9)
    assert (quantiles >= 0).all()


def test_parts_in_four_partitions_are_calibrated_together_as_no_simpler_rule_is() -> None:
    """Products over 80 stores, with promotions of their own: the whole's quantiles hold."""
    drawn = np.random.default_rng(3)
    products, stores, days = 25, 80, 260
    levels = np.array([0.1, 0.9, 0.1587, 0.8413])
    panels = [_Stores(stores // 4, products) for _ in range(4)]
    shards = [Groups(1, "day") for _ in range(4)]
    of = Traits(np.ones(products), np.zeros(products, bool), np.ones(products))
    hits = defaultdict(list)
    for n in range(days):
        rate = np.exp(0.12 * drawn.normal(size=products) - 0.007)  # what all stores have in common
        parts, truth = [], np.zeros(products)
        for panel, groups in zip(panels, shards, strict=True):
            mean = np.full(panel.size, 2.0)
            actual = drawn.poisson(mean * rate[panel.code]).astype(float)
            truth += np.bincount(panel.code, actual, products)
            expected: Any = np.bincount(panel.code, mean, products)
            spread = groups.spreads["product"]
            spread.grow(products)
            own = of._replace(factor=learner_groups.factors(spread))
            found = intervals.quantiles(spread.tables().at(0), expected, levels, own)
            width = (found[3] - found[2]) / 2
            parts.append(PartOf(expected, found - expected, width, groups.common[2, 0].copy()))
            groups.learn(panel, [Came(0, mean, actual)], np.ones(panel.size, bool))  # type: ignore[arg-type]
        if n < 60:
            continue
        total = np.sum([one.mean for one in parts], axis=0)
        simple = np.sum([one.deviations for one in parts], axis=0)
        independent = np.sqrt(np.sum([one.width**2 for one in parts], axis=0))
        independent = independent / np.sum([one.width for one in parts], axis=0)
        answers = {
            "measured": put_together(parts)[1], "alike": total + simple,
            "independent": total + independent * simple,
        }  # fmt: skip
        for name, quantiles in answers.items():
            hits[name].append((truth < quantiles[:2]).mean(axis=1))
    measured, alike, independent = (
        np.mean(hits[name], axis=0) for name in ("measured", "alike", "independent")
    )
    np.testing.assert_allclose(measured, [0.1, 0.9], atol=0.025)
    assert alike[1] > 0.92 and independent[1] < 0.87


class _Stores:
    """As much of a panel as groups look at: every product in every store."""

    class Texts:
        texts = ("",)

    categories = Texts()

    def __init__(self, stores: int, products: int) -> None:
        self.size = stores * products
        self.code = np.tile(np.arange(products), stores)
        self._columns = {
            "store": np.repeat(np.arange(stores), products),
            "product": self.code,
            "category": np.zeros(self.size, np.intp),
        }

    def column(self, name: str) -> Any:
        return self._columns[name]
