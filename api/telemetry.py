"""Every Prometheus metric of the API, and the middleware that measures requests.

Requests are counted by route template, never by path: ``/forecast/{store}`` is one series
whatever is asked for, and a path that no route knows is ``other``. Leaves out: serving
``/metrics`` (a route's), and tracing.
"""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bounds of the latency histogram, s: forecasts are answered from memory, bulk ingest is not.
REQUEST_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
                     5.0, 10.0)  # fmt: skip
#: Status of a request whose client left before an answer began.
CLIENT_LEFT = "499"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ApiTelemetry:
    """The API's metrics.

    Parameters
    ----------
    registry
        Where the metrics are registered; ``None`` makes one of its own. A registry takes one
        ``ApiTelemetry``.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry if registry is not None else CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "salescast_http_requests_total",
            "Requests answered, by method, route template and status",
            ("method", "route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "salescast_http_request_seconds",
            "Time to the last byte of an answer; of an event stream, to its first",
            ("route",),
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._ingested = Counter(
            "salescast_ingested_items_total",
            "Items of ingest requests: appended to the log, or refused with a reason",
            ("outcome",),
            registry=registry,
        )
        self._position = Gauge(
            "salescast_replica_position_offset",
            "Position of the snapshot that is served: the next offset it would fold",
            ("partition",),
            registry=registry,
        )
        self._published = Gauge(
            "salescast_replica_published_timestamp_seconds",
            "When the snapshot that is served was published",
            ("partition",),
            registry=registry,
        )
        self._swaps = Counter(
            "salescast_replica_swaps_total",
            "Times the replica changed to another snapshot",
            ("partition",),
            registry=registry,
        )
        self._frozen = Gauge(
            "salescast_replica_frozen",
            "1 while what is served is frozen and does not follow the head",
            ("partition",),
            registry=registry,
        )
        self._dependency = Gauge(
            "salescast_dependency_up",
            "1 while the log or the store answers",
            ("dependency",),
            registry=registry,
        )
        self._accepted = self._ingested.labels("accepted")
        self._refused = self._ingested.labels("refused")
        self._request_children: dict[tuple[str, str, str], Counter] = {}
        self._second_children: dict[str, Histogram] = {}

    def requested(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request; ``route`` is a template, of which there are few."""
        key = (method if method in _METHODS else "other", route, status)
        requests = self._request_children.get(key)
        if requests is None:
            requests = self._request_children[key] = self._requests.labels(*key)
        latency = self._second_children.get(route)
        if latency is None:
            latency = self._second_children[route] = self._request_seconds.labels(route)
        requests.inc()
        latency.observe(seconds)

    def ingested(self, accepted: int, refused: int) -> None:
        """Count the items of an ingest request."""
        self._accepted.inc(accepted)
        self._refused.inc(refused)

    def swapped(self, partition: int, position: int, published_s: float) -> None:
        """Count a swap, and tell the snapshot now served.

        ``position`` is the next offset it would fold; ``published_s`` is in s since 1970 UTC.
        """
        name = str(partition)
        self._swaps.labels(name).inc()
        self._position.labels(name).set(position)
        self._published.labels(name).set(published_s)

    def frozen(self, partition: int, frozen: bool) -> None:
        """Tell whether what is served of a partition is frozen."""
        self._frozen.labels(str(partition)).set(frozen)

    def dependency(self, name: str, up: bool) -> None:
        """Tell whether a dependency (``log``, ``store``) answers."""
        self._dependency.labels(name).set(up)

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, of ``content_type``."""
        return generate_latest(self.registry)


class MeasureRequests:
    """ASGI middleware that counts and times every HTTP request.

    An exception that leaves the application counts as 500 and goes on upwards, so this belongs
    outside of what answers exceptions: ``app.add_middleware(MeasureRequests, telemetry=...)``
    called last.

    Parameters
    ----------
    app
        The application measured.
    telemetry
        Where requests are counted.
    """

    def __init__(self, app: ASGIApp, telemetry: ApiTelemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; measure it if it is HTTP."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = CLIENT_LEFT
        stream_seconds: float | None = None

        async def noting(message: Message) -> None:
            nonlocal status, stream_seconds
            if message["type"] == "http.response.start":
                status = str(message["status"])
                if _is_event_stream(message):
                    # An event stream lasts as long as its client; that is not latency.
                    stream_seconds = time.perf_counter() - started
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            status = "500"
            raise
        finally:
            seconds = stream_seconds
            if seconds is None:
                seconds = time.perf_counter() - started
            self.telemetry.requested(scope["method"], _template(scope), status, seconds)


def _is_event_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start.get("headers", ())
    )


def _template(scope: Scope) -> str:
    """Path template of the route that the router chose, with the prefix it was included under.

    FastAPI keeps the prefix in its own part of the scope; ``route.path`` alone lacks it.
    """
    included: Any = scope.get("fastapi", {}).get("effective_route_context")
    path = getattr(included or scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"
