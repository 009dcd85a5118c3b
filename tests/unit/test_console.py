"""The console's pure parts: words, the lineage's drawing, rates, the trail, and who may come in."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from api.console import charts, diff, formats, guard, lineage, snapshots, sources, trail
from api.console.client import Api, abilities
from api.origin import refusal
from api.routes.status import catching_up
from stream.errors import SettingsError
from tests.api_parts import Deployment


def test_the_api_does_not_load_the_console_nor_what_draws_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, api.server, scripts.cli;"
         "print([one for one in sys.modules if one.startswith(('nicegui', 'api.console'))])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


# -- who may come in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "host", "origin", "let_in"),
    [
        ("127.0.0.1", "127.0.0.1:8001", None, True),
        ("127.0.0.1", "[::1]:8001", "http://[::1]:8001", True),
        ("127.0.0.1", "localhost", "http://localhost:9000", False),
        ("127.0.0.1", "rebound.example:8001", "http://rebound.example:8001", False),
        ("127.0.0.1", "", None, False),
        ("0.0.0.0", "shop.lan:8001", "http://shop.lan:8001", True),
        ("0.0.0.0", "shop.lan:8001", "null", False),
    ],
)
def test_only_pages_of_the_consoles_own_address_are_let_in(
    listens: str, host: str, origin: str | None, let_in: bool
) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert (refusal("console", listens, headers) is None) is let_in


@pytest.mark.parametrize("key", ["", "secret"])
def test_what_the_api_can_do_is_read_from_its_own_description(tmp_path: Any, key: str) -> None:
    deployment = Deployment(tmp_path, api_key=key)
    try:
        found = abilities(deployment.app().openapi())
    finally:
        deployment.close()
    assert found.keyed is bool(key)
    assert {"freeze", "resume", "rollback", "quarantine", "readmit"} <= found.operations
    assert "/v1/lineage" in found.paths


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://shop", "http://", "http://[::1"])
def test_what_is_no_address_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="not an address"):
        Api(url)


# -- words -------------------------------------------------------------------------------------


def test_a_name_that_is_markup_stays_a_name() -> None:
    evil = "<img src=x onerror='harm()'>"
    for made in (
        formats.link(evil, "/x?q=" + evil, title=evil),
        formats.table([evil], [[formats.text(evil)]], label=evil),
        formats.notice(evil, formats.text(evil)),
        formats.tag(evil),
    ):
        assert "<img" not in made
        assert "'harm" not in made


# -- lineage -----------------------------------------------------------------------------------


def node(id_: str, parent: str | None, lane: int, at: int, **more: Any) -> dict[str, Any]:
    return {"id": id_, "parent": parent, "lineage": lane, "position": at,
            "published_at": f"2025-01-01T00:00:{at:02}+00:00", "active": False, "head": False,
            "unfinished": False, **more}  # fmt: skip


def test_the_newest_snapshot_is_on_top_and_a_rollback_begins_a_lane_beside() -> None:
    nodes = [
        node("a", None, 0, 1), node("b", "a", 0, 2), node("c", "b", 0, 3),
        node("d", "a", 1, 4, active=True, head=True),
    ]  # fmt: skip
    made = lineage.drawn(nodes, lambda one: str(one["id"]))
    assert re.findall(r'<li id="(\w)"', made) == ["d", "c", "b", "a"]
    x = [float(one) for one in re.findall(r'cx="([\d.]+)"', made)]
    assert x[0] > x[1] == x[2] == x[3]
    paths = re.findall(r'd="(M[^"]+)"', made)
    assert len(paths) == 3
    assert sum("C" in one for one in paths) == 1, "only the branch bends"
    assert made.count('class="active"') == 1


def test_a_snapshot_whose_parent_is_gone_has_no_line() -> None:
    made = lineage.drawn([node("b", "gone", 0, 2)], lambda one: "")
    assert "<path" not in made


# -- sources -----------------------------------------------------------------------------------


def test_a_rate_is_over_all_that_becomes_of_items() -> None:
    now = {"till": {"learned": 100, "duplicate": 20, "refused": 5}, "new": {"learned": 4}}
    then = {"till": {"learned": 60, "duplicate": 20}}
    assert sources.rates_of(now, then, 10.0) == {"till": 4.5, "new": 0.4}


def test_outcomes_that_never_occur_are_not_shown() -> None:
    counts = {"a": {"refused": 1, "void": 0, "learned": 3}, "b": {"late": 2}}
    assert sources.shown_outcomes(counts) == ["learned", "late", "refused"]


# -- the trail ---------------------------------------------------------------------------------


def entry(**more: Any) -> dict[str, Any]:
    return {
        "id": "one", "kind": "rollback", "who": "ada", "reason": "bad feed", "state": "applied",
        "time": "2025-03-01T10:00:00+00:00", "cut": {"0": "p0-l0-o5"}, "replay": True,
        "exclude": {"sources": ["till-2"]}, "readmits": None, "about": "", "outcomes": [
            {"partition": 0, "outcome": "applied", "detail": "", "offset": 7},
        ], **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 2),
        ({"kind": "freeze"}, 1),
        ({"who": "ADA"}, 1),
        ({"q": "till-2"}, 1),
        ({"since": "2025-03-02"}, 1),
        ({"until": "2025-03-02"}, 1),
        ({"state": "refused"}, 0),
    ],
)
def test_each_filter_lets_through_what_it_says(wanted: dict[str, str], count: int) -> None:
    other = entry(id="two", kind="freeze", who="bo", exclude=None,
                  time="2025-03-02T00:00:00+00:00")  # fmt: skip
    assert len(trail.chosen([entry(), other], wanted)) == count


def test_the_trail_as_csv_is_read_by_a_spreadsheet_as_text() -> None:
    made = trail.as_csv([entry(reason='=HYPERLINK("x"), "quoted"\nline'), entry(outcomes=[])])
    rows = list(csv.DictReader(io.StringIO(made)))
    assert len(rows) == 2
    assert rows[0]["reason"] == '\'=HYPERLINK("x"), "quoted"\nline'
    assert rows[0]["about"] == "to p0-l0-o5; learned again; without source till-2"
    assert (rows[0]["offset"], rows[1]["offset"]) == ("7", "")


# -- the guard's commands ----------------------------------------------------------------------


def test_every_command_that_the_api_gives_opens_a_form_filled_alike() -> None:
    command = (
        "salescast rollback --to 2025-03-01T10:00:00+01:00 --replay --exclude-source 'till 2' "
        "--reason 'units 12 times the usual'"
    )
    where = urlsplit(str(guard.form_of(command)))
    assert where.path == "/snapshots"
    assert parse_qs(where.query) == {
        "do": ["rollback"], "to": ["2025-03-01T10:00:00+01:00"], "replay": ["1"],
        "source": ["till 2"], "reason": ["units 12 times the usual"],
    }  # fmt: skip


def test_a_suspect_stands_first_with_the_form_and_the_command_that_mend_it() -> None:
    def row(source: str, state: str, *commands: str) -> dict[str, Any]:
        return {"source": source, "partition": 0, "state": state, "since": None,
                "text": "units a sale 247, usually 8", "commands": list(commands)}  # fmt: skip

    made = guard.told(
        [row("till-1", "ok"), row("<b>", "suspect", "salescast quarantine --source '<b>'")],
        "source",
    )
    assert made.index("&lt;b&gt; is suspect") < made.index("till-1")
    assert 'href="/inputs?do=quarantine&amp;source=%3Cb%3E"' in made
    assert "salescast quarantine --source &#x27;&lt;b&gt;&#x27;" in made
    assert "<b>" not in made


# -- why a forecast moved ----------------------------------------------------------------------


def test_the_parts_of_a_change_are_told_with_who_sent_them() -> None:
    side = {"mean": 4.0, "as_of": "2025-03-01T00:00:00+00:00"}
    sender = {"source": "<till>", "units": 3.0, "items": 2, "passed_over": True}
    closed = {"start": "2025-03-01T00:00:00+00:00", "demand": None, "effect": -1.0,
              "sources": [sender]}  # fmt: skip
    made = diff.told(
        {
            "start": "2025-03-03T00:00:00+00:00", "from": side, "to": {**side, "mean": 5.5},
            "change": 1.5, "parts": {"plans": 2.5, "closed": -1.0}, "closed": [closed],
            "amended": [], "log": {"complete": False, "detail": "only the first records"},
        }
    )  # fmt: skip
    for said in ("Plans known since", "+2.5", "−1", "+1.5", "&lt;till&gt; 3 (2 items, kept out)",
                 "only the first records"):  # fmt: skip
        assert said in made
    assert "<till>" not in made


def test_a_partition_far_behind_its_log_is_not_fresh() -> None:
    one = {"standstill": None, "replaying": None, "frozen": False, "frozen_by": None,
           "stale": False}  # fmt: skip
    for lag, end, said in ((1000, 90_000, "Fresh"), (1001, 90_000, "Catching up"),
                           (21, 400, "Catching up"), (20, 40, "Fresh")):  # fmt: skip
        row = {**one, "lag": lag, "log_end": end, "catching_up": catching_up(lag, end)}
        assert said in snapshots.condition(row)


# -- charts ------------------------------------------------------------------------------------


def test_a_missing_bucket_is_drawn_as_missing_and_not_as_zero() -> None:
    def past(day: int, units: float | None, status: str) -> dict[str, Any]:
        return {"start": f"2025-03-0{day}T00:00:00+00:00", "units": units, "status": status}

    step = {"start": "2025-03-04T00:00:00+00:00", "mean": 4.0, "median": 4.0, "sold": 1.0,
            "quantiles": {"0.1": 2.0, "0.9": 6.0}}  # fmt: skip
    forecast = {"bucket": "day", "steps": [step], "store": "s", "product": "p"}
    history = {"items": [past(1, 3.0, "observed"), past(2, None, "missing"),
                         past(3, 2.0, "censored")]}  # fmt: skip
    traces = {one["name"]: one for one in charts.series(forecast, history, None, 90)["data"]}
    assert traces["Sold"]["y"] == [3.0]
    assert traces["Missing"]["x"] == ["2025-03-02T00:00:00"]
    assert traces["Missing"]["y"][0] < 0.1 * 6.0  # it does not look like much demand
    assert traces["Stock-out: at least"]["y"] == [2.0]
    assert traces["Sold so far"]["y"] == [1.0]
    assert "What if" not in traces
    what_if = charts.series(forecast, history, {"steps": [{"mean": 9.0}]}, 1)["data"]
    assert next(one for one in what_if if one["name"] == "What if")["y"] == [9.0]


def test_the_served_model_is_drawn_first_and_strongest() -> None:
    rows = [
        {"model": name, "role": role, "horizon": h, "rmsse": 0.5 + h}
        for h in (7, 1)
        for name, role in (("ensemble", "champion"), ("seasonal_naive", "challenger"))
    ]
    made = charts.scores(rows, "rmsse", ".3f", "RMSSE", "bucket")["data"]
    assert [one["name"] for one in made] == ["ensemble", "seasonal_naive"]
    assert made[0]["x"] == ["1", "7"]
    assert made[0]["y"] == [1.5, 7.5]
    assert made[0]["line"]["width"] > made[1]["line"]["width"]


def test_a_partition_that_stands_still_is_said_with_the_way_on() -> None:
    found = {"offset": 7, "why": "KeyError: <b>", "since": "2025-03-01T12:00:00+00:00",
             "remedy": "salescast skip 2:7 --reason ..."}  # fmt: skip
    one = {"partition": 2, "standstill": found}
    said = formats.standing(one)
    assert "Partition 2 stands still at offset 7 since" in said
    assert "KeyError: &lt;b&gt;" in said and "salescast skip 2:7 --reason ..." in said
    assert "before its head" in formats.standing(one | {"standstill": found | {"offset": None}})
    assert formats.standing(one | {"standstill": None}) == ""
