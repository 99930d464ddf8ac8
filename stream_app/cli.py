"""The commands that need no fitting. Placeholder until the commands land."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)


def run(application: typer.Typer) -> None:
    """Runs the command line."""
    application()
