"""What a series usually sells in each phase of its season."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner import habits
from learner.features import NAMES, features
from tests.learner_parts import Told, complete, sale, stock_outs, told

HORIZON = 28
RNG = np.random.default_rng(3)
DRAWN = RNG.integers(5, 60, 400).tolist()
#: Models that learn nothing: only the facts matter here.
QUICK: dict[str, Any] = {"champion": "level_phase", "challengers": (), "twin_seasons": 0}


def sold(days: int) -> Told:
    """A series of drawn sales, of which bucket 0 is known first and ``days - 1`` closed last."""
    return told(*(sale(n, DRAWN[n]) for n in range(days)), complete(days), **QUICK)


def usual(one: Told, phase: int) -> float:
    """What s/p usually sells on the days n with n % 7 == phase, in units."""
    panel = one.shard.panel
    slot = panel.calendar.phase(one.bucket(phase))
    return float(panel.rings["usual_units"][slot, panel.rows["s", "p"]])


def plain(units: list[float], phase: int) -> float:
    """The same, recomputed: a mean at first, later each season for its share."""
    found = float("nan")
    for n in range(phase, len(units) - HORIZON, 7):
        share = max(habits.SHARE, 1.0 / (n // 7 + 1))
        found = units[n] if np.isnan(found) else found + share * (units[n] - found)
    return found


@pytest.mark.parametrize("days", [30, 280])
def test_it_is_the_mean_of_a_phase_and_forgets_slowly(days: int) -> None:
    one = sold(days)
    for phase in range(7):
        np.testing.assert_allclose(usual(one, phase), plain(DRAWN[:days], phase), rtol=1e-5)


def test_what_lies_within_the_farthest_horizon_is_not_in_it() -> None:
    """Models learn from origins so far back: they must not be shown what came after."""
    one, other = sold(70), told(*(sale(n, DRAWN[n]) for n in range(70 - HORIZON)), **QUICK)
    other.tell(*(sale(n, 1000 + DRAWN[n]) for n in range(70 - HORIZON, 70)), complete(70))
    for phase in range(7):
        assert usual(one, phase) == usual(other, phase)


def test_missing_and_censored_buckets_say_nothing() -> None:
    """The store said nothing at all of day 14, and was out of p on day 15."""
    days = [n for n in range(60) if n != 14]
    one = told(
        stock_outs(15, 16), *(sale(n, 3 if n == 15 else 20) for n in days), complete(60), **QUICK
    )
    assert usual(one, 0) == usual(one, 1) == 20


def test_silence_jumped_over_teaches_what_silence_lived_through_does() -> None:
    """Buckets that nobody sold in close together, and none before them is passed over."""
    lived, jumped = told(**QUICK), told(**QUICK)
    for n in range(60):
        lived.tell(sale(n, DRAWN[n]))
        jumped.tell(sale(n, DRAWN[n]))
    for n in range(60, 90):
        lived.tell(complete(n, store="another"))
    for one in (lived, jumped):
        one.tell(sale(90, 5), complete(91))
    found = lived.shard.panel.rings["usual_units"][:, 0]
    assert np.array_equal(found, jumped.shard.panel.rings["usual_units"][:, 0])


def test_a_phase_of_its_own_stands_out_from_the_categorys() -> None:
    """Two products of one category: one sells on Sundays, the other as much on each day."""
    one = told(**QUICK)
    for n in range(98):
        one.tell(sale(n, 50.0 if n % 7 == 6 else 10.0), sale(n, 30.0, product="q", hour=13))
    one.tell(complete(98))
    panel = one.shard.panel
    last = panel.last
    assert last is not None
    ahead = next(h for h in range(1, 8) if panel.calendar.phase(last + h) == 6)
    batch = features(panel, last, ahead)
    own, group = (batch.X[:, NAMES.index(name)] for name in ("own_phase", "group_phase"))
    p, q = panel.rows["s", "p"], panel.rows["s", "q"]
    assert own[p] > 1.3 * group[p] and own[q] < 0.9 * group[q]
    assert own[q] > 1.0, "so few seasons are drawn towards the category's"
    usual = batch.X[:, NAMES.index("usual")]
    np.testing.assert_allclose(usual[[p, q]], 1.0, atol=0.1)


def test_what_is_usual_is_believed_near_the_level_and_not_held_against_it() -> None:
    scale = np.full(6, 10.0)
    found = habits.held(np.array([np.nan, 10.0, 11.0, 30.0, 9.0, 1.0]), scale)
    assert found[0] == found[1] == 1.0
    assert 1.05 < found[2] < 1.1, "somewhat more than now: it may come back"
    assert found[3] == pytest.approx(1.0, abs=1e-6), "three times as much: it sells less for good"
    assert found[4] == pytest.approx(1 + np.log(0.9))
    assert found[5] == pytest.approx(1 + habits.BELOW)
