"""Producing from files: mapping, merging, pace, refusals, and going on after a kill.

The API here is a small HTTP server in the test that answers as the real one does and keeps the
lines it acknowledged.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from codecs import BOM_UTF8
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import typer
from typer.testing import CliRunner, Result

from scripts import produce
from scripts.client import ApiError, ApiUnreachable, Client, KeyRefused, Line, stream
from scripts.files import merged, sources
from scripts.tables import FileError, Rows, reading
from stream.errors import SalescastError
from stream.event import Refusal, Sale, decode_item

WAIT_S = 30


class Server:
    """Speaks the answers of POST /v1/events; ``answers`` may be primed with failures."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.requests: list[int] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.key: str | None = None
        self.largest_bytes = 100_000
        #: Accepted items that the answer leaves out of its count.
        self.unaccounted = 0
        #: Acknowledge nothing more once so many lines are kept: the producer then hangs.
        self.hold_at: int | None = None
        self.held = threading.Event()
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # a producer that was killed leaves its connection behind: nothing to wait for
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._thread.join(WAIT_S)
        self._http.server_close()

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        lines = body.split(b"\n")
        self.requests.append(len(lines))
        assert request.headers["Content-Type"] == "application/x-ndjson"
        if self.failures:
            status, headers = self.failures.pop(0)
            self._answer(request, status, {"title": "The log is unavailable"}, headers)
        elif self.key is not None and request.headers.get("X-API-Key") != self.key:
            self._answer(request, 401, {"title": "The key is wrong"}, {})
        elif len(body) > self.largest_bytes:
            self._answer(request, 413, {"title": "Too large"}, {})
        else:
            items: list[dict[str, Any]] = []
            for index, line in enumerate(lines):
                event = decode_item(line)
                if isinstance(event, Refusal):
                    items.append({"status": "refused", "index": index, "reason": event.reason,
                                  "field": event.field, "detail": event.detail,
                                  "remedy": event.remedy})  # fmt: skip
                else:
                    items.append({"status": "accepted", "receipt": f"0-{index}-0"})
                    self.lines.append(line)
            if self.hold_at is not None and len(self.lines) >= self.hold_at:
                # kept, but never acknowledged: the worst moment for a kill
                self.held.set()
                self.release.wait(WAIT_S)
                return
            refused = [item for item in items if item["status"] == "refused"]
            shown = refused if "brief=true" in request.path else items
            accepted = len(items) - len(refused) - self.unaccounted
            answer = {"accepted": accepted, "refused": len(refused), "items": shown}
            self._answer(request, 200 if not refused else 422 if len(refused) == len(items)
                         else 207, answer, {})  # fmt: skip

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, value: Any, headers: dict[str, str]
    ) -> None:
        body = json.dumps(value).encode()
        request.send_response(status)
        for name, text in headers.items():
            request.send_header(name, text)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def events(self) -> list[Sale]:
        events = [decode_item(line) for line in self.lines]
        return [event for event in events if isinstance(event, Sale)]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with contextlib.closing(server):
        yield server


@pytest.fixture(autouse=True)
def no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SALESCAST_"):
            monkeypatch.delenv(name)


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def run(server: Server | str, *args: object) -> Result:
    app = typer.Typer()
    produce.register(app)
    url = server if isinstance(server, str) else server.url
    return CliRunner().invoke(app, [*map(str, args), "--url", url])


def sale(number: int, time: datetime | None = None, **more: Any) -> bytes:
    time = time or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    event = {"type": "sale", "id": f"s{number}", "source": "till", "time": time.isoformat(),
             "store": "1", "product": "tea", "quantity": 1, **more}  # fmt: skip
    return json.dumps(event).encode()


def csv(path: Path, *rows: str, header: str = "source,store,product,time,quantity,price") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


# lines as they are


def test_ndjson_is_sent_byte_for_byte(server: Server, tmp_path: Path) -> None:
    odd = b'{ "type":"sale", ' + sale(2)[17:].rstrip() + b" "
    (tmp_path / "a.ndjson").write_bytes(BOM_UTF8 + sale(1) + b"\n\n" + odd + b"\n" + sale(3))
    result = run(server, tmp_path / "a.ndjson")
    assert result.exit_code == 0, result.output
    assert server.lines == [sale(1), odd, sale(3)]


