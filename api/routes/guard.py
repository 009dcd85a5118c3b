"""What the guard says of each source, and the command that mends what it found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api import operation_schemas as schemas
from api.context import Context, answer, documented
from api.replica import iso
from learner.findings import Standing, identity
from learner.inputs import said
from learner.operations import Entry
from learner.serving import Serving
from learner.watch import Watched
from stream.buckets import Calendar


def routes(context: Context) -> APIRouter:
    """The route of the guard. Not a coroutine: it reads the control log, in a thread."""
    router = APIRouter(tags=["operations"])
    calendar = Calendar(context.settings)

    def get_guard() -> Response:
        """Every source by partition: whether it is within its own band, and if not, what helps.

        As of the snapshot that is served; `GET /v1/operations` has every finding there was.
        """
        entries = context.control.entries()
        rows = [
            _row(calendar, view.serving, one, entries)
            for _, view in sorted(context.replica.state.views.items())
            for one in view.serving.sources
        ]
        rows.sort(key=lambda row: (_ORDER[row["state"]], row["source"], row["partition"]))
        models = [
            _model(calendar, view.serving, view.serving.watched, entries)
            for _, view in sorted(context.replica.state.views.items())
            if view.serving.watched is not None
        ]
        return answer({"mode": context.settings.guard, "sources": rows, "champions": models})

    router.add_api_route(
        "/v1/guard", get_guard,
        responses={200: {"model": schemas.GuardStatus}, **documented(503)},
    )  # fmt: skip
    return router


#: What needs somebody comes first.
_ORDER = {"suspect": 0, "silent": 1, "quarantined": 2, "ok": 3}


def _row(
    calendar: Calendar, serving: Serving, one: Standing,
    entries: Mapping[str, Entry],
) -> dict[str, Any]:  # fmt: skip
    """One source in one partition."""
    off = one.state != "ok"
    named = identity(serving.partition, one.source, one.since)
    by_hand = _by_hand(entries, one.source) if one.state == "quarantined" else []
    operation = named if off and named in entries else by_hand[-1] if by_hand else None
    return {
        "partition": serving.partition,
        "source": one.source,
        "state": one.state,
        "learning": one.learning,
        "since": iso(calendar.span(one.since)[0]) if off else None,
        "statistic": one.statistic,
        "found": round(one.found, 6),
        "usual": round(one.usual, 6),
        "score": round(one.score, 4),
        "text": one.text,
        "operation": operation,
        "commands": commands(calendar, one, operation) if off else [],
    }


def _by_hand(entries: Mapping[str, Entry], source: str) -> list[str]:
    """Operations of people that keep a source out and were not taken back, oldest first."""
    back = {entry.operation.readmits for entry in entries.values()}
    return [
        name
        for name, entry in entries.items()
        if entry.operation.kind in ("quarantine", "rollback") and name not in back
        and entry.operation.exclude is not None and source in entry.operation.exclude.sources
    ]  # fmt: skip


def _model(
    calendar: Calendar, serving: Serving, one: Watched, entries: Mapping[str, Entry]
) -> dict[str, Any]:
    """The champion of one partition."""
    off = one.state != "ok"
    named = identity(serving.partition, "", one.since)
    entry = entries.get(named) if off else None
    after = ["salescast rollback --reason ...", "salescast resume --reason ..."]
    if entry is not None and entry.operation.kind == "freeze":
        cut = entry.operation.cut[serving.partition]
        after[0] = f"salescast rollback {cut} --reason {shlex.quote(entry.operation.reason)}"
    return {
        "partition": serving.partition,
        "model": serving.champion,
        "state": one.state,
        "since": iso(calendar.span(one.since)[0]) if off else None,
        "found": round(one.found, 6),
        "usual": round(one.usual, 6),
        "score": round(one.score, 4),
        "text": said(one.state, "champion", one.found, one.usual),
        "operation": None if entry is None else named,
        "commands": after if off else [],
    }


def commands(calendar: Calendar, one: Standing, operation: str | None) -> list[str]:
    """What to run about a source: a suspect was learned from, a quarantined one was not."""
    source = shlex.quote(one.source)
    if one.state == "suspect" and one.statistic != "again":
        # A snapshot that is this old has seen no sale of the bucket.
        start_us = calendar.span(one.since)[0]
        to = datetime.fromtimestamp(start_us / 1e6, calendar.zone)
        why = shlex.quote(one.text)
        # Quarantine first: what comes while the rollback is made must not be learned.
        return [
            f"salescast quarantine --source {source} --reason {why}",
            f"salescast rollback --to {to.isoformat()} --replay --exclude-source {source} "
            f"--reason {why}",
        ]
    if one.state == "quarantined" and operation is not None:
        return [f"salescast readmit --operation {operation} --reason ..."]
    return []
