"""Every setting of the project: name, default, unit, help, in one place.

Settings come from a TOML file (``--config`` or ``$SALESCAST_CONFIG``), then from the
environment (``SALESCAST_<NAME>``), then from the command line; the last one wins. An unknown
or ill-typed setting is refused with the nearest name. Nothing here reads the environment at
import; ``load`` is called once, in ``main``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from stream.errors import SettingsError

Bucket = Literal["hour", "day", "week"]
#: Name of the champion's copy that learns nothing, among the models.
TWIN = "twin"
#: Default horizons, scored horizons, season, and windows of the levels, in buckets.
SEASON = {"hour": 168, "day": 7, "week": 1}
LEVELS = {"hour": (168, 672), "day": (28, 56), "week": (4, 13)}
#: Buckets between a close and what models learn at it. Whether an hour's silence means that
#: nothing was sold is known once its business day is over.
LEARN_LAG = {"hour": 24, "day": 0, "week": 0}
HORIZON = {"hour": 72, "day": 28, "week": 26}
#: Most covariates that a deployment may name: each costs two columns of every regression.
MOST_COVARIATES = 16
#: Covariates that the setting `holidays` brings: on a holiday, and on the day before one.
HOLIDAYS = ("holiday", "holiday_eve")
SCORED = {"hour": (1, 24, 72), "day": (1, 7, 14), "week": (1, 4, 13)}


def _s(default: Any, help: str, *, unit: str = "", fold: bool = False, secret: bool = False) -> Any:
    """Declare a setting; ``fold`` marks those that change the state, and so its fingerprint."""
    return field(
        default=default, metadata={"help": help, "unit": unit, "fold": fold, "secret": secret}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a process, as values."""

    # where things are
    data_dir: str = _s("data", "Folder of the embedded log, snapshots and keys")
    log: Literal["sqlite", "kafka"] = _s("sqlite", "The event log: embedded, or Kafka")
    store: Literal["folder", "redis"] = _s("folder", "The snapshot store: embedded, or Redis")
    kafka_bootstrap: str = _s("127.0.0.1:9092", "Kafka's bootstrap servers, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _s(
        "PLAINTEXT", "Protocol to the brokers"
    )
    kafka_ssl_cafile: str = _s("", "CA certificates for Kafka (PEM file); empty: the system's")
    kafka_sasl_mechanism: str = _s("", "SASL mechanism, such as SCRAM-SHA-512")
    kafka_username: str = _s("", "User for SASL")
    kafka_password: str = _s("", "Password for SASL", secret=True)
    kafka_group: str = _s("salescast", "Consumer group by which learners share the partitions")
    kafka_session_s: float = _s(
        10.0, "Silence after which the group gives a learner's partitions to others", unit="s"
    )
    kafka_replication: int = _s(1, "Replication factor of topics that Salescast creates")
    redis_url: str = _s("redis://127.0.0.1:6379/0", "Redis, as a URL", secret=True)
    redis_prefix: str = _s("salescast", "Prefix of every key in Redis")
    topic_prefix: str = _s("sales", "Prefix of the topics: events, control, dead_letters")
    partitions: int = _s(4, "Partitions of a topic that Salescast creates", fold=True)
    archive: str = _s(
        "",
        "Folder or URL (s3://…) of the archive, read where the log no longer reaches; empty: none",
    )
    signing_key_file: str = _s("", "Ed25519 private key (PEM); empty: made in data_dir/keys")
    verify_key_file: str = _s("", "Ed25519 public keys (PEM), one or several; empty: data_dir/keys")

    # time
    timezone: str = _s("UTC", "The one time zone of buckets", fold=True)
    bucket: Bucket = _s("day", "Length of a bucket: hour, day or week", fold=True)  # noqa: RUF009
    day_start: str = _s("00:00", "Local time at which a business day starts", fold=True)
    week_start: Literal[
        "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"
    ] = _s("monday", "Day on which a week starts", fold=True)
    grace_s: int = _s(
        7200, "How long a bucket waits for stragglers after its end", unit="s", fold=True
    )
    revise_buckets: int = _s(
        2, "Closed buckets that later sales may still amend", unit="buckets", fold=True
    )
    max_future_s: int = _s(
        86400, "How far ahead of its append time an event may be", unit="s", fold=True
    )
    tick_idle_s: float = _s(
        60.0, "Silence after which the owner of a live partition appends a tick", unit="s"
    )
    live_edge_s: int = _s(
        172800,
        "A partition is live once an event was this fresh when appended",
        unit="s",
        fold=True,
    )

    # what is forecast
    target: Literal["gross", "net"] = _s("gross", "Demand: sales, or sales less returns", fold=True)
    horizon: int = _s(
        0, "How far ahead to forecast; 0: 72 hours, 28 days or 26 weeks", unit="buckets", fold=True
    )
    champion: str = _s("ensemble", "The model that is served", fold=True)
    challengers: tuple[str, ...] = _s(
        ("seasonal_naive", "river_plain"),
        "Models that learn and are scored on the same stream, unserved",
        fold=True,
    )
    twin_seasons: int = _s(
        4,
        "Seasons (weeks; of weeks, four) between two copies of the champion that no longer learn, "
        "to be scored beside it; 0: none",
        unit="seasons",
        fold=True,
    )
    holidays: str = _s(
        "", "Country of the public holidays, such as US or DE-BY; empty: none", fold=True
    )
    covariates: tuple[str, ...] = _s(
        (), "Covariates that plans carry and models learn from, by name", fold=True
    )
    guard: Literal["off", "warn", "quarantine"] = _s(
        "quarantine",
        "What the guard does about a source outside its band: nothing, name it, or keep it out",
        fold=True,
    )
    max_series: int = _s(
        1_000_000, "Series a partition may list; more are refused", unit="series", fold=True
    )

    # the worker
    snapshot_interval_s: float = _s(
        10.0, "Longest time between snapshots of a changed shard", unit="s"
    )
    aside_series: int = _s(
        20_000,
        "Series from which on a snapshot is put by a forked process, while the fold goes on",
        unit="series",
    )
    snapshots_kept: int = _s(30, "Newest snapshots kept a partition, beside the pinned ones")
    snapshots_kept_days: int = _s(
        14,
        "Days back, by the time of sales, of each of which the last snapshot is kept too, and over "
        "two days one an hour: what can be gone back to or compared with; 0: none",
        unit="days",
    )
    poll_records: int = _s(5000, "Most records of one poll")
    metrics_port: int = _s(
        9108, "Port of the learner's /metrics and probes; 0: any free one", unit="port"
    )

    # the API
    host: str = _s("127.0.0.1", "Address the API and the probes listen on")
    port: int = _s(8000, "Port of the API", unit="port")
    api_key: str = _s(
        "", "Key that writes must carry (X-API-Key); empty: writes are open", secret=True
    )
    replica_poll_s: float = _s(0.5, "How often the API looks for new snapshots", unit="s")
    stale_after_s: float = _s(900.0, "Age of a snapshot past which answers say stale", unit="s")
    max_body_bytes: int = _s(16_000_000, "Largest request body", unit="bytes")

    # the console
    console_port: int = _s(8001, "Port of the web console, on `host`; 0: any free one", unit="port")

    # others
    grafana_url: str = _s("http://127.0.0.1:3000", "Grafana, for `salescast grafana`")
    grafana_token: str = _s("", "Grafana service-account token", secret=True)
    log_format: Literal["text", "json"] = _s("text", "Logs for people, or ECS JSON")

    @property
    def horizons(self) -> int:
        """Number of buckets forecast from an origin."""
        return self.horizon or HORIZON[self.bucket]

    @property
    def scored_horizons(self) -> tuple[int, ...]:
        """Horizons at which models are trained and scored, ascending, in buckets."""
        last = self.horizons
        return tuple(sorted({h for h in SCORED[self.bucket] if h < last} | {last}))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models, the champion first, the twin last."""
        return (self.champion, *self.challengers, *((TWIN,) if self.twin_seasons else ()))

    @property
    def twin_buckets(self) -> int:
        """Buckets between two copies of the champion."""
        return self.twin_seasons * max(SEASON[self.bucket], 4)

    def fingerprint(self) -> dict[str, Any]:
        """Settings that change the state, by name; part of every snapshot."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["fold"]}
        values["horizon"] = self.horizons
        values["challengers"] = list(self.challengers)
        values["covariates"] = list(self.covariates)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings, and where each value came from (``default``, the file, the variable)."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    environ: Mapping[str, str],
    *,
    config: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read settings from a TOML file, the environment and overrides, in this order.

    Parameters
    ----------
    environ
        The process's environment.
    config
        Path of a TOML file; ``None``: ``SALESCAST_CONFIG``, or no file.
    overrides
        Values of the command line; ``None`` values are ignored.

    Raises
    ------
    SettingsError
        A name is unknown, or a value is of the wrong type or out of range.
    """
    values: dict[str, Any] = {}
    origins = {f.name: "default" for f in fields(Settings)}
    path = config or environ.get("SALESCAST_CONFIG")
    if path:
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not valid TOML: {error}") from None
        for name, value in table.items():
            _known(name, f"in {path}")
            values[name], origins[name] = _typed(name, value, f"in {path}"), path
    for variable, text in environ.items():
        if not variable.startswith("SALESCAST_") or variable == "SALESCAST_CONFIG":
            continue
        name = variable.removeprefix("SALESCAST_").lower()
        _known(name, f"in ${variable}")
        values[name], origins[name] = _typed(name, text, f"in ${variable}"), f"${variable}"
    for name, value in (overrides or {}).items():
        if value is not None:
            _known(name, "on the command line")
            values[name] = _typed(name, value, "on the command line")
            origins[name] = "command line"
    settings = Settings(**values)
    _check(settings)
    return Loaded(settings=settings, origins=origins)


_FIELDS = {f.name: f for f in fields(Settings)}
_HINTS = get_type_hints(Settings)


def _known(name: str, where: str) -> None:
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else "See them all with: salescast settings"
        raise SettingsError(f"unknown setting `{name}` {where}", remedy=hint)


def _typed(name: str, value: Any, where: str) -> Any:
    """Coerce a TOML value or a text to the setting's type, or say what is wrong with it."""
    default = _FIELDS[name].default
    choices = () if isinstance(default, tuple) else get_args(_HINTS[name])
    wanted: str
    if isinstance(default, tuple):
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
            return tuple(value)
        wanted = "a list of names"
    elif choices:
        if value in choices:
            return value
        wanted = "one of " + ", ".join(choices)
    elif isinstance(default, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass
        wanted = "a whole number"
    elif isinstance(default, float):
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                pass
        wanted = "a number"
    else:
        if isinstance(value, str):
            return value
        wanted = "a text"
    shown = "its value" if _FIELDS[name].metadata["secret"] else repr(value)
    raise SettingsError(f"setting `{name}` {where} must be {wanted}, not {shown}")


_AT_LEAST: dict[str, float] = {
    "partitions": 1, "grace_s": 0, "revise_buckets": 0, "max_future_s": 0, "tick_idle_s": 0.1,
    "live_edge_s": 0, "horizon": 0, "max_series": 1, "snapshot_interval_s": 0.05,
    "snapshots_kept": 2, "snapshots_kept_days": 0, "poll_records": 1, "metrics_port": 0, "port": 1,
    "console_port": 0,
    "replica_poll_s": 0.01, "stale_after_s": 0, "max_body_bytes": 1024, "kafka_replication": 1,
    "aside_series": 0, "twin_seasons": 0, "kafka_session_s": 6,  # brokers take no less
}  # fmt: skip


#: Upper bounds: what is beyond is a slip, or would overflow a clock.
_AT_MOST: dict[str, float] = {
    "partitions": 10_000, "grace_s": 31 * 86400, "max_future_s": 366 * 86400,
    "tick_idle_s": 86400, "live_edge_s": 366 * 86400, "snapshot_interval_s": 86400,
    "metrics_port": 65535, "port": 65535, "console_port": 65535,
    "replica_poll_s": 3600, "stale_after_s": 366 * 86400,
    "poll_records": 1_000_000, "max_series": 100_000_000, "snapshots_kept": 100_000,
    "snapshots_kept_days": 3660,
    "max_body_bytes": 2**31, "kafka_replication": 100,
    "kafka_session_s": 1800, "twin_seasons": 520,
}  # fmt: skip


#: Most partitions of the embedded log: what its batches' keys have bits for.
SQLITE_PARTITIONS = 8192
#: What a topic's name may consist of, in Kafka; the longest suffix is that of dead letters.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,230}")


def _check(settings: Settings) -> None:
    for name, least in _AT_LEAST.items():
        if not getattr(settings, name) >= least:
            raise SettingsError(f"setting `{name}` must be at least {least:g}")
    for name, most in _AT_MOST.items():
        if not getattr(settings, name) <= most:
            raise SettingsError(f"setting `{name}` must be at most {most:.12g}")
    if settings.log == "sqlite" and settings.partitions > SQLITE_PARTITIONS:
        raise SettingsError(
            f"setting `partitions` must be at most {SQLITE_PARTITIONS} with the embedded log"
        )
    if not _PREFIX.fullmatch(settings.topic_prefix):
        raise SettingsError(
            "setting `topic_prefix` must be up to 230 letters (A to Z), digits, dots, hyphens and "
            "underscores"
        )
    if not (settings.api_key.isascii() and settings.api_key.isprintable()):
        raise SettingsError("setting `api_key` must be of printable ASCII: it is sent in a header")
    try:
        zoneinfo.ZoneInfo(settings.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones is no zone
        near = difflib.get_close_matches(
            settings.timezone, sorted(zoneinfo.available_timezones()), n=1
        )
        hint = f"Did you mean `{near[0]}`?" if near else "Use an IANA name, such as Europe/Paris"
        raise SettingsError(f"unknown time zone `{settings.timezone}`", remedy=hint) from None
    day_start_minutes(settings)
    if settings.revise_buckets > LEVELS[settings.bucket][0]:
        raise SettingsError(
            f"setting `revise_buckets` must be at most {LEVELS[settings.bucket][0]} "
            f"with buckets of a {settings.bucket}"
        )
    if settings.horizons > 10 * HORIZON[settings.bucket]:
        raise SettingsError(f"setting `horizon` must be at most {10 * HORIZON[settings.bucket]}")
    if len(settings.covariates) > MOST_COVARIATES:
        raise SettingsError(f"setting `covariates` names more than {MOST_COVARIATES}")
    for name in settings.covariates:
        if settings.covariates.count(name) > 1:
            raise SettingsError(f"setting `covariates` names `{name}` twice")
        if ":" in name:
            raise SettingsError(
                f"setting `covariates`: `{name}` holds a colon, which marks what is made of one",
                remedy=f"Name it `{name.replace(':', '_')}`, here and in the plans",
            )
        if settings.holidays and name in HOLIDAYS:
            raise SettingsError(
                f"setting `covariates`: `{name}` is what the setting `holidays` knows already",
                remedy="Give yours another name, or leave one of the two out",
            )
    if settings.champion in settings.challengers:
        raise SettingsError(f"`{settings.champion}` cannot be champion and challenger at once")
    if TWIN in (settings.champion, *settings.challengers):
        raise SettingsError(
            f"`{TWIN}` is no model to choose", remedy="Set `twin_seasons` to have one scored"
        )


def day_start_minutes(settings: Settings) -> int:
    """Minutes after local midnight at which a business day starts.

    Raises
    ------
    SettingsError
        ``day_start`` is not HH:MM on a quarter of an hour.
    """
    hours, _, minutes = settings.day_start.partition(":")
    if settings.day_start.isascii() and hours.isdigit() and minutes.isdigit():
        total = int(hours) * 60 + int(minutes)
        if int(hours) < 24 and int(minutes) < 60 and total % 15 == 0:
            return total
    raise SettingsError("setting `day_start` must be HH:MM on a quarter of an hour, such as 04:00")


def describe() -> list[dict[str, Any]]:
    """All settings as rows of name, default, unit, help, and whether it is part of the state:
    the table of ``docs/settings.md``."""
    rows = []
    for f in fields(Settings):
        default = ", ".join(f.default) if isinstance(f.default, tuple) else str(f.default)
        rows.append({"name": f.name, "default": default, "unit": f.metadata["unit"],
                     "help": f.metadata["help"], "state": f.metadata["fold"]})  # fmt: skip
    return rows


def shown(loaded: Loaded) -> list[dict[str, str]]:
    """Settings with value and origin for printing; secrets are masked."""
    rows = []
    for f in fields(Settings):
        value = getattr(loaded.settings, f.name)
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        if f.metadata["secret"] and value != f.default:
            text = "********"
        rows.append({"name": f.name, "value": text, "unit": f.metadata["unit"],
                     "origin": loaded.origins[f.name], "help": f.metadata["help"]})  # fmt: skip
    return rows


def ring_length(settings: Settings) -> int:
    """Buckets whose facts are kept: the long level's window at the oldest origin learned from."""
    return LEVELS[settings.bucket][1] + settings.horizons + LEARN_LAG[settings.bucket] + 1