def test_ndjson_out_of_order_is_sent_as_it_is_and_said_once(server: Server, tmp_path: Path) -> None:
    times = ("2026-03-01T12:00:00Z", "2026-03-02T11:00:00Z", "2026-03-01T12:00:00Z")
    whole = [json.dumps({**json.loads(sale(n)), "time": at}).encode() for n, at in enumerate(times)]
    plan = whole[0].replace(b'"sale"', b'"plan"')
    (tmp_path / "a.ndjson").write_bytes(b"\n".join([*whole, plan]))
    assert "order of time" not in run(server, tmp_path / "a.ndjson").output
    assert server.lines == whole
    late = [one.replace(b"-01T", b"-05T") for one in whole]
    (tmp_path / "b.ndjson").write_bytes(b"\n".join([late[0], *whole]))
    said = run(server, tmp_path / "b.ndjson").output
    assert said.count("is not in the order of time") == 1
    assert "row 2 is a sale of 2026-03-01, after one of 2026-03-05" in said


def test_packed_files_are_unpacked(server: Server, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(b"\n".join(map(sale, range(50))))
    with gzip.open(tmp_path / "b.csv.gz", "wt") as text:
        text.write("source;store;product;time;quantity\nt;7;tea;2026-01-01T00:00:30Z;2\n")
    assert run(server, tmp_path / "a.jsonl.gz", tmp_path / "b.csv.gz").exit_code == 0
    assert len(server.lines) == 51
    assert server.events()[1].store == "7"


def test_a_packed_file_that_is_cut_off_is_named(server: Server, tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(map(sale, range(5000))))
    (tmp_path / "a.ndjson.gz").write_bytes(whole[: len(whole) // 2])
    result = run(server, tmp_path / "a.ndjson.gz")
    assert isinstance(result.exception, FileError)
    assert "a.ndjson.gz is damaged or cut off" in str(result.exception)


def test_events_of_a_pipe_are_sent_when_it_falls_silent(server: Server) -> None:
    reading, writing = os.pipe()
    try:
        lines = produce.standard_input(reading, linger_s=0.01)
        os.write(writing, sale(1) + b"\n" + sale(2)[:20])
        with Client(server.url) as client:
            sent = stream(lines, client)
            assert [line.data for line in next(sent).lines] == [sale(1)]
            os.write(writing, sale(2)[20:])
            os.close(writing)
            writing = -1
            assert [line.data for line in next(sent).lines] == [sale(2)]
            assert next(sent, None) is None
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


# rows that become sales


def test_rows_become_sales_by_their_columns(server: Server, tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", '17,"Tea, green",2026-03-01 10:00:00,2.5,',
               "18,Milk,2026-03-01,-1,0.99", header="shop,article,when,units,price")  # fmt: skip
    result = run(server, path, "--map", "store=shop", "--map", "product=article", "--map",
                 "time=when", "--map", "quantity=units", "--source", "export", "--zone",
                 "Europe/Berlin")  # fmt: skip
    # sorted by time: the second row is of midnight
    assert result.exit_code == 0, result.output
    assert "not in the order of time: it is sorted in memory" in result.output
    assert server.events() == [
        Sale(id="a.csv:2", source="export", time=datetime(2026, 2, 28, 23, tzinfo=UTC),
             store="18", product="Milk", quantity=-1, price=0.99),
        Sale(id="a.csv:1", source="export", time=datetime(2026, 3, 1, 9, tzinfo=UTC),
             store="17", product="Tea, green", quantity=2.5),
    ]  # fmt: skip


def test_parquet_rows_become_the_same_sales(server: Server, tmp_path: Path) -> None:
    times = [datetime(2026, 3, 1, hour, tzinfo=UTC) for hour in range(9, 19)]
    table = pa.table({"id": [f"i{n}" for n in range(10)], "source": ["t"] * 10,
                      "store": [1.0] * 10, "product": ["tea"] * 10, "quantity": list(range(10)),
                      "time": pa.array(times, pa.timestamp("ns", "UTC"))})  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert run(server, tmp_path / "a.parquet").exit_code == 0
    events = server.events()
    assert [(e.id, e.time, e.quantity) for e in events] == [
        (f"i{n}", times[n], float(n)) for n in range(10)
    ]
    assert {event.store for event in events} == {"1"}


@pytest.mark.parametrize("skip", range(11))
def test_parquet_goes_on_after_any_row(tmp_path: Path, skip: int) -> None:
    table = pa.table({name: [str(n) for n in range(10)] for name in ("store", "product", "time")}
                     | {"quantity": list(range(10))})  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    rows = Rows(tmp_path / "a.parquet", reading([], "s", "UTC"))
    assert [line.row for line in rows.lines(0, skip)] == list(range(skip + 1, 11))


def test_a_missing_column_is_named_with_near_ones(server: Server, tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", header="source,store,Produkt,time,quantity")
    result = run(server, path)
    assert isinstance(result.exception, FileError)
    assert "no column `product`. Did you mean `Produkt`?" in str(result.exception)
    assert "--map product=COLUMN" in str(result.exception)
    assert "? Say which it is" in str(result.exception)
    result = run(server, path, "--map", "product=produkte")
    assert "no column `produkte`. Did you mean `Produkt`?" in str(result.exception)
    path.write_bytes(b"")
    assert "a.csv is empty" in str(run(server, path).exception)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--map", "units=quantity"], "`units` is no field of a sale. The fields are id,"),
        (["--map", "quantity"], "is not field=column"),
        (["--zone", "Europe/Berln"], "unknown time zone `Europe/Berln`. Did you mean"),
        (["--source", "a", "--map", "source=b"], "exclude each other"),
    ],
)
def test_a_wrong_mapping_is_explained(
    server: Server, tmp_path: Path, args: list[str], said: str
) -> None:
    result = run(server, csv(tmp_path / "a.csv"), *args)
    assert isinstance(result.exception, SalescastError)
    assert said in str(result.exception)


def test_a_time_without_zone_needs_one_before_anything_is_sent(
    server: Server, tmp_path: Path
) -> None:
    path = csv(tmp_path / "a.csv", "t,1,tea,2026-01-01T10:00Z,1,", "t,1,tea,2026-01-01T11:00,1,")
    result = run(server, path)
    assert "times in column `time`" in str(result.exception)
    assert "--zone Europe/Berlin" in str(result.exception)
    assert server.requests == []


def test_a_time_without_zone_is_in_the_zone_that_is_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALESCAST_TIMEZONE", "Europe/Berlin")
    result = run(server, csv(tmp_path / "a.csv", "t,1,tea,2026-01-01T10:00,1,"))
    assert "are taken to be in Europe/Berlin" in result.output
    (sold,) = server.events()
    assert sold.time == datetime(2026, 1, 1, 9, tzinfo=UTC)
    result = run(server, csv(tmp_path / "b.csv", "t,1,tea,2026-01-01T10:00Z,1,"))
    assert "taken to be" not in result.output, "its times have one"


def test_times_that_the_clock_shows_twice_or_never_are_read_in_one_way(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "t,1,tea,2026-03-29 01:59:59,1,", "t,1,tea,2026-03-29 02:30,1,",
               "t,1,tea,2026-10-25 02:30,1,", "t,1,tea,2026-10-25 03:00,1,")  # fmt: skip
    rows = Rows(path, reading([], None, "Europe/Berlin"))
    assert [line.time for line in rows.lines(0, 0)] == [
        datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),  # skipped: an hour on, 03:30 of summer
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),  # twice: the first, still of summer
        datetime(2026, 10, 25, 2, 0, tzinfo=UTC),
    ]


