"""`tailrace train`: looks at the data, fits the detector of its kind, writes the bundle, and says what it chose.

In: a file or a topic. Out: a bundle. Remembers: nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import MANIFEST
from stream_app.config import duration_us, load
from stream_app.errors import UsageError
from training.reading import Period, read, summary


@dataclass(frozen=True)
class Order:
    """What to train on, and how. Texts are as given on the command line."""

    source: str
    out: Path
    config: Path | None = None
    start: str | None = None
    until: str | None = None
    seed: int = 0
    budget: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Made:
    """What was made."""

    facts: dict[str, Any]
    choices: tuple[str, ...]


def train(order: Order) -> Made:
    """Trains and writes the bundle. Raises UsageError, ConfigurationError, CheckFailed where a gate is missed."""
    began = time.monotonic()
    config = load(order.config) if order.config else None
    budget_s = _budget_s(order.budget)
    _must_be_free(order.out)
    reading = read(order.source, Period.of(order.start, order.until), config)
    choices = [summary(reading.data), *reading.notes]
    return Made({"choices": choices, "seconds": time.monotonic() - began, "budget_s": budget_s}, tuple(choices))


def _budget_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = duration_us(text) / 1e6
    except ValueError as problem:
        raise UsageError(f"--budget: {problem}") from None
    if seconds <= 0:
        raise UsageError("--budget must be above zero")
    return seconds


def _must_be_free(out: Path) -> None:
    """A bundle may be replaced; anything else is somebody's."""
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).exists() or not any(out.iterdir()))):
        raise UsageError(f"{out} exists and is no bundle; name another folder")
