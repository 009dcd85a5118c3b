"""Repeated measurements, and the table they are shown in.

What is measured and its bare limit take turns, so that a busy neighbour slows both alike; the
ratio is of their medians. Every repetition counts: none is left out.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Work = Callable[[], object]


class Skipped(Exception):
    """A stage cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much to measure."""

    quick: bool = False
    full: bool = False

    @property
    def rounds(self) -> int:
        """Repetitions of a measurement."""
        return 2 if self.quick else 5


@dataclass(frozen=True, slots=True)
class Series:
    """Repetitions of one measurement, in one unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return human(self.median)
        return f"{human(self.median)} ({human(min(self.values))}–{human(max(self.values))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table.

    ``bare`` is in the same unit as ``figure``. The ratio is of speeds: 1 is as fast as the
    limit, whether the figure is a rate or a time. ``goal`` is met by a figure, or by a ratio,
    on its right side.
    """

    what: str
    figure: Series
    unit: str
    limit: str = ""
    bare: Series | None = None
    goal: float | None = None
    goal_of: str = "figure"

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith(("/s", "/CPU s"))

    @property
    def ratio(self) -> float | None:
        """Speed in terms of the bare limit's."""
        if self.bare is None:
            return None
        ratio = self.figure.median / self.bare.median
        return ratio if self.is_rate else 1 / ratio

    @property
    def verdict(self) -> str:
        """The goal, and whether it is met."""
        if self.goal is None:
            return ""
        if self.goal_of == "ratio":
            assert self.ratio is not None
            return f"≥ {self.goal:g} × {_met(self.ratio >= self.goal)}"
        if self.is_rate:
            return f"≥ {human(self.goal)} {_met(self.figure.median >= self.goal)}"
        return f"≤ {human(self.goal)} {_met(self.figure.median <= self.goal)}"


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def human(value: float) -> str:
    """Three significant figures, with k and M."""
    for bound, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            return f"{value / bound * (10 if suffix == 'k' else 1):.3g}{suffix}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call, after a collection of garbage.

    ``time.process_time`` as ``clock`` is for what neither waits nor has help: then neighbours
    on the same cores matter less.
    """
    gc.collect()
    started = clock()
    work()
    return clock() - started


def turns(rounds: int, *works: Callable[[], float]) -> list[Series]:
    """Let each measure once a round, in turns; their results in order."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for values, work in zip(found, works, strict=True):
            values.append(work())
    return [Series(tuple(values)) for values in found]


def rate(
    count: int, work: Work, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A measurement of so many things done by a call, per second."""
    return lambda: count / seconds(work, clock)


def machine() -> str:
    """What this was measured on, in a line."""
    model = platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {model}; Python {platform.python_version()}; "
        f"load averages {load}; OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS')}"
    )


HEAD = ("measured", "figure (least–most)", "unit", "bare limit", "limit's figure", "ratio", "goal")


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A table of one stage."""
    cells = [HEAD]
    for row in rows:
        cells.append(
            (
                row.what,
                str(row.figure),
                row.unit,
                row.limit,
                "" if row.bare is None else str(row.bare),
                "" if row.ratio is None else f"{row.ratio:.2f}",
                row.verdict,
            )
        )
    widths = [max(len(line[at]) for line in cells) for at in range(len(HEAD))]
    for line in cells:
        yield "  ".join(
            text.ljust(width) for text, width in zip(line, widths, strict=True)
        ).rstrip()
