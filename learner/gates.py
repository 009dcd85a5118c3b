"""Whether a challenger may become champion: paired tests on what both lost, block by block.

One loss a block: squared error of the mean over the mean squared seasonal difference, and pinball
loss over its root, as scores are told (``evaluation``). What is tested is the mean of the paired
differences, by Student's t over blocks whose neighbours may still have something in common: the
variance of the mean counts the covariance of adjacent blocks where it is positive. Tests are
one-sided; those of one gate share its level by Holm's method. Leaves out: where the losses come
from (``losses``), and who asks.

References: F. Diebold, R. Mariano, "Comparing predictive accuracy", 1995; S. Holm, "A simple
sequentially rejective multiple test procedure", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import stdtr  # type: ignore[import-untyped]

from learner.evaluation import NAIVE, VOLUME_NAMES
from learner.losses import BLOCKS, OWN, SHARED, Losses

Floats = npt.NDArray[np.float64]

#: Levels of the tests that say *better*, and *worse*. Where losses hang together from bucket to
#: bucket (correlations up to 0.8) an equal challenger passes the first up to three times as often.
BETTER, WORSE = 0.01, 0.05
#: Fewest whole blocks that are judged on.
LEAST_BLOCKS: Final = 8
#: Fewest effective observations of a slice: series times blocks.
LEAST_EFFECTIVE: Final = 1000
#: Least share of the champion's squared loss that a challenger must save, over all horizons.
LEAST_GAIN: Final = 0.005
#: Least part of a block's buckets that must have been scored.
WHOLE: Final = 0.5
#: Tests of a gate that are told of, the most telling first.
MOST_TOLD: Final = 20

ALL: Final = "all"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Losses of n models on a slice at a horizon, oldest block first.

    ``loss`` is ``squared`` or ``pinball``; ``values`` (blocks, models); ``effective``: series
    times blocks.
    """

    slice: str
    value: str
    horizon: int
    loss: str
    effective: float
    values: Floats


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison. ``champion`` and ``challenger`` are mean losses, ``change`` the second over
    the first, less 1; ``p``: of the one-sided test; ``level``: what it must be below, to say so."""

    slice: str
    value: str
    horizon: int
    loss: str
    blocks: int
    effective: int
    champion: float
    challenger: float
    change: float
    p: float
    level: float
    rejected: bool


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A condition, whether it holds, and the numbers: ``tested`` in all, of which some are told."""

    gate: str
    passed: bool
    detail: str
    tested: int = 0
    tests: tuple[Comparison, ...] = ()


# -- evidence ------------------------------------------------------------------------------


