"""A cluster of Apache Kafka brokers as child processes, in KRaft mode.

Guarantees: free ports, data in a temporary folder, nothing left behind by ``stop`` or by the
parent's end; a broker that is killed keeps its data and port for ``restart``. Leaves out:
security, and anything that would make it fit for production.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from infra.ports import free_ports

HERE = Path(__file__).parent
LIBS = HERE / "libs"
START_S = 60.0
FETCH_S = 600.0
#: A broker in little memory, quick to start rather than fast.
JVM = (
    "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
)  # fmt: skip
INSTALL = "install it (Debian, Ubuntu: apt-get install default-jre-headless maven)"
_libc = ctypes.CDLL(None)


class KafkaMissingError(Exception):
    """Kafka cannot be run here; the message says what to install."""


class Cluster:
    """Brokers 1 to n, each of them a controller too.

    Examples
    --------
    >>> with Cluster() as cluster:  # doctest: +SKIP
    ...     cluster.start(3)
    ...     cluster.kill(2)
    ...     cluster.restart(2)
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._ports: dict[int, int] = {}
        self._brokers: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def bootstrap(self) -> str:
        """Addresses of all brokers, comma-separated; they stay the same over a restart."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def start(self, brokers: int = 1) -> str:
        """Start so many brokers with no topics, and wait until all serve; their addresses.

        Raises
        ------
        KafkaMissingError
            Java or Maven is not here, or the jars cannot be had.
        RuntimeError
            A broker did not start; the message ends with the end of its log.
        """
        if self._brokers:
            raise RuntimeError("the cluster has been started already")
        java = _java()
        _fetch_jars()
        self._folder = Path(tempfile.mkdtemp(prefix="salescast-kafka-"))
        try:
            ids = range(1, brokers + 1)
            ports = free_ports(2 * brokers)
            self._ports = dict(zip(ids, ports[:brokers], strict=True))
            controllers = dict(zip(ids, ports[brokers:], strict=True))
            for broker in ids:
                text = _properties(broker, self._ports, controllers, self._folder)
                self._file(broker, "properties").write_text(text)
            self._format(java, ids)
            started = {broker: self._launch(java, broker) for broker in ids}
            for broker, offset in started.items():
                self._await(broker, offset)
        except BaseException:
            self.stop()
            raise
        return self.bootstrap

    def kill(self, broker: int) -> None:
        """End a broker by SIGKILL: a crash."""
        process = self._brokers[broker]
        process.kill()
        process.wait()

    def restart(self, broker: int) -> None:
        """Start a killed broker on its data and port, and wait until it serves."""
        if self._brokers[broker].poll() is None:
            raise RuntimeError(f"broker {broker} is running")
        self._await(broker, self._launch(_java(), broker))

    def signal(self, broker: int, number: signal.Signals) -> None:
        """Send a broker a signal, such as SIGSTOP and SIGCONT for one that hangs."""
        self._brokers[broker].send_signal(number)

    def stop(self) -> None:
        """End all brokers and delete their data. Safe to call twice."""
        for broker in self._brokers:
            # Their data goes too, so there is nothing to hand over.
            self.kill(broker)
        self._brokers = {}
        self._ports = {}
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _file(self, broker: int, suffix: str) -> Path:
        assert self._folder is not None
        return self._folder / f"broker-{broker}.{suffix}"

    def _format(self, java: str, ids: Sequence[int]) -> None:
        """Give every broker's folder the cluster's id; side by side, a JVM takes its time."""
        cluster = _cluster_id()
        command = [
            java,
            *JVM,
            "-cp",
            f"{LIBS}/*",
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster,
        ]
        running = [
            subprocess.Popen(
                [*command, "-c", str(self._file(broker, "properties"))],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
            for broker in ids
        ]  # fmt: skip
        for process in running:
            output, _ = process.communicate(timeout=START_S)
            if process.returncode:
                raise RuntimeError(f"Kafka's storage tool failed: {output.decode().strip()}")

    def _launch(self, java: str, broker: int) -> int:
        """Start a broker; where in its log to look for the news that it has started."""
        with self._file(broker, "log").open("ab") as log:
            offset = log.tell()
            self._brokers[broker] = subprocess.Popen(
                [java, *JVM, "-cp", f"{LIBS}/*", "kafka.Kafka",
                 str(self._file(broker, "properties"))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us to handle
                preexec_fn=die_with_parent,
            )  # fmt: skip
        return offset

    def _await(self, broker: int, offset: int) -> None:
        """Wait for the line a broker logs once it is registered and serves."""
        deadline = time.monotonic() + START_S
        while True:
            text = self._file(broker, "log").read_bytes()[offset:].decode(errors="replace")
            if "Kafka Server started" in text:
                return
            ended = self._brokers[broker].poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended at once" if ended else f"did not start within {START_S:g} s"
                raise RuntimeError(f"Kafka broker {broker} {what}:\n{text[-2000:]}")
            time.sleep(0.05)


def _java() -> str:
    """Path of Java 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        raise KafkaMissingError(f"Apache Kafka needs Java 17 or newer; {INSTALL}")
    text = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=30, check=False
    ).stderr
    version = re.search(r'version "(\d+)', text)
    if version is None or int(version[1]) < 17:
        raise KafkaMissingError(
            f"Apache Kafka needs Java 17 or newer, and {java} is "
            f"{text.splitlines()[0] if text else 'something else'}; {INSTALL}"
        )
    return java


def _fetch_jars() -> None:
    """Have Maven copy the broker's jars to ``libs/``, once for all processes."""
    done = LIBS / "complete"
    if done.exists():
        return
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaMissingError(f"Apache Kafka's jars are fetched by Maven; {INSTALL}")
    LIBS.mkdir(exist_ok=True)
    with (LIBS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        result = subprocess.run(
            [maven, "-B", "-q", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies",
             f"-DoutputDirectory={LIBS}", "-DincludeScope=runtime"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_S, check=False,
        )  # fmt: skip
        if result.returncode:
            raise KafkaMissingError(
                f"Maven could not fetch Apache Kafka's jars; is the network up?\n"
                f"{(result.stdout + result.stderr)[-2000:]}"
            )
        done.touch()


def _cluster_id() -> str:
    """A random id as Kafka writes them; the tool would read a leading dash as an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if not text.startswith("-"):
            return text


def _properties(
    broker: int, ports: dict[int, int], controllers: dict[int, int], folder: Path
) -> str:
    """A broker's configuration; internal topics are as replicated as there are brokers for."""
    copies = min(3, len(ports))
    in_sync = max(1, copies - 1)
    voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in controllers.items())
    return f"""\
process.roles=broker,controller
node.id={broker}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{ports[broker]},CONTROLLER://127.0.0.1:{controllers[broker]}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data-{broker}
auto.create.topics.enable=false
default.replication.factor={copies}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""


def die_with_parent() -> None:
    """As ``preexec_fn``: have Linux end the child with the thread that started it, by SIGKILL."""
    _libc.prctl(1, signal.SIGKILL)