def test_bad_rows_are_refused_with_their_number_and_the_others_go_on(
    server: Server, tmp_path: Path
) -> None:
    path = csv(tmp_path / "a.csv", "t,1,tea,2026-01-01T10:00Z,two,", "t,1,,2026-01-01T10:00Z,1,",
               "t,1,tea,yesterday,1,", "t,1,tea,2026-01-01T10:00Z,inf,", "t,1,tea,2026-01-01,1",
               "t,1,tea,2026-01-01T10:00Z,9e9,", "t,1,tea,2026-01-01T10:00Z,1,")  # fmt: skip
    result = run(server, path, "--zone", "UTC", "--refused", tmp_path / "refused.ndjson")
    assert result.exit_code == 1, result.output
    assert [event.id for event in server.events()] == ["a.csv:7"]
    refused = [json.loads(x) for x in (tmp_path / "refused.ndjson").read_text().splitlines()]
    assert sorted((x["row"], x["field"]) for x in refused) == [
        (1, "quantity"), (2, "product"), (3, "time"), (4, "quantity"), (5, ""), (6, "quantity"),
    ]  # fmt: skip
    assert all(item["remedy"] and item["event"] for item in refused)
    assert "a.csv row 1: invalid_field `quantity`: column `quantity` is 'two'" in result.output
    assert "1 events accepted, 6 refused" in result.output


