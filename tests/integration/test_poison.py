"""The story of a source gone wrong, as `salescast demo --poison` plays it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.poison import SOURCE, WITHIN
from tests.integration.deployment import free_port


def test_poison_is_named_and_undone_and_no_forecast_fails_meanwhile(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SALESCAST_")} | {
        "SALESCAST_DATA_DIR": str(tmp_path),
        "SALESCAST_PORT": str(free_port()),
        "SALESCAST_PARTITIONS": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "demo", "--poison", "--exit", "--days", "58",
         "--days-per-second", "6", "--poison-stores", "4"],
        env=environ, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"suspect: {SOURCE}" in said and f"--replay --exclude-source {SOURCE}" in said
    assert "rollback applied" in said and "quarantine applied" in said
    table = said.partition("days ahead")[2].splitlines()
    rows = [line.split() for line in table if line[:10].strip().isdigit()]
    assert len(rows) == 4
    for _, poisoned, mended, never_saw in rows:
        # It was learned: scores were far off, and are not any more.
        assert float(poisoned) > 1.3 * float(never_saw)
        assert abs(float(mended) / float(never_saw) - 1) <= WITHIN
    assert " 0 failed" in said