def evidence(parts: Sequence[tuple[Losses, Sequence[str]]]) -> list[Evidence]:
    """What several shards have lost in the newest blocks, by slice, horizon and loss.

    Parameters
    ----------
    parts
        Of each shard its losses, and its categories' names by code.
    """
    found: list[Evidence] = []
    if not parts:
        return found
    for at, horizon in enumerate(parts[0][0].scored):
        length = parts[0][0].lengths[at]
        end = _end([(int(one.last[at]) + 1) // length for one, _ in parts])
        numbers = range(max(0, end - BLOCKS), end)
        tables: dict[tuple[str, str], tuple[Floats, Floats]] = {}
        for losses, categories in parts:
            for block, number in enumerate(numbers):
                slot = number % BLOCKS
                if losses.number[at, slot] != number:
                    continue
                if losses.buckets[at, slot] < WHOLE * length:
                    continue
                for key, shared, own in _slices(losses, categories, at, slot):
                    sums = tables.setdefault(key, _nothing(len(numbers), own.shape[0]))
                    sums[0][block] += shared
                    sums[1][block] += own
        for (kind, value), (shared, own) in tables.items():
            there = shared[:, SHARED.index("n")] > 0
            effective = float(shared[there, SHARED.index("n")].sum()) / length
            for place, (loss, scale) in enumerate(zip(OWN, ("difference", "scale"), strict=True)):
                values = own[there, :, place] / shared[there, SHARED.index(scale), None]
                found.append(
                    Evidence(slice=kind, value=value, horizon=horizon, loss=loss,
                             effective=effective, values=values)
                )  # fmt: skip
    return found


def _end(whole: Sequence[int]) -> int:
    """The block up to which is judged: the newest that is whole, less one that a shard still fills.

    Blocks of the same series are compared as long as shards lag by no more than one; a shard that
    is further behind, or has fallen silent, is not waited for: blocks it lacks are without it.

    Parameters
    ----------
    whole
        Of each shard the number of the block that is being filled: those before are whole.
    """
    newest = max(whole)
    return min(one for one in whole if one >= newest - 1)


def _nothing(blocks: int, models: int) -> tuple[Floats, Floats]:
    return np.zeros((blocks, len(SHARED))), np.zeros((blocks, models, len(OWN)))


def _slices(
    losses: Losses, categories: Sequence[str], at: int, slot: int
) -> Iterator[tuple[tuple[str, str], Floats, Floats]]:
    names = {"volume_class": VOLUME_NAMES, "category": categories}
    whole = "volume_class"  # every series is in one
    yield (
        (ALL, ""),
        losses.shared[whole][:, at, slot].sum(axis=0),
        losses.own[whole][:, at, slot].sum(axis=0),
    )
    for kind, shared in losses.shared.items():
        for code in np.flatnonzero(shared[:, at, slot, 0] > 0).tolist():
            yield (
                (kind, names[kind][code]),
                shared[code, at, slot],
                losses.own[kind][code, at, slot],
            )


# -- gates ---------------------------------------------------------------------------------


def judge(
    found: Sequence[Evidence], models: Sequence[str], champion: str, challenger: str
) -> list[Gate]:
    """All gates, in order; a promotion needs every one.

    ``evidence``: enough whole blocks. ``better``: over all series, at one horizon at least, the
    challenger's squared loss is less. ``worthwhile``: over all horizons it saves a share that is
    worth a change. ``floor``: no more than seasonal naive's, where that is scored.
    ``nowhere_worse``: at no horizon is a loss more, over all series. ``fair``: nor for any volume
    class or category.
    """
    one, other = models.index(champion), models.index(challenger)
    whole = [each for each in found if each.slice == ALL and len(each.values) >= LEAST_BLOCKS]
    squared = [each for each in whole if each.loss == "squared"]
    blocks = max((len(each.values) for each in found if each.slice == ALL), default=0)
    enough = Gate(
        gate="evidence",
        passed=bool(squared),
        detail=f"{blocks} whole blocks are scored, {LEAST_BLOCKS} are needed",
    )
    if not squared:
        return [enough]
    better = holm([paired(each, one, other) for each in squared], BETTER)
    gates = [
        enough,
        Gate(
            gate="better",
            passed=any(test.rejected for test in better),
            detail="at one horizon at least, its squared loss must be less than chance explains",
            tested=len(better),
            tests=tuple(better),
        ),
        _worthwhile(squared, one, other),
    ]
    if NAIVE in models:
        gates.append(_floor(squared, other, models.index(NAIVE)))
    slices = [
        each
        for each in found
        if each.slice != ALL
        and len(each.values) >= LEAST_BLOCKS
        and each.effective >= LEAST_EFFECTIVE
    ]
    gates.append(_not_worse("nowhere_worse", whole, one, other, "no horizon may be worse off"))
    gates.append(
        _not_worse("fair", slices, one, other, "no volume class or category may be worse off")
    )
    return gates


def _worthwhile(squared: Sequence[Evidence], one: int, other: int) -> Gate:
    ratios = [float(each.values[:, other].mean() / each.values[:, one].mean()) for each in squared]
    saved = 1.0 - sum(ratios) / len(ratios)
    return Gate(
        gate="worthwhile",
        passed=saved >= LEAST_GAIN,
        detail=f"saves {saved:.1%} of the champion's squared loss over all horizons, "
        f"{LEAST_GAIN:.1%} is needed",
    )


def _floor(squared: Sequence[Evidence], other: int, naive: int) -> Gate:
    above = [
        str(each.horizon)
        for each in squared
        if each.values[:, other].mean() > each.values[:, naive].mean()
    ]
    where = f"more at {', '.join(above)}" if above else "no more at any horizon"
    return Gate(
        gate="floor", passed=not above, detail=f"squared loss against {NAIVE}'s: {where}"
    )  # fmt: skip


def _not_worse(
    name: str, found: Sequence[Evidence], one: int, other: int, rule: str
) -> Gate:  # fmt: skip
    tests = holm([paired(each, one, other, worse=True) for each in found], WORSE)
    wrong = [test for test in tests if test.rejected]
    told = sorted(tests, key=lambda test: (not test.rejected, test.p))[:MOST_TOLD]
    return Gate(
        gate=name,
        passed=not wrong,
        detail=rule + (f"; {len(wrong)} of {len(tests)} tests say it is" if wrong else ""),
        tested=len(tests),
        tests=tuple(told),
    )


# -- tests ---------------------------------------------------------------------------------


def paired(found: Evidence, champion: int, challenger: int, worse: bool = False) -> Comparison:
    """Compare one slice: whether the challenger loses less, or more, than the champion."""
    before, after = found.values[:, champion], found.values[:, challenger]
    return Comparison(
        slice=found.slice,
        value=found.value,
        horizon=found.horizon,
        loss=found.loss,
        blocks=len(before),
        effective=round(found.effective),
        champion=round(float(before.mean()), 6),
        challenger=round(float(after.mean()), 6),
        change=round(float(after.mean() / max(before.mean(), 1e-12)) - 1.0, 6),
        p=p_value(after - before if worse else before - after),
        level=0.0,
        rejected=False,
    )


def p_value(differences: Floats) -> float:
    """Probability of a mean as large as this, if the true one is nothing.

    Parameters
    ----------
    differences
        One a block, oldest first, shape (n,), n ≥ 2.

    Examples
    --------
    >>> round(p_value(np.array([1.0, 2.0, 1.5, 0.5, 1.0, 2.0, 1.5, 0.5])), 5)
    0.00029
    >>> p_value(np.zeros(8))
    0.5
    """
    n, mean = len(differences), float(differences.mean())
    centred = differences - mean
    variance = float(centred @ centred) / (n - 1)
    if variance <= 0.0:
        return 0.5 if mean == 0 else float(mean < 0)
    adjacent = max(float(centred[1:] @ centred[:-1]) / (n - 1), 0.0)
    deviation = ((variance + 2.0 * adjacent) / n) ** 0.5
    return float(stdtr(n - 1, -mean / deviation))


def holm(tests: Sequence[Comparison], level: float) -> list[Comparison]:
    """Decide tests together: the family's error is at most ``level``."""
    order = sorted(range(len(tests)), key=lambda at: tests[at].p)
    out, open_ = list(tests), True
    for rank, at in enumerate(order):
        own = level / (len(tests) - rank)
        open_ = open_ and tests[at].p < own
        out[at] = msgspec.structs.replace(tests[at], level=round(own, 6), rejected=open_)
    return out


def told(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Gates as they are answered."""
    return [msgspec.to_builtins(gate) for gate in gates]


def failed(gates: Sequence[Gate]) -> Mapping[str, str]:
    """Gates that do not hold, with why."""
    return {gate.gate: gate.detail for gate in gates if not gate.passed}