def test_only_the_first_refused_items_are_shown(server: Server, tmp_path: Path) -> None:
    bad = [sale(n, colour="red") for n in range(40)]
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(bad))
    result = run(server, tmp_path / "a.ndjson", "--refused", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.count("unknown_field `colour`") == produce.SHOWN
    assert "move it into `x`" in result.output
    events = [json.loads(line)["event"] for line in (tmp_path / "out").read_text().splitlines()]
    assert events == [line.decode() for line in bad]


def test_files_of_the_same_name_cannot_share_ids(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    pair = [csv(tmp_path / "a.csv"), csv(tmp_path / "x" / "a.csv")]
    result = run(server, *pair)
    assert "two files are called a.csv" in str(result.exception)


# merging


def test_files_are_merged_by_the_time_of_their_events(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(map(sale, range(0, 900, 3))))
    (tmp_path / "b.ndjson").write_bytes(b"\n".join(map(sale, range(1, 900, 3))))
    csv(tmp_path / "c.csv", *(
        f"t,1,tea,{(datetime(2026, 1, 1) + timedelta(minutes=n)).isoformat()}Z,{n}," for n in
        reversed(range(2, 900, 3))
    ))  # fmt: skip
    result = run(server, *(tmp_path / name for name in ("a.ndjson", "b.ndjson", "c.csv")))
    assert result.exit_code == 0, result.output
    times = [event.time for event in server.events()]
    assert len(times) == 900 and times == sorted(times)


def test_a_line_without_a_time_stays_behind_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"\n".join([sale(1), b"{torn", sale(9)]))
    (tmp_path / "b.ndjson").write_bytes(b"\n".join([sale(0), sale(5)]))
    files = sources([tmp_path / "a.ndjson", tmp_path / "b.ndjson"], reading([], None, None))
    data = [line.data for line in merged(files, [0, 0])]
    assert data == [sale(0), sale(1), b"{torn", sale(5), sale(9)]


def test_merging_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    for name, step in (("a", 2), ("b", 3), ("c", 5)):
        (tmp_path / f"{name}.ndjson").write_bytes(b"\n".join(map(sale, range(0, 60, step))))
    files = sources(sorted(tmp_path.iterdir()), reading([], None, None))
    whole = list(merged(files, [0, 0, 0]))
    for stop in range(len(whole)):
        done = [0, 0, 0]
        for line in whole[:stop]:
            done[line.file] = line.row
        assert list(merged(files, done)) == whole[stop:]


def test_standard_input_is_sent_alone(server: Server, tmp_path: Path) -> None:
    assert "cannot be merged" in str(run(server, "-", csv(tmp_path / "a.csv")).exception)


# going on


def _producer(server: Server, *args: object) -> subprocess.Popen[str]:
    code = "import typer\nfrom scripts import produce\napp = typer.Typer()\n" \
           "produce.register(app)\napp()"  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args), "--url", server.url],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_lost_when_the_producer_is_ended_in_mid_stream(
    server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"\n".join(map(sale, range(0, 2000, 2))))
    csv(tmp_path / "b.csv", *(
        f"t,1,tea,{(datetime(2026, 1, 1) + timedelta(minutes=n)).isoformat()}Z,{n},"
        for n in range(1, 2000, 2)
    ))  # fmt: skip
    args = (tmp_path / "a.ndjson", tmp_path / "b.csv", "--batch", 70)
    server.hold_at = 1000
    with _producer(server, *args) as process:
        try:
            assert server.held.wait(WAIT_S)
            process.send_signal(how)
            said, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in said
    kept, server.hold_at = len(server.lines), None
    server.release.set()
    again = run(server, *args)
    assert again.exit_code == 0, again.output
    assert "going on after 980 events" in again.output
    # only the batch without an answer is repeated, and it repeats to the byte
    assert server.lines[kept : kept + 70] == server.lines[kept - 70 : kept]
    whole = list(dict.fromkeys(server.lines))
    assert len(server.lines) == 2070 and len(whole) == 2000
    times = [event.time for event in map(decode_item, whole) if isinstance(event, Sale)]
    assert times == sorted(times) and len(times) == 2000


