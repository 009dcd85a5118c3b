"""`salescast keys`: make the keys that snapshots are signed with; change them while all runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from learner.keys import (
    forget_key,
    key_files,
    make_keys,
    read_private,
    read_public,
    rotate_keys,
    switch_keys,
)
from learner.manifest import name_of, signed_by
from scripts.console import Config, out, settings
from stream.errors import OperationRefused
from stream.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(keys)


def keys(
    config: Config = None,
    rotate: Annotated[
        bool,
        typer.Option("--rotate", help="Make the pair to come; its public key is taken at once"),
    ] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="Sign with the pair that --rotate made")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Public keys, and how many kept snapshots need each")
    ] = False,
    forget: Annotated[
        str | None, typer.Option(help="Take a public key away, by its name", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Forget it though snapshots become unreadable")
    ] = False,
) -> None:
    """Make the signing keys, where `signing_key_file` and `verify_key_file` say.

    Learners need both; API processes only the public one. Keys that exist are never overwritten.
    They change while all runs: --rotate, bring the public file to all API processes, --switch, and,
    when --list says that no snapshot needs the old one, --forget it.
    """
    if sum((rotate, switch, list_, forget is not None)) > 1:
        raise typer.BadParameter("give one of --rotate, --switch, --list and --forget at a time")
    chosen = settings(config)
    private_file, public_file = key_files(chosen)
    if rotate:
        name, following = rotate_keys(private_file, public_file)
        out.print(
            f"new key {name}: its public half is in {public_file}, the private in {following}"
        )
        out.print("bring the public file to all API processes, then: salescast keys --switch")
    elif switch:
        name = switch_keys(private_file, public_file)
        out.print(f"signing with {name}; learners that run take it up with their next snapshot")
    elif forget is not None:
        needed = _needed(chosen)[forget]
        if needed and not force:
            raise OperationRefused(
                f"{needed} kept snapshots are signed by {forget}, and would be refused",
                remedy="Wait until they are no longer kept, or say --force",
            )
        forget_key(private_file, public_file, forget)
        out.print(f"{forget} is no longer taken")
    elif list_:
        counts, signing = _needed(chosen), _signing(private_file)
        for name in map(name_of, read_public(public_file)):
            said = ", signed with now" if name == signing else ""
            out.print(f"{name}  needed by {counts[name]:,} snapshots{said}")
    else:
        make_keys(private_file, public_file)
        out.print(f"private key, for learners only: {private_file}")
        out.print(f"public key, for API processes:  {public_file}")


def _signing(private_file: Path) -> str:
    """Name of the key that is signed with; an API's host has none."""
    return name_of(read_private(private_file).public_key()) if private_file.exists() else ""


def _needed(chosen: Settings) -> Counter[str]:
    """How many kept snapshots each key signed."""
    from learner.adapters import open_store

    store = open_store(chosen)
    try:
        return Counter(
            signed_by(store.get_manifest(partition, snapshot))
            for partition in store.partitions()
            for snapshot in store.snapshots(partition)
        )
    finally:
        store.close()
