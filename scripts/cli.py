"""The `salescast` command: its subcommands, of which only the one asked for is loaded."""

from __future__ import annotations

import os

# One BLAS thread makes sums come out the same to the last bit; it must be said before numpy loads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import importlib
import sys
from typing import Final

import typer

from scripts.console import run

#: Subcommands by the module that registers them, in the order of the help. Some load River and
#: SciPy, which takes seconds: who asks for the status need not wait for them.
MODULES: Final = {
    "up": ("up",),
    "demo": ("demo", "demo-producer"),
    "produce": ("produce",),
    "backtest": ("backtest",),
    "export": ("export",),
    "serve": ("learner", "api"),
    "operate": ("freeze", "resume", "rollback", "quarantine", "readmit", "skip", "promote"),
    "show": ("settings", "snapshots", "models", "operations", "excluded", "status", "guard",
             "shards"),
    "diff": ("diff",),
    "audit": ("audit", "lineage", "verify"),
    "letters": ("dead-letters",),
    "archive": ("archive",),
    "reshard": ("reshard",),
    "keys": ("keys",),
    "grafana": ("grafana",),
    "web_console": ("console",),
}  # fmt: skip


def make(*modules: str) -> typer.Typer:
    """The command with the subcommands of some modules, or of all."""
    app = typer.Typer(
        name="salescast",
        help="Forecasts of sales that learn from every sale.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(lambda: None)  # with one subcommand it is a subcommand still
    for module in modules or MODULES:
        importlib.import_module(f"scripts.{module}").register(app)
    return app


def main() -> None:
    """Run a subcommand."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    run(make(*(module for module, names in MODULES.items() if asked in names)))


if __name__ == "__main__":
    main()
