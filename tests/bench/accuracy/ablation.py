"""What each expert and each group of features is worth: the ensemble without it.

``python -m tests.bench.accuracy.ablation [--cases P0,P1,weeks] [--out docs/ablation.md]``. On July
to September, or what made-up cases have for it: no choice looks at the tested part.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

# Read by OpenBLAS when numpy is first imported, so before everything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

OUT = Path("docs/ablation.md")
#: Features by what they tell; of each, the columns that bend or fade with the horizon go too.
GROUPS = {
    "the last days": ("last", "season", "fast_phase", "fast_own", "season_own"),
    "the series' own phase": ("same_phase", "phase_mean", "fast_own", "season_own"),
    "the category's phase": ("group_phase", "fast_phase"),
    "the series' long memory": ("own_phase", "usual"),
    "the robust level": ("robust",),
    "promotions": ("promotion", "promotion_change", "promotion_phase", "promotion_mean",
                   "promotion_before", "promotion_near", "promotion_own"),
    "promotions before and near": ("promotion_before", "promotion_near"),
    "prices": ("price", "price_known", "price_near", "price_own"),
    "the category's own answers": ("promotion_own", "price_own", "plain"),
    "the category's last season": ("group_recent",),
    "age": ("age",),
    "the course of the year": ("year",),
}  # fmt: skip


@contextmanager
def without_features(names: tuple[str, ...]) -> Iterator[None]:
    """Features of these names are zero, for learning and forecasting alike."""
    from learner import features, shard

    described = features.features

    def blind(*given: Any, **named: Any) -> features.Batch:
        batch = described(*given, **named)
        all_names = features.columns(given[0].settings)
        X = batch.X.copy()
        X[:, [name.partition(":")[0] in names for name in all_names]] = 0.0
        return replace(batch, X=X)

    shard.features = blind  # type: ignore[attr-defined]
    try:
        yield
    finally:
        shard.features = described  # type: ignore[attr-defined]


@contextmanager
def without_expert(name: str) -> Iterator[None]:
    """The ensemble is made without one of its experts."""
    from learner import models

    experts = models.EXPERTS
    models.EXPERTS = tuple(one for one in experts if one != name)  # type: ignore[assignment]
    try:
        yield
    finally:
        models.EXPERTS = experts


def measured(case_name: str) -> tuple[tuple[int, ...], list[float]]:
    """Horizons of a case, and the ensemble's RMSSE against seasonal naive at each."""
    from tests.bench.accuracy.panels import make
    from tests.bench.accuracy.replay import replay
    from tests.bench.accuracy.scores import span, table

    case = make(case_name)
    low, high = span(case, "tune")
    scores = table(case, "tune", replay(case, ["ensemble"], high, low).means)
    ratios = [scores["ensemble", h].rmsse / scores["naive", h].rmsse for h in case.horizons]
    return tuple(case.horizons), ratios


def main(arguments: list[str]) -> int:
    """Measure and write the table."""
    from learner import models

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="P0,P1,weeks")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(arguments)
    cases = chosen.cases.split(",")
    whole = {name: measured(name) for name in cases}
    head = [f"{name} {h}" for name in cases for h in whole[name][0]]
    lines = [
        "# Ablation",
        "",
        "RMSSE of `ensemble` against seasonal naive by case and buckets ahead, and by how much it",
        "grows (+) or shrinks (-) without one expert, or without a group of features. July to",
        "September; made by `python -m tests.bench.accuracy.ablation`.",
        "",
        "| without | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
        "| nothing | " + " | ".join(f"{v:.4f}" for name in cases for v in whole[name][1]) + " |",
    ]
    tried = [(f"expert `{name}`", without_expert(name)) for name in models.EXPERTS]
    tried += [(name, without_features(columns)) for name, columns in GROUPS.items()]
    for what, absence in tried:
        with absence:
            worse = [
                f"{100 * (there / usual - 1):+.2f} %"
                for name in cases
                for there, usual in zip(measured(name)[1], whole[name][1], strict=True)
            ]
        lines.append(f"| {what} | " + " | ".join(worse) + " |")
        print(lines[-1], flush=True)
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
