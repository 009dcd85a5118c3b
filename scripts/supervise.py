"""Child processes that are started again when they die, and that never outlive their parent.

Each child holds the reading end of a pipe whose writing end is the parent's: however the parent
ends, the child sees the pipe close and leaves as if told to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Wait before a child that died is started again: doubled each time, up to the last.
BACKOFF_S = (0.2, 10.0)
#: A child that ran so long is healthy again.
HEALTHY_S = 30.0
STOP_S = 30.0


@dataclass(slots=True, kw_only=True)
class Child:
    """A program to be kept running; ``once``: until it ends with status 0.

    It is `salescast` with a subcommand, or another ``module`` of ours.
    """

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    module: str = "scripts.cli"
    log: Path | None = None
    once: bool = False
    process: subprocess.Popen[bytes] | None = None
    done: bool = False
    restarts: int = 0
    failed: int | None = None  # status of an end that starting again cannot mend
    _started_s: float = 0.0
    _again_s: float = 0.0
    _wait_s: float = field(default=BACKOFF_S[0])

    def start(self) -> None:
        """Start the process; its output goes to the log, or where the parent's goes."""
        out = None if self.log is None else self.log.open("ab")
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, *self.arguments, "--leave-with-parent"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT if out is not None else None,
                env=dict(self.environ),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        finally:
            if out is not None:
                out.close()
        self._started_s = time.monotonic()

    def look(self) -> None:
        """Start the process again if it died, after a wait that grows."""
        now = time.monotonic()
        if self.done or self.failed is not None:
            return
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                if now - self._started_s > HEALTHY_S:
                    self._wait_s = BACKOFF_S[0]
                return
            self._close_pipe()
            self.process = None
            if status == 0 and self.once:
                self.done = True
                return
            if status == 2:  # a named error: settings, foreign state, another owner
                self.failed = status
                return
            self.restarts += 1
            self._again_s = now + self._wait_s
            self._wait_s = min(2 * self._wait_s, BACKOFF_S[1])
        if now >= self._again_s:
            self.start()

    def stop(self) -> None:
        """Tell the process to leave, and see that it does."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close_pipe()
        self.process = None

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


def leave_with_parent() -> None:
    """In a child: when the parent is gone, end as on SIGTERM."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
