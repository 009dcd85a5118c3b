"""A small load generator for HTTP/1.1: raw sockets, connections kept, hardly any parsing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

import uvloop

WAIT_S = 30.0


class Connection(asyncio.Protocol):
    """One request at a time; tells its user when the answer is whole."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answered: asyncio.Future[None]
        self._got = bytearray()
        self._size = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send a request; done when its answer is here."""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._size < 0:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self.connection_lost(AssertionError(head[:100]))
                return
            at = head.index(b"content-length: ") + 16
            self._size = end + 4 + int(head[at:].partition(b"\r")[0])
        if len(self._got) >= self._size:
            self._got.clear()
            self._size = -1
            self.answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "answered") and not self.answered.done():
            self.answered.set_exception(error or ConnectionResetError())


async def _connect(port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]


async def _closed(port: int, requests: Sequence[bytes], clients: int) -> float:
    connections = await _connect(port, clients)
    waiting = iter(requests)

    async def client(connection: Connection) -> None:
        for request in waiting:
            await connection.ask(request)

    started = time.perf_counter()
    await asyncio.wait_for(asyncio.gather(*map(client, connections)), WAIT_S)
    took_s = time.perf_counter() - started
    for one in connections:
        one.transport.close()
    return len(requests) / took_s


def closed_loop(port: int, requests: Sequence[bytes], clients: int) -> float:
    """Requests/s of so many clients, each asking again as soon as it is answered."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_closed(port, requests, clients))


async def _paced(port: int, requests: Sequence[bytes], per_s: float) -> list[float]:
    clock = time.perf_counter
    every = await _connect(port, 64)
    free = deque(every)
    took: list[float] = []

    def send(request: bytes, due: float) -> None:
        connection = free.popleft()

        def answered(done: asyncio.Future[None]) -> None:
            done.result()
            took.append(clock() - due)
            free.append(connection)

        connection.ask(request).add_done_callback(answered)

    started, at = clock(), 0
    while len(took) < len(requests):
        # What has become due, a millisecond's worth: a timer for each would cost more than it.
        while at < len(requests) and free and started + at / per_s <= clock():
            send(requests[at], started + at / per_s)
            at += 1
        assert clock() - started < len(requests) / per_s + WAIT_S, "answers are missing"
        await asyncio.sleep(0.001)
    for connection in every:
        connection.transport.close()
    return took


def paced(port: int, requests: Sequence[bytes], per_s: float) -> list[float]:
    """Seconds each answer took at a steady rate, counted from when its request was due."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_paced(port, requests, per_s))