def test_a_finished_file_is_not_sent_again_unless_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(sale(1))
    first = run(server, tmp_path / "a.ndjson")
    assert first.exit_code == 0 and "done: 1 events accepted" in first.output
    assert re.search(r"in 0:00:0\d left", first.output), "times say which they are"
    again = run(server, tmp_path / "a.ndjson")
    assert again.exit_code == 0 and "--restart sends it again" in again.output
    assert "all was sent before: 1 events accepted" in again.output
    assert "done" not in again.output, "nothing was done"
    assert len(server.lines) == 1
    assert run(server, tmp_path / "a.ndjson", "--restart").exit_code == 0
    assert len(server.lines) == 2


def test_an_unsorted_file_goes_on_in_its_sorted_order(server: Server, tmp_path: Path) -> None:
    numbers = [(n * 37) % 101 for n in range(101)]
    path = csv(tmp_path / "a.csv", *(
        f"t,1,tea,{(datetime(2026, 1, 1) + timedelta(minutes=n)).isoformat()}Z,{n}," for n in
        numbers
    ))  # fmt: skip
    with Client(server.url) as client:
        how = reading([], None, None)
        files = sources([path], how)
        note = tmp_path / "note"
        progressed = produce.resume(note, files, produce.identity(files, how, server.url))
        lines = list(merged(files, [0]))
        produce.save(note, produce.Progressed(
            what=progressed.what, rows=[40], unsorted=progressed.unsorted,
            counts=progressed.counts, accepted=40,
        ))  # fmt: skip
        client.send([line.data for line in lines[:40]])
    assert run(server, path, "--checkpoint", note).exit_code == 0
    assert [event.quantity for event in server.events()] == [float(n) for n in range(101)]


def test_items_refused_before_an_interruption_are_kept_and_counted(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.ndjson").write_bytes(
        b"\n".join([sale(1, colour="red"), *map(sale, range(2, 9))])
    )
    args = (tmp_path / "a.ndjson", "--batch", 2, "--refused", tmp_path / "out")
    server.hold_at = 4
    with _producer(server, *args) as process:
        try:
            assert server.held.wait(WAIT_S)
        finally:
            process.kill()
        process.communicate(timeout=WAIT_S)
    server.hold_at = None
    server.release.set()
    result = run(server, *args)
    assert result.exit_code == 1
    assert "7 events accepted, 1 refused" in result.output
    assert len((tmp_path / "out").read_text().splitlines()) == 1


@pytest.mark.parametrize("option", ["--checkpoint", "--refused"])
def test_a_folder_that_is_not_there_is_said_before_anything_is_sent(
    server: Server, tmp_path: Path, option: str
) -> None:
    (tmp_path / "a.ndjson").write_bytes(sale(1))
    result = run(server, tmp_path / "a.ndjson", option, tmp_path / "nowhere" / "file")
    assert "nowhere/file cannot be written" in str(result.exception)
    assert server.requests == []


def test_a_file_that_is_not_there_is_named_with_near_ones(server: Server, tmp_path: Path) -> None:
    csv(tmp_path / "sales.csv")
    result = run(server, tmp_path / "sale.csv")
    assert "sale.csv. Did you mean `sales.csv`?" in str(result.exception)


@pytest.mark.parametrize("change", ["files", "mapping", "url"])
def test_a_checkpoint_of_something_else_is_refused(
    server: Server, tmp_path: Path, change: str
) -> None:
    path = csv(tmp_path / "a.csv", "t,1,tea,2026-01-01T10:00Z,1,")
    assert run(server, path).exit_code == 0
    args: list[object] = [path]
    if change == "files":
        csv(path, "t,1,tea,2026-01-01T10:00Z,2,")
    if change == "mapping":
        args += ["--source", "other"]
    result = run("http://127.0.0.1:1" if change == "url" else server, *args)
    assert isinstance(result.exception, produce.CheckpointError)
    assert f"made with other {change}" in str(result.exception)
    assert "--restart" in str(result.exception)


# pace


def _lines(count: int, minutes: float = 1.0) -> Iterator[Line]:
    for number in range(count):
        time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes * number)
        yield Line(time, sale(number, time))


def test_a_rate_is_never_exceeded(server: Server) -> None:
    clock, moments = Clock(), list[tuple[float, int]]()
    with Client(server.url) as client:
        for sent in stream(_lines(1000), client, rate=200, clock=clock, sleep=clock.sleep):
            moments.append((clock(), sent.accepted))
    assert {count for _, count in moments} == {100}  # half a second of it a request
    for (start, _), (end, _) in itertools.combinations(moments, 2):
        between = sum(count for moment, count in moments if start <= moment < end)
        assert between <= 200 * (end - start) + 1e-6
    assert clock() == pytest.approx(104.5)


