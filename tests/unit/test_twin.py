"""The twin: learns nothing, is scored, and is taken anew only from a champion that is no worse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learner.ensemble import Ensemble
from learner.evaluation import SUMS
from learner.findings import OK, SUSPECT
from learner.models import Simple
from learner.names import known_as
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from learner.twin import Twin, rearrange, renew
from stream.errors import SettingsError
from stream.settings import TWIN, load
from tests.learner_parts import Told, chosen, market, sale, told

DAYS = 64


def twin_of(shard: Shard) -> Twin:
    twin = shard.models[TWIN]
    assert isinstance(twin, Twin)
    return twin


@pytest.fixture(scope="module")
def market_of_months() -> Told:
    """Until the second copy, at the close of day 56."""
    return told(*market(DAYS), challengers=("seasonal_naive",))


def test_the_twin_is_scored_beside_the_champion_on_the_same_forecasts(
    market_of_months: Told,
) -> None:
    shard = market_of_months.shard
    rows = {(row["role"], row["horizon"]): row for row in shard.evaluation.summary("ensemble")}
    assert rows["twin", 1]["model"] == TWIN
    assert rows["twin", 1]["n"] == rows["champion", 1]["n"]


def test_what_the_twin_has_learned_stands_still_between_copies(market_of_months: Told) -> None:
    one = Told(Shard(market_of_months.shard.settings, 0))
    days = market(70)
    one.tell(*(event for event in days if event.time < sale(35).time))
    twin, champion = twin_of(one.shard), one.shard.models["ensemble"]
    since, before = twin.since, [array.copy() for array in twin.digest()]
    assert since is not None and since >= one.bucket(28)
    one.tell(*(event for event in days if sale(35).time <= event.time < sale(50).time))
    assert twin_of(one.shard) is twin
    assert all(np.array_equal(a, b) for a, b in zip(before, twin.digest(), strict=True))
    learned = zip(before[1:], champion.digest(), strict=True)
    assert any(a.shape != b.shape or not np.array_equal(a, b) for a, b in learned)
    assert not np.array_equal(one.shard.predict(TWIN, 1), one.shard.predict("ensemble", 1))


def test_the_twin_reads_the_facts_of_today() -> None:
    one = Told(Shard(chosen(challengers=()), 0))
    one.tell(*market(40))
    before = one.shard.predict(TWIN, 1).copy()
    one.tell(*(sale(n, 40, product="p0", hour=23) for n in range(40, 44)), sale(44, 1))
    assert one.shard.predict(TWIN, 1)[0] > 1.3 * before[0]


def test_it_goes_through_a_snapshot(market_of_months: Told) -> None:
    shard = market_of_months.shard
    parts = lay_down(shard)
    again = take_up(shard.settings, 0, parts)
    assert twin_of(again).since == twin_of(shard).since
    assert again.digest() == shard.digest()


def test_the_digest_sees_what_the_twin_has_learned() -> None:
    one = told(*market(30), challengers=())
    before = one.shard.digest()
    twin_of(one.shard).since = 3
    assert one.shard.digest() != before


def test_no_copy_is_taken_of_a_champion_that_looks_wrong() -> None:
    one = told(*market(27), challengers=())
    one.shard.watch.arrays["now"][2:] = SUSPECT, one.bucket(26)
    one.tell(*(event for event in market(35) if event.time >= sale(27, hour=0).time))
    assert one.shard.watch.suspect
    assert twin_of(one.shard).since is None
    one.shard.watch.arrays["now"][2:] = OK, one.bucket(34)
    one.tell(*(event for event in market(40) if event.time >= sale(35, hour=0).time))
    since = twin_of(one.shard).since
    assert since is not None
    assert since >= one.bucket(34)


def sums(squared: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    one = np.zeros((2, len(SUMS)))
    one[:, SUMS.index("squared")] = squared
    return one


@pytest.mark.parametrize(
    ("bucket", "champion", "renewed"),
    [(9, 1.0, False), (10, 1.0, True), (10, 1.01, True), (10, 1.05, False), (30, 0.9, True)],
    ids=["not yet", "in time and as good", "by chance", "worse", "later and better"],
)
def test_it_is_taken_anew_in_time_and_from_a_good_champion(
    bucket: int, champion: float, renewed: bool, make_fresh: Callable[[], Twin]
) -> None:
    good = make_fresh().model
    models = {"bayes": good, TWIN: make_fresh()}
    renew(models, "bayes", bucket, first=0, every=10,
          sums={"bayes": sums(champion), TWIN: sums(1.0)})  # fmt: skip
    twin = models[TWIN]
    assert isinstance(twin, Twin)
    assert (twin.since == bucket) is renewed
    assert twin.model is not good


@pytest.fixture
def make_fresh() -> Callable[[], Twin]:
    def make() -> Twin:
        return twin_of(Shard(chosen(champion="bayes", challengers=()), 0))

    return make


def test_without_seasons_there_is_no_twin() -> None:
    one = told(*market(10), challengers=(), twin_seasons=0)
    assert list(one.shard.models) == ["ensemble"]


def test_nobody_can_choose_the_twin() -> None:
    with pytest.raises(SettingsError, match="twin_seasons"):
        load({}, overrides={"champion": "twin"})


def test_what_is_learned_of_a_series_goes_with_it_to_another_row_in_the_copy_too() -> None:
    ensemble = Ensemble({"naive": Simple("naive")}, [0.5, 1.0])
    ensemble.loss = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    ensemble.variance = np.arange(6, dtype=np.float32).reshape(2, 3)
    twin = Twin(ensemble)
    rearrange(twin, known_as("bdc", "abc"))
    assert ensemble.loss[:, 0].tolist() == [[1, 0, 2], [4, 0, 5]]
    assert ensemble.variance.tolist() == [[1, 0, 2], [4, 0, 5]]
