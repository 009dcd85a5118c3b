"""The public API, as the console asks it: JSON in, JSON out, problems as exceptions.

Leaves out: what the answers mean, and any right of its own. A write carries the key that the
person at the browser gave.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from stream.errors import SettingsError

TIMEOUT_S = 20.0
#: How long what the API can do is believed, s.
KNOWN_S = 30.0
_OPERATIONS = "/v1/operations"


class ApiDown(Exception):
    """The API gave no answer, or one that is not Salescast's. Retriable."""


class ApiError(Exception):
    """The API refused: a problem by RFC 9457, with what to do."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.title = str(problem.get("title") or f"HTTP status {status}")
        self.detail = str(problem.get("detail") or "")
        self.remedy = str(problem.get("remedy") or "")
        self.near = [str(one) for one in problem.get("near") or []]
        super().__init__(f"{self.title}: {self.detail}" if self.detail else self.title)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the API says that it can do, out of its OpenAPI document."""

    paths: frozenset[str]
    operations: frozenset[str]
    keyed: bool  # writes need a key


def abilities(document: dict[str, Any]) -> Abilities:
    """Read an OpenAPI document."""
    paths = document.get("paths", {})
    security = paths.get(_OPERATIONS, {}).get("post", {}).get("security", [])
    request = document.get("components", {}).get("schemas", {}).get("OperationRequest", {})
    kinds = request.get("properties", {}).get("kind", {}).get("enum", [])
    return Abilities(
        paths=frozenset(paths),
        operations=frozenset(kinds),
        keyed=bool(security) and {} not in security,
    )


class Api:
    """Asks the API at ``url``.

    Raises
    ------
    SettingsError
        It is no address.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        try:
            where = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise SettingsError(f"{url} is not an address: {error}") from None
        if where.scheme not in ("http", "https") or not where.host:
            raise SettingsError(
                f"{url} is not an address", remedy="Start it with http:// or https://"
            )
        self.http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout_s,
            # a proxy of the environment cannot reach this machine's own loopback
            trust_env=not _is_loopback(where.host),
        )
        self._abilities: Abilities | None = None
        self._asked_s = 0.0

    async def get(self, path: str, **params: Any) -> Any:
        """Ask for a path; parameters that are ``None`` or empty are left out.

        Raises
        ------
        ApiDown, ApiError
        """
        given = {name: value for name, value in params.items() if value not in (None, "")}
        return await self._ask("GET", path, params=given)

    async def post(self, path: str, body: Any, key: str = "") -> Any:
        """Post a JSON value, once.

        Raises
        ------
        ApiDown, ApiError
        """
        # Headers are latin-1 on the wire: the bytes are given, not the text.
        headers = {b"X-API-Key": key.encode()} if key else {}
        return await self._ask("POST", path, json=body, headers=headers)

    async def abilities(self) -> Abilities:
        """What the API can do; asked again now and then, since it may be another one by now."""
        now = time.monotonic()
        if self._abilities is None or now - self._asked_s > KNOWN_S:
            self._abilities = abilities(await self.get("/openapi.json"))
            self._asked_s = now
        return self._abilities

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self.http.request(method, path, **options)
        except httpx.TimeoutException:
            raise ApiDown("it did not answer in time") from None
        except httpx.TransportError as error:
            raise ApiDown(str(error) or type(error).__name__) from None
        try:
            value = response.json()
        except ValueError:
            raise ApiDown(f"HTTP status {response.status_code}, and no JSON") from None
        if response.is_success:
            return value
        raise ApiError(response.status_code, value if isinstance(value, dict) else {})


def series_path(prefix: str, store: str, product: str) -> str:
    """The path of something of one series; names may hold any letter.

    >>> series_path("/v1/history", "Main Street", "half/half")
    '/v1/history/Main%20Street/half%2Fhalf'
    """
    return f"{prefix}/{quote(store, safe='')}/{quote(product, safe='')}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
