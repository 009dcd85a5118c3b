"""A log that may be opened later: the API starts, and forecasts, while the log is down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from stream.errors import LogUnavailable
from stream.log import Consumer, Entry, EventLog, Record


class LaterLog:
    """An EventLog that is opened at once if it can be reached, and else later.

    Only ``begin`` and ``end`` try to open it: connecting may take seconds, and who appends must
    not wait for that. Until then everything else raises ``LogUnavailable``.

    Parameters
    ----------
    open_log
        Opens the log.
    topic, partitions
        What to answer until it is open.

    Raises
    ------
    TopicMismatch
        Whatever ``open_log`` raises that waiting does not mend.
    """

    def __init__(self, open_log: Callable[[], EventLog], topic: str, partitions: int) -> None:
        self._open_log = open_log
        self._topic = topic
        self._partitions = partitions
        self._log: EventLog | None = None
        self._closed = False
        self._lock = threading.Lock()
        try:
            self._log = open_log()
        except LogUnavailable as error:
            self._why = str(error)

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def topic_id(self) -> str:
        """The topic's id; empty until it is open."""
        return self._log.topic_id if self._log is not None else ""

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self._log.partitions if self._log is not None else self._partitions

    def _try(self) -> None:
        with self._lock:
            if self._log is None and not self._closed:
                try:
                    self._log = self._open_log()
                except LogUnavailable as error:
                    self._why = str(error)
                    raise

    def _opened(self) -> EventLog:
        if self._log is None:
            raise LogUnavailable(f"the topic {self._topic} is not open yet: {self._why}", remedy="")
        return self._log

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append entries durably; their offsets."""
        return self._opened().append(entries)

    def begin(self) -> Mapping[int, int]:
        """First offset kept, by partition; opens the log."""
        self._try()
        return self._opened().begin()

    def end(self) -> Mapping[int, int]:
        """Offset the next entry will get at the earliest, by partition; opens the log."""
        self._try()
        return self._opened().end()

    def read(self, partition: int, offset: int, max_records: int = 1000) -> list[Record]:
        """Records from ``offset`` on."""
        return self._opened().read(partition, offset, max_records)

    def consume(self, positions: Mapping[int, int]) -> Consumer:
        """Own partitions and read them."""
        return self._opened().consume(positions)

    def join(self) -> Consumer:
        """Own a share of the partitions."""
        return self._opened().join()

    def owners(self) -> Mapping[int, str]:
        """Who folds a partition now."""
        return self._opened().owners()

    def close(self) -> None:
        """Release connections. Safe to call twice."""
        with self._lock:
            self._closed = True
            if self._log is not None:
                self._log.close()
