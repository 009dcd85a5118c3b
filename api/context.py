"""What the routes share: built once by ``create_app``, passed to each of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from api import problems, schemas
from api.answers import encode
from api.catalog import Catalog
from api.census import Censuses
from api.control import Control
from api.diff import Diffs
from api.excluded import Excluded
from api.facts import FactReader
from api.log_watch import LogWatch
from api.past import Past
from api.recaller import Recaller
from api.replica import Replica
from api.security import Guard
from api.telemetry import ApiTelemetry
from stream.dead_letters import DeadLetters
from stream.log import EventLog
from stream.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts of one application."""

    settings: Settings
    events: EventLog
    replica: Replica
    recaller: Recaller
    past: Past
    diffs: Diffs
    catalog: Catalog
    census: Censuses
    facts: FactReader
    control: Control
    excluded: Excluded
    letters: DeadLetters
    log_watch: LogWatch
    telemetry: ApiTelemetry
    guard: Guard
    clock: Callable[[], float]


class Plain(APIRoute):
    """A documented route whose function takes the request and gives the response, no more.

    FastAPI's solving of parameters and checking of answers costs a third of the throughput of
    a small answer; hot routes read their own parameters and describe them in ``openapi_extra``.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's function itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def answer(value: Any, status: int = 200) -> Response:
    """A value as JSON; not-a-number is ``null``."""
    return Response(encode(value), status, media_type="application/json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems a route may answer."""
    return {
        status: {
            "description": schemas.PROBLEMS[status],
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
