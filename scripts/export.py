"""`salescast export`: all forecasts that are served, as one Parquet or CSV file.

Read from the snapshot store, so neither API nor learner need run. A row a series and step, in
row groups of bounded size: what is in memory at once is one partition's forecasts and one row
group. The file appears whole or not at all. Leaves out: histories (`GET /v1/history`), and
snapshots that are not active.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import typer
from rich.progress import BarColumn, Progress, TextColumn

from api import answers
from api.asked import DEFAULT_LEVELS, Asked, check
from api.problems import Problem
from learner.adapters import open_store
from learner.keys import load_verifier
from learner.manifest import Verifier, check_settings, read_manifest
from learner.served import read_serving
from learner.serving import Serving, bucket_times
from learner.store import SnapshotStore
from scripts.console import Config, err, out, settings, times
from stream.buckets import Calendar
from stream.errors import SalescastError, SnapshotMissing
from stream.settings import Settings

#: Rows of a row group: what is worked out and written at once.
GROUP_ROWS = 262_144
DECIMALS = 4


class Format(StrEnum):
    """Formats of the file."""

    parquet = "parquet"
    csv = "csv"


class ExportError(SalescastError):
    """The forecasts cannot be exported as asked."""

    remedy = "Name another place with --out, one that can be written to and has room"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(export)


def export(
    to: Annotated[
        Path,
        typer.Option("--out", "-o", help="A file ending in .parquet or .csv, or a folder, where "
                     "the file is named by its newest origin", show_default=False),
    ],
    horizon: Annotated[
        int | None, typer.Option(help="Buckets ahead; default: all", show_default=False)
    ] = None,
    quantiles: Annotated[
        str, typer.Option(help="Levels, with commas between them; empty: none")
    ] = ",".join(map(str, DEFAULT_LEVELS)),
    format: Annotated[
        Format | None, typer.Option(help="Default: by the file's name, or parquet")
    ] = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Write all forecasts that are served into one file, a row a series and step."""
    chosen = settings(config)
    started = time.monotonic()
    asked = _asked(horizon, quantiles, chosen.horizons)
    calendar = Calendar(chosen)
    store = open_store(chosen)
    try:
        if not store.partitions():
            raise _nothing(store)
        verifier = load_verifier(chosen)
        active = served(store, verifier, chosen)
        file, kind = target(
            to, format, calendar.start(max(one.origin for one in active)), chosen.bucket
        )
        with _Progress(sum(one.series for one in active)) as progress:
            rows = write(
                file,
                kind,
                tables(store, verifier, active, asked, calendar, kind, progress.done),
            )
    finally:
        store.close()
    out.print(
        f"{rows:,} rows of {sum(one.series for one in active):,} series from {len(active)} "
        f"snapshots in {time.monotonic() - started:.1f} s: {file} "
        f"({file.stat().st_size / 1e6:,.1f} MB)",
        soft_wrap=True,
    )


def _asked(horizon: int | None, quantiles: str, horizons: int) -> Asked:
    """What to export; the bounds are the API's."""
    try:
        levels = [float(text) for text in quantiles.split(",") if text.strip()]
    except ValueError:
        raise ExportError(
            f"--quantiles {quantiles} are not numbers with commas between them",
            remedy="Give probabilities, such as 0.1,0.5,0.9",
        ) from None
    try:
        return check(horizons if horizon is None else horizon, levels, horizons)
    except Problem as problem:
        remedy = str(problem.members["remedy"])
        raise ExportError(str(problem), remedy=remedy[:1].upper() + remedy[1:]) from None


class Active(NamedTuple):
    """What is served of a partition."""

    partition: int
    series: int
    origin: int


def served(store: SnapshotStore, verifier: Verifier, settings: Settings) -> list[Active]:
    """Partitions that have forecasts, by their active snapshots.

    Raises
    ------
    ExportError
        None has.
    FingerprintMismatch
        They were made under other settings than these.
    """
    found = []
    for partition in store.partitions():
        active = store.pointers(partition).active
        if active is None:
            continue
        manifest = read_manifest(store, partition, active.snapshot, verifier)
        check_settings(manifest, settings)
        if manifest.origin is not None and manifest.series:
            found.append(Active(partition, manifest.series, manifest.origin))
    if not found:
        raise _nothing(store)
    return found


def _nothing(store: SnapshotStore) -> ExportError:
    about = store.info()
    return ExportError(
        f"nothing is served yet: the snapshot store ({about['kind']} at {about['place']}) has no "
        "forecast",
        remedy="Start the learner and send sales; a series is forecast from its first closed "
        "bucket on (salescast status)",
    )


def target(to: Path, format: Format | None, origin: datetime, bucket: str) -> tuple[Path, Format]:
    """The file to write, and its format; folders are made.

    Raises
    ------
    ExportError
        Name and format contradict each other, or there is no folder for the file.
    """
    suffix = to.suffix.removeprefix(".").lower()
    if suffix in tuple(Format) and not to.is_dir():
        if format is not None and suffix != format:
            raise ExportError(
                f"--out {to} is not --format {format}", remedy="Leave --format out, or rename it"
            )
        if not to.parent.is_dir():
            raise ExportError(f"there is no folder {to.parent}", remedy="Make it first")
        return to, Format(suffix)
    kind = format or Format.parquet
    if not to.is_dir() and (to.exists() or suffix):
        raise ExportError(
            f"--out {to} is a file of another kind",
            remedy="Name it .parquet or .csv, or a folder; one with a dot must be there",
        )
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {to}: {error.strerror}") from None
    moment = origin.strftime("%Y-%m-%dT%H" if bucket == "hour" else "%Y-%m-%d")
    return to / f"forecasts-{moment}.{kind}", kind


