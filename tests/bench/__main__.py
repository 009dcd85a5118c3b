"""``python -m tests.bench [--quick] [--full] [stage ...]``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

# Read by OpenBLAS when numpy is first imported, so before everything else.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

STAGES = {
    "core": "the fold from memory",
    "sqlite": "the embedded log",
    "kafka": "Apache Kafka, one broker on this machine",
    "close": "a bucket's close",
    "snapshot": "snapshots into a folder, and back",
    "http": "the API by HTTP",
    "scale": "learners beside each other on one Kafka",
    "operations": "freeze, rollback and replay of a large partition",
}
#: Those that are measured only when they are named: they take long.
NAMED = {"scale", "operations"}


def main(arguments: list[str]) -> int:
    """Measure the stages asked for and print their tables; 1 if a goal was missed."""
    from scripts.serve import collect_seldom
    from tests.bench.measure import Options, Skipped, lines, machine

    collect_seldom()  # as a learner does
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    parser.add_argument("--quick", action="store_true", help="less data, two rounds")
    parser.add_argument("--full", action="store_true", help="snapshots of a million series too")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.stages) - STAGES.keys():
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    options = Options(quick=chosen.quick, full=chosen.full)
    print(machine())
    print(
        f"{options.rounds} rounds; median (least–most); figures and limits take turns; "
        "a ratio of 1 is as fast as the limit"
    )
    missed = 0
    for name in chosen.stages or [name for name in STAGES if name not in NAMED]:
        started = time.monotonic()
        print(f"\n{name}: {STAGES[name]}", flush=True)
        try:
            rows = importlib.import_module(f"tests.bench.{name}").run(options)
        except Skipped as why:
            print(f"SKIPPED: {why}", flush=True)
            continue
        for line in lines(rows):
            print("  " + line)
        missed += sum(row.verdict.endswith("MISSED") for row in rows)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"\ngoals missed: {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
