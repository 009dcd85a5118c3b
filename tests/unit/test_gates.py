"""Gates: rarely passed by an equal, passed by a better one, and shut where anybody is worse off."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from learner.evaluation import SUMS, Marks, Scored
from learner.gates import (
    BETTER,
    LEAST_BLOCKS,
    LEAST_EFFECTIVE,
    Comparison,
    Evidence,
    Gate,
    evidence,
    failed,
    holm,
    judge,
    p_value,
)
from learner.losses import BLOCKS, Losses
from learner.spread import Gained

Floats = npt.NDArray[np.float64]

MODELS = ("old", "new", "seasonal_naive")
N, SCALE = SUMS.index("n"), SUMS.index("scale")
#: What a spread learns: here nothing looks at it.
LEARNED = Gained.nothing((0,)), np.zeros((0, 2, 0))


def blocks(values: Floats, horizon: int = 1, **more: object) -> Evidence:
    about = {"slice": "all", "value": "", "loss": "squared", "effective": 9999.0} | more
    return Evidence(horizon=horizon, values=values, **about)  # type: ignore[arg-type]


def three(old: Floats, new: Floats) -> Floats:
    """Losses of all models; seasonal naive's are double."""
    return np.stack([old, new, 2 * old], axis=1)


def correlated(drawn: np.random.Generator, count: int, horizon: int, kept: float) -> Floats:
    """Differences of two equal models, bucket by bucket: overlapping horizons, and moods."""
    shocks = drawn.standard_t(5, count + horizon + 40)
    overlapping = np.convolve(shocks, np.full(horizon, horizon**-0.5), "valid")
    out, mood = np.empty(len(overlapping)), 0.0
    for at, shock in enumerate(overlapping):
        out[at] = mood = kept * mood + shock
    kept_ones: Floats = out[-count:]
    return kept_ones


@pytest.mark.parametrize(
    ("horizon", "kept"), [(1, 0.0), (1, 0.8), (7, 0.5), (28, 0.0)], ids=lambda one: str(one)
)
def test_an_equal_challenger_seldom_passes(horizon: int, kept: float) -> None:
    """Of the test alone: the gate asks of four horizons, but at a quarter of the level each."""
    length, runs = max(horizon, 7), 1000
    drawn = np.random.default_rng(7)
    for count in (LEAST_BLOCKS, BLOCKS):
        means = correlated(drawn, length * count * runs, horizon, kept)
        means = means.reshape(runs, count, length).mean(axis=2)
        passed = np.mean([p_value(one) < BETTER for one in means])
        assert passed <= 0.04


def test_independent_losses_keep_the_level() -> None:
    drawn = np.random.default_rng(3)
    passed = np.mean([p_value(drawn.standard_normal(16)) < BETTER for _ in range(4000)])
    assert passed <= BETTER * 1.5


def test_an_equal_challenger_hardly_ever_passes_all_gates() -> None:
    drawn = np.random.default_rng(5)
    passed = 0
    for _ in range(300):
        found = []
        for horizon in (1, 7, 14, 28):
            old, new = 1.0 + 0.1 * drawn.standard_normal((2, 16))
            found.append(blocks(three(old, new), horizon))
        passed += not failed(judge(found, MODELS, "old", "new"))
    assert passed <= 300 * BETTER * 2


def test_a_better_challenger_passes() -> None:
    """Five per cent less, where a block's loss scatters by ten and both share most of it."""
    drawn = np.random.default_rng(5)
    passed = 0
    for _ in range(100):
        found = []
        for horizon in (1, 7, 14, 28):
            shared = 1.0 + 0.1 * drawn.standard_normal(16)
            old, new = shared + 0.03 * drawn.standard_normal((2, 16))
            found.append(blocks(three(old, 0.95 * new), horizon))
        passed += not failed(judge(found, MODELS, "old", "new"))
    assert passed >= 90


