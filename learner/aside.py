"""Work on a shard as it stands, in a forked process, while the loop folds on.

A fork has all of the shard, and costs the loop no more than the copying of a page table; the child
lays down, hashes, compresses and puts on another core, in its own time. Guarantees: a child that
dies, is ended, or whose parent dies, leaves the parent as it was. Leaves out: what the child does
outside of its memory; it must be harmless if it is done by half.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from stream import errors
from stream.errors import SalescastError, StoreUnavailable

T = TypeVar("T")


class Aside(Generic[T]):
    """A piece of work on its way, in a process of its own.

    Parameters
    ----------
    work
        Runs in the child, which touches nothing else.
    kind
        What it returns: a type that msgspec can write down.

    Raises
    ------
    OSError
        There is no room for another process now.
    """

    def __init__(self, work: Callable[[], T], kind: type[T]) -> None:
        self._kind = kind
        parent = os.getpid()
        self._pipe, answer = os.pipe()
        self._heard = b""
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._pipe)
            os.close(answer)
            raise
        if self._pid == 0:
            status = 1
            try:
                _end_with(parent)
                # A collection would touch, and so copy, every page there is.
                gc.disable()
                try:
                    said = msgspec.msgpack.encode((None, work()))
                except SalescastError as error:
                    why = (type(error).__name__, str(error.args[0]), error.remedy)
                    said = msgspec.msgpack.encode((why, None))
                except Exception as error:
                    why = ("", f"{type(error).__name__}: {error}", "")
                    said = msgspec.msgpack.encode((why, None))
                while said:
                    said = said[os.write(answer, said) :]
                status = 0
            finally:
                # Nothing of the parent's is flushed or closed here.
                os._exit(status)
        os.close(answer)
        os.set_blocking(self._pipe, False)

    def done(self) -> T | None:
        """What the work returned; ``None``: it goes on.

        Raises
        ------
        SalescastError
            What the work raised; ``RuntimeError`` says what it was if no reason names it.
        StoreUnavailable
            The process has died.
        """
        try:
            while more := os.read(self._pipe, 1 << 20):
                self._heard += more
        except BlockingIOError:
            return None
        self.end()
        try:
            why, said = msgspec.msgpack.decode(
                self._heard, type=tuple[tuple[str, str, str] | None, msgspec.Raw]
            )
        except msgspec.MsgspecError:
            raise StoreUnavailable("the process that was to put a snapshot has died") from None
        if why is not None:
            name, message, remedy = why
            if not name:
                raise RuntimeError(message)
            raise getattr(errors, name, SalescastError)(message, remedy=remedy)
        return msgspec.msgpack.decode(said, type=self._kind)

    def end(self) -> None:
        """End the child, if it still runs. Safe to call twice."""
        if self._pid:
            os.close(self._pipe)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _end_with(parent: int) -> None:
    """Have Linux end this process with its parent's main thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
