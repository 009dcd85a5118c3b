"""Prometheus's rules, the image and the compose file, as far as they can be judged unstarted."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from api.telemetry import ApiTelemetry
from infra.grafana.dashboard import dashboard
from learner.telemetry import Telemetry
from stream.settings import Settings, load

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
COMPOSE = ROOT / "docker-compose.yml"
Json = dict[str, Any]

#: Services that end by themselves, and so have neither health nor restart.
ONE_SHOT = {"keys": "makes the keys and ends", "cli": "one command, when it is asked for"}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# Prometheus


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> None:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is missing; on Debian: apt-get install prometheus")
    done = subprocess.run(
        [binary, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "rules/recording.yml", "rules/alerts.yml")


@pytest.mark.parametrize("name", ["recording", "alerts"])
def test_rules_compute_and_fire_as_their_tests_say(name: str) -> None:
    promtool("test", "rules", f"tests/{name}.yml")


def test_every_query_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{n}", "expr": re.sub(r"\$__rate_interval", "1m", expr)}
        for n, expr in enumerate(dashboard_queries())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path), cwd=tmp_path)


def rules() -> list[Json]:
    return [
        rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in read_yaml(path)["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, Json]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard_queries() -> list[str]:
    return [t["expr"] for panel in dashboard()["panels"] for t in panel.get("targets", [])]


def exported(registry: CollectorRegistry) -> set[str]:
    """Sample names a registry can export, with or without samples yet."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in suffixes.get(family.type, ("",))
    }


@cache
def known_metrics() -> frozenset[str]:
    return frozenset(exported(Telemetry().registry) | exported(ApiTelemetry().registry))


def metrics_of(query: str) -> set[str]:
    """Names of metrics in PromQL: what is left of names without labels, groupings, functions."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    names = re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])", bare)
    operators = {"and", "or", "unless", "by", "on", "sum", "avg", "min", "max", "count", "bool"}
    return set(names) - operators


def all_queries() -> list[str]:
    return [rule["expr"] for rule in rules()] + dashboard_queries()


def test_the_reading_of_queries_finds_metrics_and_nothing_else() -> None:
    query = """sum by (job) (rate(a_total{x="b"}[5m])) / on (job) l:c:rate5m > 0.5 unless up"""
    assert metrics_of(query) == {"a_total", "l:c:rate5m", "up"}


@pytest.mark.parametrize("query", all_queries())
def test_every_metric_that_is_asked_for_is_exported_or_recorded(query: str) -> None:
    names = metrics_of(query)
    assert names
    assert names <= known_metrics() | recorded() | {"up"}


def test_every_metric_of_ours_is_looked_at() -> None:
    looked_at = set().union(*map(metrics_of, all_queries()))
    ours = {
        name
        for name in known_metrics()
        if name.startswith("salescast_") and not name.endswith(("_count", "_sum"))
    }
    assert ours <= looked_at


def test_recording_rules_are_named_level_metric_operations() -> None:
    for name in recorded():
        assert re.fullmatch(r"[a-z_]+:salescast_[a-z0-9_]+:[a-z0-9_]+", name), name


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_start(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["for"]
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert all(alert["annotations"].values())
    assert re.search("`salescast [a-z]+`", alert["annotations"]["runbook"])


def test_runbooks_name_commands_that_exist() -> None:
    from typer.main import get_command

    from scripts.cli import make

    commands = set(getattr(get_command(make()), "commands", {}))
    for name, alert in alerts().items():
        words = " ".join(alert["annotations"].values())
        assert set(re.findall("`salescast ([a-z]+)`", words)) <= commands, name
        for setting in re.findall("`([a-z]+_[a-z_]+)`", words):
            assert setting in Settings.__slots__ or setting in known_metrics(), (name, setting)


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_is_tested_firing_and_silent(name: str) -> None:
    fires, silent = 0, 0
    for test in read_yaml(PROMETHEUS / "tests" / "alerts.yml")["tests"]:
        for case in test.get("alert_rule_test", []):
            if case["alertname"] == name:
                fires, silent = fires + bool(case["exp_alerts"]), silent + (not case["exp_alerts"])
        for case in test.get("promql_expr_test", []):
            if f'alertname="{name}"' in case["expr"]:
                expected = bool(case["exp_samples"])
                fires, silent = fires + expected, silent + (not expected)
    assert fires
    assert silent


def test_alerts_compare_the_scrape_jobs_that_exist() -> None:
    jobs = {job["job_name"] for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    named = {job for query in all_queries() for job in re.findall(r'\bjob="([^"]+)"', query)}
    assert named == jobs


# the compose file


@cache
def compose() -> Json:
    """The compose file with variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text(encoding="utf-8"))
    assert not re.search(r"(?<!\$)\$[\w{]", text.replace("$$", "")), "a variable has no default"
    read: Json = yaml.safe_load(text.replace("$$", "$"))
    return read


