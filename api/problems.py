"""Errors as RFC 9457 problems: what went wrong, in which field, and what to do about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream.errors import LogError, LogUnavailable, SalescastError, StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: After how many seconds a client should try again when a store or log cannot be reached.
RETRY_AFTER_S = 2
#: What pydantic calls a member of a union; no field of ours is called so.
_KIND = re.compile(r"(constrained-)?(float|int|str|bool)|(list|dict|nullable)\[.*")


class Problem(Exception):
    """An answer of 4xx or 5xx; ``kind`` makes its stable ``type``, ``/problems/<kind>``."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        near: Sequence[str] | None = None,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        members: dict[str, Any] = {
            "type": f"/problems/{kind}",
            "title": title,
            "status": status,
            "detail": detail,
            "field": field,
            "remedy": remedy,
            "near": None if near is None else list(near),
            **(more or {}),
        }
        self.members: dict[str, Any] = {
            # What a client sent may hold halves of surrogate pairs, which UTF-8 has no bytes for.
            name: value.encode("utf-8", "backslashreplace").decode()
            if isinstance(value, str)
            else value
            for name, value in members.items()
            if value is not None
        }


def invalid(field: str, detail: str, remedy: str) -> Problem:
    """422: a parameter or a member of the body is not what it must be."""
    return Problem(422, "invalid", "Invalid request", detail, field=field, remedy=remedy)


def unavailable(what: str, error: BaseException) -> Problem:
    """503: a log or store cannot be reached; the client should try again."""
    remedy = error.remedy if isinstance(error, SalescastError) and error.remedy else "Try again"
    return Problem(
        503,
        "unavailable",
        f"The {what} cannot be reached",
        f"the {what} cannot be reached now; nothing that was not answered is acknowledged",
        remedy=remedy,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def of_error(error: SalescastError) -> Problem:
    """The problem that one of Salescast's own errors is to a client."""
    if isinstance(error, LogUnavailable):
        return unavailable("event log", error)
    if isinstance(error, StoreUnavailable):
        return unavailable("snapshot store", error)
    if isinstance(error, (LogError, StoreError)):
        what = "event log" if isinstance(error, LogError) else "snapshot store"
        return Problem(
            503,
            "needs-operator",
            f"The {what} needs an operator",
            f"the {what} refuses to go on: {type(error).__name__}",
            remedy="see the API's own log",
            headers={"Retry-After": "30"},
        )
    return Problem(
        409, "refused", "Refused", Exception.__str__(error), remedy=error.remedy or "see the detail"
    )


def response(problem: Problem) -> Response:
    """A problem as an HTTP answer."""
    return Response(
        msgspec.json.encode(problem.members),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def _of_http(error: HTTPException) -> Problem:
    """The problem that an error of the router is."""
    if error.status_code == 400:  # FastAPI's own, of a body that Python cannot read as JSON
        return invalid(
            "body", "the body is no JSON that can be read: not UTF-8, or nested too deeply",
            "send a JSON object in UTF-8, with the header Content-Type: application/json",
        )  # fmt: skip
    title = HTTPStatus(error.status_code).phrase
    remedies = {
        404: "see /docs for the paths there are",
        405: "see the header Allow for the methods of this path",
        413: "split the request; the setting `max_body_bytes` says how large one may be",
    }
    return Problem(
        error.status_code,
        title.lower().replace(" ", "-"),
        title,
        error.detail or title,
        remedy=remedies.get(error.status_code, "see /docs"),
        headers=error.headers,
    )


def _of_validation(error: RequestValidationError) -> Problem:
    """The problem that a request FastAPI could not validate is: its first fault, by field."""
    first = error.errors()[0]
    path = [
        str(part)
        for part in first.get("loc", ())
        if part not in ("body", "query", "path") and not _KIND.fullmatch(str(part))
    ]
    if first.get("type") == "json_invalid":
        path = ["body"]
    field = ".".join(path) or "body"
    remedy = f"send `{field}` with the type and bounds of /openapi.json"
    if not path:
        remedy = "send a JSON object, with the header Content-Type: application/json"
    more = len(error.errors()) - 1
    detail = f"`{field}`: {first.get('msg', 'invalid')}" + (f" (and {more} more)" if more else "")
    return invalid(field, detail, remedy)


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of a path, over all of its routes: one that does not fit names its own alone."""
    routes: list[BaseRoute] = []
    for route in app.router.routes:  # those of an included router stand behind one
        included = getattr(route, "original_router", None)
        routes += [route] if included is None else included.routes
    found = {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(found)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    async def problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return response(error)

    async def own(_: Request, error: Exception) -> Response:
        assert isinstance(error, SalescastError)
        if not error.retriable:
            logger.error("refused: %s", error)
        return response(of_error(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = _of_http(error)
        if error.status_code == 405:
            problem.headers["Allow"] = ", ".join(_methods(app, request.scope))
        return response(problem)

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response(_of_validation(error))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(SalescastError, own)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)


def unforeseen(scope: Scope) -> Problem:
    """500, for the exception being handled: it is logged, and nothing is said of its insides."""
    logger.exception("unhandled error in %s %s", scope["method"], scope["path"])
    return Problem(
        500,
        "internal",
        "Internal error",
        "the request met an error nobody foresaw; it is in the API's log",
        remedy="try again; if it stays, report the log's traceback",
    )


class LastResort:
    """Answer 500 to what nothing else caught, log it once, and say nothing of its insides."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; answer if the application raised before it had."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            pass  # it went before it had sent its body: there is nobody to be answered
        except Exception:
            problem = unforeseen(scope)
            if not started:
                await response(problem)(scope, receive, send)


class LimitBody:
    """Answer 413 to a body that is larger than ``most_bytes``, before it is read whole."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in. The error is raised where the body is read, and answered there."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        left = self.most_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = HTTPException(413, f"the body is larger than {self.most_bytes} bytes")

        async def counting() -> Message:
            nonlocal left
            # A declared size is believed at once: the client need not send it all in vain.
            if declared.isdigit() and int(declared) > self.most_bytes:
                raise too_large
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large
            return message

        await self.app(scope, counting, send)
