"""Numbers, times and names as people read them. Pure: all but ``ago`` say the same at any time."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

NONE = "–"


def number(value: float | None, digits: int = 1) -> str:
    """A number with thousands apart.

    >>> number(1234567, 0), number(0.5), number(-3.0), number(None)
    ('1,234,567', '0.5', '−3.0', '–')
    """
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


def span(start: int, end: int | None) -> str:
    """Offsets [start, end), the last one included.

    >>> span(1, 17), span(5, None), span(5, 5)
    ('1 to 16', 'from 5 on', 'none')
    """
    if end is None:
        return f"from {start:,} on"
    return f"{start:,} to {end - 1:,}" if end > start else "none"


def units(value: float | None) -> str:
    """Units of demand: whole where they are, else with as many digits as tell something.

    >>> units(12.0), units(12.34), units(0.0412), units(1520.4)
    ('12', '12.3', '0.04', '1,520')
    """
    if value is None:
        return NONE
    if abs(value - round(value)) < 5e-7:
        return number(value, 0)
    return number(value, 0 if abs(value) >= 1000 else 1 if abs(value) >= 1 else 2)


def signed(value: float) -> str:
    """Units with a plus before what adds.

    >>> signed(2.0), signed(-0.001), signed(-3.25)
    ('+2', '0', '−3.2')
    """
    return ("+" if value > 5e-3 else "") + units(0.0 if abs(value) < 5e-3 else value)


def percent(share: float | None, digits: int = 0, sign: bool = False) -> str:
    """A share as a percentage.

    >>> percent(0.257), percent(0.257, 1, sign=True), percent(-0.1), percent(None)
    ('26 %', '+25.7 %', '−10 %', '–')
    """
    if share is None or not math.isfinite(share):
        return NONE
    return ("+" if sign and share > 0 else "") + f"{number(100 * share, digits)} %"


def moment(text: str | None) -> str:
    """A time to the minute, with its distance from UTC.

    >>> moment("2025-03-02T02:00:01+00:00"), moment("2025-03-02T02:00:00+01:00"), moment(None)
    ('2 Mar 2025, 02:00 UTC', '2 Mar 2025, 02:00 +01:00', '–')
    """
    if not text:
        return NONE
    at = datetime.fromisoformat(text)
    zone = text[-6:] if at.utcoffset() else "UTC"
    return f"{at.day} {at:%b %Y, %H:%M} {zone}"


def bucket(text: str, length: str) -> str:
    """The start of a bucket.

    >>> bucket("2025-03-02T02:00:00+01:00", "hour"), bucket("2025-03-02T00:00:00+01:00", "day")
    ('Sun 2 Mar 2025, 02:00', 'Sun 2 Mar 2025')
    """
    at = datetime.fromisoformat(text)
    return f"{at:%a} {at.day} " + (f"{at:%b %Y, %H:%M}" if length == "hour" else f"{at:%b %Y}")


def buckets(count: int, length: str) -> str:
    """How many buckets.

    >>> buckets(1, "day"), buckets(72, "hour")
    ('1 day', '72 hours')
    """
    return f"{count} {length}{'' if count == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """A span of time in its largest fitting unit.

    >>> duration(3.2), duration(140), duration(7300), duration(400000)
    ('3 s', '2 min', '2 h', '5 days')
    """
    if seconds is None:
        return NONE
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def ago(text: str | None, now: datetime) -> str:
    """How long ago a time was."""
    if not text:
        return NONE
    return f"{duration((now - datetime.fromisoformat(text)).total_seconds())} ago"


def size(count: float) -> str:
    """Bytes.

    >>> size(812), size(81_200), size(8_120_000)
    ('812 B', '81.2 kB', '8.1 MB')
    """
    for limit, length, unit in ((1e3, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if count < limit:
            return f"{count / length:.{0 if length == 1 else 1}f} {unit}"
    return f"{count / 1e9:.1f} GB"


def address(path: str, query: Mapping[str, Any]) -> str:
    """An address of the console; what is empty is left out of it.

    >>> address("/audit", {"kind": "freeze", "who": "", "day": None, "source": ["a b", "c"]})
    '/audit?kind=freeze&source=a+b&source=c'
    """
    given = {name: value for name, value in query.items() if value not in (None, "", [], ())}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


# -- markup: every text from outside goes through `text` ----------------------------------------


def text(value: object) -> str:
    """A text inside markup, so that a name which looks like markup stays a name."""
    return html.escape(str(value), quote=True)


def link(label: str, href: str, **attributes: str) -> str:
    """A link as markup; ``label`` is a text."""
    more = "".join(f' {name.rstrip("_")}="{text(value)}"' for name, value in attributes.items())
    return f'<a href="{text(href)}"{more}>{text(label)}</a>'


def tag(label: str, kind: str = "") -> str:
    """A small label as markup."""
    return f'<span class="tag {kind}">{text(label)}</span>'


def bar(share: float) -> str:
    """A bar from the middle, as markup; ``share`` in [-1, 1]."""
    side = "right" if share >= 0 else "left"
    return f'<span class="bar {side}" style="--share:{abs(share):.3f}" aria-hidden="true"></span>'


def table(
    heads: Iterable[str], rows: Iterable[Iterable[str]], *, label: str, numbers: Iterable[int] = ()
) -> str:
    """A table as markup, in a box that scrolls where it is too wide.

    Parameters
    ----------
    heads
        Texts of the head.
    rows
        Cells as markup; a row's first one names it.
    label
        What the table is, for who cannot see it.
    numbers
        Places of the columns that hold numbers, from 0.
    """
    right = frozenset(numbers)

    def kind(at: int) -> str:
        return ' class="num"' if at in right else ""

    head = "".join(f'<th scope="col"{kind(at)}>{text(one)}</th>' for at, one in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{kind(at)}>{cell}</th>' if at == 0 else f"<td{kind(at)}>{cell}</td>"
            for at, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as markup; values are markup already."""
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{rows}</dl>'


def notice(title: str, *lines: str, kind: str = "") -> str:
    """A framed notice as markup; ``lines`` are markup."""
    role = "alert" if kind == "error" else "note"
    body = "".join(f"<p>{line}</p>" for line in lines if line)
    return f'<section class="notice {kind}" role="{role}"><h2>{text(title)}</h2>{body}</section>'


def standing(one: dict[str, Any]) -> str:
    """What a partition stands still at, and the way on, as markup; nothing if it does not."""
    if (found := one["standstill"]) is None:
        return ""
    at = "before its head" if found["offset"] is None else f"at offset {found['offset']}"
    return notice(
        f"Partition {one['partition']} stands still {at} since {moment(found['since'])}",
        text(found["why"]), text(found["remedy"]), kind="warn",
    )  # fmt: skip
