"""The `salescast` command: one module a subcommand."""
