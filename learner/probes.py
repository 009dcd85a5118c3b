"""The learner's /metrics, /livez, /readyz and /startupz over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from learner.telemetry import Telemetry
from stream.errors import SettingsError
from stream.settings import Settings

if TYPE_CHECKING:
    from learner.worker import Worker


def _server(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server of the family that the host is of: IPv4 or IPv6."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server((host, port), handler)


class Probes:
    """A small server in a thread of its own.

    ``/readyz`` says which partitions stand still, and why; it is 503 until the worker has
    restored all, and while one stands still.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.worker: Worker | None = None
        probes = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = probes.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: probes come every few seconds."""

        self._telemetry = telemetry
        try:
            self._server = _server(settings.host, settings.metrics_port, Handler)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host}:{settings.metrics_port}: {error.strerror}",
                remedy="Choose another `metrics_port`; 0 takes any free one",
            ) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a path."""
        if path == "/metrics":
            return 200, Telemetry.content_type, self._telemetry.render()
        if path == "/livez":
            return 200, "application/json", b'{"status":"ok"}'
        if path in ("/readyz", "/startupz"):
            worker = self.worker
            reasons = [] if worker is not None and worker.started else ["restoring"]
            if worker is not None and path == "/readyz":
                held = dict(worker.held)
                reasons += [
                    f"partition {one} stands still: {held[one]}"
                    if one in held
                    else f"partition {one} is being restored"
                    for one in sorted(worker.waiting)
                ]
                reasons += [
                    owned.stopped for _, owned in sorted(worker.owned.items()) if owned.stopped
                ]
            body = json.dumps({"status": "waiting" if reasons else "ok", "reasons": reasons})
            return (503 if reasons else 200), "application/json", body.encode()
        return 404, "application/json", b'{"title":"not found"}'

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
