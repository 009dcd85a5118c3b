"""Which implementation of a contract the settings name."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stream.errors import SettingsError
from stream.log import EventLog
from stream.settings import Settings

if TYPE_CHECKING:
    from stream.resharding import Target

Name = Literal["events", "control", "dead_letters"]


def open_log(settings: Settings, name: Name) -> EventLog:
    """Open one of the deployment's three topics, made if it is not there.

    Parameters
    ----------
    settings
        Names the log, its place, and the topics' prefix and partition count; the control log
        has one partition, since its order is what counts.
    name
        Which topic.

    Raises
    ------
    LogUnavailable
        The log cannot be reached now.
    TopicMismatch
        The topic is there, with settings or a partition count that would lose events.
    """
    live = open_live(settings, name)
    if not settings.archive:
        return live
    # Imported here, as below: only who has an archive should pay for it.
    from stream.archived_log import ArchivedLog

    try:
        return ArchivedLog(live, settings.archive)
    except BaseException:
        live.close()
        raise


def made(folder: Path, setting: str = "data_dir") -> Path:
    """A folder, made for its user alone if it is not there.

    Raises
    ------
    SettingsError
        It cannot be made; the message names the setting that it comes from.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make the folder {folder}: {error.strerror}",
            remedy=f"Set `{setting}` to a place that can be written",
        ) from error
    return folder


def check_there(settings: Settings) -> None:
    """Refuse an embedded log that is not there, where opening it would make it.

    Raises
    ------
    SettingsError
    """
    folder = Path(settings.data_dir)
    if settings.log == "sqlite" and not (folder / "log.db").exists():
        raise SettingsError(
            f"there is no deployment in {folder}: it has no log.db",
            remedy="Set `data_dir` to its folder",
        )


def open_live(settings: Settings, name: Name) -> EventLog:
    """The same, without the archive behind it."""
    topic = f"{settings.topic_prefix}.{name}"
    partitions = 1 if name == "control" else settings.partitions
    if settings.log == "sqlite":
        from stream.sqlite_log import SqliteLog

        return SqliteLog(_file(settings), topic, partitions)
    # Imported here: an embedded process should not pay for a client it does not use.
    from stream.kafka_log import KafkaLog

    # A dead letter is an event's record with its reasons added.
    record_bytes = (4 if name == "dead_letters" else 1) << 20
    return KafkaLog(
        topic=topic, partitions=partitions, record_bytes=record_bytes, **_kafka(settings)
    )


def open_target(settings: Settings) -> tuple[Target, EventLog]:
    """The events' topic of a deployment to be, to copy into, and the log of how far it has come.

    Raises
    ------
    LogUnavailable
    TopicMismatch
        There is such a topic already, and it is no unfinished copy.
    """
    from stream.loading import KafkaTarget, SqliteTarget

    topic, notes = f"{settings.topic_prefix}.events", f"{settings.topic_prefix}.reshard"
    if settings.log == "sqlite":
        from stream.sqlite_log import SqliteLog

        path = _file(settings)
        with ExitStack() as opening:
            there = SqliteTarget(path, topic, settings.partitions)
            opening.callback(there.close)
            pair = there, SqliteLog(path, notes, 1)
            opening.pop_all()
        return pair
    from stream.kafka_log import KafkaLog

    with ExitStack() as opening:
        target = KafkaTarget(topic=topic, partitions=settings.partitions, **_kafka(settings))
        opening.callback(target.close)
        both = target, KafkaLog(topic=notes, partitions=1, **_kafka(settings))
        opening.pop_all()
    return both


def target_begun(settings: Settings) -> bool:
    """Whether ``open_target`` would find an unfinished copy to go on with; makes nothing.

    Raises
    ------
    LogUnavailable
    SettingsError
        Its folder could not be made.
    TopicMismatch
        There is such a topic already, and it is no unfinished copy.
    """
    from stream.loading import KafkaTarget, SqliteTarget

    topic = f"{settings.topic_prefix}.events"
    if settings.log == "kafka":
        return KafkaTarget.begun(topic=topic, partitions=settings.partitions, **_kafka(settings))
    folder = Path(settings.data_dir).absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise SettingsError(
            f"cannot make the folder {folder}: {there} cannot be written",
            remedy="Set `data_dir` to a place that can be written",
        )
    path = folder / "log.db"
    return path.exists() and SqliteTarget.begun(path, topic)


def _file(settings: Settings) -> Path:
    """The embedded log's file, in its folder."""
    return made(Path(settings.data_dir)) / "log.db"


def _kafka(settings: Settings) -> dict[str, Any]:
    """How the settings have Kafka talked to."""
    return {
        "bootstrap": settings.kafka_bootstrap,
        "replication": settings.kafka_replication,
        "group": settings.kafka_group,
        "session_s": settings.kafka_session_s,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_cafile": settings.kafka_ssl_cafile,
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "username": settings.kafka_username,
        "password": settings.kafka_password,
        "archived": bool(settings.archive),
    }
