"""Whether a request comes from a page of another site. Pure.

A page of another site can make a browser send requests here. Its ``Origin`` tells it from ours,
and where we listen on this machine alone, so does a ``Host`` that is not this machine (a name
that was pointed here later). Leaves out: who the person is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def refusal(who: str, listens: str, headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The header that a request is turned away for, and why; ``None`` if it is not.

    Parameters
    ----------
    who
        What is asked: the console, or the API.
    listens
        The address that it listens on.
    headers
        The request's, by names in small letters: ``host``, ``origin``.

    Examples
    --------
    >>> local = {"host": "localhost:8001", "origin": "http://localhost:8001"}
    >>> refusal("console", "127.0.0.1", local)
    >>> refusal("console", "127.0.0.1", {"host": "evil.example:8001"})
    ('Host', 'the console answers on this machine only, not as `evil.example:8001`')
    >>> refusal("API", "0.0.0.0", {"host": "shop:8001", "origin": "https://evil.example"})
    ('Origin', 'a page of `https://evil.example` may not use this API')
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if _is_local(listens) and not _is_local(_name(host)):
        return "Host", f"the {who} answers on this machine only, not as `{host}`"
    if origin is not None and origin.lower().partition("://")[2] != host.lower():
        return "Origin", f"a page of `{origin}` may not use this {who}"
    return None


def _name(host: str) -> str:
    """A host without its port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
