"""The dashboard, and what puts it into Grafana.

Grafana's server is stood in for by a stub that keeps state, demands the token, judges every
payload, and refuses what Grafana 13 refuses.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
import yaml
from typer.testing import CliRunner

from infra.grafana.dashboard import DATASOURCE_UID, PATH, UID, dashboard, text
from scripts.grafana import DATASOURCE_NAME, FOLDER_TITLE, FOLDER_UID, provision, register
from stream.errors import SalescastError, SettingsError

PROVISIONING = PATH.parents[1] / "provisioning"
TOKEN = "glsa_not-a-real-one"
PROMETHEUS = "http://prometheus:9090"
Json = dict[str, Any]


class StubGrafana:
    """Folders, data sources and dashboards, as Grafana's HTTP API shows them."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.folders: dict[str, Json] = {}
        self.sources: dict[str, Json] = {}
        self.dashboards: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.always: tuple[int, bytes] | None = None
        self.url = ""

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [call for call in self.calls if call[0] != "GET"]

    def answer(
        self, method: str, path: str, auth: str | None, body: Json | None
    ) -> tuple[int, Any]:
        if not path.startswith(f"{self.prefix}/api/"):
            return 404, {"message": "Not found"}
        path = unquote(path.removeprefix(f"{self.prefix}/api"))
        self.calls.append((method, path))
        if self.always:
            return self.always
        if auth != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key", "messageId": "api-key.invalid"}
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "folders":
            return self.folder(method, rest, body)
        if kind == "datasources":
            return self.source(method, rest, body)
        if kind == "dashboards":
            return self.board(method, rest, body)
        return 404, {"message": "Not found"}

    def demand(self, body: Json | None, **types: type) -> bool:
        """Note a payload that lacks a field or has one of another type."""
        body = body or {}
        bad = [name for name, kind in types.items() if not isinstance(body.get(name), kind)]
        if bad:
            self.wrong.append(f"{bad} of {sorted(body)}")
        return not bad

    def folder(self, method: str, uid: str, body: Json | None) -> tuple[int, Any]:
        if method == "POST" and not uid and body and self.demand(body, title=str, uid=str):
            self.folders[body["uid"]] = {**body, "id": 11, "version": 1}
            return 200, self.folders[body["uid"]]
        if uid not in self.folders:
            return 404, {"message": "folder not found", "status": "not-found"}
        if method == "PUT" and body and self.demand(body, title=str):
            if body.get("overwrite") is not True and "version" not in body:
                return 412, {"message": "the folder has been changed by someone else"}
            self.folders[uid] |= {"title": body["title"]}
        return 200, self.folders[uid]

    def source(self, method: str, rest: str, body: Json | None) -> tuple[int, Any]:
        shape = {"name": str, "uid": str, "type": str, "access": str, "url": str, "jsonData": dict}
        if method == "POST" and not rest and body and self.demand(body, **shape):
            if body["uid"] in self.sources:
                return 409, {"message": "data source with the same uid already exists"}
            self.sources[body["uid"]] = {"id": 7, "orgId": 1, "readOnly": False, **body}
            return 200, {"id": 7, "message": "Datasource added", "name": body["name"]}
        by, _, value = rest.partition("/")
        if by == "name" and method == "GET":
            for source in self.sources.values():
                if source["name"] == value:
                    return 200, source
            return 404, {"message": "Data source not found"}
        if by == "uid" and method == "PUT" and value in self.sources:
            if self.sources[value]["readOnly"]:
                return 403, {"message": "Cannot update read-only data source"}
            if body and self.demand(body, **shape):
                self.sources[value] |= body
                return 200, {"id": 7, "message": "Datasource updated", "name": body["name"]}
        # Numeric ids are gone from newer servers.
        return 404, {"message": "Not found"}

    def board(self, method: str, rest: str, body: Json | None) -> tuple[int, Any]:
        if method == "GET" and rest.startswith("uid/"):
            found = self.dashboards.get(rest.removeprefix("uid/"))
            return (200, found) if found else (404, {"message": "Dashboard not found"})
        if method == "POST" and rest == "db" and body:
            if not self.demand(body, dashboard=dict, folderUid=str, overwrite=bool):
                return 400, {"message": "bad request data"}
            model = body["dashboard"]
            self.demand(model, uid=str, title=str, panels=list, schemaVersion=int, templating=dict)
            if body["folderUid"] not in self.folders:
                return 400, {"message": "folder not found"}
            old = self.dashboards.get(model["uid"])
            if old and old["meta"]["provisioned"]:
                return 400, {"message": "Cannot save provisioned dashboard"}
            version = old["dashboard"]["version"] + 1 if old else 1
            self.dashboards[model["uid"]] = {
                "dashboard": {**model, "id": 3, "version": version},
                "meta": {"folderUid": body["folderUid"], "provisioned": False},
            }
            return 200, {"id": 3, "uid": model["uid"], "status": "success", "version": version}
        return 404, {"message": "Not found"}


