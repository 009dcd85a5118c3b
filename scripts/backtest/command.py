"""The command: arguments, progress, the table of scores."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from scripts import console
from scripts.backtest.output import Writer, part_of
from scripts.backtest.replay import Asked, Block, Replay
from scripts.backtest.tally import Tally
from scripts.files import Source, merged, sources, writable_file
from scripts.tables import SORT_ROWS, FileError, reading
from stream.buckets import Calendar
from stream.errors import SettingsError
from stream.event import FIRST_US, LAST_US, time_us
from stream.settings import SEASON, Settings

NAIVE = "seasonal_naive"
#: Levels of the quantiles, unless others are asked for.
QUANTILES = "0.1,0.5,0.9,0.975"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A backtest that is over: what was replayed, its scores, and seconds by the clock."""

    replay: Replay
    tally: Tally
    elapsed_s: float


def register(app: typer.Typer) -> None:
    """Add ``backtest`` to the command."""

    @app.command()
    def backtest(
        events: Annotated[
            list[Path],
            typer.Option("--events", help="Events: .ndjson .jsonl .csv .parquet; may be repeated"),
        ],
        more: Annotated[
            list[Path] | None, typer.Argument(metavar="[FILE…]", help="Further files of events")
        ] = None,
        settings: Annotated[
            str | None, typer.Option("--settings", "-c", help="Settings file (TOML)")
        ] = None,
        models: Annotated[
            str | None,
            typer.Option(help="Models to compare, A,B; default: champion and challengers"),
        ] = None,
        horizons: Annotated[
            str | None, typer.Option(help="Buckets ahead, 1,7,14; default: the scored ones")
        ] = None,
        from_: Annotated[
            str | None,
            typer.Option("--from", help="First target, 2017-07-01; default: after a warm-up"),
        ] = None,
        to: Annotated[
            str | None, typer.Option(help="End of the targets, up to which the data are complete")
        ] = None,
        quantiles: Annotated[str, typer.Option(help="Levels of the quantiles")] = QUANTILES,
        out: Annotated[
            Path | None, typer.Option(help="Write every forecast to this file (Parquet)")
        ] = None,
        report: Annotated[
            Path | None, typer.Option(help="Write a report to this file (HTML)")
        ] = None,
        map_: Annotated[
            list[str], typer.Option("--map", help="A sale's field and its column: quantity=units")
        ] = [],  # noqa: B006 - typer copies it
        source: Annotated[str | None, typer.Option(help="Source of rows without one")] = None,
        zone: Annotated[
            str | None, typer.Option(help="Zone of times that have none; default: the setting")
        ] = None,
    ) -> None:
        """Replay events from files through the models, and score what they would have forecast.

        Forecasts are made at each close from what was known then, plans included. Every model is
        scored beside seasonal_naive, on the same forecasts.
        """
        chosen = _settings(settings, models)
        inputs = sources(
            [*events, *(more or [])],
            reading(map_, source, zone or chosen.timezone, otherwise="files"),
        )
        asked = _asked(chosen, horizons, quantiles, from_, to)
        asked = replace(asked, points=bool(out or report))
        for option, path in (("--out", out), ("--report", report)):
            if path:
                writable_file(path, option)
        if out and out.suffix.lower() != ".parquet":
            raise FileError(f"--out {out} is to be Parquet", remedy="Name it .parquet")
        with console.err.status("checking the order of time"):
            for file in inputs:
                file.check()
        for file in inputs:
            if file.unsorted and file.rows > SORT_ROWS:
                console.err.print(f"{file.path.name} is too large to sort: sort it first, "
                                  "or sales may be late", soft_wrap=True)  # fmt: skip
        with ExitStack() as stack:
            kept = out
            if report and not out:
                # The report's series are read back from it.
                kept = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out.parquet"
            try:
                done = run(inputs, chosen, asked, kept)
                _say(inputs, done)
                if not done.tally.by_bucket:
                    console.complain("no forecast was scored: its target must be closed within "
                                     "the data, and not before --from")  # fmt: skip
                    raise typer.Exit(1)
                if out:
                    console.err.print(f"forecasts: {out}", soft_wrap=True)
                if report and kept:
                    from scripts.backtest.report import write_report

                    with console.err.status("drawing the report"):
                        write_report(report, done.replay, done.tally, kept,
                                     [file.path.name for file in inputs])  # fmt: skip
                    console.err.print(f"report: {report}", soft_wrap=True)
            except KeyboardInterrupt:
                console.err.print("stopped")
                raise typer.Exit(130) from None


