"""Forecasts of a backtest as a Parquet file, written as they come, and read back by series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from scripts.backtest.replay import Asked, Block, Replay
from stream.window import Key

#: Rows of a row group.
GROUP = 500_000


def schema(asked: Asked, timezone: str) -> pa.Schema:
    """Columns of the file; forecasts and ``actual`` are in units.

    ``origin`` is the start of the last bucket that was closed, in the deployment's zone; a
    quantile's column is called ``q`` and its level.
    """
    text = pa.dictionary(pa.int32(), pa.string())
    single = pa.float32()
    return pa.schema(
        [
            ("origin", pa.timestamp("us", tz=timezone)),
            ("horizon", pa.int16()),
            ("store", text),
            ("product", text),
            ("model", text),
            ("mean", single),
            ("median", single),
            ("mape", single),
            *((f"q{level:g}", single) for level in asked.levels),
            ("actual", pa.float64()),
        ]
    )


def part_of(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(path.name + ".part")


class Writer:
    """Blocks on their way into a file; it appears whole, by ``close``, or stays ``part_of`` it.

    Parameters
    ----------
    path
        Where the file is to be.
    replay
        Whose blocks they are: it knows the series.
    """

    def __init__(self, path: Path, replay: Replay) -> None:
        self._path, self._replay = path, replay
        self._part = part_of(path)
        self._schema = schema(replay.asked, replay.settings.timezone)
        self._file: Any = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._models = pa.array(list(replay.models), pa.string())

    def told(self, block: Block) -> None:
        """Write one block: its series by row, then by model."""
        models, size = block.mean.shape
        assert block.mape is not None
        panel = self._replay.shards[block.partition].panel
        start = self._replay.calendar.span(block.origin)[0]
        names = {
            "store": (panel.stores.texts, panel.column("store")),
            "product": (panel.product_codes.texts, panel.column("product")),
        }
        n = models * size
        columns = [
            pa.array(np.full(n, start), pa.int64()).cast(self._schema.field("origin").type),
            pa.array(np.full(n, block.horizon, np.int16)),
            *(
                pa.DictionaryArray.from_arrays(
                    pa.array(np.repeat(codes[:size], models).astype(np.int32)),
                    pa.array(texts, pa.string()),
                )
                for texts, codes in names.values()
            ),
            pa.DictionaryArray.from_arrays(
                pa.array(np.tile(np.arange(models, dtype=np.int32), size)), self._models
            ),
            pa.array(block.mean.T.ravel()),
            pa.array(block.median.T.ravel()),
            pa.array(block.mape.T.ravel()),
            *(pa.array(block.quantiles[:, at].T.ravel()) for at in range(block.quantiles.shape[1])),
            pa.array(np.repeat(block.actual, models), from_pandas=True),
        ]
        self._tables.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows += n
        if self._rows >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._file.write_table(pa.concat_tables(self._tables).unify_dictionaries())
        self._tables, self._rows = [], 0

    def close(self) -> None:
        """Put the file into its place."""
        self._flush()
        self._file.close()
        self._part.replace(self._path)


def of_series(path: Path, keys: list[Key], horizon: int, model: str) -> dict[Key, pa.Table]:
    """Forecasts of some series at one horizon by one model, by key, in order of origin."""
    found = pq.read_table(
        path,
        filters=[
            ("store", "in", sorted({store for store, _ in keys})),
            ("product", "in", sorted({product for _, product in keys})),
            ("horizon", "=", horizon),
            ("model", "=", model),
        ],
    ).sort_by("origin")
    stores, products = found["store"].to_pylist(), found["product"].to_pylist()
    both = list(zip(stores, products, strict=True))
    return {key: found.filter(pa.array([one == key for one in both])) for key in keys}
