"""Stock-outs: which of those that overlap holds, and what a long history of them costs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import availability
from learner.availability import Span, Spans
from stream.event import Availability, time_us
from tests.learner_parts import day, stock_outs


@given(st.lists(st.tuples(*(st.integers(0, n) for n in (3, 5, 4, 1, 2))), max_size=12))
def test_spans_are_those_that_no_later_told_one_covers_in_whatever_order_they_come(
    drawn: list[tuple[int, ...]],
) -> None:
    events = [
        Availability(
            id=str(id), source="hq", time=day(told), start=day(first), end=day(first + 1 + length),
            store="s", product="p", available=bool(back),
        )
        for told, first, length, back, id in drawn
    ]  # fmt: skip
    spans: Spans = {}
    for event in events:
        availability.learn(spans, event)
    every = sorted(
        {
            (time_us(e.time), e.source, e.id, time_us(e.start), time_us(e.end), e.available)
            for e in events
        }
    )
    kept = [
        Span(start, end, available, told, source, id)
        for at, (told, source, id, start, end, available) in enumerate(every)
        if not any(one[3] <= start and end <= one[4] for one in every[at + 1 :])
    ]
    assert spans.get(("s", "p"), []) == kept


def test_each_of_a_year_of_stock_outs_is_held_once_against_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, covers = 0, availability._covers

    def counted(later: Span, earlier: Span) -> bool:
        nonlocal asked
        asked += 1
        return covers(later, earlier)

    monkeypatch.setattr(availability, "_covers", counted)
    spans: Spans = {}
    first = stock_outs(0, 0.5)
    for n in range(365):
        by = timedelta(days=n)
        event = Availability(
            id=str(n), source="hq", time=first.time + by, start=first.start + by,
            end=first.end + by, store="s", product="p",
        )  # fmt: skip
        availability.learn(spans, event)
    assert len(spans["s", "p"]) == 365
    assert asked <= 365 * 365 / 2
