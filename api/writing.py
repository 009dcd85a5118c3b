"""Writing one fact of the API's own: judged as any event is, appended, answered when durable."""

from __future__ import annotations

from collections.abc import Sequence

from api import ingest
from api.context import Context
from api.problems import Problem
from stream.event import AnyEvent, Refusal, encode

#: Source of facts that are put without naming one.
SOURCE = "api"


def judge(context: Context, event: AnyEvent) -> None:
    """Refuse what the fold would refuse.

    Raises
    ------
    Problem
        422, with field and remedy.
    """
    found = ingest.judge(encode(event), context.clock() + context.settings.max_future_s)
    if isinstance(found, Refusal):
        raise _refused(found)


def append(context: Context, events: Sequence[AnyEvent]) -> list[str]:
    """Append events in order, as records of their own; the receipts of the last one.

    An event of all stores goes to every partition and has a receipt in each.

    Raises
    ------
    Problem
        422: one of them would be refused; nothing was written.
    LogUnavailable
    """
    partitions = context.events.partitions
    latest_s = context.clock() + context.settings.max_future_s
    batches = [ingest.batch([encode(one)], partitions, latest_s) for one in events]
    for batch in batches:
        for item in batch.items:
            if isinstance(item, Refusal):
                raise _refused(item)
    entries = [entry for batch in batches for entry in batch.entries]
    offsets = context.log_watch.append(entries)
    context.telemetry.ingested(len(events), 0)
    last = len(batches[-1].entries)
    return [
        f"{entry.partition}-{offset}-0"
        for entry, offset in zip(entries[-last:], offsets[-last:], strict=True)
    ]


def _refused(found: Refusal) -> Problem:
    """422 of an event that the fold would refuse."""
    return Problem(
        422, "invalid", "Invalid request", found.detail, field=found.field or "body",
        remedy=found.remedy,
    )  # fmt: skip
