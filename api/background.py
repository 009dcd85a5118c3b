"""Threads that repeat one small thing until they are told to stop, and complain once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Trouble:
    """Says once that something went wrong, and once that it is well again."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._said: dict[object, str] = {}

    def on(self, key: object, error: BaseException) -> None:
        """Log the error, unless it is what was logged for this key last."""
        text = f"{type(error).__name__}: {error}"
        if self._said.get(key) != text:
            self._said[key] = text
            logger.warning("%s (%s): %s", self.what, key, text)

    def off(self, key: object) -> None:
        """Log the recovery, if an error was logged."""
        if self._said.pop(key, None) is not None:
            logger.info("%s (%s): well again", self.what, key)


class Repeating:
    """A thread that calls ``step`` every ``interval_s`` seconds, whatever it raises."""

    def __init__(self, name: str, step: Callable[[], object], interval_s: float) -> None:
        self._step = step
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start; the first call comes at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask the thread to end and wait for it. Safe to call twice."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._step()
            except Exception:
                # Whatever it is, the next call may go well; ending here would be silent.
                logger.exception("%s failed; it goes on", self._thread.name)
            self._stop.wait(self._interval_s)
