"""Rows with a column ``type`` as events of that type, from CSV and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from scripts.client import Line
from scripts.files import merged, sources
from scripts.tables import EventRows, FileError, reading
from stream.event import (
    AnyEvent,
    Availability,
    Complete,
    Plan,
    Product,
    Refusal,
    Sale,
    Void,
    decode,
    encode,
)

HEAD = (
    "type,id,source,time,store,product,category,quantity,price,start,end,promotion,closed,"
    "revision,covariates,unit_size,listed,voids\n"
)


def lines(path: Path, maps: Sequence[str] = (), otherwise: str | None = None) -> list[Line]:
    files = sources([path], reading(maps, None, "Europe/Berlin", otherwise))
    assert isinstance(files[0], EventRows)
    return list(merged(files, [0]))


def event(line: Line) -> AnyEvent | Refusal:
    assert line.refusal is None, line.refusal
    return decode(line.data)[0]


def test_each_row_is_an_event_of_its_type(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        HEAD + "product,1,hq,2024-01-01T00:00,,p,dairy,,,,,,,,,0.25,2024-02-01,\n"
        "plan,2,hq,2024-01-02T00:00,*,p,,,1.50,2024-01-08T00:00,2024-01-15T00:00,0.5,,3,"
        '"{""rain"": 2}",,,\n'
        "plan,3,hq,2024-01-02T00:00,s,,,,,2024-01-09,2024-01-10,,true,,,,,\n"
        "availability,4,hq,2024-01-03T00:00,s,p,,,,2024-01-03T09:00,2024-01-03T12:00,,,,,,,\n"
        "sale,5,till,2024-01-03T09:30,s,p,,2,1.99,,,,,,,,,\n"
        "void,6,till,2024-01-03T09:40,s,p,,2,1.99,,,,,,,,,5\n"
        "complete,7,till,2024-01-04T00:00,s,,,,,,,,,,,,,\n",
        encoding="utf-8",
    )

    def at(day: int, hour: int, minute: int = 0) -> datetime:
        """A moment of January 2024 by Berlin's wall clock."""
        return datetime(2023, 12, 31, 23, tzinfo=UTC) + timedelta(
            days=day - 1, hours=hour, minutes=minute
        )

    assert [event(line) for line in lines(path)] == [
        Product(id="1", source="hq", time=at(1, 0), product="p", category="dairy",
                unit_size=0.25, listed=datetime(2024, 1, 31, 23, tzinfo=UTC)),
        Plan(id="2", source="hq", time=at(2, 0), store="*", product="p", price=1.5,
             start=at(8, 0), end=at(15, 0), promotion=0.5, revision=3, covariates={"rain": 2.0}),
        Plan(id="3", source="hq", time=at(2, 0), store="s", start=at(9, 0), end=at(10, 0),
             closed=True),
        Availability(id="4", source="hq", time=at(3, 0), store="s", product="p",
                     start=at(3, 9), end=at(3, 12)),
        Sale(id="5", source="till", time=at(3, 9, 30), store="s", product="p", quantity=2.0,
             price=1.99),
        Void(id="6", source="till", time=at(3, 9, 40), store="s", product="p", quantity=2.0,
             price=1.99, voids="5"),
        Complete(id="7", source="till", time=at(4, 0), store="s"),
    ]  # fmt: skip


def test_text_that_parquet_holds_as_bytes_is_text(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 3, 9, tzinfo=UTC)
    columns = {"time": [moment] * 2, "store": [b"7"] * 2, "product": ["Käse".encode(), b"\xff"],
               "quantity": [1.5] * 2, "source": [b"till"] * 2}  # fmt: skip
    for name, more in (("rows", {}), ("events", {"type": ["sale"] * 2})):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({**columns, **more}), path)
        good, bad = merged(sources([path], reading([], None, None)), [0])
        assert event(good) == Sale(id=f"{name}.parquet:1", source="till", time=moment, store="7",
                                   product="Käse", quantity=1.5)  # fmt: skip
        assert bad.refusal is not None
        assert (bad.refusal.field, bad.refusal.detail) == (
            "product", "column `product` is not UTF-8",
        )  # fmt: skip


