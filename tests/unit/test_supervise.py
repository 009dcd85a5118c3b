"""Processes that others start: what they run, wherever they are started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.supervise import Child


def test_a_child_runs_no_code_of_the_folder_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "here" / "scripts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text("print('somebody else')")
    monkeypatch.chdir(package.parent)
    log = tmp_path / "log"
    child = Child(name="cli", arguments=("--help",), environ=os.environ, log=log)
    child.start()
    assert child.process is not None
    child.process.communicate(timeout=60)
    assert b"somebody else" not in log.read_bytes()
