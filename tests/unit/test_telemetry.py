"""Metrics of the learner and the API: what is exported, under which names, and when."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from prometheus_client import CollectorRegistry, Metric
from starlette.types import Message, Receive, Scope, Send

from api.telemetry import CLIENT_LEFT, ApiTelemetry, MeasureRequests
from learner.telemetry import Telemetry
from stream.event import REASONS
from stream.window import OUTCOMES

LEARNER = {
    "salescast_records_total": {"partition"},
    "salescast_items_total": {"partition", "outcome"},
    "salescast_refused_items_total": {"reason"},
    "salescast_closes_total": {"partition"},
    "salescast_position_offset": {"partition"},
    "salescast_log_end_offset": {"partition"},
    "salescast_lag_records": {"partition"},
    "salescast_watermark_timestamp_seconds": {"partition"},
    "salescast_series": {"partition"},
    "salescast_forecast_rmsse_ratio": {"model", "horizon"},
    "salescast_forecast_wape_ratio": {"model", "horizon"},
    "salescast_forecast_bias_ratio": {"model", "horizon"},
    "salescast_forecast_pinball_ratio": {"model", "horizon"},
    "salescast_forecast_hits_ratio": {"model", "horizon", "level"},
    "salescast_champion_info": {"model"},
    "salescast_snapshots_total": {"partition"},
    "salescast_heads_refused_total": {"partition"},
    "salescast_snapshot_published_timestamp_seconds": {"partition"},
    "salescast_snapshot_size_bytes": {"partition"},
    "salescast_snapshot_written_bytes_total": {"partition"},
    "salescast_snapshot_pause_seconds_bucket": {"le"},
    "salescast_snapshot_pause_seconds_count": set(),
    "salescast_snapshot_pause_seconds_sum": set(),
    "salescast_restore_progress_ratio": {"partition"},
    "salescast_snapshot_seconds_bucket": {"le"},
    "salescast_snapshot_seconds_count": set(),
    "salescast_snapshot_seconds_sum": set(),
    "salescast_fold_seconds_total": {"partition"},
    "salescast_ticks_total": {"partition"},
    "salescast_shard_stopped": {"partition"},
    "salescast_dead_letters_total": {"partition"},
    "salescast_operations_total": {"kind", "outcome"},
    "salescast_dependency_up": {"dependency"},
    "salescast_build_info": {"version", "river"},
}
API = {
    "salescast_http_requests_total": {"method", "route", "status"},
    "salescast_http_request_seconds_bucket": {"route", "le"},
    "salescast_http_request_seconds_count": {"route"},
    "salescast_http_request_seconds_sum": {"route"},
    "salescast_ingested_items_total": {"outcome"},
    "salescast_replica_position_offset": {"partition"},
    "salescast_replica_published_timestamp_seconds": {"partition"},
    "salescast_replica_swaps_total": {"partition"},
    "salescast_replica_frozen": {"partition"},
    "salescast_dependency_up": {"dependency"},
}


def score(model: str, **changed: Any) -> dict[str, Any]:
    row = {"model": model, "horizon": 1, "rmsse": 0.7, "wape": 0.3, "bias": 0.01, "pinball": 0.2,
           "hits": {"0.1": 0.12, "0.9": 0.88}}  # fmt: skip
    return row | changed


SCORES = [score("bayes"), score("seasonal_naive", rmsse=0.9, wape=0.4)]


def busy_learner() -> Telemetry:
    telemetry = Telemetry()
    telemetry.folded(2, 10, {"learned": 8, "refused": 2}, {"malformed": 2}, 0.5)
    telemetry.closed(2, 3, 1_700_000_000_500_000, 42)
    telemetry.position(2, 100, 130)
    telemetry.scored(SCORES, champion="bayes")
    telemetry.published(2, 5_000_000, 1_000_000, 0.2, 1_700_000_100.0)
    telemetry.restored(2, 0.5)
    telemetry.paused(0.05)
    telemetry.ticked(2)
    telemetry.dead_lettered(2, 2)
    telemetry.operation("freeze", "applied")
    telemetry.dependency("log", True)
    return telemetry


def busy_api() -> ApiTelemetry:
    telemetry = ApiTelemetry()
    telemetry.requested("GET", "/forecast/{store}", "200", 0.002)
    telemetry.ingested(accepted=5, refused=1)
    telemetry.swapped(0, 90, 1_700_000_000.0)
    telemetry.frozen(0, False)
    telemetry.dependency("store", True)
    return telemetry


def sample_labels(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Label names by sample name, of what Salescast itself exports."""
    return {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("salescast_") and not sample.name.endswith("_created")
    }


def families(registry: CollectorRegistry) -> list[Metric]:
    return [family for family in registry.collect() if family.name.startswith("salescast_")]


@pytest.mark.parametrize(("make", "wanted"), [(busy_learner, LEARNER), (busy_api, API)])
def test_exactly_the_agreed_metrics_and_labels_are_exported(
    make: Callable[[], Telemetry | ApiTelemetry], wanted: dict[str, set[str]]
) -> None:
    assert sample_labels(make().registry) == wanted


