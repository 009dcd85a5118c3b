"""Stock-outs and their ends, as producers tell them: which one holds, and for how long it matters.

Where spans overlap, the event of the latest (time, source, id) holds, in whatever order they came.
Leaves out: what a stock-out does to a bucket (``panel``).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
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
    """Take in an event; a series' spans are kept in order: of those that overlap the last holds."""
    span = Span(
        time_us(event.start), time_us(event.end), event.available,
        time_us(event.time), event.source, event.id,
    )  # fmt: skip
    key = (event.store, event.product)
    spans[key] = _last_told([*spans.get(key, ()), span])


def _last_told(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, but those that a later one covers whole."""
    kept: list[Span] = []
    for one in sorted(spans, key=lambda span: (*span[3:], *span[:3]), reverse=True):
        if not any(later.from_us <= one.from_us and one.to_us <= later.to_us for later in kept):
            kept.append(one)
    return kept[::-1]


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
