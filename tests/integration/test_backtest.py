"""A backtest of files against numbers worked out by pandas, and against a live fold."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner, Result

from learner import intervals
from learner.shard import Shard
from scripts.cli import make
from stream.event import AnyEvent, Plan, Product, Sale, encode, time_us
from stream.log import Record, partition_of
from stream.settings import Settings

ZONE = "Europe/Berlin"
SEASON = {"hour": 168, "day": 7, "week": 1}
#: Days of sales, and of warm-up: summer time begins on 31 March 2024, within what is scored.
SPANS = {"hour": (12, 8), "day": (45, 20), "week": (120, 60)}
HORIZONS = {"hour": (1, 30), "day": (1, 9), "week": (1, 3)}
START = datetime(2024, 3, 18, tzinfo=ZoneInfo(ZONE))


@dataclass(frozen=True, slots=True)
class World:
    """A few weeks of sales of two stores, with gaps: one store is shut on some days."""

    bucket: str
    sales: pd.DataFrame

    @property
    def start(self) -> datetime:
        return START - timedelta(days=SPANS[self.bucket][1])

    @property
    def first(self) -> datetime:
        """First target."""
        return START

    @property
    def settings(self) -> str:
        return (
            f'timezone = "{ZONE}"\nbucket = "{self.bucket}"\npartitions = 1\ngrace_s = 1800\n'
            'champion = "level_phase"\nchallengers = []\n'
        )

    def table(self) -> tuple[pd.DatetimeIndex, dict[tuple[str, str], pd.Series[float]]]:
        """Starts of all buckets, and each series' observed demand; ``nan`` where not observed."""
        local = self.sales["time"].dt.tz_convert(ZONE)
        floor = _floor(local, self.bucket)
        last = floor.max()
        starts = pd.date_range(floor.min(), last, freq={"hour": "h", "day": "D",
                                                        "week": "7D"}[self.bucket])  # fmt: skip
        out = {}
        day = local.dt.normalize()
        for key, mine in self.sales.groupby(["store", "product"]):
            sold = mine.groupby(floor[mine.index])["quantity"].sum().reindex(starts)
            store = self.sales["store"] == key[0]
            if self.bucket == "hour":
                # Silence means nothing was sold only once the store has sold that day.
                first = local[store].groupby(day[store]).min()
                opened = pd.Series(starts.normalize().map(first), index=starts)
                alive = (starts + pd.Timedelta(hours=1)) > opened
            else:
                alive = starts.isin(floor[store])
            known = pd.Series(np.where(alive, sold.fillna(0.0), np.nan), index=starts)
            out[key] = known.where(known.index >= floor[mine.index].min())
        return starts, out


def _floor(local: pd.Series[Any], bucket: str) -> pd.Series[Any]:
    if bucket == "hour":
        return local.dt.tz_convert("UTC").dt.floor("h").dt.tz_convert(ZONE)
    day = local.dt.normalize()
    if bucket == "day":
        return day
    return (
        day.dt.tz_localize(None) - pd.to_timedelta(day.dt.day_of_week, unit="D")
    ).dt.tz_localize(ZONE)


def world(bucket: str) -> World:
    drawn = np.random.default_rng(17)
    days, warm = SPANS[bucket]
    rows = []
    start = START - timedelta(days=warm)
    for day in range(warm + days):
        for store in ("Nord", "Süd"):
            shut = store == "Süd" and day % 11 == 4
            for at, product in enumerate(("rolls", "rye, dark", "tea")):
                late = product == "tea" and store == "Nord" and day < warm + days // 2
                if shut or late:
                    continue
                for _ in range(drawn.poisson(1.5 + at)):
                    moment = start + timedelta(days=day)
                    moment = moment.replace(hour=int(drawn.integers(8, 20)),
                                            minute=int(drawn.integers(0, 60)))  # fmt: skip
                    rows.append((moment, store, product, float(drawn.integers(1, 4)), 1.5 + at))
    sales = pd.DataFrame(rows, columns=["time", "store", "product", "quantity", "price"])
    sales["time"] = pd.to_datetime(sales["time"], utc=True)
    return World(bucket, sales.sort_values("time", kind="stable", ignore_index=True))