def test_event_time_runs_as_many_times_faster_as_asked(server: Server) -> None:
    clock = Clock()
    with Client(server.url) as client:
        # a day of minutes in 24 s
        for sent in stream(_lines(1441), client, speedup=3600, clock=clock, sleep=clock.sleep):
            last = sent.lines[-1].time
            assert last is not None
            event_s = (last - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds()
            assert clock() - 100 == pytest.approx(event_s / 3600)
            assert len(sent.lines) <= 30
    assert clock() == pytest.approx(124.0)
    assert len(server.lines) == 1441


# the client


def _client(server: Server | str, clock: Clock, **more: Any) -> Client:
    url = server if isinstance(server, str) else server.url
    return Client(url, clock=clock, sleep=clock.sleep, draw=lambda: 0.5, **more)


def test_an_unavailable_log_is_tried_again_as_it_asks(server: Server) -> None:
    clock = Clock()
    server.failures = [(503, {"Retry-After": "7"}), (503, {}), (503, {})]
    with _client(server, clock) as client:
        assert client.send([sale(1)]).accepted == 1
    assert clock.slept == pytest.approx([7.0, 0.3, 0.6])
    assert server.lines == [sale(1)]


def test_trying_again_ends(server: Server) -> None:
    clock = Clock()
    server.failures = [(503, {})] * 1000
    with _client(server, clock, patience_s=20) as client, pytest.raises(ApiError) as caught:
        client.send([sale(1)])
    assert "The log is unavailable. Nothing was acknowledged" in str(caught.value)
    assert 10 < clock() - 100 <= 20
    assert max(clock.slept) <= 5


def test_an_api_that_is_not_there_is_named_plainly(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    server.close()
    with _client(server, clock, patience_s=1) as client:
        with pytest.raises(ApiUnreachable, match="cannot reach the API at http"):
            client.send([sale(1)])
        assert clock.slept
        clock.slept.clear()
        with pytest.raises(ApiUnreachable):
            client.get("/v1/status")
        assert clock.slept == []


def test_the_key_is_sent_and_its_refusal_not_repeated(server: Server) -> None:
    clock = Clock()
    server.key = "secret"
    with Client(server.url, "secret") as client:
        assert client.send([sale(1)]).receipts == ("0-0-0",)
    with _client(server, clock) as client, pytest.raises(KeyRefused, match="Set SALESCAST_API_KEY"):
        client.send([sale(1)])
    assert clock.slept == [] and len(server.requests) == 2


def test_full_and_brief_answers_name_the_same_items(server: Server) -> None:
    lines = [sale(1), sale(2, colour="red"), sale(3), b"{"]
    with Client(server.url) as client:
        full, brief = client.send(lines), client.send(lines, brief=True)
    assert full.refused == brief.refused
    assert [(x.index, x.reason, x.field) for x in full.refused] == [
        (1, "unknown_field", "colour"), (3, "malformed", ""),
    ]  # fmt: skip
    assert (full.accepted, len(full.receipts), brief.receipts) == (2, 2, ())


def test_a_request_that_is_too_large_is_halved(server: Server) -> None:
    server.failures = [(413, {}), (413, {})]
    with Client(server.url) as client:
        (sent,) = stream(_lines(16), client)
    assert sent.accepted == 16
    assert server.requests == [16, 8, 4, 4, 8]
    assert server.lines == [line.data for line in _lines(16)]


def test_one_event_that_is_too_large_is_refused_and_the_others_go_on(server: Server) -> None:
    big = Line(None, sale(1, x={"note": "x" * 200_000}))
    with Client(server.url) as client:
        (sent,) = stream([*_lines(1), big], client)
    assert sent.accepted == 1
    assert [(line, why.reason) for line, why in sent.refused] == [(big, "too_large")]


def test_an_answer_that_leaves_events_out_is_not_taken_for_an_acknowledgement(
    server: Server,
) -> None:
    clock = Clock()
    server.failures = [(200, {})]
    with _client(server, clock) as client:
        with pytest.raises(ApiError, match="cannot be understood"):
            client.send([sale(1)])
        server.unaccounted = 1
        with pytest.raises(ApiError, match="answered for 1 of 2 events"):
            client.send([sale(1), sale(2)])
