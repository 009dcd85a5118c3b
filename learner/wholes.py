"""What is served of totals and groups: laid down from a shard, and read back as tables.

Leaves out: how it was learned (``totals``, ``groups``), and answers (``serving``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.groups import KINDS, Groups, factors
from learner.intervals import Tables
from learner.serving import Scatter
from learner.totals import Totals

Array = npt.NDArray[Any]


def tables(totals: Totals, groups: Groups) -> dict[str, Array]:
    """What distributions of totals and of groups are made of, as it is served."""
    of = totals.spread.tables()
    found: dict[str, Array] = {"totals.dispersion": of.dispersion, "totals.below": of.below}
    for at, (kind, spread) in enumerate(groups.spreads.items()):
        of = spread.tables()
        found[f"{kind}.dispersion"], found[f"{kind}.below"] = of.dispersion, of.below
        found[f"{kind}.factor"] = factors(spread)
        found[f"{kind}.common"] = groups.common[at]
    return found


def of_totals(arrays: Mapping[str, Array]) -> Tables:
    """Tables of totals, by tracked length, of what ``tables`` gave."""
    return Tables(arrays["totals.dispersion"], arrays["totals.below"])


def scatters(
    arrays: Mapping[str, Array], texts: Mapping[str, list[str]], size: int
) -> dict[str, Scatter]:
    """What was laid down of each kind of group."""
    names = {
        # In order of first use, as codes are.
        "store": list(dict.fromkeys(texts["stores"])),
        "category": texts["categories"],
        "product": list(dict.fromkeys(texts["products"])),
        "all": ["all"],
    }
    return {
        kind: Scatter(
            names=names[kind],
            code=np.zeros(size, np.intp) if kind == "all" else arrays[kind][:size].astype(np.intp),
            tables=Tables(arrays[f"{kind}.dispersion"], arrays[f"{kind}.below"]),
            factor=arrays[f"{kind}.factor"],
            common=arrays[f"{kind}.common"],
        )
        for kind in KINDS
    }