def written(world: World, kind: str, folder: Path) -> Path:
    """The sales as a file of a kind."""
    path = folder / f"sales.{kind}"
    sales = world.sales
    if kind == "ndjson":
        path.write_bytes(b"".join(encode(event) + b"\n" for event in events(world)))
    elif kind == "csv":
        # Times of the wall clock, rows in no order.
        local = sales.assign(time=sales["time"].dt.tz_convert(ZONE).dt.tz_localize(None))
        local.sample(frac=1.0, random_state=3).to_csv(path, index=False)
    else:
        sales.to_parquet(path)
    return path


def events(world: World) -> list[Sale]:
    return [
        Sale(id=str(n), source="till", time=row.time.to_pydatetime(), store=row.store,
             product=row.product, quantity=row.quantity, price=row.price)
        for n, row in enumerate(world.sales.itertuples())
    ]  # fmt: skip


def backtest(folder: Path, *arguments: str | Path, settings: str = "") -> Result:
    path = folder / "settings.toml"
    path.write_text(settings, encoding="utf-8")
    return CliRunner().invoke(
        make(), ["backtest", "--settings", str(path), *map(str, arguments)], catch_exceptions=True
    )


def forecasts(path: Path) -> pd.DataFrame:
    return pq.read_table(path).to_pandas().astype({"store": str, "product": str, "model": str})


