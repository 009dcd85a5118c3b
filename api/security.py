"""Who may write: whoever has the key, by setting; without one, all but pages of other sites.

Reads are open.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from functools import partial

from starlette.requests import HTTPConnection

from api.origin import refusal
from api.problems import Problem

Guard = Callable[[HTTPConnection], None]
#: What else helps one who comes through a proxy and has no key.
_OTHERWISE = {
    "Host": "send `Host: localhost`, which a proxy on this machine can do",
    "Origin": "let the proxy in between pass on the Host that it is asked by",
}


def guard(api_key: str, listens: str) -> Guard:
    """A check of requests that write; it keeps only the key's hash.

    The key comes in ``X-API-Key`` or as ``Authorization: Bearer``. Raises a 401 problem; without a
    key, a 403 problem for what a page of another site has a browser send to the address
    ``listens``.
    """
    if not api_key:
        return partial(_from_here, listens)
    wanted = hashlib.sha256(api_key.encode()).digest()

    def check(request: HTTPConnection) -> None:
        given = request.headers.get("x-api-key")
        if given is None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else ""
        # Headers are latin-1 on the wire; a key of other letters arrives as its UTF-8 bytes.
        digest = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        if not secrets.compare_digest(digest, wanted):
            raise Problem(
                401,
                "unauthorized",
                "Writes need a key",
                "the API key is missing or wrong",
                field="X-API-Key",
                remedy="send the setting `api_key` in the header X-API-Key, or as Bearer",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


def _from_here(listens: str, request: HTTPConnection) -> None:
    refused = refusal("API", listens, request.headers)
    if refused is not None:
        raise Problem(
            403,
            "foreign",
            "Writes come from elsewhere",
            refused[1],
            field=refused[0],
            remedy=f"set `api_key`, and send it with writes; or {_OTHERWISE[refused[0]]}",
        )
