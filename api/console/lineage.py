"""The lineage of a partition's snapshots, drawn as a tree. Pure.

The newest is on top; every lineage has a lane of its own, the first at the left. A line goes from
each snapshot down to the one it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from api.console.formats import text

_MARKED = ' class="of-active"'
ROW, LANE = 64, 22  # height of a row, width of a lane, in pixels


def drawn(nodes: Sequence[Mapping[str, Any]], tell: Callable[[Mapping[str, Any]], str]) -> str:
    """The tree as markup: lines and dots at the left, beside them what ``tell`` says of each.

    Parameters
    ----------
    nodes
        A partition's snapshots, as ``GET /v1/lineage`` gives them.
    tell
        A snapshot as markup, of two lines at most.
    """
    order = sorted(nodes, key=lambda one: (one["published_at"], one["position"]), reverse=True)
    rows = {one["id"]: at for at, one in enumerate(order)}
    lanes = {lineage: at for at, lineage in enumerate(sorted({o["lineage"] for o in order}))}
    lines, dots = [], []
    for at, one in enumerate(order):
        x, y = _place(lanes[one["lineage"]], at)
        below = rows.get(one["parent"])
        if below is not None:
            to_x, to_y = _place(lanes[order[below]["lineage"]], below)
            bend = to_y - ROW / 2
            way = f"M{x} {y}V{bend}" + (
                f"C{x} {to_y} {to_x} {bend} {to_x} {to_y}" if to_x != x else f"V{to_y}"
            )
            lines.append(f'<path d="{way}"/>')
        kind = "active" if one["active"] else "head" if one["head"] else ""
        kind += " unfinished" if one["unfinished"] else ""
        dots.append(f'<circle class="{kind.strip()}" cx="{x}" cy="{y}" r="6"/>')
    width, height = LANE * (len(lanes) + 1), ROW * len(order)
    items = "".join(
        f'<li id="{text(one["id"])}"{_MARKED if one["active"] else ""}>{tell(one)}</li>'
        for one in order
    )
    return (
        f'<div class="lineage" style="--lanes:{width}px;--row:{ROW}px">'
        f'<svg width="{width}" height="{height}" aria-hidden="true">{"".join(lines + dots)}</svg>'
        f"<ul>{items}</ul></div>"
    )


def _place(lane: int, row: int) -> tuple[float, float]:
    return LANE * (lane + 0.75), ROW * (row + 0.5)
