"""The command `tailrace`: the commands of `stream_app.cli`, and those that fit.

In: the command line. Out: data on stdout, everything else on stderr, an exit code. Remembers: nothing.
"""

from __future__ import annotations

from stream_app.cli import app, run


def main() -> None:
    """The console script."""
    run(app)
