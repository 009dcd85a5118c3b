"""The audit trail as values: what an entry was about, which are wanted, and as a file. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

FILTERS = ("kind", "who", "state", "q", "since", "until")
_COLUMNS = ("time", "kind", "who", "reason", "state", "id", "about", "partition", "outcome",
            "detail", "offset")  # fmt: skip


def chosen(items: list[dict[str, Any]], wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of the trail that pass every filter that is given.

    Parameters
    ----------
    wanted
        ``kind`` and ``state`` equal; ``who`` and ``q`` (anywhere in the entry) contained, in any
        letter case; ``since`` and ``until`` as days or times, the last one excluded.
    """

    def passes(one: dict[str, Any]) -> bool:
        get = wanted.get
        return (
            get("kind", "") in ("", one["kind"])
            and get("state", "") in ("", one["state"])
            and get("who", "").lower() in one["who"].lower()
            and get("q", "").lower() in json.dumps(one, ensure_ascii=False).lower()
            and one["time"] >= get("since", "")
            and (not get("until") or one["time"] < get("until", ""))
        )

    return [one for one in items if passes(one)]


def about(one: dict[str, Any]) -> str:
    """What it was about, in a few words."""
    parts = [one["about"]] if one["about"] else []
    if one["cut"] and one["kind"] in ("freeze", "rollback"):
        parts.append("to " + ", ".join(one["cut"].values()))
    if one["replay"]:
        parts.append("learned again")
    without = excluded(one["exclude"])
    if without:
        parts.append(("keeps out " if one["kind"] == "quarantine" else "without ") + without)
    if one["readmits"]:
        parts.append(f"what {one['readmits']} kept out")
    if one.get("model"):
        parts.append(str(one["model"]))
    return "; ".join(parts)


def excluded(what: dict[str, Any] | None) -> str:
    """What an exclusion means, as a text; empty where there is none.

    >>> excluded({"sources": ["till-2"], "since": "2025-03-01T00:00:00+00:00", "surplus": True})
    'source till-2, since 2025-03-01T00:00:00+00:00 (the rest is whole)'
    """
    parts = []
    for kind, one in (("sources", "source"), ("stores", "store"), ("products", "product"),
                      ("categories", "category")):  # fmt: skip
        names = (what or {}).get(kind)
        if names:
            parts.append(f"{one if len(names) == 1 else kind} {', '.join(names)}")
    for kind, one in (("since", "since"), ("until", "before")):
        if (what or {}).get(kind):
            parts.append(f"{one} {(what or {})[kind]}")
    for partition, (first, end) in ((what or {}).get("offsets") or {}).items():
        parts.append(f"offsets {first} to {end - 1} of partition {partition}")
    whole = " (the rest is whole)" if (what or {}).get("surplus") else ""
    return ", ".join(parts) + whole if parts else ""


def as_csv(items: list[dict[str, Any]]) -> str:
    """The trail as CSV: a line for each partition that an operation came to, one at least."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for one in items:
        head = [one["time"], one["kind"], one["who"], one["reason"], one["state"], one["id"],
                about(one)]  # fmt: skip
        for each in one["outcomes"] or [{}]:
            tail = [each.get(name, "") for name in _COLUMNS[7:]]
            writer.writerow([plain(cell) for cell in (*head, *tail)])
    return out.getvalue()


def plain(cell: Any) -> Any:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