def services() -> dict[str, Json]:
    found: dict[str, Json] = compose()["services"]
    return found


SERVICES = sorted(services())
OURS = sorted(name for name, service in services().items() if "build" in service)


def mounts(service: Json) -> dict[str, tuple[str, str]]:
    """Source and mode by target."""
    parts = [(*volume.split(":"), "rw")[:3] for volume in service.get("volumes", [])]
    return {target: (source, mode) for source, target, mode in parts}


def environment(name: str) -> dict[str, str]:
    """Variables of a service as its process sees them; an empty default reads as ``None``."""
    variables = services()[name]["environment"]
    return {key: "" if value is None else str(value) for key, value in variables.items()}


def test_all_parts_of_the_distributed_mode_are_there() -> None:
    wanted = {"kafka", "redis", "keys", "learner", "api", "console", "cli", "prometheus",
              "grafana"}  # fmt: skip
    assert set(SERVICES) == wanted


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_known_setting_of_the_right_type(name: str) -> None:
    loaded = load(environment(name))
    given = {key for key in environment(name) if key.startswith("SALESCAST_")}
    assert {o[1:] for o in loaded.origins.values() if o.startswith("$")} == given
    if name not in ("keys", "console"):
        assert (loaded.settings.log, loaded.settings.store) == ("kafka", "redis")


def test_processes_agree_on_what_changes_the_state() -> None:
    prints = [load(environment(name)).settings.fingerprint() for name in ("learner", "api", "cli")]
    assert prints[0] == prints[1] == prints[2]


def test_learners_sign_and_the_api_can_only_verify() -> None:
    keys, learner, api = (load(environment(name)).settings for name in ("keys", "learner", "api"))
    assert learner.signing_key_file == keys.signing_key_file
    assert learner.verify_key_file == api.verify_key_file == keys.verify_key_file
    private, public = (Path(f).parent.as_posix() for f in (keys.signing_key_file,
                                                           keys.verify_key_file))  # fmt: skip
    volume = mounts(services()["keys"])[private][0]
    assert mounts(services()["learner"])[private] == (volume, "ro")
    assert mounts(services()["learner"])[public] == mounts(services()["api"])[public]
    assert mounts(services()["cli"])[public] == mounts(services()["api"])[public]
    for name in set(SERVICES) - {"keys", "learner"}:
        assert volume not in {source for source, _ in mounts(services()[name]).values()}, name
    assert api.signing_key_file == ""


