"""What is refused of any request, whatever its route: what cannot be read, and what is not asked.

A path that is not UTF-8 names nothing, a compressed body is not read, and a parameter that a route
does not know is a mistyped one. Leaves out: what parameters and bodies hold.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import parse_qsl, unquote_to_bytes

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.convertors import PathConvertor
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import Problem, invalid, response
from api.search import close_names

#: Those that may be given more than once: a list.
_LISTS = frozenset(("quantiles",))


class Name(PathConvertor):
    """A name in a path, ``{id:name}``: any letters at all, slashes and line ends among them."""

    regex = r"[\s\S]*"


@lru_cache(maxsize=1024)
def only(query: bytes, names: frozenset[str]) -> None:
    """Refuse parameters of a query string that have none of these names, or come twice.

    Raises
    ------
    Problem
        422, with names like it.
    """
    seen: set[str] = set()
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in names:
            raise _unknown(name[:100], names)
        if name in seen and name not in _LISTS:
            raise invalid(name, f"`{name}` is given more than once", "give it once")
        seen.add(name)


def _unknown(name: str, names: Collection[str]) -> Problem:
    there = sorted(names)
    return Problem(
        422, "invalid", "Invalid request", f"there is no parameter `{name}` here", field=name,
        remedy=f"the parameters are {', '.join(there)}" if there else "leave it out",
        near=close_names(name, there),
    )  # fmt: skip


def _names(route: APIRoute) -> frozenset[str]:
    """Parameters of a route's query, as OpenAPI has them."""
    own = {one.alias for one in route.dependant.query_params}
    told = (route.openapi_extra or {}).get("parameters", [])
    return frozenset(own | {one["name"] for one in told if one["in"] == "query"})


async def known_query(request: Request) -> None:
    """Refuse parameters that the route does not know; probes and metrics take any.

    Raises
    ------
    Problem
    """
    route = request.scope.get("route")
    if (
        request.scope["query_string"]
        and isinstance(route, APIRoute)
        and route.path.startswith("/v1/")
    ):
        only(request.scope["query_string"], _names(route))


class Readable:
    """Answer 422 to a path that is not UTF-8, and 415 to a body that is compressed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what can be read."""
        problem = _unreadable(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await response(problem)(scope, receive, send)


def _unreadable(scope: Scope) -> Problem | None:
    raw = scope.get("raw_path", b"")
    if b"%" in raw and not utf8(raw):
        return invalid(
            "path", "the path is not UTF-8", "quote each name of it as UTF-8, such as S%C3%BCd"
        )
    if scope["method"] in ("GET", "HEAD"):
        return None
    encoding = dict(scope["headers"]).get(b"content-encoding", b"identity")
    if encoding.strip().lower() in (b"", b"identity"):
        return None
    return Problem(
        415, "unsupported-encoding", "Compressed bodies are not taken",
        "the body has a Content-Encoding", field="Content-Encoding",
        remedy="send the body uncompressed",
    )  # fmt: skip


def utf8(raw: bytes) -> bool:
    """Whether a quoted path is UTF-8."""
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True