@contextmanager
def serving(stub: StubGrafana) -> Iterator[StubGrafana]:
    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, reply = stub.answer(
                self.command, self.path, self.headers.get("Authorization"), body
            )
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}{stub.prefix}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert stub.wrong == []


@pytest.fixture
def grafana() -> Iterator[StubGrafana]:
    with serving(StubGrafana()) as stub:
        yield stub


def run(grafana: StubGrafana, *, path: Path = PATH, prometheus: str = PROMETHEUS) -> list[str]:
    grafana.calls.clear()
    return provision(grafana.url, TOKEN, path, prometheus)


def test_the_first_run_creates_folder_data_source_and_dashboard(grafana: StubGrafana) -> None:
    assert run(grafana) == [
        "folder Salescast: created",
        "data source Salescast Prometheus: created",
        "dashboard Salescast: created",
        f"see {grafana.url}/d/salescast",
    ]
    assert grafana.folders[FOLDER_UID]["title"] == FOLDER_TITLE
    assert grafana.sources[DATASOURCE_UID]["url"] == PROMETHEUS
    kept = grafana.dashboards[UID]
    assert {**kept["dashboard"], "id": 0, "version": 0} == {**dashboard(), "id": 0, "version": 0}
    assert kept["meta"]["folderUid"] == FOLDER_UID


def test_the_second_run_writes_nothing(grafana: StubGrafana) -> None:
    run(grafana)
    lines = run(grafana)
    assert [line.rpartition(": ")[2] for line in lines[:3]] == ["unchanged"] * 3
    assert grafana.writes == []


def test_another_prometheus_updates_the_data_source_alone_by_its_uid(
    grafana: StubGrafana,
) -> None:
    run(grafana)
    lines = run(grafana, prometheus="http://other:9090")
    assert lines[1] == "data source Salescast Prometheus: updated"
    assert grafana.writes == [("PUT", f"/datasources/uid/{DATASOURCE_UID}")]
    assert grafana.sources[DATASOURCE_UID]["url"] == "http://other:9090"


def test_a_changed_dashboard_is_updated(grafana: StubGrafana, tmp_path: Path) -> None:
    run(grafana)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(dashboard() | {"refresh": "1m"}))
    assert run(grafana, path=changed)[2] == "dashboard Salescast: updated"
    assert grafana.writes == [("POST", "/dashboards/db")]
    assert grafana.dashboards[UID]["dashboard"]["refresh"] == "1m"
    assert grafana.dashboards[UID]["dashboard"]["version"] == 2


def test_a_dashboard_in_another_folder_is_put_back(grafana: StubGrafana) -> None:
    run(grafana)
    grafana.dashboards[UID]["meta"]["folderUid"] = "elsewhere"
    assert run(grafana)[2] == "dashboard Salescast: updated"
    assert grafana.dashboards[UID]["meta"]["folderUid"] == FOLDER_UID


def test_a_renamed_folder_gets_its_name_back(grafana: StubGrafana) -> None:
    run(grafana)
    grafana.folders[FOLDER_UID]["title"] = "Sales"
    assert run(grafana)[0] == "folder Salescast: updated"
    assert grafana.folders[FOLDER_UID]["title"] == FOLDER_TITLE


def test_what_grafana_reads_from_files_is_left_to_the_files(grafana: StubGrafana) -> None:
    run(grafana)
    grafana.sources[DATASOURCE_UID] |= {"readOnly": True, "url": "http://of-the-file:9090"}
    grafana.dashboards[UID]["meta"]["provisioned"] = True
    grafana.dashboards[UID]["dashboard"]["refresh"] = "1h"
    lines = run(grafana)
    assert all("Grafana reads it from a file" in line for line in lines[1:3])
    assert grafana.writes == []


def test_anothers_data_source_of_that_name_is_not_taken_over(grafana: StubGrafana) -> None:
    grafana.sources["theirs"] = {"name": DATASOURCE_NAME, "uid": "theirs", "readOnly": False}
    with pytest.raises(SalescastError, match=r"another data source .*Rename it"):
        run(grafana)
    assert list(grafana.sources) == ["theirs"]


