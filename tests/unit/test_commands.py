"""What commands say of what they cannot do: by name, at once, and without a traceback."""

from __future__ import annotations

import errno
import getpass
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from learner.probes import Probes
from learner.telemetry import Telemetry
from scripts import console, serve, up
from scripts.cli import MODULES, make
from scripts.client import ApiUnreachable, Client
from scripts.operate import whoever
from scripts.supervise import Child
from stream.errors import LogUnavailable, SalescastError, SettingsError
from stream.settings import Settings, load
from stream.sqlite_log import SqliteLog


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(make(), list(map(str, words)))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_registers_the_subcommands_that_the_table_says(module: str) -> None:
    assert set(getattr(get_command(make(module)), "commands", {})) == set(MODULES[module])


def test_who_asks_for_the_status_does_not_wait_for_what_learns() -> None:
    said = subprocess.run(
        [sys.executable, "-c",
         "import sys; from scripts import cli; sys.argv = ['salescast', 'status', '--help']\n"
         "try: cli.main()\n"
         "except SystemExit: print([one for one in ('pandas', 'river', 'scipy') "
         "if one in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.splitlines()[-1] == "[]"


def complaint(*words: str | Path) -> str:
    """What a command that refuses says; it raises nothing that has no name."""
    done = run(*words)
    assert done.exit_code != 0
    if isinstance(done.exception, SystemExit):
        return " ".join(done.output.replace("│", "").split())
    assert isinstance(done.exception, SalescastError), done.exception
    return str(done.exception)


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    file = tmp_path / "sales.csv"
    file.write_text(
        "store,product,time,quantity,source\ns,p,2026-01-01T10:00:00Z,1,till\n", encoding="utf-8"
    )
    return file


# places that cannot be written


@pytest.mark.parametrize(
    ("command", "option"),
    [("produce", "--checkpoint"), ("produce", "--refused"), ("backtest --events", "--out"),
     ("backtest --events", "--report")],
)  # fmt: skip
def test_a_folder_where_a_file_is_meant_is_refused_before_the_work(
    command: str, option: str, sales: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    said = complaint(*command.split(), sales, option, tmp_path / "folder")
    assert f"{option} {tmp_path / 'folder'} is a folder" in said
    said = complaint(*command.split(), sales, option, tmp_path / "nowhere" / "file")
    assert "cannot be written. Check its folder" in said


@pytest.mark.parametrize("command", ["learner", "up"])
def test_a_data_folder_that_cannot_be_made_names_the_setting(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALESCAST_DATA_DIR", "/etc/passwd/x")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    said = complaint(command)
    assert "cannot make the folder /etc/passwd/x" in said and "`data_dir`" in said


@pytest.mark.parametrize(
    "option", [("--url", "http://127.0.0.1:9"), ("--config", "x"), ("--json",)]
)
@pytest.mark.parametrize(
    "words", [("show",), ("send", "--reason", "r"), ("discard", "--reason", "r")]
)
def test_an_option_before_the_subcommand_is_refused_where_it_would_be_passed_over(
    option: tuple[str, ...], words: tuple[str, ...]
) -> None:
    said = complaint("dead-letters", *option, *words)
    assert f"salescast dead-letters {words[0]} {option[0]} …" in said


def test_what_reads_a_deployment_makes_none(tmp_path: Path) -> None:
    to = tmp_path / "new.toml"
    to.write_text(f'data_dir = "{tmp_path / "new"}"')
    old = tmp_path / "old.toml"
    old.write_text(f'data_dir = "{tmp_path / "tpyo"}"')
    for words in (
        ("reshard", "--to", to, "--dry-run"),
        ("archive", "--to", tmp_path / "archive"),
        ("archive", "--to", tmp_path / "archive", "--verify"),
        ("verify", "p0-1"),
        ("verify", "p0-1", "--forecast", "/v1/forecasts/s/p"),
    ):
        assert "Set `data_dir` to its folder" in complaint(*words, "--config", old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.toml", "old.toml"]


def test_a_start_that_waits_keeps_nothing_open_of_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "scripts.serve")
    opened: list[SqliteLog] = []
    closed: list[SqliteLog] = []
    close = SqliteLog.close

    def opener(settings: Settings, name: str) -> SqliteLog:
        if name == "dead_letters":
            raise LogUnavailable("not yet")
        opened.append(SqliteLog(tmp_path / "log.db", name, 1))
        return opened[-1]

    def closing(log: SqliteLog) -> None:
        closed.append(log)
        close(log)

    handlers: list[Callable[[int, None], None]] = []
    monkeypatch.setattr("stream.adapters.open_log", opener)
    monkeypatch.setattr(SqliteLog, "close", closing)
    monkeypatch.setattr(serve, "RETRY_S", 0.01)
    monkeypatch.setattr(signal, "signal", lambda _, leave: handlers.append(leave))
    thread = threading.Thread(
        target=serve.run_learner, args=(Settings(data_dir=str(tmp_path), metrics_port=0),)
    )
    thread.start()
    end = time.monotonic() + 20
    while len(opened) < 6 and time.monotonic() < end:
        time.sleep(0.01)
    handlers[0](15, None)
    thread.join(20)
    assert len(opened) >= 6
    assert set(map(id, closed)) == set(map(id, opened))
    while "stopping: publishing what was folded" not in caplog.messages:
        assert time.monotonic() < end, "a stop that lasts is told of at once"
        time.sleep(0.01)


def test_up_says_that_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALESCAST_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(up, "make_children", lambda *_: [])
    monkeypatch.setattr(signal, "signal", lambda number, leave: leave(number, None))
    assert "stopping: the learner publishes what was folded" in run("up").output


# settings and options


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PARTITIONS", "9000", "`partitions` must be at most 8192 with the embedded log"),
        ("TOPIC_PREFIX", "a/b", "`topic_prefix` must be"),
        ("TOPIC_PREFIX", "", "`topic_prefix` must be"),
        ("API_KEY", "schlüssel", "`api_key` must be of printable ASCII"),
        ("PORT", "0", "`port` must be at least 1"),
    ],
)
def test_a_setting_that_would_fail_later_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load({f"SALESCAST_{name}": value})
    assert "schlüssel" not in str(caught.value)


def test_kafka_may_have_more_partitions_than_the_embedded_log() -> None:
    chosen = load({"SALESCAST_PARTITIONS": "9000", "SALESCAST_LOG": "kafka"}).settings
    assert chosen.partitions == 9000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo", "--days-per-second", "0"), "--days-per-second"),
        (("demo", "--days", "0"), "--days"),
        (("demo", "--poison", "--poison-stores", "0"), "--poison-stores"),
        (("demo", "--poison", "--days", "30"), "--days must be at least 58"),
        (("keys", "--rotate", "--switch"), "one of --rotate, --switch"),
    ],
)
def test_an_option_that_could_not_work_is_refused_at_once(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALESCAST_DATA_DIR", str(tmp_path))
    assert said in complaint(*words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--to", "9999-12-31", "--to 9999-12-31 must be a time from 1990 until 2199"),
        ("--from", "0001-01-01", "must be a time from 1990"),
        ("--horizons", "0", "between 1 and 28. 1 is the next bucket"),
        ("--horizons", "1,99", "between 1 and 28. Raise the setting `horizon`"),
    ],
)
def test_a_backtest_names_what_it_cannot_do(
    option: str, value: str, said: str, sales: Path
) -> None:
    assert said in complaint("backtest", "--events", sales, option, value)


