"""The Grafana dashboard, as a function of nothing.

``python -m infra.grafana.dashboard`` writes ``dashboards/salescast.json``, which a test holds
equal to ``dashboard()``. Every panel is one line here: title, width, unit, queries. Leaves out:
how it gets into Grafana (``provisioning/`` by file, ``salescast grafana`` over HTTP).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

UID = "salescast"
DATASOURCE_UID = "salescast-prometheus"
PATH = Path(__file__).with_name("dashboards") / "salescast.json"

#: Grafana's names of units.
SECONDS, BYTES, BYTES_A_SECOND, SHARE, PLAIN, PER_SECOND = (
    "s", "bytes", "Bps", "percentunit", "short", "cps"
)  # fmt: skip

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_P = '{partition=~"$partition"}'
_MH = '{model=~"$model", horizon=~"$horizon"}'

#: (title, kind, width, unit, help, queries); a query is (PromQL, legend).
Panel = tuple[str, str, int, str, str, list[tuple[str, str]]]

ROWS: dict[str, list[Panel]] = {
    "At a glance": [
        ("Learners up", "stat", 4, PLAIN, "Learners that answer Prometheus.",
         [('sum(up{job="salescast-learner"})', "learners")]),
        ("Shards stopped", "bad", 4, PLAIN, "Partitions at a record they cannot fold.",
         [("sum(max by (partition) (salescast_shard_stopped))", "stopped")]),
        ("Records behind", "stat", 4, PLAIN, "Records of the log that are not folded yet.",
         [("sum(partition:salescast_lag_records:max)", "records")]),
        ("Oldest snapshot", "stat", 4, SECONDS, "Age of the oldest of the newest snapshots.",
         [("max(time() - max by (partition) (salescast_snapshot_published_timestamp_seconds))",
           "age")]),
        ("Champion over seasonal naive", "stat", 4, PLAIN,
         "RMSSE of the served model over that of the season before, all horizons; below 1 is "
         "better.",
         [("avg(horizon:salescast_forecast_rmsse_ratio:champion_over_seasonal_naive)", "ratio")]),
        ("Server errors", "bad", 4, SHARE, "Share of the API's answers that are 5xx.",
         [("max(job:salescast_http_requests_5xx:ratio_rate5m)", "5xx")]),
    ],
    "Ingest": [
        ("Records folded", "lines", 8, PER_SECOND, "Records of the log folded, a second.",
         [('partition:salescast_records:rate5m{partition=~"$partition"}', "{{partition}}")]),
        ("Items by outcome", "stack", 8, PER_SECOND,
         "How items ended; the outcomes add up to the items that came in.",
         [(f"sum by (outcome) (rate(salescast_items_total{_P}[$__rate_interval]))",
           "{{outcome}}")]),
        ("Refused, by reason", "stack", 8, PER_SECOND,
         "Refused items are in the dead letters, with this reason.",
         [("sum by (reason) (rate(salescast_refused_items_total[$__rate_interval])) > 0",
           "{{reason}}")]),
        ("Items handed to the API", "lines", 8, PER_SECOND,
         "Items of ingest requests: appended to the log, or refused at once.",
         [("sum by (outcome) (rate(salescast_ingested_items_total[$__rate_interval]))",
           "{{outcome}}")]),
        ("Dead letters", "lines", 8, PER_SECOND, "Dead letters that are durable.",
         [(f"sum by (partition) (rate(salescast_dead_letters_total{_P}[$__rate_interval]))",
           "{{partition}}")]),
        ("Time spent folding", "lines", 8, SHARE, "1 is a whole core.",
         [(f"sum by (partition) (rate(salescast_fold_seconds_total{_P}[$__rate_interval]))",
           "{{partition}}")]),
    ],
    "Lag and time": [
        ("Lag", "lines", 8, PLAIN, "Records of the log that are not folded yet.",
         [('partition:salescast_lag_records:max{partition=~"$partition"}', "{{partition}}")]),
        ("Taken up", "lines", 8, SHARE, "What is folded of what waited at the start.",
         [(f"min by (partition) (salescast_restore_progress_ratio{_P})", "{{partition}}")]),
        ("Pause for a snapshot put aside", "lines", 8, SECONDS, "The fold stands still for it.",
         [("histogram_quantile(0.99, sum by (le) (rate("
           "salescast_snapshot_pause_seconds_bucket[$__rate_interval])))", "p99")]),
        ("Position and end of the log", "lines", 8, PLAIN, "Offsets.",
         [(f"max by (partition) (salescast_position_offset{_P})", "{{partition}} folded"),
          (f"max by (partition) (salescast_log_end_offset{_P})", "{{partition}} end")]),
        ("Watermark behind the clock", "lines", 8, SECONDS,
         "Grace and the age of the newest event; large while history is loaded.",
         [(f"time() - max by (partition) (salescast_watermark_timestamp_seconds{_P})",
           "{{partition}}")]),
        ("Buckets closed", "lines", 8, PLAIN, "Buckets closed an hour.",
         [(f"sum by (partition) (increase(salescast_closes_total{_P}[1h]))", "{{partition}}")]),
        ("Ticks", "lines", 8, PLAIN, "Ticks an hour: partitions without events.",
         [(f"sum by (partition) (increase(salescast_ticks_total{_P}[1h]))", "{{partition}}")]),
        ("Series", "stack", 8, PLAIN, "(store, product) pairs by partition.",
         [(f"max by (partition) (salescast_series{_P})", "{{partition}}")]),
    ],
    "Quality of forecasts": [
        ("Champion over seasonal naive, by horizon", "lines", 12, PLAIN,
         "RMSSE of the served model over that of the season before; below 1 is better.",
         [("horizon:salescast_forecast_rmsse_ratio:champion_over_seasonal_naive"
           '{horizon=~"$horizon"}', "h = {{horizon}}")]),
        ("RMSSE by model", "lines", 12, PLAIN, "Recent root mean squared scaled error.",
         [(f"model_horizon:salescast_forecast_rmsse_ratio:avg{_MH}",
           "{{model}}, h = {{horizon}}")]),
        ("WAPE by model", "lines", 12, SHARE, "Recent absolute errors over units sold.",
         [(f"avg by (model, horizon) (salescast_forecast_wape_ratio{_MH})",
           "{{model}}, h = {{horizon}}")]),
        ("Bias by model", "lines", 12, SHARE, "Positive: forecasts are too high.",
         [(f"avg by (model, horizon) (salescast_forecast_bias_ratio{_MH})",
           "{{model}}, h = {{horizon}}")]),
        ("Pinball loss by model", "lines", 12, PLAIN,
         "Of the quantiles at 0.1, 0.5 and 0.9, over the usual seasonal difference.",
         [(f"avg by (model, horizon) (salescast_forecast_pinball_ratio{_MH})",
           "{{model}}, h = {{horizon}}")]),
        ("Demand below its quantiles", "lines", 12, SHARE,
         "Of the served model, by level. Calibrated is: each line at its level.",
         [("avg by (horizon, level) (salescast_forecast_hits_ratio{horizon=~\"$horizon\"}"
           " and on (instance, model) salescast_champion_info == 1)",
           "{{level}}, h = {{horizon}}")]),
    ],
    "Guard": [
        ("Sources out of their band", "stack", 8, PLAIN, "By what the guard does about them.",
         [(f'max by (partition, state) (salescast_guard_sources{{state!="ok",{_P[1:-1]}}})',
           "{{partition}} {{state}}")]),
        ("Findings", "lines", 8, PLAIN, "Sources and champions found out of band, a day.",
         [("sum by (state, statistic) (increase(salescast_guard_findings_total[1d]))",
           "{{state}}: {{statistic}}")]),
        ("Champion beside others", "lines", 8, PLAIN,
         "How far its error is from what is usual beside its twin or the naive one; 1: too far.",
         [(f"max by (partition) (salescast_guard_champion_ratio{_P})", "{{partition}}")]),
    ],
    "Snapshots": [
        ("Age of the newest", "lines", 8, SECONDS, "What a restart would fold again.",
         [("time() - max by (partition) (salescast_snapshot_published_timestamp_seconds"
           f"{_P})", "{{partition}}")]),
        ("Size", "stack", 8, BYTES, "All chunks of the newest snapshot.",
         [(f"max by (partition) (salescast_snapshot_size_bytes{_P})", "{{partition}}")]),
        ("Written", "stack", 8, BYTES_A_SECOND, "Chunks that were new to the store.",
         [(f"sum by (partition) (rate(salescast_snapshot_written_bytes_total{_P}"
           "[$__rate_interval]))", "{{partition}}")]),
        ("Time to publish", "lines", 8, SECONDS, "From copying the state to durable.",
         [(f"histogram_quantile({q}, sum by (le) (rate(salescast_snapshot_seconds_bucket"
           "[$__rate_interval])))", f"p{q * 100:g}") for q in (0.5, 0.99)]),
        ("Published", "lines", 8, PLAIN, "Snapshots an hour.",
         [(f"sum by (partition) (increase(salescast_snapshots_total{_P}[1h]))",
           "{{partition}}")]),
        ("Operations", "lines", 4, PLAIN, "Operations an hour, by kind and how they ended.",
         [("sum by (kind, outcome) (increase(salescast_operations_total[1h]))",
           "{{kind}}: {{outcome}}")]),
        ("Replays", "lines", 4, PLAIN, "Records that replays have still to learn again.",
         [(f"max by (partition) (salescast_replay_left_records{_P})", "{{partition}}")]),
    ],
    "API": [
        ("Requests", "stack", 8, PER_SECOND, "Requests a second, by route.",
         [("route:salescast_http_requests:rate5m", "{{route}}")]),
        ("Latency, 99th percentile", "lines", 8, SECONDS, "By route.",
         [("route:salescast_http_request_seconds:p99_rate5m", "{{route}}")]),
        ("Errors", "stack", 8, PER_SECOND, "Answers of 400 and above, by status.",
         [('sum by (status) (rate(salescast_http_requests_total{status=~"[45].."}'
           "[$__rate_interval]))", "{{status}}")]),
        ("Served behind learned", "lines", 8, PLAIN,
         "Records folded that what is served does not know; grows while frozen.",
         [(f"max by (partition) (salescast_position_offset{_P}) - on (partition) "
           f"min by (partition) (salescast_replica_position_offset{_P})", "{{partition}}")]),
        ("Age of what is served", "lines", 8, SECONDS, "Since its snapshot was published.",
         [("time() - min by (partition) (salescast_replica_published_timestamp_seconds"
           f"{_P})", "{{partition}}")]),
        ("Swaps", "lines", 8, PLAIN, "Changes to another snapshot, an hour.",
         [(f"sum by (partition) (increase(salescast_replica_swaps_total{_P}[1h]))",
           "{{partition}}")]),
        ("Frozen", "bad", 4, PLAIN, "Partitions that do not follow the head.",
         [("sum(max by (partition) (salescast_replica_frozen))", "frozen")]),
        ("Dependencies", "stat", 8, PLAIN, "1: it answers.",
         [("min by (job, dependency) (salescast_dependency_up)", "{{job}} {{dependency}}")]),
        ("Versions", "names", 6, PLAIN, "Of the learners.",
         [("count by (version, river) (salescast_build_info)", "{{version}}, River {{river}}")]),
        ("Champion", "names", 6, PLAIN, "The model that is served.",
         [("count by (model) (salescast_champion_info)", "{{model}}")]),
        ("Memory", "lines", 12, BYTES, "Resident memory of every process.",
         [('process_resident_memory_bytes{job=~"salescast-.*"}', "{{job}} {{instance}}")]),
        ("CPU", "lines", 12, SHARE, "1 is a whole core.",
         [('rate(process_cpu_seconds_total{job=~"salescast-.*"}[$__rate_interval])',
           "{{job}} {{instance}}")]),
    ],
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model, without what Grafana itself assigns."""
    return {
        "uid": UID,
        "title": "Salescast",
        "description": "What is learned from the stream of sales, how well, and how it is served.",
        "tags": ["salescast"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    labels = (
        ("partition", "salescast_records_total"),
        ("model", "salescast_forecast_rmsse_ratio"),
        ("horizon", "salescast_forecast_rmsse_ratio"),
    )
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Salescast Prometheus", "value": DATASOURCE_UID},
    }
    return [source] + [
        {
            "name": label,
            "label": label.capitalize(),
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": f"label_values({metric}, {label})", "refId": label},
            "definition": f"label_values({metric}, {label})",
            "refresh": 2,
            "sort": 3,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        for label, metric in labels
    ]


def _panels() -> list[dict[str, Any]]:
    """Rows and panels, placed from left to right and top to bottom."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        placed.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}}
        )  # fmt: skip
        y += 1
        x = tallest = 0
        for panel in panels:
            drawn = _panel(panel)
            width, height = panel[2], 4 if drawn["type"] == "stat" else 8
            if x + width > _COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            drawn["gridPos"] = {"x": x, "y": y, "w": width, "h": height}
            placed.append(drawn)
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return [{"id": n, **panel} for n, panel in enumerate(placed, start=1)]


def _panel(panel: Panel) -> dict[str, Any]:
    title, kind, _, unit, help_text, queries = panel
    lines = kind in ("lines", "stack")
    defaults: dict[str, Any] = {"unit": unit, "custom": {}, "color": {"mode": "palette-classic"}}
    options: dict[str, Any]
    if lines:
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if kind == "stack" else 0,
            "stacking": {"mode": "normal" if kind == "stack" else "none", "group": "A"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "name" if kind == "names" else "auto",
            "colorMode": "background" if kind == "bad" else "value",
            "graphMode": "none" if kind == "names" else "area",
        }
        if kind == "bad":
            defaults["color"] = {"mode": "thresholds"}
            defaults["thresholds"] = {
                "mode": "absolute",
                "steps": [{"color": "green", "value": None}, {"color": "red", "value": 1e-9}],
            }
    return {
        "type": "timeseries" if lines else "stat",
        "title": title,
        "description": help_text,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": _SOURCE, "expr": expr,
             "legendFormat": legend, "range": lines, "instant": not lines}
            for n, (expr, legend) in enumerate(queries)
        ],
    }  # fmt: skip


def text() -> str:
    """The dashboard's file, as it is kept."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(text(), encoding="utf-8")