@pytest.mark.parametrize(
    "kind, bucket",
    [("ndjson", "day"), ("csv", "day"), ("parquet", "day"), ("parquet", "hour"), ("csv", "week")],
)
def test_a_backtest_says_what_pandas_says(kind: str, bucket: str, tmp_path: Path) -> None:
    made = world(bucket)
    out = tmp_path / "out.parquet"
    horizons = HORIZONS[bucket]
    result = backtest(
        tmp_path, "--events", written(made, kind, tmp_path), "--out", out,
        "--horizons", ",".join(map(str, horizons)), "--from", f"{made.first:%Y-%m-%d}",
        settings=made.settings,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"items: {len(made.sales):,} learned\n" in result.stderr
    said = forecasts(out)
    assert " ".join(said.columns) == (
        "origin horizon store product model mean median mape q0.1 q0.5 q0.9 q0.975 actual"
    )
    starts, table = made.table()
    place = {start: at for at, start in enumerate(starts)}
    checked = naive_checked = 0
    for row in said.itertuples():
        origin = place[row.origin]
        target = origin + row.horizon
        demand = table[row.store, row.product]
        # No forecast before its series was known, nor of a target before --from.
        assert np.isfinite(demand.iloc[: origin + 1]).any()
        if target < len(starts):
            assert starts[target] >= made.first
        closed = target < len(starts) - 1
        expected = demand.iloc[target] if closed else np.nan
        assert row.actual == expected or (np.isnan(row.actual) and np.isnan(expected)), row
        checked += 1
        back = target - SEASON[bucket] * -(-row.horizon // SEASON[bucket])
        if row.model == "seasonal_naive" and back >= 0 and np.isfinite(demand.iloc[back]):
            assert row.mean == np.float32(demand.iloc[back])
            naive_checked += 1
    # Every target of every series that was known is there.
    known = sum(
        int(np.isfinite(demand.iloc[: origin + 1]).any())
        for demand in table.values()
        for horizon in horizons
        for origin in range(len(starts) - 1)
        if origin + horizon >= len(starts) or starts[origin + horizon] >= made.first
    )
    assert checked == 2 * known
    assert naive_checked > known / 3
    _compare_scores(said, table, SEASON[bucket], result.stdout)


def _compare_scores(
    said: pd.DataFrame, table: dict[tuple[str, str], pd.Series[float]], season: int, printed: str
) -> None:
    """The printed scores are those of the file, by pandas."""
    scale = {}
    for key, demand in table.items():
        closed = demand.iloc[:-1]
        scale[key] = (closed - closed.shift(season)).pow(2).mean()
    scored = said.dropna(subset=["actual"])
    for (horizon, model), part in scored.groupby(["horizon", "model"]):
        error = part["mean"] - part["actual"]
        each = [
            np.sqrt(error[mine.index].pow(2).mean() / scale[key])
            for key, mine in part.groupby(["store", "product"])
            if scale[key] > 0
        ]
        wape = (part["median"] - part["actual"]).abs().sum() / part["actual"].sum()
        bias = error.sum() / part["actual"].sum()
        covered = (part["actual"] <= part["q0.975"]).mean()
        line = next(
            line for line in printed.splitlines() if re.match(rf" *{horizon} +{model} ", line)
        )
        cells = line.split()
        assert cells[2] == f"{len(part):,}"
        assert float(cells[3]) == pytest.approx(np.mean(each), abs=1e-4)
        assert float(cells[5].rstrip("%")) == pytest.approx(100 * bias, abs=0.006)
        assert float(cells[6]) == pytest.approx(wape, abs=1e-4)
        assert float(cells[12]) == pytest.approx(covered, abs=6e-4)


@pytest.mark.parametrize("bucket", ["hour", "day", "week"])
def test_a_backtest_and_a_live_fold_forecast_the_same(bucket: str, tmp_path: Path) -> None:
    made = world(bucket)
    out = tmp_path / "out.parquet"
    wanted = (1, 2, HORIZONS[bucket][1])
    settings = made.settings.replace("level_phase", "ensemble")
    result = backtest(
        tmp_path, "--events", written(made, "ndjson", tmp_path), "--out", out,
        "--horizons", ",".join(map(str, wanted)), "--from", f"{made.first:%Y-%m-%d}",
        "--models", "ensemble,bayes", settings=settings,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    file = forecasts(out).set_index(["origin", "horizon", "model", "store", "product"])
    said, upper = file["mean"], file["q0.9"]
    live = Shard(
        Settings(timezone=ZONE, bucket=bucket, partitions=1, grace_s=1800, champion="ensemble",  # type: ignore[arg-type]
                 challengers=("bayes", "seasonal_naive")),
        0,
    )  # fmt: skip
    before, closes, compared = None, 0, 0
    for offset, event in enumerate(events(made)):
        live.fold([Record(0, offset, time_us(event.time), None, encode(event))])
        if live.panel.last == before or live.panel.last is None:
            continue
        before = live.panel.last
        closes += 1
        origin = live.calendar.start(before)
        for horizon in wanted:
            for model in ("ensemble", "bayes"):
                mean = live.predict(model, horizon)
                high = intervals.quantiles(live.tables(model, horizon), mean, np.array([0.9]),
                                           live.traits(model))[0]  # fmt: skip
                for row, (store, product) in enumerate(live.panel.keys):
                    at = (origin, horizon, model, store, product)
                    if at in said.index:
                        assert said[at] == np.float32(mean[row])
                        assert upper[at] == np.float32(high[row])
                        compared += 1
            if closes % 10:
                continue
            served = live.forecast()[horizon - 1]
            for row, (store, product) in enumerate(live.panel.keys):
                found = said.get((origin, horizon, "ensemble", store, product))
                assert found is None or found == pytest.approx(served[row], rel=1e-6)
    assert compared > 100


def test_a_plan_counts_from_the_origin_at_which_it_was_known(tmp_path: Path) -> None:
    made = world("day")
    shut = made.first + timedelta(days=20)
    closure = Plan(id="c", source="hq", time=shut - timedelta(days=4, hours=-9), start=shut,
                   end=shut + timedelta(days=1), store="Nord", closed=True)  # fmt: skip
    plans = tmp_path / "plans.csv"
    plans.write_text(
        "type,id,time,start,end,store,closed\n"
        f"plan,c,{closure.time.isoformat()},{closure.start.isoformat()},"
        f"{closure.end.isoformat()},Nord,true\n"
        f"product,p,{made.start.isoformat()},,,*,\n",
        encoding="utf-8",
    )
    out = tmp_path / "out.parquet"
    result = backtest(
        tmp_path, "--events", written(made, "parquet", tmp_path), plans, "--out", out,
        "--horizons", "1,2,3,4,5,6", "--from", f"{made.first:%Y-%m-%d}", settings=made.settings,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "plans.csv row 2: invalid_field" in result.stderr  # a product event without a product
    said = forecasts(out)
    target = said["origin"] + pd.to_timedelta(said["horizon"], unit="D")
    of_day = said[(target == pd.Timestamp(shut)) & (said["store"] == "Nord")]
    of_day = of_day[of_day["model"] == "level_phase"]
    # Said on the fourth day before, so known at the close of that day: three days ahead.
    assert (of_day[of_day["horizon"] <= 4]["mean"] == 0).all()
    assert (of_day[of_day["horizon"] > 4]["mean"] > 0).all()
    assert {4, 5} <= set(of_day["horizon"])


def test_partitions_are_those_of_the_deployment(tmp_path: Path) -> None:
    made = world("day")
    assert {partition_of(store, 2) for store in ("Nord", "Süd")} == {0, 1}
    whole = written(made, "parquet", tmp_path)
    arguments = ("--horizons", "1,7", "--from", f"{made.first:%Y-%m-%d}", "--models", "bayes")
    settings = made.settings.replace("partitions = 1", "partitions = 2")
    out = tmp_path / "both.parquet"
    result = backtest(tmp_path, "--events", whole, "--out", out, *arguments, settings=settings)
    assert result.exit_code == 0, result.output
    both = forecasts(out)
    for store in ("Nord", "Süd"):
        alone = tmp_path / f"{store}.parquet"
        made.sales[made.sales["store"] == store].to_parquet(alone)
        out = tmp_path / f"{store}-out.parquet"
        result = backtest(tmp_path, "--events", alone, "--out", out, *arguments,
                          settings=made.settings)  # fmt: skip
        assert result.exit_code == 0, result.output
        order = ["origin", "horizon", "product", "model"]
        mine = both[both["store"] == store].sort_values(order, ignore_index=True)
        expected = forecasts(out).sort_values(order, ignore_index=True)
        # Where one store's last sale closes a bucket less, its last targets are not known.
        rows = expected["origin"] <= mine["origin"].max()
        pd.testing.assert_frame_equal(mine[rows], expected[rows])


def test_an_end_takes_the_data_as_complete_up_to_it(tmp_path: Path) -> None:
    made = world("day")
    path = written(made, "parquet", tmp_path)
    last = made.sales["time"].max().tz_convert(ZONE).normalize()
    ends = {}
    for name, arguments in (("open", []), ("ended", ["--to", f"{last + pd.Timedelta(days=1):%F}"])):
        out = tmp_path / f"{name}.parquet"
        result = backtest(tmp_path, "--events", path, "--out", out, "--horizons", "1,3",
                          *arguments, settings=made.settings)  # fmt: skip
        assert result.exit_code == 0, result.output
        said = forecasts(out)
        ends[name] = said.assign(target=said["origin"] + pd.to_timedelta(said["horizon"], unit="D"))
    assert ends["open"]["target"].max() == last + pd.Timedelta(days=2)
    assert ends["open"].loc[ends["open"]["target"] >= last, "actual"].isna().all()
    ended = ends["ended"]
    assert ended["target"].max() == last
    assert ended.loc[ended["target"] == last, "actual"].notna().all()


def test_a_series_that_is_delisted_is_scored_no_more(tmp_path: Path) -> None:
    made = world("day")
    gone = made.first + timedelta(days=12)
    told: list[AnyEvent] = [
        *(event for event in events(made) if event.product != "tea" or event.time < gone),
        Product(id="gone", source="hq", time=made.start, product="tea", delisted=gone),
    ]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"".join(encode(one) + b"\n" for one in sorted(told, key=lambda e: e.time)))
    out = tmp_path / "out.parquet"
    result = backtest(tmp_path, "--events", path, "--out", out, "--horizons", "1",
                      "--from", f"{made.first:%Y-%m-%d}", settings=made.settings)  # fmt: skip
    assert result.exit_code == 0, result.output
    said = forecasts(out)
    tea = said[(said["product"] == "tea") & (said["store"] == "Süd")]
    after = tea["origin"] + pd.Timedelta(days=1) >= pd.Timestamp(gone)
    assert tea.loc[after, "actual"].isna().all()
    assert tea.loc[~after, "actual"].notna().mean() > 0.8


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--horizons", "0,1"], "--horizons must be between 1 and 28"),
        (["--horizons", "29"], "--horizons must be between 1 and 28"),
        (["--horizons", "a"], "--horizons a is no list of numbers"),
        (["--from", "yesterday"], "--from yesterday is no date"),
        (["--from", "2024-05-02", "--to", "2024-05-02"], "must be before --to"),
        (["--quantiles", "0.5,1"], "--quantiles must be between 0 and 1"),
        (["--models", "ensembel"], "Did you mean `ensemble`?"),
        (["--models", ","], "--models names none"),
        (["--out", "/no/such/folder/out.parquet"], "cannot be written"),
        (["--out", "out.csv"], "Name it .parquet"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    path = written(world("day"), "parquet", tmp_path)
    result = backtest(tmp_path, "--events", path, *arguments)
    assert result.exit_code == 1
    assert complaint in f"{result.exception} {getattr(result.exception, 'remedy', '')}"


def test_a_wrong_year_is_refused_by_file_and_row_and_teaches_no_empty_days(tmp_path: Path) -> None:
    made = world("day")
    path = written(made, "csv", tmp_path)
    asked = ("--events", path, "--source", "till", "--from", "2024-03-25", "--horizons", "1")
    right = backtest(tmp_path, *asked, settings=made.settings)
    rows = path.read_text(encoding="utf-8").splitlines()
    rows += [re.sub("20[0-9]{2}-", year, rows[-1], count=1) for year in ("2126-", "1926-")]
    path.write_text("\n".join(rows), encoding="utf-8")
    wrong = backtest(tmp_path, *asked, settings=made.settings)
    assert wrong.exit_code == right.exit_code == 0
    for row, why in ((len(rows) - 2, "future_dated"), (len(rows) - 1, "out_of_range")):
        assert f"{path.name} row {row}: {why}" in wrong.stderr
    table = [result.stdout.splitlines()[1].split()[:8] for result in (right, wrong)]
    assert table[0] == table[1]


def test_nothing_scored_is_said_and_no_success(tmp_path: Path) -> None:
    path = written(world("day"), "parquet", tmp_path)
    result = backtest(tmp_path, "--events", path, "--from", "2031-01-01")
    assert result.exit_code == 1
    assert "no forecast was scored" in result.stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    made = world("day")
    sales = pd.concat([made.sales] * 40, ignore_index=True).sort_values("time", kind="stable")
    sales.to_parquet(tmp_path / "many.parquet")
    settings = tmp_path / "settings.toml"
    settings.write_text(made.settings, encoding="utf-8")
    out = tmp_path / "out.parquet"
    running = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "backtest", "--events", tmp_path / "many.parquet",
         "--settings", settings, "--out", out, "--report", tmp_path / "report.html",
         "--from", "2024-03-01"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    part = out.with_name("out.parquet.part")
    end = time.monotonic() + 60
    while not part.exists():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped" in told
    assert "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.parquet", "settings.toml"]