def _settings(path: str | None, models: str | None) -> Settings:
    """Settings with the models asked for; seasonal naive is always among them."""
    chosen = console.settings(path)
    names = (chosen.champion, *chosen.challengers)
    if models:
        names = tuple(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
        if not names:
            raise SettingsError("--models names none", remedy="Give names, such as ensemble,bayes")
    challengers = [*names[1:], *([] if NAIVE in names else [NAIVE])]
    return console.settings(path, champion=names[0], challengers=challengers, twin_seasons=0)


def _asked(
    settings: Settings, horizons: str | None, quantiles: str, start: str | None, end: str | None
) -> Asked:
    ahead = settings.scored_horizons
    if horizons:
        ahead = tuple(sorted({int(one) for one in _numbers("--horizons", horizons, int)}))
    if not 1 <= ahead[0] <= ahead[-1] <= settings.horizons:
        raise SettingsError(
            f"--horizons must be between 1 and {settings.horizons}",
            remedy="1 is the next bucket"
            if ahead[0] < 1
            else "Raise the setting `horizon` to forecast farther",
        )
    levels = tuple(sorted(set(_numbers("--quantiles", quantiles, float))))
    if not all(0 < level < 1 for level in levels):
        raise SettingsError("--quantiles must be between 0 and 1, such as 0.1,0.5,0.9")
    calendar = Calendar(settings)
    first = None if start is None else _bucket("--from", start, settings, calendar)
    last = None if end is None else _bucket("--to", end, settings, calendar)
    if first is not None and last is not None and first >= last:
        raise SettingsError(f"--from {start} must be before --to {end}")
    return Asked(horizons=ahead, levels=levels, first=first, end=last)


def _numbers(option: str, text: str, kind: Callable[[str], float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"{option} {text} is no list of numbers, such as 1,7,14") from None


def _bucket(option: str, text: str, settings: Settings, calendar: Calendar) -> int:
    """The first bucket that starts at a time or after it; a day starts as the settings say."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} {text} is no date", remedy="Write it as 2017-07-01, or 2017-07-01T06:00"
        ) from None
    if len(text) <= len("2017-07-01"):
        hours, minutes = settings.day_start.split(":")
        moment = moment.replace(hour=int(hours), minute=int(minutes))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(settings.timezone))
    try:
        at = time_us(moment)
    except OverflowError:  # a zone moves it out of the years that there are
        at = LAST_US
    if not FIRST_US <= at < LAST_US:
        raise SettingsError(f"{option} {text} must be a time from 1990 until 2199")
    bucket = calendar.index(at)
    return bucket if calendar.span(bucket)[0] >= at else bucket + 1


def run(files: Sequence[Source], settings: Settings, asked: Asked, out: Path | None) -> Done:
    """Replay files; forecasts go to ``out`` as they are scored."""
    started = time.monotonic()
    names = (settings.champion, *settings.challengers)
    tally = Tally(names, asked, SEASON[settings.bucket], settings.partitions)
    writer: Writer | None = None

    def told(block: Block) -> None:
        tally.told(block)
        if writer is not None:
            writer.told(block)

    replay = Replay(settings, asked, told, tally.closed, round(time.time() * 1e6))
    sizes = [max(file.path.stat().st_size, 1) for file in files]
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"),
        *console.times(), console=console.err,
    )  # fmt: skip
    task = progress.add_task("replaying", total=1.0, said="")
    try:
        writer = Writer(out, replay) if out else None
        with progress:
            for count, line in enumerate(merged(files, [0] * len(files)), 1):
                if line.refusal is not None:
                    why = line.refusal
                    replay.refusals.add(line.file, line.row, why.reason, why.detail)
                    continue
                replay.feed(line.time, line.data, line.file, line.row)
                if count % 2_000 == 0:
                    share = sum(f.fraction * s for f, s in zip(files, sizes, strict=True))
                    day = f"  {line.time:%Y-%m-%d}" if line.time else ""
                    progress.update(task, completed=share / sum(sizes),
                                    said=f"{count:,} events{day}")  # fmt: skip
                if replay.over:
                    break
            replay.finish()
            progress.update(task, completed=1.0)
        if writer:
            writer.close()
    finally:
        if out:
            part_of(out).unlink(missing_ok=True)
    return Done(replay=replay, tally=tally, elapsed_s=time.monotonic() - started)


def _say(files: Sequence[Source], done: Done) -> None:
    """Print what was read, what was refused, the scores and the seconds."""
    replay, tally = done.replay, done.tally
    counts = {name: n for name, n in replay.counts().items() if n}
    said = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    series = sum(shard.panel.size for shard in replay.shards)
    console.err.print(f"{series:,} series; items: {said or 'none'}")
    for file, row, reason, detail in replay.refusals.first:
        where = f"{files[file].path.name} row {row}" if file >= 0 else "an earlier sale"
        console.err.print(f"{where}: {reason}: {detail}", soft_wrap=True)
    if more := sum(replay.refusals.reasons.values()) - len(replay.refusals.first):
        console.err.print(f"and {more:,} more like these")
    if not tally.by_bucket:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("h", "model", "forecasts", "RMSSE", "to naive", "bias", "WAPE (median)",
                 "pinball", *(f"PIT {level:g}" for level in tally.levels),
                 f"≤ q{tally.levels[-1]:g}", "CPU s"):  # fmt: skip
        table.add_column(name, justify="left" if name == "model" else "right")
    scores, seconds = tally.scores(), replay.model_seconds()
    for horizon in tally.horizons:
        naive = scores[NAIVE, horizon].rmsse
        for model in sorted(tally.models, key=lambda name: name == NAIVE):
            one = scores[model, horizon]
            table.add_row(
                str(horizon), model, f"{one.n:,}", f"{one.rmsse:.4f}", f"{one.rmsse / naive:.3f}",
                f"{one.bias:+.2%}", f"{one.wape:.4f}", f"{one.pinball:.4f}",
                *(f"{share:.3f}" for share in one.hits), f"{one.covered[-1]:.3f}",
                f"{seconds[model]:.2f}" if horizon == tally.horizons[0] else "",
                end_section=model == NAIVE,
            )  # fmt: skip
    # In a pipe a console is 80 wide, and would cut numbers short.
    wide = Measurement.get(console.out, console.out.options.update(width=400), table).maximum
    Console(highlight=False, markup=False, width=max(wide, console.out.width)).print(table)
    console.out.print(
        f"{replay.seconds:.1f} CPU s for folding and forecasting all of it, {done.elapsed_s:.1f} s "
        "by the clock; a model's own are for learning and forecasting, all horizons."
    )