@pytest.mark.parametrize("make", [busy_learner, busy_api])
def test_every_metric_has_a_help(make: Callable[[], Telemetry | ApiTelemetry]) -> None:
    for family in families(make().registry):
        assert len(family.documentation.split()) >= 3, family.name


@pytest.mark.parametrize("make", [busy_learner, busy_api])
def test_no_metric_is_labelled_by_store_product_or_series(
    make: Callable[[], Telemetry | ApiTelemetry],
) -> None:
    for labels in sample_labels(make().registry).values():
        assert not labels & {"store", "product", "series", "category", "source"}


@pytest.mark.parametrize("make", [busy_learner, busy_api])
def test_what_is_rendered_is_prometheus_text(
    make: Callable[[], Telemetry | ApiTelemetry],
) -> None:
    telemetry = make()
    assert b"# HELP salescast_" in telemetry.render()
    assert telemetry.content_type.startswith("text/plain; version=0.0.4")


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"salescast_{name}", labels)


def test_batches_add_up() -> None:
    telemetry = busy_learner()
    telemetry.folded(2, 5, {"learned": 4, "late": 1}, {}, 0.25)
    registry = telemetry.registry
    assert value(registry, "records_total", partition="2") == 15
    assert value(registry, "items_total", partition="2", outcome="learned") == 12
    assert value(registry, "items_total", partition="2", outcome="late") == 1
    assert value(registry, "refused_items_total", reason="malformed") == 2
    assert value(registry, "fold_seconds_total", partition="2") == 0.75


def test_outcomes_and_reasons_are_counted_from_zero() -> None:
    telemetry = Telemetry()
    telemetry.folded(0, 1, {"learned": 1}, {}, 0.0)
    for outcome in OUTCOMES:
        counted = value(telemetry.registry, "items_total", partition="0", outcome=outcome)
        assert counted == (1 if outcome == "learned" else 0)
    for reason in set(REASONS) - {"late"}:
        assert value(telemetry.registry, "refused_items_total", reason=reason) == 0


def test_times_are_exported_in_seconds() -> None:
    registry = busy_learner().registry
    assert value(registry, "watermark_timestamp_seconds", partition="2") == 1_700_000_000.5


def test_nothing_is_told_of_a_snapshot_before_there_is_one() -> None:
    telemetry = Telemetry()
    telemetry.position(0, 0, 5)
    name = "snapshot_published_timestamp_seconds"
    assert value(telemetry.registry, name, partition="0") is None
    assert value(telemetry.registry, "snapshots_total", partition="0") == 0


def test_lag_is_never_negative() -> None:
    telemetry = Telemetry()
    telemetry.position(0, 100, 130)
    assert value(telemetry.registry, "lag_records", partition="0") == 30
    telemetry.position(0, 131, 130)
    assert value(telemetry.registry, "lag_records", partition="0") == 0


def test_a_model_that_is_gone_is_no_longer_exported() -> None:
    telemetry = busy_learner()
    telemetry.scored(SCORES[:1], champion="bayes")
    wape = "forecast_wape_ratio"
    assert value(telemetry.registry, wape, model="bayes", horizon="1") == 0.3
    assert value(telemetry.registry, wape, model="seasonal_naive", horizon="1") is None
    hits = {"model": "seasonal_naive", "horizon": "1", "level": "0.9"}
    assert value(telemetry.registry, "forecast_hits_ratio", **hits) is None
    assert value(telemetry.registry, "forecast_hits_ratio", **hits | {"model": "bayes"}) == 0.88


def test_a_score_that_is_not_finite_is_not_exported() -> None:
    telemetry = busy_learner()
    unknown = score("bayes", rmsse=math.nan, wape=None, bias=0.0)
    telemetry.scored([unknown], champion="bayes")
    labels = {"model": "bayes", "horizon": "1"}
    assert value(telemetry.registry, "forecast_rmsse_ratio", **labels) is None
    assert value(telemetry.registry, "forecast_wape_ratio", **labels) is None
    assert value(telemetry.registry, "forecast_bias_ratio", **labels) == 0.0


def test_one_model_is_champion() -> None:
    telemetry = busy_learner()
    telemetry.scored(SCORES, champion="level_phase")
    assert value(telemetry.registry, "champion_info", model="bayes") is None
    assert value(telemetry.registry, "champion_info", model="level_phase") == 1


def test_a_shard_is_running_until_it_says_otherwise() -> None:
    telemetry = Telemetry()
    telemetry.folded(0, 1, {"learned": 1}, {}, 0.0)
    assert value(telemetry.registry, "shard_stopped", partition="0") == 0
    telemetry.stopped(0, True)
    telemetry.folded(0, 1, {"learned": 1}, {}, 0.0)
    assert value(telemetry.registry, "shard_stopped", partition="0") == 1


