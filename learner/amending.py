"""What is learned of a bucket only after its close: revisions, and that its silence was zero.

Sums since are moved along, so that all that is worked out from them is as if it had been known in
time. Leaves out: the bucket that closes (``panel``), and learning from what was amended
(``shard``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from learner.serving import CENSORED, MISSING, OBSERVED, status_of, told
from stream.brought import Cell, Key
from stream.event import MICRO
from stream.window import Closed

if TYPE_CHECKING:
    from learner.panel import Panel


def amend(panel: Panel, closed: Closed) -> dict[int, list[int]]:
    """Amend buckets before the one that closes, whose row is not filled yet.

    Returns
    -------
    Rows by bucket of which nothing was known before, and now is.
    """
    told: dict[int, list[int]] = {}
    for bucket, stores in sorted(closed.woken.items()):
        if _within(panel, bucket):
            told[bucket] = _wake(panel, bucket, stores, closed.gaps.get(bucket, ()))
    for bucket, cells in sorted(closed.revisions.items()):
        if not _within(panel, bucket):
            continue
        gaps = closed.gaps.get(bucket, ())
        for key, cell in sorted(cells.items()):
            row = panel.rows.get(key)
            if row is not None and _revise(panel, bucket, row, cell, gap=key in gaps):
                told.setdefault(bucket, []).append(row)
    return told


def _within(panel: Panel, bucket: int) -> bool:
    """Whether a bucket is closed, and the rings hold what its sums are counted from."""
    assert panel.last is not None
    return panel.last - panel.ring < bucket < panel.last


def _wake(panel: Panel, bucket: int, stores: set[str], gaps: Iterable[Key]) -> list[int]:
    """Make what stores did not sell in a bucket, of which nothing was known, nothing sold."""
    units = panel.of("units", bucket)
    named = np.array([text in stores for text in panel.stores.texts], dtype=bool)
    waking = named[panel.column("store")] & (status_of(units) == MISSING)
    waking &= (panel.column("listed") <= bucket) & ~panel.not_for_sale(bucket)
    waking[[panel.rows[key] for key in gaps if key in panel.rows]] = False
    out = np.zeros(panel.size, dtype=bool)
    out[[panel.rows[key] for key in panel.stocked_out(bucket)]] = True
    units[waking] = told(0.0, np.where(out[waking], CENSORED, OBSERVED))
    counts = waking & ~out
    panel.column("seen")[:] += counts
    assert panel.last is not None
    for later in range(bucket, panel.last):
        panel.of("sum_observed", later)[:] += counts
    found: list[int] = np.flatnonzero(counts).tolist()
    return found


def _revise(panel: Panel, bucket: int, row: int, cell: Cell, *, gap: bool) -> bool:
    """Add sales that came after the close, or take some out; whether nothing was known before."""
    assert panel.last is not None
    gross, returns, _, _, count, _ = cell
    slot, rings = bucket % panel.ring, panel.rings
    if returns:
        panel.returns.add(bucket, row, returns)
    status = int(status_of(rings["units"][slot, row]))
    new = status == MISSING
    if new:
        if count <= 0:
            return False  # a void: what is missing stays so
        status = CENSORED if gap else OBSERVED
        rings["units"][slot, row] = told(0.0, status)
        panel.columns["listed"][row] = min(panel.columns["listed"][row], bucket)
    # What the bucket counts for in the sums: exact, where units are rounded to float32.
    prior = (bucket - 1) % panel.ring
    counted = int(rings["sum_observed"][slot, row] != rings["sum_observed"][prior, row])
    held = int(rings["sum_units"][slot, row] - rings["sum_units"][prior, row])
    before = held if counted else round(abs(float(rings["units"][slot, row])) * MICRO)
    net = gross if panel.settings.target == "gross" else gross - returns
    after = max(before + net, 0)
    rings["units"][slot, row] = told(after / MICRO, status)
    counts = 1
    if status == CENSORED:  # it may raise a level, never lower it
        level, seen = panel.window(bucket - 1, panel.short)
        counts = int(after / MICRO > level[row] and seen[row] > 0)
    step, more = counts * after - held, counts - counted
    panel.columns["seen"][row : row + 1] += np.uint16(more % 2**16)
    for later in range(bucket, panel.last):
        at = (later % panel.ring, slice(row, row + 1))
        rings["sum_units"][at] += step
        observed = rings["sum_observed"][at]
        observed += np.array(more).astype(observed.dtype)
    return new
