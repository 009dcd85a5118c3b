"""What the documentation says is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from scripts.docs import ROOT, event_schema, made
from stream.event import RESERVED, AnyEvent, Refusal, decode_item
from stream.settings import Settings, describe

README = (ROOT / "README.md").read_text(encoding="utf-8")


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", made())
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == made()[name], "run: make docs"


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


def test_the_settings_the_readme_shows_have_its_defaults() -> None:
    defaults = {row["name"]: row["default"] for row in describe()}
    shown = re.findall(r"^\| `([a-z_]+)` \| (?:`([^`]*)`)? ?\|", README, re.MULTILINE)
    assert len(shown) >= 10
    for name, default in shown:
        assert defaults[name] == default, name


def test_what_is_part_of_the_state_is_marked() -> None:
    marked = {row["name"] for row in describe() if row["state"]}
    assert marked == Settings().fingerprint().keys()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, part = target.partition("#")
        if "://" in target:
            continue
        there = page.parent / file if file else page
        assert there.exists(), target
        if part:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            # As GitHub names them: small letters, no punctuation, hyphens for spaces.
            names = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in heads}
            assert part in names, target


def test_every_event_the_pages_show_is_one() -> None:
    shown = set()
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for item in re.split(r"\n(?=\{)", block):
                if item.startswith('{"type"'):
                    event = decode_item(item.encode())
                    assert not isinstance(event, Refusal), item
                    shown.add(type(event))
    assert shown == set(get_args(AnyEvent)) - set(RESERVED)


def test_the_schema_tells_every_field_of_a_sale() -> None:
    sale = event_schema()["$defs"]["Sale"]
    assert set(sale["required"]) >= {"id", "source", "store", "product", "time", "quantity"}
    assert "tick" not in json.dumps(event_schema())
