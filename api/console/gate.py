"""Who may talk to the console: pages of its own address, and nobody in their name.

The rule is ``api.origin``'s. Leaves out: who the person is; the API's key says what they may do.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.origin import refusal

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; default-src 'self' data: blob: "
    "'unsafe-inline' 'unsafe-eval'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """Turns away what comes from elsewhere; tells browsers to show the console in no frame."""

    def __init__(self, app: ASGIApp, listens: str) -> None:
        self.app = app
        self.listens = listens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        why = refusal("console", self.listens, headers)
        if why is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(why[1], 403)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, answer)
