"""Totals over a lead time as they are answered: pure functions of what is served."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from api.answers import DECIMALS
from api.asked import Asked
from learner.serving import Serving, Total

Rows = npt.NDArray[np.intp]


def total(serving: Serving, rows: Rows, asked: Asked) -> Total:
    """Totals of some series over the steps asked for."""
    assert asked.total is not None
    return serving.total(rows, *asked.total, asked.levels)


def one(serving: Serving, row: int, asked: Asked, times: list[tuple[str, str]]) -> dict[str, Any]:
    """A series' total, as the member ``sum`` of its answer."""
    assert asked.total is not None
    found = total(serving, np.array([row]), asked)
    known = asked.total[0] <= len(serving.sold)
    return member(asked, times, found, 0, known)


def member(
    asked: Asked, times: list[tuple[str, str]], found: Total, at: int, known: bool
) -> dict[str, Any]:
    """One of several totals as a JSON object.

    Parameters
    ----------
    times
        Start and end of the buckets after the origin.
    at
        Which of them.
    known
        Whether a bucket of it is open.
    """
    assert asked.total is not None
    first, last = asked.total
    sold = float(found.sold[at])
    return {
        "from": first,
        "to": last,
        "start": times[first - 1][0],
        "end": times[last - 1][1],
        "mean": round(float(found.mean[at]), DECIMALS),
        "median": round(float(found.median[at]), DECIMALS),
        "quantiles": {
            name: round(float(level[at]), DECIMALS)
            for name, level in zip(asked.names, found.quantiles, strict=True)
        },
        "sold": round(sold, DECIMALS) if known else None,
        "remains": round(float(found.mean[at]) - sold, DECIMALS) if known else None,
    }
