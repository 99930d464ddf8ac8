"""What a command prints: data on stdout, as a table for people or JSON for programs; all else on stderr.

In: plain values. Out: text. Remembers: nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def say(text: str) -> None:
    """A line of data."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line for the reader, which no program should parse."""
    print(text, file=sys.stderr, flush=True)


def rows(table: Sequence[Mapping[str, Any]], data: Any, as_json: bool) -> None:
    """The table for people, or `data` as JSON. Without a terminal the columns are separated by tabs."""
    if as_json:
        say(json.dumps(data, default=str))
        return
    if not table:
        return
    names = list(dict.fromkeys(name for row in table for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in table]
    if not sys.stdout.isatty():
        for line in [names, *cells]:
            say("\t".join(line))
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in [names, *cells]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def logs_to_stderr() -> None:
    """For commands that call what a worker calls: its log lines are no data."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


@contextmanager
def progress(label: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Gives a function that is told how far the work is, in the unit of `total`. It draws on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def plain(text: str) -> str:
    """Text without control characters: names come from Kafka, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _cell(value: Any) -> str:
    return plain(f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value))