def tables(
    store: SnapshotStore,
    verifier: Verifier,
    active: Sequence[Active],
    asked: Asked,
    calendar: Calendar,
    kind: Format,
    done: Callable[[int], None],
) -> Iterator[pa.Table]:
    """All forecasts, a row group at a time, partition by partition.

    Parameters
    ----------
    done
        Told how many series each group held.
    """
    step = max(GROUP_ROWS // asked.horizon, 1)
    for one in active:
        serving = _read(store, verifier, one.partition)
        if asked.horizon > len(serving.mean):
            raise ExportError(
                f"what is served of partition {one.partition} goes {len(serving.mean)} buckets "
                f"ahead, not {asked.horizon}",
                remedy=f"Give --horizon {len(serving.mean)} or less",
            )
        z = answers.spread(serving, asked.levels)
        for first in range(0, len(serving.stores), step):
            rows = np.arange(first, min(first + step, len(serving.stores)))
            yield _table(serving, rows, asked, z, calendar, kind)
            done(len(rows))


def _read(store: SnapshotStore, verifier: Verifier, partition: int) -> Serving:
    """What is served of a partition now; retention may take a snapshot while it is read."""
    for last in (False, True):
        active = store.pointers(partition).active
        assert active is not None, "what was active once stays so"
        try:
            return read_serving(store, partition, active.snapshot, verifier, rings=False)
        except SnapshotMissing:
            if last:
                raise
    raise AssertionError("not reached")


def _table(
    serving: Serving, rows: npt.NDArray[np.intp], asked: Asked, z: answers.Floats,
    calendar: Calendar, kind: Format,
) -> pa.Table:  # fmt: skip
    """One row group: series after series, each with its steps in order."""
    horizons, count = asked.horizon, len(rows)
    found = answers.columns(serving, rows, horizons, z)
    of = np.repeat(np.arange(count), horizons)
    ahead = np.tile(np.arange(1, horizons + 1, dtype=np.int32), count)
    first, last = int(rows[0]), int(rows[-1]) + 1

    def text(names: Sequence[str]) -> Any:
        return pa.array(names[first:last], pa.string()).take(pa.array(of))

    def constant(value: Any) -> Any:
        return pa.repeat(value, len(of))

    def number(values: answers.Floats) -> Any:
        by_series = values.T.reshape(-1)
        if kind is Format.csv:
            return pa.array(by_series.round(DECIMALS))
        return pa.array(by_series.astype(np.float32))

    names = ("snapshot", "origin", "store", "product", "category", "start", "end", "horizon")
    starts, ends = _moments(serving.origin, horizons, calendar, kind)
    columns = [
        constant(serving.snapshot),
        constant(_moments(serving.origin - 1, 1, calendar, kind)[0][0]),
        text(serving.stores),
        text(serving.products),
        text(serving.categories),
        starts.take(pa.array(ahead - 1)),
        ends.take(pa.array(ahead - 1)),
        pa.array(ahead),
        number(found.mean),
        number(found.median),
        *(number(level) for level in found.quantiles),
    ]
    return pa.table(columns, names=[*names, "mean", "median", *(f"q{n}" for n in asked.names)])


def _moments(origin: int, horizons: int, calendar: Calendar, kind: Format) -> tuple[Any, Any]:
    """Starts and ends of the buckets after an origin: instants, or texts for CSV."""
    buckets = range(origin + 1, origin + horizons + 1)
    if kind is Format.csv:
        starts, ends = zip(*(bucket_times(calendar, at) for at in buckets), strict=True)
        return pa.array(starts), pa.array(ends)
    zoned = pa.timestamp("us", tz=str(calendar.zone))
    starts, ends = zip(*(calendar.span(at) for at in buckets), strict=True)
    return pa.array(starts, pa.int64()).cast(zoned), pa.array(ends, pa.int64()).cast(zoned)


def write(file: Path, kind: Format, groups: Iterator[pa.Table]) -> int:
    """Write row groups to a file under another name, and rename it; the number of rows.

    Raises
    ------
    ExportError
        The file cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    rows = 0
    try:
        with part.open("wb") as sink:
            writer: Any = None
            try:
                for group in groups:
                    if writer is None:
                        writer = (
                            pc.CSVWriter(sink, group.schema)
                            if kind is Format.csv
                            else pq.ParquetWriter(sink, group.schema, compression="zstd")
                        )
                    writer.write_table(group)
                    rows += len(group)
            finally:
                if writer is not None:
                    writer.close()
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(file)
    except OSError as error:
        raise ExportError(f"cannot write {file}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return rows


class _Progress:
    """Progress on standard error; where nobody watches, a line a tenth."""

    def __init__(self, series: int) -> None:
        self._series, self._done = series, 0
        self._bar = Progress(
            TextColumn("exporting"), BarColumn(), TextColumn("{task.completed:,.0f} series"),
            *times(), console=err, disable=not err.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("exporting", total=series)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def done(self, series: int) -> None:
        """Count series that were written."""
        before, self._done = self._done, self._done + series
        self._bar.update(self._task, completed=self._done)
        if not err.is_terminal and 10 * before // self._series < 10 * self._done // self._series:
            err.print(f"{self._done:,} of {self._series:,} series")
