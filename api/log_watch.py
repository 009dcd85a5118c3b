"""What is known of the log without asking it on a request's path: its ends, and dead letters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from api.background import Trouble
from api.control import Control
from api.replica import Measures
from stream.dead_letters import STEP, Index, Why
from stream.errors import SalescastError
from stream.log import Entry, EventLog

#: How often the log is looked at.
INTERVAL_S = 1.0
#: Steps of the dead-letter index a look may take, so that it stays short.
STEPS = 20


class LogWatch:
    """Follows the ends of the events and the dead letters; finishes operations left undone."""

    def __init__(
        self, events: EventLog, dead_letters: Index, control: Control, telemetry: Measures
    ) -> None:
        self._dead_letters = dead_letters
        self._reading = threading.Lock()
        self.ends: Mapping[int, int] = {}
        self.up = False
        self._events = events
        self._control = control
        self._telemetry = telemetry
        self._trouble = Trouble("event log")

    def look(self) -> None:
        """Look once; an error leaves what was known and is said once."""
        self.up = self._try("ends", self._look_at_ends)
        self._telemetry.dependency("log", self.up)
        self._try("dead letters", self._read_dead_letters)
        self._try("control log", self._control.reconcile)

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append entries; their offsets. Who asks next is told of them. It blocks.

        Raises
        ------
        LogUnavailable
        """
        offsets = self._events.append(entries)
        ends = {entry.partition: at + 1 for entry, at in zip(entries, offsets, strict=True)}
        self.ends = {**self.ends, **ends}
        return offsets

    def why(self, partition: int, offset: int, item: int) -> Why | None:
        """Why an item that was folded is a dead letter; ``None`` if it is none.

        Dead letters are durable before the snapshot that counts them is published, so reading
        on to their end gives a definite answer, as long as the log can be read. It blocks.
        """
        found = self._dead_letters.find(partition, offset, item)
        if found is None:
            self._try("dead letters", self._read_dead_letters)
            found = self._dead_letters.find(partition, offset, item)
        return found

    def letters(self) -> list[tuple[tuple[int, int, int], Why]]:
        """Dead letters that are known, read up to their end. It blocks."""
        self._try("dead letters", self._read_dead_letters)
        with self._reading:
            return self._dead_letters.all()

    def _look_at_ends(self) -> None:
        # Asking for the ends also opens a log that could not be reached before.
        self.ends = dict(self._events.end())

    def _read_dead_letters(self) -> None:
        with self._reading:
            for _ in range(STEPS):
                if self._dead_letters.step() < STEP:
                    return

    def _try(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except (SalescastError, OSError) as error:
            self._trouble.on(what, error)
            return False
        self._trouble.off(what)
        return True
