"""What a request for forecasts asks for, checked; and the problems of what cannot be had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from api import answers
from api.problems import Problem, invalid, of_error

if TYPE_CHECKING:
    from api.replica import Replica

DEFAULT_HORIZON = 14
DEFAULT_LEVELS = (0.1, 0.5, 0.9)
#: Bounds of quantile levels: the tails beyond were never measured.
LOWEST, HIGHEST = 0.001, 0.999
MOST_LEVELS = 50
#: Path parameters that a route reads from the raw path, for OpenAPI: a name may hold ``%2F``.
NAMES: list[dict[str, Any]] = [
    {
        "name": name, "in": "path", "required": True, "example": example,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    }
    for name, example in (("store", "330"), ("product", "P-102"))
]  # fmt: skip
#: A blank where a plus sign of a zone's offset was, before it was decoded.
_UNQUOTED = re.compile(r" (?=\d\d:?\d\d$)")


class Asked(NamedTuple):
    """Horizon, quantile levels and point of a request; ``names``: the levels as they are written.

    ``as_of``: what was forecast then is asked for, and not what is now; ``total``: first and last
    step of a sum that is asked for.
    """

    horizon: int
    levels: answers.Levels
    names: tuple[str, ...]
    point: str | None = None
    as_of: datetime | None = None
    total: tuple[int, int] | None = None


def check(
    horizon: int | None,
    levels: Sequence[float] | None,
    horizons: int,
    point: str | None = None,
    total: str | None = None,
) -> Asked:
    """Fill in defaults and check bounds.

    Parameters
    ----------
    total
        Steps to sum, such as ``3..9``.
    horizons
        How far ahead the deployment forecasts, in buckets.

    Raises
    ------
    Problem
    """
    wanted = min(DEFAULT_HORIZON, horizons) if horizon is None else horizon
    if not 1 <= wanted <= horizons:
        raise invalid(
            "horizon",
            f"`horizon` is {wanted}; it must be from 1 to {horizons} buckets",
            f"ask for at most {horizons}, or raise the setting `horizon`",
        )
    unique = tuple(dict.fromkeys(DEFAULT_LEVELS if levels is None else levels))
    for level in unique:
        if not LOWEST <= level <= HIGHEST:
            raise invalid(
                "quantiles",
                f"`quantiles` holds {level:g}; each must be from {LOWEST} to {HIGHEST}",
                "give probabilities, such as 0.1,0.5,0.9",
            )
    if len(unique) > MOST_LEVELS:
        raise invalid(
            "quantiles", f"{len(unique)} quantiles are too many", f"ask for at most {MOST_LEVELS}"
        )
    if point is not None and point not in answers.METRICS:
        known = ", ".join(answers.METRICS)
        raise invalid(
            "point",
            f"`point` is {point!r}; it must be one of {known}",
            "name the point by the metric you are judged by: mean for squared error and "
            "totals, median for absolute error, mape for absolute percentage error",
        )
    names = tuple(repr(level) for level in unique)
    span = None if total is None else _span(total, horizons)
    return Asked(wanted, unique, names, point, total=span)


def _span(text: str, horizons: int) -> tuple[int, int]:
    """First and last step of a sum, from 1."""
    first, dots, last = text.partition("..")
    numbers = [
        int(one) for one in (first, last) if one.isascii() and one.isdigit() and len(one) < 10
    ]
    if not dots or len(numbers) < 2 or not 1 <= numbers[0] <= numbers[1] <= horizons:
        raise invalid(
            "sum",
            f"`sum` is `{text[:40]}`; it must be the first and the last step, from 1 to {horizons}",
            "give two steps with two dots between them, such as 1..7",
        )
    return numbers[0], numbers[1]


@lru_cache(maxsize=1024)
def parse(query: bytes, horizons: int) -> Asked:
    """Horizon, quantiles, point and time of a query string; see ``check``."""
    horizon: int | None = None
    point: str | None = None
    levels: list[float] | None = None
    as_of: datetime | None = None
    total: str | None = None
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "horizon":
            # int() would also take "1_0" and digits of other scripts.
            if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10):
                raise invalid(
                    "horizon",
                    f"`horizon` must be a whole number from 1 to {horizons}",
                    "give a number of buckets, such as 7",
                )
            horizon = int(text)
        elif name == "point":
            point = text
        elif name == "sum":
            total = text
        elif name == "quantiles":
            levels = levels or []
            for part in text.split(","):
                try:
                    levels.append(float(part))
                except ValueError:
                    raise invalid(
                        "quantiles",
                        f"`quantiles` must be numbers from {LOWEST} to {HIGHEST}, with commas",
                        "give probabilities, such as 0.1,0.5,0.9",
                    ) from None
        elif name == "as_of":
            as_of = moment("as_of", text)
    return check(horizon, levels, horizons, point, total)._replace(as_of=as_of)


def moment(field: str, text: str) -> datetime:
    """A moment of a query string, ISO 8601 with a zone.

    Raises
    ------
    Problem

    Examples
    --------
    >>> moment("as_of", "2026-11-30T00:00:00 01:00").isoformat()  # a plus sign that was not quoted
    '2026-11-30T00:00:00+01:00'
    """
    try:
        found = datetime.fromisoformat(_UNQUOTED.sub("+", text))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise invalid(
            field, f"`{field}` is `{text[:50]}`, which is no moment with a zone",
            "give ISO 8601 with a zone, such as 2026-11-30T00:00:00Z (a plus sign is %2B in a URL)",
        )  # fmt: skip
    return found


def named(raw_path: bytes, prefix: bytes) -> tuple[str, str]:
    """Store and product of a path, either of which may hold any letter, ``%2F`` too.

    Raises
    ------
    Problem
        They are not UTF-8.
    """
    store, _, product = raw_path.partition(prefix)[2].partition(b"/")
    try:
        return unquote_to_bytes(store).decode(), unquote_to_bytes(product).decode()
    except UnicodeDecodeError:
        raise invalid(
            "path", "the path is not UTF-8", "quote each name of it as UTF-8, such as S%C3%BCd"
        ) from None


def unknown_series(replica: Replica, store: str, product: str) -> Problem:
    """404 with what may have been meant, or 503 while nothing could be read that it might be in.

    Searches names, so not on the event loop.
    """
    if replica.blocked is not None:
        return of_error(replica.blocked)
    index = replica.state.index
    if not product:
        detail, field = f"no product is named beside the store `{store}`", "product"
    elif any(key[0] == store for key in index.keys):
        detail, field = f"store `{store}` has no product `{product}`", "product"
    else:
        detail, field = f"no store `{store}` is known", "store"
    return Problem(
        404,
        "unknown-series",
        "Unknown series",
        detail,
        field=field,
        remedy="choose one of `near`, or search with GET /v1/series?q=; a series is known "
        "once a bucket with its first sale has closed"
        if product
        else "name a product after the store, such as 330/P-102; GET /v1/series?q= finds them",
        near=index.near(store, product),
    )


def short(horizon: int, available: int) -> Problem:
    """The snapshot served was made with a shorter horizon than is set now."""
    return invalid(
        "horizon",
        f"`horizon` is {horizon}; what is served now goes from 1 to {available} buckets",
        f"ask for at most {available}",
    )
