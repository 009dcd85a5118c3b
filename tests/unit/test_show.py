"""What commands print of what the API answers: ids whole, times said, ranges right."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from learner.operations import Operation, Outcome
from learner.replay import Exclusion, Rule
from scripts import console
from scripts.cli import make
from scripts.client import ApiError
from stream.errors import LogUnavailable
from stream.event import encode
from stream.log import Entry
from tests.api_parts import ORIGIN, Deployment, running, until
from tests.learner_parts import day, sale

ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path, partitions=1)
    yield found
    found.close()


@pytest.fixture
def url(deployment: Deployment) -> Iterator[str]:
    with running(deployment.app()) as client:
        yield str(client.base_url)


def said(url: str, *words: str, status: int = 0) -> str:
    ran = CliRunner().invoke(make(), [*words, "--url", url])
    assert ran.exit_code == status, (ran.output, ran.exception)
    return ran.output


@pytest.fixture(params=["pipe", "terminal"])
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """80 columns: whether of a terminal."""
    terminal: bool = request.param == "terminal"
    monkeypatch.setattr(console, "out", Console(force_terminal=terminal, width=80))
    return terminal


def write(deployment: Deployment, **changed: Any) -> None:
    """An operation and its outcome, as they are written."""
    values: dict[str, Any] = {
        "id": ID, "kind": "rollback", "who": "ann", "reason": "the till of store 7 counted "
        "twelvefold since the update of Monday night, and nobody saw it", "time": day(3),
        "replay": True, "exclude": Exclusion(sources=("till-7",)),
    }  # fmt: skip
    operation = Operation(**values | changed)
    outcome = Outcome(operation=operation.id, partition=0, outcome="applied", time=day(3))
    deployment.control.append(
        [Entry(0, None, msgspec.json.encode(one)) for one in (operation, outcome)]
    )


def test_ids_are_printed_whole(deployment: Deployment, url: str, narrow: bool) -> None:
    snapshot = deployment.publish(0, 10_000_000)
    write(deployment, cut={0: snapshot})
    for words, ids in (
        (("operations",), (ID, snapshot)), (("audit",), (ID, snapshot)),
        (("snapshots",), (snapshot,)), (("lineage",), (ID, snapshot)), (("shards",), (snapshot,)),
    ):  # fmt: skip
        lines = said(url, *words).splitlines()
        for id in ids:
            assert any(id in line for line in lines), (words, lines)
        if words[0] in ("operations", "audit"):
            assert len(lines) <= 6, "an entry takes no page"
            assert not narrow or max(map(len, lines)) <= 80 + 10  # what sets bold counts as well


def test_an_exported_trail_leaves_nothing_out_and_no_spreadsheet_runs_it(
    deployment: Deployment, url: str
) -> None:
    asked = Operation(id=ID, kind="discard", who="@ann", reason="=1+1", time=day(3), cut={})
    deployment.control.append([Entry(0, None, msgspec.json.encode(asked))])
    (row,) = csv.DictReader(io.StringIO(said(url, "audit", "--export", "csv")))
    assert (row["kind"], row["who"], row["reason"]) == ("discard", "'@ann", "'=1+1")
    (line,) = said(url, "audit", "--export", "ndjson").splitlines()
    assert json.loads(line) | {"id": ID, "reason": "=1+1", "partition": None} == json.loads(line)
    assert "partition" not in said(url, "audit")


def test_a_rollback_to_a_time_says_how_much_older_its_snapshots_are(
    deployment: Deployment, url: str
) -> None:
    deployment.publish(0, 10, origin=ORIGIN)  # 1 March 2025
    for to, older in (
        ("2025-03-04T00:00:00+00:00", False), ("2025-05-01T00:00:00+02:00", True),
        ("2025-05-01t00:00:00z", True), ("2025-05-01T00:00:00\u221202:00", False),
    ):  # fmt: skip
        shown = said(
            url, "rollback", "--to", to, "--reason", "odd", "--who", "ann", "--dry-run"
        )  # fmt: skip
        assert "2025-03-02 00:00:05Z" in shown, shown
        assert "outcome" not in shown, "nothing came of it yet"
        assert ("60 days before 2025-05-01" in " ".join(shown.split())) == older


def test_what_is_known_without_the_log_is_shown_while_it_is_away(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> NoReturn:
        raise LogUnavailable("gone")

    snapshot = deployment.publish(0, 10)
    for log in (deployment.events, deployment.control):
        for ask in ("begin", "end", "read", "owners"):
            monkeypatch.setattr(log, ask, away)
    with running(deployment.app()) as client:
        url = str(client.base_url)
        until(lambda: snapshot in said(url, "status"))
        assert "How sources stand is not known: The event log cannot be" in said(url, "status")
        shown = said(url, "shards")
        assert snapshot in shown and "nobody" not in shown


def test_what_the_api_advises_is_said_as_a_command_needs_it(
    tmp_path: Path, deployment: Deployment, url: str
) -> None:
    deployment.publish(0, 10)
    words = ("readmit", "--operation", "nobody", "--reason", "odd", "--who", "ann", "--url")
    with pytest.raises(ApiError, match=r"`nobody`\. Choose one of `salescast excluded`$"):
        make()([*words, url], standalone_mode=False)
    locked = Deployment(tmp_path / "locked", api_key="secret")
    with (
        running(locked.app()) as client,
        pytest.raises(ApiError, match=r"missing or wrong\. Set SALESCAST_API_KEY, or `api_key` in"),
    ):
        make()([*words, str(client.base_url)], standalone_mode=False)
    locked.close()


def test_what_there_is_not_is_said_with_what_there_is(deployment: Deployment, url: str) -> None:
    deployment.publish(0, 10, keys=[("330", "MILK")])
    while httpx.get(f"{url}/v1/series").json()["total"] == 0:
        time.sleep(0.02)
    for product, advised in (("MLIK", r"Choose one of 330/MILK, or search"), ("Ω", "Search with")):
        with pytest.raises(ApiError, match=rf"no product `{product}`\. {advised}"):
            make()(["diff", "330", product, "--url", url], standalone_mode=False)
    for words, there in (
        (("models", "--model", "nope"), "no challenger is called `nope`; there are "),
        (("lineage", "--partition", "99"), "none is 99 that has snapshots; there are 0"),
    ):
        assert there in " ".join(said(url, *words, status=2).replace("│", "").split())
    assert "no challenger" in said(url, "models", "--model", "ensemble", status=2)


def test_what_is_kept_out_is_listed_with_its_items(deployment: Deployment, url: str) -> None:
    rules = [
        Rule(operation="whole", kind="excluded", what=Exclusion(sources=("till",)), start=0, end=2),
        Rule(operation="nothing", kind="excluded", what=Exclusion(sources=("x",)), start=2, end=2),
        Rule(operation="open", kind="quarantined", what=Exclusion(sources=("y",)), start=2),
    ]
    deployment.publish(0, 3, rules=rules)
    deployment.events.append([Entry(0, None, encode(sale(n, source="till"))) for n in range(2)])
    lines = said(url, "excluded").splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "whole excluded 0 0 to 1 sources till",
        "nothing excluded 0 none sources x",
        "open quarantined 0 from 2 on sources y",
        "each item of one: salescast excluded --operation ID",
    ]
    assert said(url, "excluded", "--operation", "whole").count('"type":"sale"') == 2
    assert "no such item has come so far" in said(url, "excluded", "--operation", "open")


def test_an_api_says_where_it_listens(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "api.server")
    with running(deployment.app()) as client:
        address = str(client.base_url).rstrip("/")
    assert f"listening on {address}, documented at /docs" in caplog.messages


def test_ages_are_of_milliseconds(deployment: Deployment, url: str) -> None:
    deployment.publish(0, 10)
    deployment.events.append([Entry(0, None, encode(sale(n))) for n in range(12)])
    (one,) = json.loads(said(url, "shards", "--json"))["items"]
    assert one["age_s"] == round(one["age_s"], 3) and one["lag_s"] == round(one["lag_s"], 3)