def wavy(count: int = 16) -> Floats:
    waves: Floats = 1.0 + 0.1 * np.sin(np.arange(count) * 1.7)
    return waves


def first_failed(gates: list[Gate]) -> str:
    return next(iter(failed(gates)), "")


def test_each_gate_is_named_when_it_is_the_one_that_fails() -> None:
    old = wavy()
    better = 0.9 * old + 0.01 * np.cos(np.arange(16))
    good = blocks(three(old, better))
    assert first_failed(judge([good], MODELS, "old", "new")) == ""

    def of(*found: Evidence) -> list[str]:
        return list(failed(judge(found, MODELS, "old", "new")))

    assert of(blocks(three(old[:7], better[:7]))) == ["evidence"]
    assert "better" in of(blocks(three(old, old[::-1] * 0.99)))
    slightly = old * 0.998
    assert of(blocks(three(old, slightly))) == ["worthwhile"]
    assert "floor" in of(blocks(np.stack([old, better, 0.5 * old], axis=1)))
    elsewhere = blocks(three(old, 1.03 * old), horizon=7)
    assert of(good, elsewhere) == ["nowhere_worse"]
    flat = blocks(three(old, 1.1 * old), loss="pinball")
    assert of(good, flat) == ["nowhere_worse"]


def test_a_slice_that_is_worse_off_shuts_the_gate_if_enough_was_seen_of_it() -> None:
    old = wavy()
    good = blocks(three(old, 0.9 * old + 0.01 * np.cos(np.arange(16))))
    worse = three(old, 1.05 * old)
    for effective, shut in ((LEAST_EFFECTIVE, True), (LEAST_EFFECTIVE - 1, False)):
        bread = blocks(worse, slice="category", value="bread", effective=effective)
        gates = {gate.gate: gate for gate in judge([good, bread], MODELS, "old", "new")}
        assert gates["fair"].passed is not shut
        if shut:
            told = gates["fair"].tests[0]
            assert (told.value, told.rejected) == ("bread", True)
            assert told.change == pytest.approx(0.05, abs=1e-6)


def test_holm_shares_a_level() -> None:
    def one(p: float) -> Comparison:
        return Comparison(slice="all", value="", horizon=1, loss="squared", blocks=8, effective=8,
                    champion=1.0, challenger=1.0, change=0.0, p=p, level=0.0,
                    rejected=False)  # fmt: skip

    def said(*ps: float) -> list[bool]:
        return [test.rejected for test in holm([one(p) for p in ps], 0.05)]

    assert said(0.03, 0.01, 0.04) == [False, True, False]
    assert said(0.011, 0.02, 0.04) == [True, True, True]
    assert said(0.02, 0.001) == [True, True]
    assert said(0.02, 0.02, 0.02) == [False] * 3, "none is below a third of the level"


# -- from forecasts to evidence ----------------------------------------------------------------


def scored(horizon: int, sums: Floats, categories: Floats) -> Scored:
    nothing: dict[str, Marks] = {}
    return Scored(horizon, np.arange(1), *LEARNED, nothing,
                  {"volume_class": sums, "category": categories})  # fmt: skip


def bucket(n: int, old: float, new: float, scale: float = 2.0) -> Floats:
    """Sums of five volume classes; all that was scored is in the second."""
    sums = np.zeros((5, 2, len(SUMS)))
    sums[1, :, N], sums[1, :, SUMS.index("difference")], sums[1, :, SCALE] = n, n * scale, n
    sums[1, :, SUMS.index("squared")] = n * old, n * new
    return sums