def test_a_partition_handed_over_leaves_no_gauge_and_comes_back_with_its_counters() -> None:
    telemetry = busy_learner()
    telemetry.position(3, 1, 1)
    telemetry.dropped(2)
    for family in families(telemetry.registry):
        if family.type == "gauge":
            assert all(s.labels.get("partition") != "2" for s in family.samples), family.name
    assert value(telemetry.registry, "position_offset", partition="3") == 1
    telemetry.folded(2, 1, {"learned": 1}, {}, 0.0)
    assert value(telemetry.registry, "records_total", partition="2") == 11
    assert value(telemetry.registry, "shard_stopped", partition="2") == 0


# the middleware


def shop(telemetry: ApiTelemetry) -> FastAPI:
    app = FastAPI()
    router = APIRouter()

    @router.get("/forecast/{store}")
    def forecast(store: str) -> str:
        if store == "none":
            raise HTTPException(404)
        if store == "broken":
            raise RuntimeError("broken")
        return store

    @app.get("/ready")
    def ready() -> bool:
        return True

    app.include_router(router, prefix="/v1")
    app.add_middleware(MeasureRequests, telemetry=telemetry)
    return app


def ask(app: Any, *requests: tuple[str, str]) -> list[int]:
    async def run() -> list[int]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return [(await client.request(*request)).status_code for request in requests]

    return asyncio.run(run())


def requests_of(telemetry: ApiTelemetry) -> dict[tuple[str, str, str], float]:
    return {
        (s.labels["method"], s.labels["route"], s.labels["status"]): s.value
        for family in telemetry.registry.collect()
        for s in family.samples
        if s.name == "salescast_http_requests_total"
    }


def test_requests_are_counted_by_template_with_the_routers_prefix() -> None:
    telemetry = ApiTelemetry()
    ask(shop(telemetry), ("GET", "/v1/forecast/1"), ("GET", "/v1/forecast/2"), ("GET", "/ready"))
    assert requests_of(telemetry) == {
        ("GET", "/v1/forecast/{store}", "200"): 2,
        ("GET", "/ready", "200"): 1,
    }
    counted = value(telemetry.registry, "http_request_seconds_count", route="/v1/forecast/{store}")
    assert counted == 2


def test_unknown_paths_and_methods_make_no_new_series() -> None:
    telemetry = ApiTelemetry()
    ask(shop(telemetry), ("GET", "/a"), ("GET", "/b"), ("BREW", "/c"), ("POST", "/ready"))
    assert requests_of(telemetry) == {
        ("GET", "other", "404"): 2,
        ("other", "other", "404"): 1,
        ("POST", "/ready", "405"): 1,
    }


def test_errors_are_counted_by_their_status() -> None:
    telemetry = ApiTelemetry()
    statuses = ask(shop(telemetry), ("GET", "/v1/forecast/none"), ("GET", "/v1/forecast/broken"))
    assert statuses == [404, 500]
    assert requests_of(telemetry) == {
        ("GET", "/v1/forecast/{store}", "404"): 1,
        ("GET", "/v1/forecast/{store}", "500"): 1,
    }


async def nothing() -> Message:
    return {"type": "http.disconnect"}


def call(app: MeasureRequests, scope: Scope) -> Coroutine[Any, Any, None]:
    async def send(message: Message) -> None:
        raise AssertionError(message)

    return app(scope, nothing, send)


@pytest.mark.parametrize(
    ("media_type", "seconds"), [(b"text/event-stream; charset=utf-8", 1), (b"text/csv", 61)]
)
def test_an_answer_is_timed_to_its_end_but_an_event_stream_to_its_start(
    monkeypatch: pytest.MonkeyPatch, media_type: bytes, seconds: float
) -> None:
    now = [0.0]

    async def minute(scope: Scope, receive: Receive, send: Send) -> None:
        now[0] += 1.0
        headers = [(b"Content-Type", media_type)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        now[0] += 60.0
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    telemetry = ApiTelemetry()
    measured = MeasureRequests(minute, telemetry)
    asyncio.run(measured({"type": "http", "method": "GET"}, nothing, send))
    assert sent == ["http.response.start", "http.response.body"]
    assert value(telemetry.registry, "http_request_seconds_sum", route="other") == seconds


def test_a_client_that_left_is_told_apart_from_an_error() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    telemetry = ApiTelemetry()
    asyncio.run(call(MeasureRequests(silent, telemetry), {"type": "http", "method": "GET"}))
    assert requests_of(telemetry) == {("GET", "other", CLIENT_LEFT): 1}


def test_an_exception_is_counted_as_500_and_goes_on() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    telemetry = ApiTelemetry()
    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(call(MeasureRequests(broken, telemetry), {"type": "http", "method": "GET"}))
    assert requests_of(telemetry) == {("GET", "other", "500"): 1}


def test_only_http_is_measured() -> None:
    seen: list[str] = []

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    telemetry = ApiTelemetry()
    asyncio.run(call(MeasureRequests(lifespan, telemetry), {"type": "lifespan"}))
    assert seen == ["lifespan"]
    assert requests_of(telemetry) == {}
