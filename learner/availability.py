"""Stock-outs and their ends, as producers tell them: which one holds, and for how long it matters.

Where spans overlap, the event of the latest (time, source, id) holds, in whatever order they came.
Leaves out: what a stock-out does to a bucket (``panel``).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Container
from typing import NamedTuple

from stream.event import Availability, time_us
from stream.window import Key


class Span(NamedTuple):
    """What an event says of [from_us, to_us), and by what it is told from others."""

    from_us: int
    to_us: int
    available: bool
    told_us: int
    source: str
    id: str


Spans = dict[Key, list[Span]]


def learn(spans: Spans, event: Availability) -> None:
    """Take in an event; a series' spans are kept in order: of those that overlap the last holds.

    One that a later one covers whole says nothing, and is not kept.
    """
    span = Span(
        time_us(event.start), time_us(event.end), event.available,
        time_us(event.time), event.source, event.id,
    )  # fmt: skip
    key = (event.store, event.product)
    ones = spans.get(key, [])
    at = bisect(ones, _told(span), key=_told)
    if not any(_covers(later, span) for later in ones[at:]):
        before = [one for one in ones[:at] if not _covers(span, one)]
        spans[key] = [*before, span, *ones[at:]]


def _told(span: Span) -> tuple[int, str, str, int, int, bool]:
    """What spans are ordered by."""
    return span.told_us, span.source, span.id, span.from_us, span.to_us, span.available


def _covers(later: Span, earlier: Span) -> bool:
    return later.from_us <= earlier.from_us and earlier.to_us <= later.to_us


def forget(spans: Spans, end_us: int, listed: Container[Key] | None = None) -> None:
    """Drop what is over: no bucket that closes, or is amended, asks for it any more.

    Parameters
    ----------
    end_us
        Start of the oldest bucket that may still ask.
    listed
        The series there are, if there is no room for more: of others nothing is asked.
    """
    for key, ones in list(spans.items()):
        kept = [one for one in ones if one.to_us > end_us]
        if not kept or (listed is not None and key not in listed):
            del spans[key]
        else:
            spans[key] = kept
