"""`salescast reshard`: replay a log into a new lineage, with other partitions, buckets or zone."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.text import Text

from scripts.console import AsJson, Config, err, out, print_json, settings
from stream.adapters import check_there
from stream.errors import OperationRefused, SettingsError
from stream.settings import Settings

#: Runs over what came while the last one ran, before producers are asked to pause.
MOST_RUNS = 10
#: How long nothing may have come in before the copy is finished: producers send now and then, s.
QUIET_S = 3.0


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(reshard)


def reshard(
    to: Annotated[str, typer.Option(help="Settings file (TOML) of the deployment to be")],
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read all, say what would come of it, write nothing")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Copy what there is; finish with a later run")
    ] = False,
    learn_excluded: Annotated[
        bool, typer.Option("--learn-excluded", help="Go on though items are kept out here")
    ] = False,
    json: AsJson = False,
) -> None:
    """Copy the events into a new log, from which a new deployment learns all anew.

    For another number of partitions, bucket, zone or grace. The deployment of --config stays as it
    is: it is the way back. Runs that broke off are gone on with. With --unfinished it may take
    place while sales come in; then stop the producers, and run it without.
    """
    old, new = settings(config), settings(to)
    check_apart(old, new)
    check_there(old)
    if not learn_excluded:
        _check_rules(old)
    said = _survey(old, new) if dry_run else _copy(old, new, unfinished)
    if json:
        print_json(said)
        return
    would = "would be " if dry_run else ""
    for name, value in said["items"].items():
        out.print(f"{value:>12,}  {_MEANING.get(name, name).format(would=would)}")
    if dry_run:
        for partition, items in enumerate(said["partitions"]):
            out.print(f"{items:>12,}  in partition {partition}", style="dim")
        out.print("nothing was written; without --dry-run it is")
    elif said["finished"]:
        out.print(Text.assemble(("finished", "green"),
                                f"; start it with: salescast learner --config {to}"))  # fmt: skip
        out.print("and salescast api with the same; producers send there from now on", style="dim")
    else:
        out.print("not finished: stop the producers, and run it again without --unfinished")


_MEANING = {
    "copied": "items {would}copied",
    "for all stores": "about all stores: {would}in every partition, once",
    "ticks and markers": "{would}left behind: ticks and markers of operations",
    "refused": "{would}left behind: refused there, and kept in its dead letters",
    "misrouted": "{would}left behind: refused there as misrouted",
}


def check_apart(old: Settings, new: Settings) -> None:
    """Refuse settings by which the new deployment would write where the old one is.

    Raises
    ------
    SettingsError
    """
    folder = Path(old.data_dir).resolve() == Path(new.data_dir).resolve()
    where = "of the deployment to be"
    if folder and "folder" in (old.store, new.store):
        raise SettingsError(f"setting `data_dir` {where} must be another folder")
    if old.log == new.log == "kafka" and old.kafka_bootstrap == new.kafka_bootstrap:
        for name in ("topic_prefix", "kafka_group"):
            if getattr(old, name) == getattr(new, name):
                raise SettingsError(f"setting `{name}` {where} must be another one")
    if old.log == new.log == "sqlite" and folder and old.topic_prefix == new.topic_prefix:
        raise SettingsError(f"setting `data_dir` or `topic_prefix` {where} must be another one")
    if old.store == new.store == "redis" and (old.redis_url, old.redis_prefix) == (
        new.redis_url, new.redis_prefix,
    ):  # fmt: skip
        raise SettingsError(f"setting `redis_prefix` {where} must be another one")


def _check_rules(old: Settings) -> None:
    """Refuse while items are kept out: rules hold offsets of the old log, and do not move along.

    Refuse another number of partitions than it has learned with, too: by that, stores are found.
    """
    from learner.adapters import open_store
    from learner.keys import load_verifier
    from learner.manifest import read_manifest
    from learner.replay import passing

    if old.store == "folder" and not (Path(old.data_dir) / "snapshots").exists():
        return  # nothing was ever learned
    with closing(open_store(old)) as store:
        heads = {p: store.pointers(p).head for p in store.partitions()}
        verifier = load_verifier(old)
        manifests = [
            read_manifest(store, partition, head.snapshot, verifier)
            for partition, head in heads.items()
            if head is not None
        ]
    for learned in {manifest.settings["partitions"] for manifest in manifests} - {old.partitions}:
        raise SettingsError(
            f"the old deployment has learned with {learned} partitions, its settings say "
            f"{old.partitions}",
            remedy=f"Set `partitions` of --config back to {learned}; its topic may have more",
        )
    rules = {rule.operation for manifest in manifests for rule in passing(manifest.rules)}
    if rules:
        raise OperationRefused(
            f"items are kept out by {', '.join(sorted(rules))}, and would be learned",
            remedy="Readmit them, or say --learn-excluded and exclude them in the new deployment",
        )


def _survey(old: Settings, new: Settings) -> dict[str, Any]:
    """What a run would do; it is refused for what a run would be."""
    from stream.adapters import open_log, open_target, target_begun
    from stream.resharding import Copy, survey

    with ExitStack() as stack:
        source = stack.enter_context(closing(open_log(old, "events")))
        if target_begun(new):
            target, notes = open_target(new)
            for log in (target, notes):
                stack.enter_context(closing(log))
            Copy(source, target, notes, grace_s=new.grace_s, placed=old.partitions)
        counts, spread = survey(source, new.partitions, new.grace_s, old.partitions)
    return {"items": dict(counts), "partitions": [spread[p] for p in range(new.partitions)]}


def _copy(old: Settings, new: Settings, unfinished: bool) -> dict[str, Any]:
    from stream.adapters import open_log, open_target
    from stream.resharding import Copy

    with ExitStack() as stack:
        source = stack.enter_context(closing(open_log(old, "events")))
        target, notes = open_target(new)
        for log in (target, notes):
            stack.enter_context(closing(log))
        copy = Copy(source, target, notes, grace_s=new.grace_s, placed=old.partitions)
        finished = False
        with Bar(console=err, transient=True) as bar:
            task = bar.add_task("copying", total=None)
            for _ in range(MOST_RUNS):
                copied = copy.run(lambda done, total: bar.update(task, completed=done, total=total))
                if unfinished and not copied:
                    break
                if not unfinished:
                    time.sleep(QUIET_S)
                    if finished := copy.finish():
                        break
        if not (finished or unfinished):
            raise OperationRefused(
                "sales keep coming in", remedy="Stop the producers, then run it again"
            )
        return {
            "items": copy.progress.counts, "finished": finished,
            "ends": [copy.progress.ends[p] for p in range(new.partitions)],
        }  # fmt: skip