def test_grafana_may_live_under_a_path() -> None:
    with serving(StubGrafana(prefix="/grafana")) as stub:
        assert run(stub)[2] == "dashboard Salescast: created"
        stub.url += "/"
        assert run(stub)[3] == f"see {stub.url}d/salescast"


def test_a_wrong_token_is_explained(grafana: StubGrafana) -> None:
    with pytest.raises(SalescastError, match=r"does not know the token.*SALESCAST_GRAFANA_TOKEN"):
        provision(grafana.url, "glsa_wrong", PATH, PROMETHEUS)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"message": "Access denied"}', "may not change the folder Salescast.*role Admin"),
        (500, b'{"message": "database is locked"}', "answers 500 .*: database is locked"),
        (502, b"<html>Bad gateway: no message</html>", "does not speak like Grafana"),
        (200, b"<html>Welcome</html>", "does not speak like Grafana"),
        (200, b"[]", "does not speak like Grafana"),
    ],
)
def test_what_goes_wrong_says_what_to_do(
    grafana: StubGrafana, status: int, body: bytes, said: str
) -> None:
    grafana.always = (status, body)
    with pytest.raises(SalescastError, match=said) as caught:
        run(grafana)
    assert caught.value.remedy


def test_a_grafana_that_is_not_there_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(SalescastError, match=f"cannot reach Grafana at {url} .*is up"):
            provision(url, TOKEN, PATH, PROMETHEUS)


def test_a_token_never_shows_in_an_error(grafana: StubGrafana) -> None:
    for token in (f"{TOKEN}\nX-Other: 1", f"{TOKEN} é", "glsa_wrong"):
        with pytest.raises(SalescastError) as caught:
            provision(grafana.url, token, PATH, PROMETHEUS)
        assert "glsa" not in str(caught.value)


def test_without_a_token_nothing_is_asked(grafana: StubGrafana) -> None:
    with pytest.raises(SettingsError, match=r"no token.*SALESCAST_GRAFANA_TOKEN"):
        provision(grafana.url, " ", PATH, PROMETHEUS)
    assert grafana.calls == []


@pytest.mark.parametrize("url", ["grafana:3000", "ftp://grafana", "http://", "http://x:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="is no HTTP address"):
        provision(url, TOKEN, PATH, PROMETHEUS)
    with pytest.raises(SettingsError, match="--prometheus-url is no HTTP address"):
        provision("http://127.0.0.1:1", TOKEN, PATH, url)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"title": "no uid"}'])
def test_a_file_that_is_no_dashboard_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "dashboard.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SalescastError, match=r"python -m infra\.grafana\.dashboard"):
        provision("http://127.0.0.1:1", TOKEN, path, PROMETHEUS)


def test_the_command_takes_address_and_token_from_the_settings(
    grafana: StubGrafana, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    register(app)
    config = tmp_path / "salescast.toml"
    config.write_text(f'grafana_url = "{grafana.url}"\n')
    monkeypatch.setenv("SALESCAST_GRAFANA_TOKEN", TOKEN)
    result = CliRunner().invoke(app, ["--config", str(config), "--prometheus-url", "http://p:9090"])
    assert result.exit_code == 0, result.output
    assert "dashboard Salescast: created" in result.output
    assert grafana.sources[DATASOURCE_UID]["url"] == "http://p:9090"


# the files


def test_the_dashboards_file_is_what_the_module_makes() -> None:
    assert PATH.read_text(encoding="utf-8") == text(), "run: python -m infra.grafana.dashboard"


def panels() -> list[Json]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_panels_do_not_overlap_and_fit() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_is_titled_explained_and_asks_the_chosen_data_source() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_has_the_agreed_uid_and_variables_and_uses_them() -> None:
    assert dashboard()["uid"] == UID == "salescast"
    variables = {v["name"]: v for v in dashboard()["templating"]["list"]}
    assert set(variables) == {"datasource", "partition", "model", "horizon"}
    assert variables["datasource"]["current"]["value"] == DATASOURCE_UID
    asked = " ".join(t["expr"] for panel in panels() for t in panel["targets"])
    for name in ("partition", "model", "horizon"):
        assert f'{name}=~"${name}"' in asked


def test_provisioning_by_file_makes_what_the_command_makes() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/salescast.yml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/salescast.yml").read_text())[
        "providers"
    ]
    assert (source["name"], source["uid"]) == (DATASOURCE_NAME, DATASOURCE_UID)
    assert source["type"] == "prometheus"
    assert (provider["folder"], provider["folderUid"]) == (FOLDER_TITLE, FOLDER_UID)
    assert provider["type"] == "file"
