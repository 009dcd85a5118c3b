"""Who may talk to the console: pages of its own address, and nobody in their name.

A page of another site can make a browser send requests here. Its ``Origin`` tells it from ours,
and where the console listens on this machine alone, so does a ``Host`` that is not this machine
(a name that was pointed here later). Leaves out: who the person is; the API's key says what they
may do.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; default-src 'self' data: blob: "
    "'unsafe-inline' 'unsafe-eval'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def refusal(listens: str, host: str, origin: str | None) -> str | None:
    """Why a request is turned away; ``None`` if it is not.

    Parameters
    ----------
    listens
        The address that the console listens on.
    host, origin
        The request's headers.

    Examples
    --------
    >>> refusal("127.0.0.1", "localhost:8001", "http://localhost:8001")
    >>> refusal("127.0.0.1", "evil.example:8001", None)
    'the console answers on this machine only, not as `evil.example:8001`'
    >>> refusal("0.0.0.0", "shop:8001", "https://evil.example")
    'a page of `https://evil.example` may not use this console'
    """
    if _is_local(listens) and not _is_local(urlsplit(f"//{host}").hostname or ""):
        return f"the console answers on this machine only, not as `{host}`"
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"a page of `{origin}` may not use this console"
    return None


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
        why = refusal(self.listens, headers.get("host", ""), headers.get("origin"))
        if why is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(why, 403)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, answer)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
