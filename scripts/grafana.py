"""Put folder, data source and dashboard into a Grafana over HTTP.

For a Grafana that is not started by ``docker-compose.yml`` (that one reads the same files at
start). Safe to repeat: what is already as it should be is left alone. Leaves out: making the
service-account token, and anything of Grafana that Salescast did not put there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import requests
import typer
from grafana_api.grafana_api import (  # type: ignore[import-untyped]
    GrafanaClientError,
    GrafanaException,
)
from grafana_api.grafana_face import GrafanaFace  # type: ignore[import-untyped]

from infra.grafana.dashboard import DATASOURCE_UID, PATH
from scripts.console import Config, settings
from stream.errors import SalescastError, SettingsError

FOLDER_UID = "salescast"
FOLDER_TITLE = "Salescast"
DATASOURCE_NAME = "Salescast Prometheus"
_TIMEOUT_S = 10.0
_ASSIGNED = ("id", "version")

Json = dict[str, Any]


def provision(url: str, token: str, dashboard: Path, prometheus_url: str) -> list[str]:
    """Create or update what Salescast has in Grafana.

    1. The folder, by its uid. 2. The data source, by its name. 3. The dashboard, by its uid.
    Each step can be repeated, so a run that failed halfway is mended by another.

    Parameters
    ----------
    url
        Grafana, with its sub-path if it has one.
    token
        A service-account token of role Admin.
    dashboard
        File of the dashboard's JSON model.
    prometheus_url
        Prometheus as Grafana's server reaches it.

    Returns
    -------
    One line for each thing done, or found as it should be.

    Raises
    ------
    SettingsError
        An address is no HTTP address, or there is no token.
    SalescastError
        Grafana cannot be reached, refuses the token or what is asked; or the file is no
        dashboard.
    """
    _checked_url(prometheus_url, "--prometheus-url")
    model = _read(dashboard)
    grafana = _connect(url, token)

    def step(what: str, do: Callable[[], str]) -> str:
        try:
            return f"{what}: {do()}"
        except GrafanaException as error:
            raise _explained(error, what, url) from None
        except requests.JSONDecodeError:
            raise _not_grafana(url) from None
        except requests.RequestException as error:
            # The error's own text may quote the request's headers, and so the token.
            raise SalescastError(
                f"cannot reach Grafana at {url} ({type(error).__name__})",
                remedy="Check that it is up, and the setting `grafana_url`",
            ) from None
        except (KeyError, TypeError):
            raise _not_grafana(url) from None

    try:
        # 1.
        lines = [step(f"folder {FOLDER_TITLE}", lambda: _folder(grafana))]
        # 2.
        lines.append(
            step(f"data source {DATASOURCE_NAME}", lambda: _datasource(grafana, prometheus_url))
        )
        # 3.
        lines.append(step(f"dashboard {model['title']}", lambda: _dashboard(grafana, model)))
    finally:
        grafana.api.s.close()
    return [*lines, f"see {url.rstrip('/')}/d/{model['uid']}"]


def _folder(grafana: GrafanaFace) -> str:
    found = _found(lambda: grafana.folder.get_folder(FOLDER_UID))
    if found is None:
        grafana.folder.create_folder(FOLDER_TITLE, uid=FOLDER_UID)
        return "created"
    if found["title"] == FOLDER_TITLE:
        return "unchanged"
    grafana.folder.update_folder(FOLDER_UID, FOLDER_TITLE, overwrite=True)
    return "updated"


def _datasource(grafana: GrafanaFace, prometheus_url: str) -> str:
    wanted: Json = {
        "name": DATASOURCE_NAME,
        "uid": DATASOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus_url,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    found = _found(lambda: grafana.datasource.get_datasource_by_name(quote(DATASOURCE_NAME)))
    if found is None:
        grafana.datasource.create_datasource(wanted)
        return "created"
    if found["uid"] != DATASOURCE_UID:
        raise SalescastError(
            f"Grafana has another data source named {DATASOURCE_NAME} (uid {found['uid']})",
            remedy="Rename it there; the dashboard asks the one with uid " + DATASOURCE_UID,
        )
    if all(found.get(name) == value for name, value in wanted.items()):
        return "unchanged"
    if found.get("readOnly"):
        return "left as it is: Grafana reads it from a file"
    # By uid: newer servers no longer take the numeric ids that the package's own call sends.
    grafana.api.PUT(f"/datasources/uid/{DATASOURCE_UID}", json=wanted)
    return "updated"


def _dashboard(grafana: GrafanaFace, model: Json) -> str:
    found = _found(lambda: grafana.dashboard.get_dashboard(model["uid"]))
    if found is not None:
        there = {name: v for name, v in found["dashboard"].items() if name not in _ASSIGNED}
        if there == model and found["meta"].get("folderUid") == FOLDER_UID:
            return "unchanged"
        if found["meta"].get("provisioned"):
            return "left as it is: Grafana reads it from a file"
    grafana.dashboard.update_dashboard(
        {
            "dashboard": {**model, "id": None},
            "folderUid": FOLDER_UID,
            "overwrite": True,
            "message": "salescast grafana",
        }
    )
    return "created" if found is None else "updated"


def _found(ask: Callable[[], Json]) -> Json | None:
    """What Grafana answers, or ``None`` where it says there is no such thing."""
    try:
        return ask()
    except GrafanaClientError as error:
        if error.status_code != 404:
            raise
        return None


def _read(path: Path) -> Json:
    remedy = "Write it anew with: python -m infra.grafana.dashboard"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SalescastError(
            f"cannot read the dashboard {path}: {error.strerror}", remedy=remedy
        ) from None
    except ValueError as error:
        raise SalescastError(f"{path} is not JSON: {error}", remedy=remedy) from None
    if not isinstance(model, dict) or not model.get("uid") or not model.get("title"):
        raise SalescastError(f"{path} is no dashboard: it lacks uid or title", remedy=remedy)
    return {name: value for name, value in model.items() if name not in _ASSIGNED}


def _connect(url: str, token: str) -> GrafanaFace:
    token = token.strip()
    if not token:
        raise SettingsError(
            "there is no token for Grafana",
            remedy="Make one in Grafana under Administration, Service accounts, with role Admin, "
            "and set SALESCAST_GRAFANA_TOKEN",
        )
    if not all("!" <= character <= "~" for character in token):
        # Refused here, because http.client would quote it in its own error.
        raise SettingsError(
            "the token for Grafana has characters that no token has",
            remedy="Copy it again into SALESCAST_GRAFANA_TOKEN, without line breaks or spaces",
        )
    host, port, scheme, prefix = _checked_url(url, "`grafana_url`")
    return GrafanaFace(
        auth=token,
        host=host,
        port=port,
        url_path_prefix=prefix,
        protocol=scheme,
        timeout=_TIMEOUT_S,
    )


def _checked_url(url: str, name: str) -> tuple[str, int | None, str, str]:
    """Host, port, scheme, and path as ``grafana_api`` wants it: empty, or ending in a slash."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"{name} is no HTTP address: {url!r}", remedy="Give it like http://127.0.0.1:3000"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.strip("/")
    return host, port, parts.scheme, f"{path}/" if path else ""


