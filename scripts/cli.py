"""The `salescast` command."""

from __future__ import annotations

import os

# One BLAS thread makes sums come out the same to the last bit; it must be said before numpy loads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys

import typer

from scripts import (
    archive,
    audit,
    backtest,
    demo,
    diff,
    export,
    grafana,
    keys,
    letters,
    operate,
    produce,
    reshard,
    serve,
    show,
    up,
    web_console,
)
from scripts.console import complain
from stream.errors import SalescastError

app = typer.Typer(
    name="salescast",
    help="Forecasts of sales that learn from every sale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (up, demo, produce, backtest, export, serve, operate, show, diff, audit, letters,
               archive, reshard, keys, grafana, web_console):  # fmt: skip
    module.register(app)


def main() -> None:
    """Run a subcommand; errors that Salescast names are shown without a traceback."""
    try:
        app()
    except SalescastError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
