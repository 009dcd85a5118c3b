"""Snapshots swapped in, as server-sent events.

Every process counts its own updates; an id of another process, or one too old, is answered
with what is served now. Leaves out: who is listening (a stream asks, nobody is called).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import msgspec

#: Updates that a client who comes back can still be given.
KEPT = 256
PING_S = 15.0


class Updates:
    """The last updates, and a way to wait for the next."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self.closed = False
        self._last = 0
        self._kept: deque[tuple[int, Mapping[str, Any]]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._wakers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def publish(self, data: Iterable[Mapping[str, Any]]) -> None:
        """Add updates; from any thread."""
        with self._lock:
            for one in data:
                self._last += 1
                self._kept.append((self._last, one))
        self._wake()

    def close(self) -> None:
        """End all streams, so that a server can shut down; from any thread."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            wakers = list(self._wakers)
        for loop, event in wakers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def _since(self, last: int) -> list[tuple[int, Mapping[str, Any]]]:
        with self._lock:
            return [(number, data) for number, data in self._kept if number > last]

    def _place(self, last_event_id: str | None) -> int | None:
        """Number of the last update a client has seen; ``None`` where that cannot be told."""
        boot, _, number = (last_event_id or "").partition("-")
        with self._lock:
            oldest = self._kept[0][0] if self._kept else 1
            # int() refuses thousands of digits.
            if boot != self.boot or not (
                number.isascii() and number.isdigit() and len(number) < 20
            ):
                return None
            return int(number) if oldest - 1 <= int(number) <= self._last else None

    async def stream(
        self,
        last_event_id: str | None,
        now: Callable[[], Iterable[Mapping[str, Any]]],
        ping_s: float = PING_S,
    ) -> AsyncIterator[bytes]:
        """Events as they come; first what was missed since ``last_event_id``, or what is now.

        Parameters
        ----------
        last_event_id
            What the client sent.
        now
            Gives the updates that stand for the present state.
        ping_s
            Seconds between comments that keep the connection alive.
        """
        waker = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._wakers.add(waker)
            last = self._last
        try:
            seen = self._place(last_event_id)
            yield b"retry: 2000\n\n"
            if seen is None:
                for data in now():
                    yield self._event(last, data)
            else:
                last = seen
            while not self.closed:
                for number, data in self._since(last):
                    last = number
                    yield self._event(number, data)
                try:
                    await asyncio.wait_for(waker[1].wait(), ping_s)
                except TimeoutError:
                    yield b": ping\n\n"
                waker[1].clear()
        finally:
            with self._lock:
                self._wakers.discard(waker)

    def _event(self, number: int, data: Mapping[str, Any]) -> bytes:
        head = f"event: snapshot\nid: {self.boot}-{number}\ndata: ".encode()
        return head + msgspec.json.encode(data) + b"\n\n"
