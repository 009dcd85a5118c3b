"""The API's process: logs and store opened, uvicorn run, everything closed again."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Literal

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.later_log import LaterLog
from learner.adapters import open_store
from learner.keys import ensure_keys, load_verifier
from stream.adapters import open_log
from stream.errors import SettingsError
from stream.settings import Settings

logger = logging.getLogger(__name__)

#: After SIGTERM: how long open connections may still ask, and requests under way may take, s.
DRAIN_S, GRACE_S = 1.0, 10


class Server(uvicorn.Server):
    """uvicorn that ends its event streams when it is told to stop, and then returns."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http="httptools",
            loop="uvloop",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._updates = app.state.context.replica.updates

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            logger.info("listening on http://%s:%d, documented at /docs", host, port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, once; unlike uvicorn's own, do not raise them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(one, self.handle_exit) for one in signals]
        try:
            yield
        finally:
            for one, handler in zip(signals, before, strict=True):
                signal.signal(one, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and answer what is asked over those that are open.

        A request may be on its way over one that is kept alive: were it closed, that request
        would fail. So each is told by its next answer that it was the last.
        """
        # An event stream would be waited for until the time is up.
        self._updates.close()
        for server in self.servers:
            server.close()
        self.server_state.default_headers.append((b"connection", b"close"))
        until = time.monotonic() + DRAIN_S
        while self.server_state.connections and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Serve the API until SIGTERM or SIGINT; 0, or 1 if the port cannot be had.

    Raises
    ------
    SettingsError
        There is no key to verify snapshots with, or the store's address is wrong.
    TopicMismatch
        A topic is not one that these settings can use.
    StoreUnavailable
        The embedded store's folder cannot be made.
    """
    # The learner may be making the same pair just now.
    with suppress(SettingsError):
        ensure_keys(settings)
    verifier = load_verifier(settings)

    def later(stack: ExitStack, name: Literal["events", "control", "dead_letters"]) -> LaterLog:
        topic = f"{settings.topic_prefix}.{name}"
        partitions = 1 if name == "control" else settings.partitions
        log = LaterLog(partial(open_log, settings, name), topic, partitions)
        stack.callback(log.close)
        return log

    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(settings)))
        app = create_app(
            settings,
            events=later(stack, "events"),
            control=later(stack, "control"),
            dead_letters=later(stack, "dead_letters"),
            store=store,
            verifier=verifier,
        )
        server = Server(app, settings.host, settings.port)
        try:
            server.run()
        except SystemExit:
            # uvicorn's way of saying that it could not start; it has said why.
            return 1
        if not server.started:
            return 1
        logger.info("left; requests under way were finished")
        return 0
