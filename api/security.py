"""One key for writes, by setting; reads are open, and so are writes if it is empty."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from starlette.requests import HTTPConnection

from api.problems import Problem

Guard = Callable[[HTTPConnection], None]


def guard(api_key: str) -> Guard:
    """A check of requests that write; it keeps only the key's hash.

    The key comes in ``X-API-Key`` or as ``Authorization: Bearer``. Raises a 401 problem.
    """
    if not api_key:
        return lambda _: None
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
