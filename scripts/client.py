"""A small synchronous client of Salescast's HTTP API, and the sending of long streams of events.

``Client`` asks and sends; ``stream`` sends lines batch by batch at a pace. Guarantees: a batch is
over only once the API has acknowledged it, so whoever writes down what ``stream`` yields never
skips an event; what is sent again after a lost answer is removed by its (source, id). Leaves out:
reading files (``produce``), and repeating anything but events.
"""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from scripts.remedies import for_people
from stream.errors import SalescastError
from stream.event import REASONS

#: Delays between attempts, in seconds: doubling from the first, never above the last.
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
#: The longest ``Retry-After`` that is honoured, in seconds.
LONGEST_RETRY_AFTER_S = 60.0


class ApiError(SalescastError):
    """The API refused a whole request; ``status`` is HTTP's."""

    def __init__(self, message: str, *, status: int = 0, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class ApiUnreachable(ApiError):
    """No answer: refused, cut off or timed out."""

    retriable = True
    remedy = "Check that Salescast is running and that the address is right"


class ApiUnavailable(ApiError):
    """The API answers, but cannot serve this now; nothing was acknowledged."""

    retriable = True
    remedy = "Nothing was acknowledged; send it again later"

    def __init__(
        self, message: str, *, status: int = 0, remedy: str | None = None, after_s: float = 0.0
    ) -> None:
        super().__init__(message, status=status, remedy=remedy)
        self.after_s = after_s


class KeyRefused(ApiError):
    """The API key is missing or wrong."""

    remedy = "Set SALESCAST_API_KEY, or `api_key` in the settings file, to the API's key"


class BodyTooLarge(ApiError):
    """The request is larger than the API's setting `max_body_bytes`."""

    remedy = "Send fewer or smaller events in one request"


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that was refused: its index in the request, why, and what to do about it."""

    index: int
    reason: str
    field: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The answer to a request of events: how many were accepted, and those that were refused.

    ``receipts`` are those of the accepted items in order; empty for a brief answer.
    """

    accepted: int
    refused: tuple[Refused, ...] = ()
    receipts: tuple[str, ...] = ()


class Client:
    """Salescast's API at one address.

    Parameters
    ----------
    url
        Such as ``http://127.0.0.1:8000``.
    api_key
        Sent as ``X-API-Key`` if given.
    patience_s
        How long ``send`` goes on trying while the API cannot be reached or its log is
        unavailable, in seconds.
    waiting
        Told the error and the delay in seconds before each further attempt.
    clock, sleep, draw
        The monotonic clock, the wait and the random numbers in [0, 1) of the back-off.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 60.0,
        waiting: Callable[[ApiError, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s, self._waiting = patience_s, waiting
        self._clock, self._sleep, self._draw = clock, sleep, draw
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"X-API-Key": api_key} if api_key else {},
                timeout=timeout_s,
                # a proxy of the environment cannot reach this machine's own loopback
                trust_env=not _is_loopback(httpx.URL(self.url).host),
            )
        except httpx.InvalidURL as error:
            raise ApiError(f"{url} is not an address: {error}") from None
        if self._http.base_url.scheme not in ("http", "https"):
            self._http.close()
            raise ApiError(f"{url} is not an address", remedy="Start it with http:// or https://")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """Ask for a path; parameters that are ``None`` are left out.

        Raises
        ------
        ApiError
            The API cannot be reached or refuses; it is asked once.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return self._answer(self._request("GET", path, params=given))

    def post(self, path: str, json: Any = None) -> Any:
        """Post a JSON value, once, and return the answer's.

        Raises
        ------
        ApiError
            The API cannot be reached or refuses.
        """
        return self._answer(self._request("POST", path, json=json))

    def send(self, lines: Sequence[bytes], *, brief: bool = False) -> Sent:
        """Send events, one JSON object a line, and try again while that can help.

        Trying again is safe: an event that had arrived after all is a duplicate by its
        (source, id).

        Parameters
        ----------
        lines
            The events' bytes, sent as they are; not empty, and without line ends.
        brief
            Leave the receipts of accepted items out of the answer.

        Raises
        ------
        ApiError
            Not accepted within ``patience_s``, or refused as a whole.
        """
        body = b"\n".join(lines)
        give_up, delay = self._clock() + self._patience_s, FIRST_DELAY_S
        while True:
            try:
                answer = self._answer(
                    self._request(
                        "POST",
                        "/v1/events",
                        content=body,
                        params={"brief": "true"} if brief else {},
                        headers={"Content-Type": "application/x-ndjson"},
                    )
                )
                return _sent(answer, len(lines))
            except (ApiUnreachable, ApiUnavailable) as error:
                # at least half of the delay: many producers must not come back at once
                wait = delay * (0.5 + self._draw() / 2)
                if isinstance(error, ApiUnavailable):
                    wait = max(wait, error.after_s)
                if self._clock() + wait > give_up:
                    raise
                if self._waiting:
                    self._waiting(error, wait)
                self._sleep(wait)
                delay = min(2 * delay, LONGEST_DELAY_S)

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException:
            raise ApiUnreachable(f"the API at {self.url} did not answer in time") from None
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise ApiUnreachable(f"cannot reach the API at {self.url} ({why})") from None

    def _answer(self, response: httpx.Response) -> Any:
        """The JSON value of an answer; an error as the exception that it means."""
        status = response.status_code
        try:
            value = response.json()
        except ValueError:
            value = None
        if 200 <= status < 300 and value is not None:
            return value
        # all items refused: an answer about each of them, not an error of the request
        if status == 422 and isinstance(value, dict) and "items" in value:
            return value
        message, remedy = _problem(status, value)
        if status in (401, 403):  # of a key the API's own remedy is about headers
            raise KeyRefused(message, status=status, remedy=remedy if status == 403 else None)
        if status == 413:
            raise BodyTooLarge(message, status=status, remedy=remedy)
        if status in (429, 502, 503, 504):
            raise ApiUnavailable(
                message,
                status=status,
                remedy=remedy,
                after_s=_retry_after_s(response.headers.get("Retry-After", "")),
            )
        if value is None:
            remedy = f"Check that {self.url} is Salescast's address"
        raise ApiError(message, status=status, remedy=remedy)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problem(status: int, value: Any) -> tuple[str, str | None]:
    """Message and remedy of a problem+json body, or of whatever else came."""
    if not isinstance(value, Mapping):
        return f"the API answered with HTTP status {status} and no JSON", None
    title, detail = str(value.get("title") or f"HTTP status {status}"), value.get("detail")
    near = value.get("near")
    remedy = value.get("remedy")
    if isinstance(near, list) and near:
        meant = ", ".join(str(name) for name in near[:3])
        remedy = str(remedy).replace("`near`", meant) if remedy else f"Did you mean {meant}?"
    elif remedy:
        remedy = str(remedy).replace("choose one of `near`, or ", "")
    return f"{title}: {detail}" if detail else title, for_people(str(remedy)) if remedy else None


def _retry_after_s(text: str) -> float:
    """Seconds of a ``Retry-After`` header (RFC 9110 §10.2.3): a number, or a date."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def _sent(answer: Any, count: int) -> Sent:
    """The answer to ``count`` events, full or brief."""
    try:
        items, accepted = answer["items"], int(answer["accepted"])
        refused = tuple(
            Refused(
                int(item.get("index", index)),
                str(item["reason"]),
                str(item.get("field") or ""),
                str(item.get("detail") or ""),
                str(item.get("remedy") or REASONS.get(item["reason"], "")),
            )
            for index, item in enumerate(items)
            if item["status"] == "refused"
        )
        receipts = tuple(str(item["receipt"]) for item in items if item["status"] == "accepted")
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ApiError("the API's answer to events cannot be understood") from None
    if accepted + len(refused) != count or not all(0 <= item.index < count for item in refused):
        # an item without an answer may be lost: never count it as acknowledged
        raise ApiError(
            f"the API answered for {accepted + len(refused)} of {count} events",
            remedy="Check that no proxy between here and the API alters requests",
        )
    return Sent(accepted=accepted, refused=refused, receipts=receipts)


class Line(NamedTuple):
    """One event on its way: its time if known, its bytes, and where it was read from.

    ``refusal`` says why a row never became an event; such a line is reported, not sent.
    """

    time: datetime | None
    data: bytes
    file: int = 0
    row: int = 0
    refusal: Refused | None = None


class Delivered(NamedTuple):
    """A batch that is over: its lines, how many were accepted, and which were refused and why."""

    lines: Sequence[Line]
    accepted: int
    refused: Sequence[tuple[Line, Refused]]


def stream(
    lines: Iterable[Line | None],
    client: Client,
    *,
    batch: int = 500,
    linger_s: float = 0.5,
    rate: float | None = None,
    speedup: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Delivered]:
    """Send lines in order, batch by batch, each once the one before is acknowledged.

    Parameters
    ----------
    lines
        What to send; ``None`` says that nothing comes for now, and sends what is waiting.
    batch
        Most events of a request; a request that the API finds too large is halved.
    linger_s
        With a pace, the longest span of it that one request stands for, in seconds.
    rate
        Events per second at most; ``None``: as fast as the API takes them.
    speedup
        Event time passes so many times faster than the clock; ``None``: does not matter.
    clock, sleep
        The monotonic clock and the wait of the pace, in seconds.

    Yields
    ------
    Delivered
        A batch that may be written down as done.

    Raises
    ------
    ApiError
        From ``Client.send``; what was yielded before is done.
    """
    size = batch if rate is None else max(1, min(batch, int(rate * linger_s)))
    span_s = None if speedup is None else linger_s * speedup
    free_at = clock()
    origin: tuple[datetime, float] | None = None
    for group in _batches(lines, size, span_s):
        due = free_at
        times = [line.time for line in group if line.time is not None]
        if speedup is not None and times:
            origin = origin or (times[0], clock())
            due = max(due, origin[1] + (times[-1] - origin[0]).total_seconds() / speedup)
        while (wait := due - clock()) > 0:
            sleep(wait)
        if rate is not None:
            free_at = max(free_at, clock() - linger_s) + len(group) / rate
        yield _deliver(group, client)


def _batches(lines: Iterable[Line | None], size: int, span_s: float | None) -> Iterator[list[Line]]:
    """Groups of at most ``size`` lines that span less than ``span_s`` of event time."""
    group: list[Line] = []
    first: datetime | None = None
    for line in lines:
        if line is None:
            if group:
                yield group
                group, first = [], None
            continue
        if span_s is not None and line.time is not None:
            if first is not None and (line.time - first).total_seconds() >= span_s:
                yield group
                group, first = [], None
            first = first or line.time
        group.append(line)
        if len(group) >= size:
            yield group
            group, first = [], None
    if group:
        yield group


def _deliver(group: list[Line], client: Client) -> Delivered:
    """Send a group, in halves if it is too large, and say what became of each line."""
    refused = [(line, line.refusal) for line in group if line.refusal is not None]
    waiting = [[line for line in group if line.refusal is None]]
    accepted = 0
    while waiting:
        part = waiting.pop(0)
        if not part:
            continue
        try:
            sent = client.send([line.data for line in part], brief=True)
        except BodyTooLarge as error:
            half = len(part) // 2
            if half:
                waiting[:0] = [part[:half], part[half:]]
            else:
                why = Refused(0, "too_large", "", error.args[0], REASONS["too_large"])
                refused.append((part[0], why))
            continue
        accepted += sent.accepted
        refused += [(part[item.index], item) for item in sent.refused]
    return Delivered(group, accepted, refused)
