"""`salescast keys`: make the pair of keys that snapshots are signed with."""

from __future__ import annotations

import typer

from learner.keys import key_files, make_keys
from scripts.console import Config, out, settings


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command()(keys)


def keys(config: Config = None) -> None:
    """Make the signing keys, where `signing_key_file` and `verify_key_file` say.

    Learners need both; API processes only the public one. Keys that exist are never overwritten.
    """
    private_file, public_file = key_files(settings(config))
    make_keys(private_file, public_file)
    out.print(f"private key, for learners only: {private_file}")
    out.print(f"public key, for API processes:  {public_file}")
