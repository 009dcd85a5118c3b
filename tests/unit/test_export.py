"""Export: every forecast that is served, as the API answers it, in a file that is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner, Result

from learner.keys import key_files
from scripts import export
from scripts.cli import make
from stream.errors import SalescastError
from stream.log import partition_of
from tests.api_parts import ORIGIN, Deployment, context_of, keys_of, running

STORES = ["100", "Nord/Süd, 50%", 'says "hello"']
PRODUCTS = ["apple", "a,b", "ähre"]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Two partitions, one with a snapshot before its first close, and the key that is needed."""
    found = Deployment(tmp_path / "data", partitions=4, timezone="Europe/Paris", signed=True)
    monkeypatch.setenv("SALESCAST_DATA_DIR", found.settings.data_dir)
    monkeypatch.setenv("SALESCAST_TIMEZONE", "Europe/Paris")
    monkeypatch.setenv("SALESCAST_PARTITIONS", "4")
    yield found
    found.close()


def publish(deployment: Deployment, origin: int = ORIGIN) -> int:
    """Publish a snapshot a partition; the number of series."""
    keys = keys_of(STORES, PRODUCTS)
    for partition in range(4):
        mine = [key for key in keys if partition_of(key[0], 4) == partition]
        position = 3 + origin - ORIGIN
        deployment.publish(partition, position, keys=mine, origin=origin if mine else None,
                           seed=partition)  # fmt: skip
    return len(keys)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make(), ["export", *map(str, arguments)])


def refused(*arguments: object) -> SalescastError:
    found = run(*arguments).exception
    assert isinstance(found, SalescastError), found
    assert found.remedy
    return found


@pytest.mark.parametrize("group_rows", [export.GROUP_ROWS, 9, 1])
def test_the_file_holds_what_the_api_answers(
    deployment: Deployment, tmp_path: Path, group_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "GROUP_ROWS", group_rows)
    series = publish(deployment)
    file = tmp_path / "all.parquet"
    done = run("--out", file, "--horizon", 5, "--quantiles", "0.25,0.975")
    assert done.exit_code == 0, done.output
    assert f"{5 * series} rows of {series} series" in done.output
    table = pq.read_table(file)
    assert table.schema.names == [
        "snapshot", "origin", "store", "product", "category", "start", "end", "horizon", "mean",
        "median", "q0.25", "q0.975",
    ]  # fmt: skip
    assert table.schema.field("start").type == pa.timestamp("us", tz="Europe/Paris")
    rows = table.to_pylist()
    assert len(rows) == 5 * series
    app = deployment.app()
    context_of(app).replica.refresh()
    with running(app) as client:
        for at in range(0, len(rows), 5):
            first = rows[at]
            path = "/".join("".join(f"%{b:02X}" for b in first[n].encode())
                            for n in ("store", "product"))  # fmt: skip
            asked: dict[str, Any] = {"horizon": 5, "quantiles": "0.25,0.975"}
            found = client.get(f"/v1/forecasts/{path}", params=asked).raise_for_status().json()
            assert first["origin"].isoformat() == found["origin"]
            assert (first["snapshot"], first["category"]) == (found["snapshot"], "food")
            for h, (row, step) in enumerate(zip(rows[at : at + 5], found["steps"], strict=True)):
                assert row["horizon"] == h + 1
                assert (row["start"].isoformat(), row["end"].isoformat()) == (
                    step["start"], step["end"],
                )  # fmt: skip
                said = {f"q{name}": value for name, value in step["quantiles"].items()}
                said |= {"mean": step["mean"], "median": step["median"]}
                assert {name: row[name] for name in said} == pytest.approx(said, abs=1.1e-4)
    assert pq.ParquetFile(file).num_row_groups == sum(
        -(-len([p for p in PRODUCTS for s in STORES if partition_of(s, 4) == n])
          // max(group_rows // 5, 1))
        for n in range(4)
    )  # fmt: skip


def test_csv_says_the_same_as_parquet(deployment: Deployment, tmp_path: Path) -> None:
    publish(deployment)
    assert run("--out", tmp_path / "a.parquet").exit_code == 0
    assert run("--out", tmp_path / "a.csv").exit_code == 0
    wanted = pq.read_table(tmp_path / "a.parquet")
    options = pc.ConvertOptions(column_types=dict.fromkeys(("store", "start", "end"), pa.string()))
    found = pc.read_csv(tmp_path / "a.csv", convert_options=options)
    assert found.schema.names == wanted.schema.names
    assert len(found) == 28 * len(STORES) * len(PRODUCTS)
    for name in ("snapshot", "store", "product", "category", "horizon"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    assert found["start"].to_pylist() == [one.isoformat() for one in wanted["start"].to_pylist()]
    for name in ("mean", "median", "q0.1", "q0.5", "q0.9"):
        assert found[name].to_pylist() == pytest.approx(wanted[name].to_pylist(), abs=1e-4)


def test_a_folder_gets_a_file_by_its_newest_origin_and_keeps_the_others(
    deployment: Deployment, tmp_path: Path
) -> None:
    folder = tmp_path / "nightly" / "forecasts"
    publish(deployment)
    for _ in range(2):
        assert run("--out", folder, "--horizon", 1).exit_code == 0
    publish(deployment, ORIGIN + 1)
    assert run("--out", folder, "--horizon", 1, "--quantiles", "").exit_code == 0
    assert run("--out", folder, "--horizon", 1, "--format", "csv").exit_code == 0
    assert sorted(one.name for one in folder.iterdir()) == [
        "forecasts-2025-03-01.parquet", "forecasts-2025-03-02.csv", "forecasts-2025-03-02.parquet",
    ]  # fmt: skip
    newest = pq.read_table(folder / "forecasts-2025-03-02.parquet")
    assert newest.schema.names[-2:] == ["mean", "median"]


def test_nothing_served_is_said_and_nothing_is_written(
    deployment: Deployment, tmp_path: Path
) -> None:
    assert "nothing is served yet" in str(refused("--out", tmp_path / "a.parquet"))
    deployment.publish(0, 1, keys=[], origin=None)
    assert "nothing is served yet" in str(refused("--out", tmp_path / "a.parquet"))
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--horizon", 0], "from 1 to 28"),
        (["--horizon", 29], "from 1 to 28"),
        (["--quantiles", "x"], "not numbers"),
        (["--quantiles", "0.1,nan"], "nan"),
        (["--quantiles", "1"], "from 0.001"),
        (["--format", "csv"], "is not --format csv"),
    ],
)
def test_a_bad_wish_is_refused_by_name(
    deployment: Deployment, tmp_path: Path, arguments: list[Any], said: str
) -> None:
    publish(deployment)
    assert said in str(refused("--out", tmp_path / "a.parquet", *arguments))
    assert not (tmp_path / "a.parquet").exists()


