"""A TCP proxy between a learner and a server, that can do to the wire what networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType


class Proxy:
    """Listens on a free port of this machine and passes on to ``port``.

    ``delay_s`` is how long every reply waits; ``deaf`` passes requests on and drops their replies;
    ``watch`` is called with the bytes of each request before they are passed on, ``answered`` with
    those of each reply.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.delay_s = 0.0
        self.deaf = False
        self.watch: Callable[[bytes], None] = lambda data: None
        self.answered: Callable[[bytes], None] = lambda data: None
        self._open = True
        self._cut = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and every new one at once, until ``mend``."""
        self._cut = True
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass on again, all of it and at once."""
        self._cut, self.deaf, self.delay_s = False, False, 0.0

    def close(self) -> None:
        """Stop listening, and break what is open."""
        self._open = False
        self._listener.close()
        self.cut()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while self._open:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._cut:
                    raise ConnectionError
                far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._pairs.append((near, far))
            for work in (self._requests, self._replies):
                threading.Thread(target=work, args=(near, far), daemon=True).start()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                self.watch(data)
                far.sendall(data)
        self._end(near, far)

    def _replies(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                self.answered(data)
                if self.delay_s:
                    time.sleep(self.delay_s)
                if not self.deaf:
                    near.sendall(data)
        self._end(near, far)

    def _end(self, *pair: socket.socket) -> None:
        for one in pair:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
