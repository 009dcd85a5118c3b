"""What the documentation says is what the code does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.docs import ROOT, event_schema, made
from stream.event import Refusal, decode_item
from stream.settings import describe

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", made(README))
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == made(README)[name], "run: make docs"


def test_every_setting_has_a_help_that_is_no_repetition() -> None:
    helps = [row["help"] for row in describe()]
    assert all(len(text) >= 8 for text in helps)
    assert len(set(helps)) == len(helps)


def test_every_target_the_readme_names_is_in_the_makefile() -> None:
    targets = {
        line.partition(":")[0]
        for line in Path(ROOT / "Makefile").read_text().splitlines()
        if ":" in line and not line.startswith(("\t", ".", "#"))
    }
    named = {
        word
        for line in README.splitlines()
        for before, after in [line.split("make ", 1) if "`make " in line else ("", "")]
        for word in [after.split("`")[0].split(" ")[0]]
        if word
    }
    assert named and named <= targets


def test_every_event_the_readme_shows_is_one() -> None:
    shown = [line for line in README.splitlines() if line.startswith('{"type"')]
    assert len(shown) >= 4
    for line in shown:
        assert not isinstance(decode_item(line.encode()), Refusal), line


def test_the_schema_tells_every_field_of_a_sale() -> None:
    sale = event_schema()["$defs"]["Sale"]
    assert set(sale["required"]) >= {"id", "source", "store", "product", "time", "quantity"}
    assert "tick" not in json.dumps(event_schema())
