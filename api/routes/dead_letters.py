"""Dead letters: what they are, by reason and source; mended and sent again, or discarded."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from api import ingest
from api import operation_schemas as schemas
from api.context import Context, answer, documented
from api.cuts import Request as Asked
from api.mending import Rule, mend
from api.problems import Problem, invalid
from api.search import close_names
from stream.dead_letters import Why
from stream.event import REASONS, Refusal

#: Most letters of one action.
MOST = 10_000
_RECEIPT = re.compile(r"(\d{1,6})-(\d{1,18})-(\d{1,6})", re.ASCII)
Place = tuple[int, int, int]


def routes(context: Context) -> APIRouter:
    """The routes of dead letters. Not coroutines: they read and write logs, in a thread."""
    router = APIRouter(tags=["dead letters"])

    async def key(request: Request) -> None:
        context.guard(request)

    def get_letters(
        reason: str | None = Query(None, description="Only those kept aside for this reason"),
        source: str | None = Query(None, description="Only those of this source"),
        settled: bool = Query(False, description="Those that were dealt with too"),
        limit: int = Query(100, ge=0, le=MOST),
    ) -> Response:
        """Dead letters, newest first, and how many there are by reason and source."""
        found = [
            (place, why)
            for place, why in context.log_watch.letters()
            if reason in (None, why.reason)
            and source in (None, why.source)
            and (settled or not why.settled)
        ]
        groups = Counter((why.reason, why.source) for _, why in found)
        return answer(
            {
                "groups": [
                    {"reason": reason, "source": source, "letters": n}
                    for (reason, source), n in groups.most_common()
                ],
                "items": [
                    _item(context, place, why)
                    for place, why in sorted(found, key=lambda pair: -pair[1].at)[:limit]
                ],
            }
        )

    def post_letters(body: schemas.LettersRequest) -> Response:
        """Send dead letters again, mended by a rule, or discard them.

        What is still refused stays a letter. An item sent again is a new one of the log: it is
        counted as such, the letter as refused, as before.
        """
        _check_values(body.set)
        chosen = _chosen(context, body)
        rule = Rule(rename=body.rename, set=body.set)
        if body.action == "discard" and (rule.rename or rule.set):
            raise invalid("action", "what is discarded is not mended", "leave the rule out")
        latest_s = context.clock() + context.settings.max_future_s
        good: dict[Place, bytes] = {}
        refused = []
        for place, why in chosen:
            value = context.letters.read(place[0], why.at)
            made: bytes | Refusal = value
            if body.action == "resend":
                made = (
                    Refusal("late", "sent again, it would be late again; a replay can admit it")
                    if why.reason == "late" and not (rule.rename or rule.set)
                    else mend(value, rule, latest_s)
                )
            if isinstance(made, Refusal):
                refused.append({"receipt": _receipt(place), **ingest.refusal(made)})
            else:
                good[place] = made
        receipts: list[str] = []
        operation = None
        if good and not body.dry_run:
            operation, receipts = _carry_out(context, body, good, latest_s)
        return answer(
            {
                "operation": operation,
                "action": body.action,
                "chosen": len(chosen),
                "done": len(good),
                "receipts": receipts,
                "refused": refused,
                "dry_run": body.dry_run,
            }
        )

    router.add_api_route(
        "/v1/dead-letters",
        get_letters,
        responses={200: {"model": schemas.Letters}, **documented(422, 503)},
    )
    router.add_api_route(
        "/v1/dead-letters",
        post_letters,
        methods=["POST"],
        dependencies=[Depends(key)],
        responses={200: {"model": schemas.LettersDone}, **documented(401, 404, 409, 422, 503)},
    )
    return router


def _check_values(values: dict[str, Any]) -> None:
    """Refuse values that no event can hold, such as half a surrogate pair.

    Raises
    ------
    Problem
    """
    try:
        msgspec.json.encode(values)
    except (UnicodeError, RecursionError) as error:
        raise invalid(
            "set", f"a value cannot be written as JSON: {error}"[:200],
            "give text that is UTF-8, nested no deeper than an event may be",
        ) from None  # fmt: skip


def _carry_out(
    context: Context, body: schemas.LettersRequest, good: dict[Place, bytes], latest_s: float
) -> tuple[str, list[str]]:
    """1. Write it down. 2. Send what is sent again. 3. Settle the letters.

    A crash after 2. leaves letters unsettled: sent again once more, they are duplicates.
    """
    which = ", ".join(
        part
        for part in (
            body.refused_for and f"reason {body.refused_for}",
            body.source and f"source {body.source}",
            f"{len(good)} letters",
            *(f"{old} renamed {new}" for old, new in body.rename.items()),
            *(f"{name} set to {value!r}" for name, value in body.set.items()),
        )
        if part
    )
    # 1.
    entry = context.control.note(
        Asked(kind=body.action, who=body.who, reason=body.reason, id=body.id),
        about=which,
        letters=msgspec.json.encode(
            (sorted(body.receipts), body.refused_for, body.source, body.rename, body.set),
            order="sorted",
        ),
    )
    # 2.
    receipts = []
    if body.action == "resend":
        made = ingest.batch(list(good.values()), context.events.partitions, latest_s)
        offsets = context.log_watch.append(made.entries)
        receipts = [one["receipt"] for one in ingest.receipts(made, offsets)]
    # 3.
    done = "sent again" if body.action == "resend" else "discarded"
    context.letters.settle(list(good), f"{done} by {entry.operation.id}")
    return entry.operation.id, receipts


def _chosen(context: Context, body: schemas.LettersRequest) -> list[tuple[Place, Why]]:
    """The letters that are meant: those named, or all that are open and match."""
    known = dict(context.log_watch.letters())
    if body.receipts:
        chosen = []
        for receipt in dict.fromkeys(body.receipts):
            match = _RECEIPT.fullmatch(receipt)
            why = known.get(tuple(map(int, match.groups()))) if match else None  # type: ignore[arg-type]
            if match is None or why is None:
                raise Problem(
                    404, "unknown-letter", "No such dead letter", f"`{receipt[:100]}` is none",
                    field="receipts", remedy="choose one of GET /v1/dead-letters",
                )  # fmt: skip
            partition, offset, item = map(int, match.groups())
            chosen.append(((partition, offset, item), why))
        return [(place, why) for place, why in chosen if not why.settled]
    if body.refused_for is None and body.source is None:
        raise invalid("receipts", "say which letters are meant",
                      "give `receipts`, `refused_for` or `source`")  # fmt: skip
    if body.refused_for is not None and body.refused_for not in REASONS:
        raise Problem(
            422, "invalid", "Invalid request", f"nothing is refused for `{body.refused_for}`",
            field="refused_for", remedy=f"give one of {', '.join(sorted(REASONS))}",
            near=close_names(body.refused_for, sorted(REASONS)),
        )  # fmt: skip
    found = [
        (place, why)
        for place, why in known.items()
        if not why.settled
        and body.refused_for in (None, why.reason)
        and body.source in (None, why.source)
    ]
    return found[:MOST]


def _item(context: Context, place: Place, why: Why) -> dict[str, Any]:
    return {
        "receipt": _receipt(place),
        "reason": why.reason,
        "detail": why.detail,
        "remedy": why.remedy,
        "source": why.source,
        "settled": why.settled or None,
        "value": context.letters.read(place[0], why.at).decode("utf-8", "backslashreplace"),
    }


def _receipt(place: Place) -> str:
    return "-".join(map(str, place))
