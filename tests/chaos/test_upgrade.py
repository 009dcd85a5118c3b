"""A second environment with another River: its snapshots are taken up here, models made anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from learner.digest import facts
from learner.manifest import FORMAT, outdated
from learner.snapshot import read_shard
from tests.golden.make import HERE, SETTINGS
from tests.unit.test_upgrade import Golden

#: Older ones that our code still runs on.
RIVER = "river>=0.24,<0.26"


@pytest.fixture
def older_river(tmp_path: Path) -> Path:
    """A folder with another River, to be put before the installed one; skipped if there is none."""
    folder = tmp_path / "site"
    got = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
         "--target", str(folder), RIVER],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    if got.returncode:
        pytest.skip(f"{RIVER} cannot be had here: {got.stderr.strip()[-200:]}")
    return folder


def test_a_snapshot_of_an_older_river_goes_on_here(tmp_path: Path, older_river: Path) -> None:
    made = tmp_path / "older.zip"
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden.make", str(made)],
        env={**os.environ, "PYTHONPATH": str(older_river), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = Golden(made, tmp_path / "theirs")
    ours = Golden(HERE / f"format-{FORMAT}.zip", tmp_path / "ours")
    manifest = theirs.manifest()
    assert outdated(manifest) == {"river": theirs.said["versions"]["river"]}
    assert theirs.said["versions"]["river"] != ours.said["versions"]["river"]
    shard = read_shard(theirs.store, manifest, SETTINGS)
    same = read_shard(ours.store, ours.manifest(), SETTINGS)
    assert list(facts(shard)) == list(facts(same))
    before = np.array(theirs.said["mean"], np.float32)
    assert abs(shard.forecast().sum() / before.sum() - 1) < 0.05