def test_no_secret_is_written_down() -> None:
    secret = {f"SALESCAST_{n.upper()}" for n, f in Settings.__dataclass_fields__.items()
              if f.metadata["secret"] and n != "redis_url"}  # fmt: skip
    for name in OURS:
        assert all(environment(name).get(variable, "") == "" for variable in secret), name
    assert "@" not in environment("learner")["SALESCAST_REDIS_URL"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    for target, (source, mode) in mounts(services()[name]).items():
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == "ro", f"{source}: a container must not write into the project"
        else:
            assert source in compose()["volumes"], source


def test_what_the_command_line_writes_is_kept() -> None:
    source, mode = mounts(services()["cli"])["/data"]
    assert source in compose()["volumes"] and mode == "rw"
    assert "WORKDIR /data" in (ROOT / "infra/Dockerfile").read_text()


def test_every_named_volume_is_used() -> None:
    used = {source for service in services().values() for source, _ in mounts(service).values()}
    assert set(compose()["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone_and_once(name: str) -> None:
    for port in services()[name].get("ports", []):
        address, outside, inside = port.split(":")
        assert address == "127.0.0.1"
        assert 1024 < int(outside) == int(inside)
    every = [port for service in services().values() for port in service.get("ports", [])]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(ONE_SHOT)))
def test_a_service_that_stays_is_watched_and_restarted(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    check = service["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


@pytest.mark.parametrize("name", ["learner", "api", "console"])
def test_a_health_check_of_ours_is_valid_python_that_asks_the_right_port(name: str) -> None:
    *python, code = services()[name]["healthcheck"]["test"]
    assert python == ["CMD", "python", "-c"]
    ast.parse(code)
    settings = load(environment(name)).settings
    port = {"learner": settings.metrics_port, "api": settings.port,
            "console": settings.console_port}[name]  # fmt: skip
    assert f"http://127.0.0.1:{port}/livez" in code


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_can_become_ready(name: str) -> None:
    for needed, how in services()[name].get("depends_on", {}).items():
        if how["condition"] == "service_completed_successfully":
            assert needed in ONE_SHOT
        else:
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in services()[needed]


def test_images_of_others_are_pinned() -> None:
    for name in set(SERVICES) - set(OURS):
        assert re.search(r":v?\d+\.\d+\.\d+$", services()[name]["image"]), name


@pytest.mark.parametrize("name", OURS)
def test_processes_of_ours_have_no_privileges(name: str) -> None:
    assert services()[name]["cap_drop"] == ["ALL"]
    assert services()[name]["security_opt"] == ["no-new-privileges:true"]


def test_nothing_but_salescast_reaches_the_log_and_the_store() -> None:
    networks = {name: set(services()[name].get("networks", [])) for name in SERVICES}
    assert set().union(*networks.values()) == set(compose()["networks"])
    assert {name for name, joined in networks.items() if "data" in joined} == {
        "kafka", "redis", "learner", "api", "cli"
    }  # fmt: skip
    assert networks["redis"] == networks["kafka"] == {"data"}
    assert "ports" not in services()["redis"]
    assert services()["keys"]["network_mode"] == "none"
    for name in ("learner", "api"):
        assert networks["prometheus"] <= networks[name], "Prometheus must reach it"


def test_the_console_has_no_key_and_asks_the_api_where_it_listens() -> None:
    service = services()["console"]
    assert "SALESCAST_API_KEY" not in service["environment"]
    assert "volumes" not in service
    port = load(environment("api")).settings.port
    assert service["command"] == ["console", "--api", f"http://api:{port}"]
    assert set(service["networks"]) <= set(services()["api"]["networks"])


def test_keys_are_made_once() -> None:
    shell, flag, script = services()["keys"]["entrypoint"]
    assert (shell, flag) == ("sh", "-c")
    kept = subprocess.run(
        [shell, flag, script], env={"SALESCAST_SIGNING_KEY_FILE": __file__, "PATH": ""},
        check=False, timeout=10, capture_output=True, executable="/bin/sh",
    )  # fmt: skip
    assert kept.returncode == 0
    missing = subprocess.run(
        [shell, flag, script], env={"SALESCAST_SIGNING_KEY_FILE": "/none", "PATH": ""},
        check=False, timeout=10, capture_output=True, executable="/bin/sh",
    )  # fmt: skip
    assert missing.returncode == 127, "it goes on to `salescast keys`, which is not on this path"


def test_prometheus_scrapes_the_ports_that_are_served() -> None:
    ports = {
        name: config["port"]
        for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]
        for config in job["dns_sd_configs"]
        for name in config["names"]
    }
    assert ports == {
        "learner": load(environment("learner")).settings.metrics_port,
        "api": load(environment("api")).settings.port,
    }


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    (source,) = read_yaml(provisioning / "datasources" / "salescast.yml")["datasources"]
    (provider,) = read_yaml(provisioning / "dashboards" / "salescast.yml")["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert services()["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    mounted = mounts(services()["grafana"])
    assert mounted[provider["options"]["path"]][0] == "./infra/grafana/dashboards"
    home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/salescast.json"


def test_kafka_is_advertised_where_it_is_reached() -> None:
    kafka = environment("kafka")
    advertised = dict(a.split("://") for a in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(a.split("://") for a in kafka["KAFKA_LISTENERS"].split(","))
    assert advertised["INTERNAL"] == environment("learner")["SALESCAST_KAFKA_BOOTSTRAP"]
    assert services()["kafka"]["ports"] == [f"{advertised['EXTERNAL']}:9094"]
    for name, at in advertised.items():
        assert at.rpartition(":")[2] == listening[name].rpartition(":")[2]
    assert kafka["KAFKA_LOG_DIRS"] in mounts(services()["kafka"])


# the image


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, lines joined."""
    text = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> set[str]:
    return {
        source
        for word, rest in dockerfile()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }


def test_the_image_copies_what_exists_and_every_package() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    include = re.search(r"include = (\[.*\])", config)
    assert include
    packages = {pattern.rstrip("*") for pattern in ast.literal_eval(include.group(1))}
    assert packages <= copied()


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {line[1:] for line in patterns if line.startswith("!")} == copied()


def test_the_image_installs_by_hash_and_runs_as_nobody_in_particular() -> None:
    instructions = dockerfile()
    commands = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert commands == [
        "pip install --require-hashes -r requirements.lock",
        "pip install --no-deps --no-build-isolation .",
    ]
    assert [rest for word, rest in instructions if word == "USER"] == ["salescast"]
    words = [word for word, _ in instructions]
    assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("RUN", "COPY"))
    assert {rest.split()[0] for word, rest in instructions if word == "FROM"} == {
        "python:3.11-slim"
    }


def test_variables_of_the_image_are_known_settings() -> None:
    text = " ".join(rest for word, rest in dockerfile() if word == "ENV")
    variables = dict(pair.split("=", 1) for pair in text.split())
    settings = load(variables).settings
    assert settings.host == "0.0.0.0"
    assert settings.data_dir == "/data"