def test_a_user_without_a_name_is_asked_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert whoever("ann") == "ann"
    with pytest.raises(typer.BadParameter, match="--who"):
        whoever(None)


# files of sales


def test_many_files_are_merged_with_few_open_at_once(tmp_path: Path) -> None:
    days = [tmp_path / f"day-{n:03}.csv" for n in range(100)]
    for n, file in enumerate(days):
        file.write_text(
            "store,product,time,quantity,source\n"
            + "".join(f"s,p,2026-01-01T{n // 60:02}:{n % 60:02}:{s:02}Z,1,till\n" for s in (1, 0))
        )
    program = """
import resource, sys
from pathlib import Path
from scripts.files import merged, sources
from scripts.tables import reading
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
files = sources(list(map(Path, sys.argv[1:])), reading([], None, None))
for file in files:
    file.check()
lines = list(merged(files, [0] * len(files)))
times = [line.time for line in lines]
assert times == sorted(times) and len(times) == 200
print(len(list(merged(files, [1] * len(files)))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, days)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "100\n", done.stderr


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sales.parquet"
    columns = {"store": ["s"] * 5000, "product": [f"p{n}" for n in range(5000)],
               "time": ["2026-01-01T10:00:00Z"] * 5000, "quantity": [1.0] * 5000}  # fmt: skip
    pq.write_table(pa.table(columns), file)
    data = bytearray(file.read_bytes())
    data[4:2000] = os.urandom(1996)
    file.write_bytes(data)
    said = complaint("produce", file, "--source", "till")
    assert f"{file} cannot be read" in said


def test_a_mapped_field_that_sales_do_not_have_is_refused_by_name(sales: Path) -> None:
    said = complaint("produce", sales, "--map", "promotion=offer")
    assert "--map promotion=…: a sale has no `promotion`" in said


# addresses


@contextmanager
def _taken(host: str) -> Iterator[int]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        try:
            listener.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            pytest.skip("no IPv6 here")
        listener.listen()
        yield listener.getsockname()[1]


def test_an_ipv6_address_is_written_as_one() -> None:
    assert console.address(Settings(host="::1"), None) == "http://[::1]:8000"
    assert console.address(Settings(host="::"), None) == "http://[::1]:8000"
    assert console.address(Settings(host="0.0.0.0"), None) == "http://127.0.0.1:8000"
    client = Client(console.address(Settings(host="::1", port=1), None))
    with client, pytest.raises(ApiUnreachable):
        client.get("/v1/status")


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_a_port_is_looked_for_in_the_hosts_own_family(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "LEAVING_S", 0.1)
    with _taken(host) as port:
        with pytest.raises(SettingsError, match="Choose another port"):
            up.check_port(host, port, "port")
        up.check_port(host, up.free_port(host), "port")
        with Probes(Settings(host=host, metrics_port=0), Telemetry()) as probes:
            assert probes.port


@pytest.mark.parametrize("command", ["api", "console"])
def test_what_finds_its_port_taken_says_which_to_choose(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "LEAVING_S", 0.1)
    with _taken("127.0.0.1") as port:
        said = complaint(command, "--port", str(port))
        assert f"127.0.0.1:{port}: Address already in use. Choose another port" in said


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_named_at_once(host: str) -> None:
    started = time.monotonic()
    with pytest.raises(SettingsError, match=rf"cannot listen on {host}: .*Set `host`"):
        up.check_port(host, 8000, "port")
    assert time.monotonic() - started < up.LEAVING_S / 2


def test_a_kafka_that_is_down_is_told_of_once() -> None:
    program = """
