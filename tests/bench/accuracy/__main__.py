"""``python -m tests.bench.accuracy --panel P0 --models ensemble,bayes --part tune``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

# Read by OpenBLAS when numpy is first imported, so before everything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

OPENINGS = Path("docs/openings.md")
#: Levels whose hit rates are shown.
ASKED = (0.1, 0.5, 0.9, 0.975)


def main(arguments: list[str]) -> int:
    """Replay cases and print each model's scores beside seasonal naive's."""
    from tests.bench.accuracy.panels import CASES, make
    from tests.bench.accuracy.replay import replay
    from tests.bench.accuracy.scores import calibration, common, span, table

    parser = argparse.ArgumentParser(prog="python -m tests.bench.accuracy", description=__doc__)
    parser.add_argument("--panel", default="P0", help=f"some of: {','.join(CASES)}; or all")
    parser.add_argument("--models", default="ensemble", help="names; the first one is champion")
    parser.add_argument("--part", choices=("tune", "test", "both"), default="tune",
                        help="July to September, October to December, or both")  # fmt: skip
    parser.add_argument("--quantiles", action="store_true", help="hit rates of the champion's")
    parser.add_argument("--why", help="why the tested part is opened: it is logged")
    chosen = parser.parse_args(arguments)
    names = list(CASES) if chosen.panel == "all" else chosen.panel.split(",")
    if unknown := set(names) - CASES.keys():
        parser.error(f"no such panel: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    models = chosen.models.split(",")
    if chosen.part != "tune":
        if not chosen.why:
            parser.error("say --why: the tested part is opened once a release, and that is logged")
        log_opening(OPENINGS, names, models, chosen.why)
    levels = ASKED if chosen.quantiles else ()
    print(
        f"{'case':<13}{'model':<22}{'h':>3}{'n':>8}{'RMSSE':>8}{'ratio':>7}{'WAPE':>7}{'bias':>8}"
    )
    for name in names:
        case = make(name)
        low, high = span(case, chosen.part)
        replayed = replay(case, models, high, low, levels)
        scores = table(case, chosen.part, replayed.means)
        for (model, horizon), one in scores.items():
            ratio = one.rmsse / scores["naive", horizon].rmsse
            print(f"{name:<13}{model:<22}{horizon:>3}{one.n:>8}{one.rmsse:>8.4f}{ratio:>7.3f}"
                  f"{one.wape:>7.4f}{one.bias:>+8.2%}")  # fmt: skip
        for horizon, quantiles in replayed.quantiles.items():
            use = common(case, chosen.part, horizon, [replayed.means[models[0], horizon]])
            found = calibration(case, use, quantiles, replayed.cells[horizon], ASKED)
            said = "  ".join(
                f"{level:g}: {found.hits[level]:.3f} (≤ {found.covered[level]:.3f})"
                for level in ASKED
            )
            print(f"{name:<13}{models[0] + ' hits':<22}{horizon:>3}  {said}  WAPE of the median "
                  f"{found.median_wape:.4f}, pinball {found.pinball:.4f}")  # fmt: skip
        cells = replayed.closes * len(case.keys) / 1000
        own = ", ".join(f"{model} {cpu:.2f}" for model, cpu in replayed.models.items())
        print(
            f"{name:<13}CPU s: fold {replayed.fold:.2f}, close {replayed.close:.2f} (of it {own}); "
            f"{replayed.close / cells:.4f} a 1,000 series-buckets, all scored horizons",
            flush=True,
        )
    return 0


def log_opening(path: Path, panels: list[str], models: list[str], why: str) -> None:
    """Add a line to the log of the tested part's openings."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not path.exists():
        path.write_text(
            "# Openings of October to December\n\n"
            "The tested part of the accuracy cases is looked at once a release; each time is "
            "written here by the command that does it.\n\n"
            "| when (UTC) | commit | cases | models | why |\n|---|---|---|---|---|\n",
            encoding="utf-8",
        )
    with path.open("a", encoding="utf-8") as file:
        file.write(
            f"| {datetime.now(UTC):%Y-%m-%d %H:%M} | {head} | {', '.join(panels)} "
            f"| {', '.join(models)} | {why} |\n"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