def _explained(error: GrafanaException, what: str, url: str) -> SalescastError:
    """An error of Grafana's as one of ours, with what to do."""
    if error.status_code == 401:
        return SalescastError(
            f"Grafana at {url} does not know the token",
            remedy="Make a new service-account token there and set SALESCAST_GRAFANA_TOKEN",
        )
    if error.status_code == 403:
        return SalescastError(
            f"the token may not change the {what} of Grafana at {url}",
            remedy="Give its service account the role Admin; data sources need it",
        )
    response = error.response
    said = response.get("message", "") if isinstance(response, dict) else ""
    return SalescastError(
        f"Grafana at {url} answers {error.status_code} to the {what}" + (f": {said}" * bool(said)),
        remedy="See Grafana's log; the command can be repeated",
    )


def _not_grafana(url: str) -> SalescastError:
    return SalescastError(
        f"what answers at {url} does not speak like Grafana",
        remedy="Check the setting `grafana_url`, with the sub-path if there is one",
    )


def register(app: typer.Typer) -> None:
    """Add the command ``grafana``."""

    @app.command()
    def grafana(
        url: Annotated[str | None, typer.Option(help="Grafana; default: grafana_url")] = None,
        token: Annotated[
            str | None,
            typer.Option(help="Service-account token; better: $SALESCAST_GRAFANA_TOKEN"),
        ] = None,
        prometheus_url: Annotated[
            str, typer.Option(help="Prometheus, as Grafana's server reaches it")
        ] = "http://127.0.0.1:9090",
        config: Config = None,
    ) -> None:
        """Put folder, data source and dashboard into Grafana; safe to repeat."""
        chosen = settings(config, grafana_url=url, grafana_token=token)
        for line in provision(chosen.grafana_url, chosen.grafana_token, PATH, prometheus_url):
            typer.echo(line)
