"""The backtest's report in a real browser: all of it is in the file, and it draws."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.cli import make
from stream.event import Product, encode
from tests.browser.webdriver import absent, browser
from tests.learner_parts import day, market

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(absent()), reason=f"no browser to drive: {absent()}"),
]

#: A name that would run as markup, were it ever treated as such.
EVIL = "</script><script>window.harmed=1</script><img src=x onerror='window.harmed=1'>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on twelve series of two stores and three categories, one of them evilly named."""
    folder = tmp_path_factory.mktemp("report")
    lines = []
    for at in range(6):
        category = EVIL if at == 0 else f"group {at % 2}"
        lines.append((day(0, 0), encode(Product(id=f"{at}", source="hq", time=day(0, 0),
                                                product=f"p{at}", category=category))))  # fmt: skip
    for store in ("Main Street", "Harbour"):
        for sale in market(90, series=6, seed=len(store)):
            value = encode(sale).replace(b'"store":"s"', f'"store":"{store}"'.encode())
            lines.append((sale.time, value.replace(b'"id":"', f'"id":"{store} '.encode())))
    lines.sort(key=lambda pair: pair[0])
    events = folder / "events.ndjson"
    events.write_bytes(b"".join(line + b"\n" for _, line in lines))
    path = folder / "report.html"
    first = day(0, 0) + timedelta(days=60)
    result = CliRunner().invoke(
        make(),
        ["backtest", "--events", str(events), "--models", "ensemble,bayes", "--horizons", "1,7",
         "--from", f"{first:%Y-%m-%d}", "--report", str(path)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(one.name for one in folder.iterdir()) == ["events.ndjson", "report.html"]
    return path


def test_the_report_is_complete_in_itself(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)\s*=", outside) == []
    assert EVIL not in text
    with browser() as window:
        window.open(report.as_uri())
        assert window.run("return performance.getEntriesByType('resource').length") == 0


def test_the_report_draws_what_it_promises(report: Path) -> None:
    with browser() as window:
        window.open(report.as_uri())
        titles = window.run("return [...document.querySelectorAll('h2')].map((h) => h.innerText)")
        assert titles == [
            "Scores", "Error by horizon", "Error by store", "Error by category",
            "Error by volume class", "Error over time", "Calibration over time",
            "Best and worst series",
        ]  # fmt: skip
        drawn = window.run(
            "return [...document.querySelectorAll('.plotly-graph-div')].map((div) => "
            "div.data.filter((t) => t.visible !== false && t.y.length > 0).length)"
        )
        assert len(drawn) == 7 and all(drawn), drawn
        rows = window.run("return document.querySelectorAll('tbody tr').length")
        assert rows == 2 * 3  # horizons, models with seasonal naive
        assert window.run("return window.harmed") is None
        assert window.complaints() == []


def test_a_button_shows_another_horizon(report: Path) -> None:
    shown = (
        "const div = document.querySelectorAll('.plotly-graph-div')[4];"
        "return div.data.filter((t) => t.visible !== false).map((t) => t.y[1])"
    )
    with browser() as window:
        window.open(report.as_uri())
        first = window.run(shown)
        window.run(
            "document.querySelectorAll('.plotly-graph-div')[4]"
            ".querySelectorAll('.updatemenu-button')[1].dispatchEvent(new Event('click'))"
        )
        second = window.run(shown)
        assert len(first) == len(second) == 3
        assert first != second