def test_blocks_are_means_of_what_was_lost_over_all_shards_by_name() -> None:
    parts = []
    for names in (["bread", "milk"], ["milk", "bread"]):
        losses = Losses(2, (1,), "day")
        for day in range(7 * 20):
            sums = bucket(10, 4.0, 2.0)
            categories = np.zeros((2, 2, len(SUMS)))
            categories[names.index("milk")] = sums[1]
            losses.learn(day, scored(1, sums, categories))
        parts.append((losses, names))
    found = {(one.slice, one.value, one.loss): one for one in evidence(parts)}
    assert set(found) == {
        (kind, value, loss)
        for kind, value in (("all", ""), ("volume_class", "0.1 to 1"), ("category", "milk"))
        for loss in ("squared", "pinball")
    }
    whole = found["all", "", "squared"]
    assert whole.values == pytest.approx(np.tile([2.0, 1.0], (20, 1)))
    assert whole.effective == pytest.approx(20 * 20), "twenty series, twenty blocks"


def test_the_block_that_is_being_filled_does_not_count_and_old_ones_are_forgotten() -> None:
    losses = Losses(2, (1,), "day")
    for day in range(7 * (BLOCKS + 3) + 3):
        losses.learn(day, scored(1, bucket(1, float(day // 7), 0.0), np.zeros((0, 2, len(SUMS)))))
    (whole,) = [
        one for one in evidence([(losses, [])]) if (one.slice, one.loss) == ("all", "squared")
    ]
    # The newest slot is being filled anew: what stood there before is gone.
    assert whole.values[:, 0].tolist() == [week / 2 for week in range(4, BLOCKS + 3)]


def test_a_block_that_was_hardly_scored_does_not_count() -> None:
    losses = Losses(2, (1,), "day")
    for day in [*range(14), 14, 15, *range(21, 35)]:
        losses.learn(day, scored(1, bucket(1, 1.0, 1.0), np.zeros((0, 2, len(SUMS)))))
    (whole,) = [
        one for one in evidence([(losses, [])]) if (one.slice, one.loss) == ("all", "squared")
    ]
    assert len(whole.values) == 4


def lost(days: range, old: float, new: float) -> tuple[Losses, list[str]]:
    """A shard that was scored on some days."""
    losses = Losses(2, (1,), "day")
    for day in days:
        losses.learn(day, scored(1, bucket(10, old, new), np.zeros((0, 2, len(SUMS)))))
    return losses, []


def squares(*parts: tuple[Losses, list[str]]) -> Floats:
    (whole,) = [
        one for one in evidence(parts) if (one.slice, one.loss) == ("all", "squared")
    ]  # fmt: skip
    return whole.values


def test_a_partition_that_fell_silent_does_not_hide_what_came_since() -> None:
    weeks = BLOCKS + 34
    alive = lost(range(7 * weeks), 4.0, 8.0)
    silent = lost(range(7 * (weeks - 34)), 4.0, 2.0)
    assert squares(alive, silent) == pytest.approx(np.tile([2.0, 4.0], (BLOCKS, 1)))


def test_what_a_partition_saw_before_it_fell_silent_still_counts() -> None:
    alive, silent = lost(range(7 * 20), 4.0, 8.0), lost(range(7 * 12), 4.0, 2.0)
    both, one = np.tile([2.0, 2.5], (12, 1)), np.tile([2.0, 4.0], (8, 1))
    assert squares(alive, silent) == pytest.approx(np.vstack([both, one]))


@pytest.mark.parametrize("behind", [1, 7, 10])
def test_a_block_that_a_partition_still_fills_is_waited_for(behind: int) -> None:
    """Every block is then of the same series; only one that is further behind is not."""
    ahead, lagging = lost(range(7 * 20), 4.0, 8.0), lost(range(7 * 20 - behind), 4.0, 2.0)
    found = squares(ahead, lagging)
    if behind <= 7:
        assert found == pytest.approx(np.tile([2.0, 2.5], (19, 1)))
    else:
        assert len(found) == 20


def test_a_partition_without_a_score_is_not_waited_for() -> None:
    assert len(squares(lost(range(7 * 10), 4.0, 2.0), lost(range(0), 1.0, 1.0))) == 10
