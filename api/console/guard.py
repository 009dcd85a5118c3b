"""What the guard says of sources and champions, where the API has one."""

from __future__ import annotations

import shlex
from typing import Any

from api.console.formats import address, link, moment, number, table, tag, text
from api.console.page import Page, markup

PATH = "/v1/guard"
_KINDS = {"ok": "active", "suspect": "bad", "quarantined": "warn", "silent": "warn"}
#: A command's options, by the names that a form's address has for them.
_OPTIONS = {"--to": "to", "--exclude-source": "source", "--exclude-store": "store",
            "--exclude-product": "product", "--exclude-category": "category",
            "--exclude-from": "since", "--exclude-to": "until", "--source": "source",
            "--store": "store", "--product": "product", "--operation": "operation",
            "--reason": "reason"}  # fmt: skip
_PAGES = {"rollback": "/snapshots", "freeze": "/snapshots", "resume": "/snapshots",
          "quarantine": "/inputs", "readmit": "/inputs"}  # fmt: skip


def form_of(command: str) -> str | None:
    """The address of the form that does what a command does; ``None`` where there is none.

    >>> form_of("salescast quarantine --source 'till 3' --reason '×12'")
    '/inputs?do=quarantine&source=till+3&reason=%C3%9712'
    >>> form_of("salescast rollback p0-l0-o7 --replay --reason ...")
    '/snapshots?do=rollback&snapshots=p0-l0-o7&replay=1'
    >>> form_of("rm -rf data")
    """
    try:
        name, kind, *rest = shlex.split(command)
    except ValueError:
        return None
    if name != "salescast" or kind not in _PAGES:
        return None
    query: dict[str, Any] = {"do": kind}
    words = iter(rest)
    for word in words:
        if word == "--replay":
            query["replay"] = "1"
        elif word in _OPTIONS:
            value = next(words, "")
            query[_OPTIONS[word]] = "" if value == "..." else value
        elif not word.startswith("-"):
            query.setdefault("snapshots", []).append(word)
    return address(_PAGES[kind], query)


def add_sources(page: Page) -> None:
    """Add what the guard says of sources."""
    page.section(lambda: _ask(page), _draw_sources, every_s=10.0)


def add_champions(page: Page) -> None:
    """Add what the guard says of what is served."""
    page.section(lambda: _ask(page), _draw_champions, every_s=10.0)


async def _ask(page: Page) -> Any:
    able = await page.api.abilities()
    return await page.api.get(PATH) if PATH in able.paths else None


def _draw_sources(found: dict[str, Any] | None) -> None:
    if found is None or not found["sources"]:
        return
    rows = [
        [text(one["source"]), str(one["partition"]), _state(one), _measured(one),
         f'<span class="wrap">{text(one["text"])}</span>', _ways(one["commands"])]
        for one in found["sources"]
    ]  # fmt: skip
    markup(
        "<h2>Guard</h2>"
        + table(["Source", "Partition", "Is", "Found, usually", "Why", "What helps"], rows,
                label="Guard of inputs")
        + f'<p class="muted small">Mode: {text(found["mode"])}.</p>'
    )  # fmt: skip


def _draw_champions(found: dict[str, Any] | None) -> None:
    if found is None or not found["champions"]:
        return
    rows = [
        [text(one["model"]), str(one["partition"]), _state(one), _measured(one),
         f'<span class="wrap">{text(one["text"])}</span>', _ways(one["commands"])]
        for one in found["champions"]
    ]  # fmt: skip
    markup(
        "<h2>Guard</h2>"
        + table(["Model", "Partition", "Is", "Found, usually", "Why", "What helps"], rows,
                label="Guard of models")
    )  # fmt: skip


def _state(one: dict[str, Any]) -> str:
    since = f" since {moment(one['since'], year=False)}" if one["since"] else ""
    return tag(one["state"], _KINDS.get(one["state"], "bad")) + text(since)


def _measured(one: dict[str, Any]) -> str:
    statistic = f"{one['statistic']}: " if one.get("statistic") else ""
    return text(f"{statistic}{number(one['found'], 3)}, {number(one['usual'], 3)}")


def _ways(commands: list[str]) -> str:
    """Forms that do what the guard advises, and the commands for a terminal."""
    said = []
    for command in commands:
        where = form_of(command)
        kind = command.split()[1] if len(command.split()) > 1 else command
        shown = link(f"{kind.capitalize()}…", where, class_="button") if where else ""
        said.append(f'<p>{shown}</p><code class="bytes">{text(command)}</code>')
    return "".join(said)
