"""Mends refused items by a rule, so that they can be sent again. Pure.

A rule renames fields and sets values. What it makes is judged as any new item is; what is still
refused stays a dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from api.ingest import judge
from stream.event import Refusal


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Fields to rename, old → new, then values to set; both of the event's outermost object."""

    rename: Mapping[str, str] = {}
    set: Mapping[str, Any] = {}


def mend(value: bytes, rule: Rule, latest_s: float) -> bytes | Refusal:
    """An item's bytes by the rule, or why it would be refused still.

    Without a rule the bytes stay what they are.

    Parameters
    ----------
    latest_s
        The latest time an event may have, seconds since 1970 UTC.

    Examples
    --------
    >>> mend(b'{"type": "tick"}', Rule(), 0.0).reason
    'invalid_field'
    """
    if rule.rename or rule.set:
        try:
            fields = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Refusal("malformed", f"no rule can mend it: {error}")
        if not isinstance(fields, dict):
            return Refusal("malformed", "no rule can mend what is no object")
        renamed = {rule.rename.get(name, name): said for name, said in fields.items()}
        value = msgspec.json.encode({**renamed, **rule.set})
    judged = judge(value, latest_s)
    return judged if isinstance(judged, Refusal) else value