from scripts.console import log_to_stderr
from stream import kafka_log
from stream.errors import LogUnavailable
from stream.settings import Settings
log_to_stderr(Settings(), "learner")
kafka_log.CONNECT_S = 0.5
try:
    kafka_log.KafkaLog("127.0.0.1:9", "sales.events", partitions=1)
except LogUnavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Kafka at 127.0.0.1:9 is unavailable" in done.stdout
    assert done.stderr == ""


# how a command ends


@pytest.mark.parametrize(
    ("error", "status"), [(LogUnavailable("gone"), 75), (SettingsError("wrong"), 2)]
)
def test_a_command_ends_by_whether_trying_again_can_help(
    error: SalescastError, status: int
) -> None:
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise error

    def command() -> None:
        failing([], standalone_mode=False)

    with pytest.raises(SystemExit) as caught:
        console.run(command)  # type: ignore[arg-type]
    assert caught.value.code == status


def test_what_may_be_over_is_started_again_and_what_is_wrong_is_not(tmp_path: Path) -> None:
    for status, failed in ((75, None), (2, 2)):
        module = tmp_path / f"ends_{status}.py"
        module.write_text(f"raise SystemExit({status})")
        child = Child(name="ends", arguments=[], module=module.stem,
                      environ={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
        child.look()
        assert child.process is not None
        child.process.wait(20)
        child.look()
        assert (child.failed, child.restarts) == (failed, int(failed is None))
        child.stop()