def test_a_place_that_cannot_be_written_is_named(deployment: Deployment, tmp_path: Path) -> None:
    publish(deployment)
    assert "no folder" in str(refused("--out", tmp_path / "none" / "a.parquet"))
    (tmp_path / "file").write_text("x")
    assert "another kind" in str(refused("--out", tmp_path / "file"))
    assert "another kind" in str(refused("--out", tmp_path / "today.xlsx"))
    assert not (tmp_path / "today.xlsx").exists()
    assert "cannot make" in str(refused("--out", tmp_path / "file" / "folder"))


def test_what_fails_halfway_leaves_the_old_file_and_no_other(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(deployment)
    file = tmp_path / "a.parquet"
    assert run("--out", file).exit_code == 0
    before = file.read_bytes()
    calls: list[int] = []
    write_table = pq.ParquetWriter.write_table

    def full(self: Any, table: Any) -> None:
        if calls:
            raise OSError(28, os.strerror(28))
        calls.append(1)
        write_table(self, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    found = run("--out", file).exception
    assert isinstance(found, SalescastError)
    assert "No space left" in str(found)
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".part"] == []


def test_a_snapshot_signed_by_another_is_not_exported(
    deployment: Deployment, tmp_path: Path
) -> None:
    publish(deployment)
    other = Deployment(tmp_path / "other", signed=True)
    key = key_files(deployment.settings)[1]
    key.chmod(0o600)
    key.write_bytes(key_files(other.settings)[1].read_bytes())
    assert "not signed" in str(refused("--out", tmp_path / "a.parquet"))
    other.close()


def test_what_was_made_under_other_settings_is_not_exported(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(deployment)
    monkeypatch.setenv("SALESCAST_BUCKET", "hour")
    error = refused("--out", tmp_path / "out.csv")
    assert "bucket: 'day', now 'hour'" in str(error)
    assert not (tmp_path / "out.csv").exists()
