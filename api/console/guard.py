"""What the guard says of sources and champions, where the API has one."""

from __future__ import annotations

import shlex
from typing import Any

from api.console.formats import address, link, moment, notice, table, tag, text
from api.console.page import Page, markup

PATH = "/v1/guard"
#: Most of those that are as usual that are shown.
_CALM = 50
_MODES = {
    "off": "off: nothing is judged",
    "warn": "warn: who is outside the usual band is named, and learned from",
    "quarantine": "quarantine: who is outside the usual band is kept out before it is learned from",
}
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
    if found is not None and found["sources"]:
        mode = _MODES.get(found["mode"], found["mode"])
        markup("<h2>Guard</h2>" + told(found["sources"], "source")
               + f'<p class="muted small">Mode: {text(mode)}.</p>')  # fmt: skip


def _draw_champions(found: dict[str, Any] | None) -> None:
    if found is not None and found["champions"]:
        markup("<h2>Guard</h2>" + told(found["champions"], "model"))


def told(rows: list[dict[str, Any]], what: str) -> str:
    """What the guard found, as markup: who is off with what helps, then all the others.

    Parameters
    ----------
    rows
        Of the guard's answer.
    what
        The field that names one: ``source`` or ``model``.
    """
    off = "".join(_notice(one, what) for one in rows if one["state"] != "ok")
    calm = [
        [text(one[what]), str(one["partition"]), tag("ok", "active"),
         f'<span class="wrap">{text(one["text"])}</span>']
        for one in rows
        if one["state"] == "ok"
    ]  # fmt: skip
    heads = [what.capitalize(), "Partition", "", "Looked at"]
    rest = ""
    if len(calm) > _CALM:
        rest = f'<p class="muted small">{len(calm) - _CALM:,} more are as usual.</p>'
    usual = table(heads, calm[:_CALM], label=f"Guard: every {what} as usual") if calm else ""
    return off + usual + rest


def _notice(one: dict[str, Any], what: str) -> str:
    since = f" since {moment(one['since'])}" if one["since"] else ""
    buttons = "".join(
        link(f"{command.split()[1].capitalize()}…", where, class_="button")
        for command in one["commands"]
        if (where := form_of(command))
    )
    commands = text("\n".join(one["commands"]))
    return notice(
        f"{one[what]} is {one['state']}",
        f"{text(one['text'])}, partition {one['partition']}{text(since)}.",
        f'<span class="buttons">{buttons}</span>' if buttons else "",
        kind="error" if one["state"] == "suspect" else "warn",
    ) + (f'<pre class="bytes" tabindex="0">{commands}</pre>' if commands else "")
