"""What is known of the log without asking it on a request's path: its ends, and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from api.background import Trouble
from api.control import Control
from api.replica import Measures
from stream.dead_letters import STEP, Index
from stream.errors import SalescastError
from stream.log import EventLog

#: How often the log is looked at.
INTERVAL_S = 1.0
#: Steps of the dead-letter index a look may take, so that it stays short.
STEPS = 20


class LogWatch:
    """Follows the ends of the events and the dead letters; finishes operations left undone."""

    def __init__(
        self, events: EventLog, dead_letters: Index, control: Control, telemetry: Measures
    ) -> None:
        self.dead_letters = dead_letters
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

    def _look_at_ends(self) -> None:
        # Asking for the ends also opens a log that could not be reached before.
        self.ends = dict(self._events.end())

    def _read_dead_letters(self) -> None:
        for _ in range(STEPS):
            if self.dead_letters.step() < STEP:
                return

    def _try(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except (SalescastError, OSError) as error:
            self._trouble.on(what, error)
            return False
        self._trouble.off(what)
        return True
