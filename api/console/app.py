"""The console's process: its pages behind uvicorn, and one listener for the API's news."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui
from starlette.responses import JSONResponse, RedirectResponse, Response

from api.console import audit, forecasts, inputs, letters, models, quality, snapshots
from api.console.client import Api
from api.console.gate import Gate
from api.console.live import Live
from api.console.page import Console

logger = logging.getLogger(__name__)

#: How long a page whose connection is lost keeps its state: a phone sleeps, a network changes.
RECONNECT_S = 30.0

_HERE = Path(__file__).parent
_HEAD = """
<link rel="stylesheet" href="/look/page/style.css">
<link rel="stylesheet" href="/look/console/console.css">
<script defer src="/look/console/keys.js"></script>
"""


def create_app(api: Api, listens: str) -> FastAPI:
    """The console over an API. NiceGUI keeps its pages for itself: one console a process.

    Parameters
    ----------
    listens
        The address that it listens on; who may come in depends on it.
    """
    live = Live(api)
    console = Console(api=api, live=live)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(live.follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await api.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def first(_: object) -> Response:
        return RedirectResponse("/forecasts")

    async def livez(_: object) -> Response:
        return JSONResponse({"live": True})

    app.add_route("/", first)
    app.add_route("/livez", livez)
    pages.add_static_files("/look/page", _HERE.parent / "page")
    pages.add_static_files("/look/console", _HERE / "static")
    ui.add_head_html(_HEAD, shared=True)
    for one in (forecasts, quality, snapshots, inputs, letters, models, audit):
        one.install(console)
    audit.install_export(app, console)
    ui.run_with(
        app, title="Salescast", language="en-US", dark=None, tailwind=False,
        show_welcome_message=False, reconnect_timeout=RECONNECT_S,
    )  # fmt: skip
    app.add_middleware(Gate, listens=listens)
    return app


def serve(url: str, host: str, port: int, started: Callable[[str], None]) -> int:
    """Serve the console until SIGTERM or SIGINT; 0, or 1 if the port cannot be had.

    Parameters
    ----------
    url
        Address of the API.
    started
        Told the console's own address, once it answers.
    """
    config = uvicorn.Config(
        create_app(Api(url), host), host=host, port=port, access_log=False, log_config=None,
        log_level="warning", server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Announcing(config, started)
    try:
        server.run()
    except SystemExit:
        return 1  # uvicorn has said why
    return 0 if server.started else 1


class _Announcing(uvicorn.Server):
    """uvicorn that says where it listens."""

    def __init__(self, config: uvicorn.Config, told: Callable[[str], None]) -> None:
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            shown = f"[{shown}]" if ":" in shown else shown
            self._told(f"http://{shown}:{port}/")
