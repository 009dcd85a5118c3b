"""News of the API: one listener a console, however many pages are open.

Guarantees: ``number`` grows whenever something may have changed. Leaves out: what changed.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Literal

import httpx

from api.console.client import Api

#: Server-sent events come, at least a ping, within this; else the stream is dead.
SILENCE_S = 40.0
POLL_S = 2.0
RETRY_S = 1.0

State = Literal["connecting", "live", "polling", "down"]


class Live:
    """Follows ``GET /v1/updates``; polls where that is not to be had."""

    def __init__(self, api: Api) -> None:
        self.state: State = "connecting"
        self.number = 0
        #: When the API was last heard of, UTC.
        self.heard: datetime | None = None
        self._api = api

    async def follow(self) -> None:
        """Listen for ever; cancelled at the end."""
        while True:
            try:
                await self._listen()
            except httpx.HTTPError:
                await self._poll()
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        timeout = httpx.Timeout(5.0, read=SILENCE_S)
        async with self._api.http.stream("GET", "/v1/updates", timeout=timeout) as answer:
            answer.raise_for_status()
            self._hear("live")
            async for line in answer.aiter_lines():
                self.heard = datetime.now(UTC)
                if line.startswith("event:"):
                    self.number += 1
        self.state = "connecting"

    async def _poll(self) -> None:
        """Once, where there is no stream of events: is the API there at all?"""
        try:
            answer = await self._api.http.get("/livez", timeout=5.0)
            answer.raise_for_status()
        except httpx.HTTPError:
            self.state = "down"
            return
        self._hear("polling")
        await asyncio.sleep(POLL_S)

    def _hear(self, state: State) -> None:
        self.state = state
        self.heard = datetime.now(UTC)
        self.number += 1