def test_parquet_gives_the_same_and_whole_numbers_are_names(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    start = pd.Timestamp("2024-01-08", tz="Europe/Berlin")
    pd.DataFrame(
        {
            "type": ["sale", "plan"],
            "time": [start, start],
            "store": [7.0, 7.0],
            "product": [12.0, None],
            "quantity": [2.0, None],
            "start": [pd.NaT, start],
            "end": [pd.NaT, start + pd.Timedelta(days=1)],
            "promotion": [None, 0.25],
        }
    ).to_parquet(path)
    moment = start.to_pydatetime().astimezone(UTC)
    assert [event(line) for line in lines(path, otherwise="files")] == [
        Sale(id="events.parquet:1", source="files", time=moment, store="7", product="12",
             quantity=2.0),
        Plan(id="events.parquet:2", source="files", time=moment, store="7", start=moment,
             end=moment + timedelta(days=1), promotion=0.25),
    ]  # fmt: skip


def test_columns_may_be_called_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "plans.csv"
    path.write_text(
        "type,said,begin,end,store,share\nplan,2024-01-01,2024-01-02,2024-01-03,s,0.5\n"
    )
    found = lines(path, ["time=said", "promotion=share", "start=begin"], "hq")
    said = event(found[0])
    assert isinstance(said, Plan)
    assert (said.promotion, said.store, said.id, said.source) == (0.5, "s", "plans.csv:1", "hq")


@pytest.mark.parametrize(
    ("columns", "cells", "reason", "field"),
    [
        ("start,end,promotion", "plan,2024-01-01,2024-01-02,2024-01-03,much", "invalid_field",
         "promotion"),
        ("promotion", "plan,2024-01-01,0.5", "invalid_field", "start"),
        ("store", "sail,2024-01-01,s", "unknown_type", "type"),
        ("store,promotion", "complete,2024-01-01,s,0.5", "unknown_field", "promotion"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_where_events_are_judged(
    columns: str, cells: str, reason: str, field: str, tmp_path: Path
) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"type,time,{columns}\n{cells}\n")
    said = event(lines(path, otherwise="hq")[0])
    assert isinstance(said, Refusal)
    assert (said.reason, said.field) == (reason, field)


def test_an_object_that_is_no_json_is_told_with_its_column(tmp_path: Path) -> None:
    path = tmp_path / "plans.csv"
    path.write_text("type,time,start,end,covariates\nplan,2024-01-01,2024-01-02,2024-01-03,{rain\n")
    refusal = lines(path, otherwise="hq")[0].refusal
    assert refusal is not None
    assert refusal.field == "covariates"
    assert "`covariates` is no JSON" in refusal.detail


def test_a_column_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "plans.csv"
    path.write_text("type,tme,start\n")
    with pytest.raises(FileError, match="has no column `time`") as caught:
        lines(path, otherwise="hq")
    assert "`tme`" in str(caught.value)
    path.write_text("type,time,start\n")
    with pytest.raises(FileError, match="has no column `source`"):
        lines(path)
    with pytest.raises(FileError, match="has no column `begin`"):
        lines(path, ["start=begin"], "hq")


def test_an_event_made_of_a_row_is_read_back_as_it_was(tmp_path: Path) -> None:
    sale = Sale(id="1", source="till", time=datetime(2024, 1, 1, tzinfo=UTC), store="s",
                product="Käse, jung", quantity=0.125)  # fmt: skip
    path = tmp_path / "events.csv"
    path.write_text(
        'type,id,source,time,store,product,quantity\nsale,1,till,2024-01-01T00:00Z,s,"Käse, jung",'
        "0.125\n",
        encoding="utf-8",
    )
    assert lines(path)[0].data == encode(sale)
