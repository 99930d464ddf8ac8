"""`tailrace train`: looks at the data, fits the detector of its kind, writes the bundle, and says what it chose.

In: a file or a topic. Out: a bundle and its report. Remembers: nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.bundle import MANIFEST, write
from models.detector import Detector
from stream_app import __version__
from stream_app.config import load
from stream_app.durations import duration_us
from stream_app.errors import CheckFailed, ConfigurationError, TailraceError, UsageError
from stream_app.opening import open_bundle
from training.dataset import Dataset
from training.making import Making, device_of, make
from training.ranks import Ranks, joined, local_device
from training.reading import Period, read, summary
from training.train_page import Told, write_report

RESERVED = 0.9  # of a time budget is for the fit


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
    began: float | None = None  # by time.monotonic(), of the budget; None: when training is called


@dataclass(frozen=True)
class Made:
    """What was made; nothing in processes that only helped."""

    facts: dict[str, Any]


def train(order: Order, say: Callable[[str], None] = lambda line: None) -> Made:
    """Trains, writes the bundle and opens it again. `say` gets a line on each thing found, chosen or done.

    Raises UsageError, ConfigurationError where the data can't be trained on, CheckFailed where a gate is missed.
    """
    with joined(local_device(device_of(order.device))) as ranks:
        return _train(order, ranks, say if ranks.first else _silent)


def _train(order: Order, ranks: Ranks, say: Callable[[str], None]) -> Made:
    """Every process trains; the first one writes and speaks."""
    began = time.monotonic() if order.began is None else order.began
    config = load(order.config) if order.config else None
    making = Making(order.seed, budget_s(order.budget), order.device, config, ranks=ranks)
    if ranks.first:
        _must_be_free(order.out)
    reading = read(order.source, Period.of(order.start, order.until), config)
    say = heard = Heard(say)
    for line in (summary(reading.data), *reading.notes):
        say(line)
    if making.budget_s is not None:  # reading was part of it, and so is verifying what was written
        making = replace(making, budget_s=RESERVED * (making.budget_s - (time.monotonic() - began)))
    bundle, report = make(reading.data, making, _lineage(order, reading.data), say)
    if not ranks.first:
        return Made({})
    digest = write(order.out, bundle)
    detector = _opened(order.out)
    seconds = round(time.monotonic() - began, 1)
    write_report(order.out, Told(order.out.name, detector, report, bundle.lineage, heard.lines, seconds))
    say(f"{digest} after {seconds} s")
    return Made({"bundle": str(order.out), "digest": digest, "seconds": seconds, "report": report})


class Heard:
    """Passes lines on, and keeps them for the report."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._say(line)


def _silent(line: str) -> None:
    pass


def _lineage(order: Order, data: Dataset) -> dict[str, Any]:
    return {
        "tailrace": __version__,
        "source": order.source,
        "samples": len(data),
        "entities": len(data.entities),
        "from_us": int(data.t_us.min()),
        "to_us": int(data.t_us.max()),
        "seed": order.seed,
    }


def _opened(folder: Path) -> Detector:
    """What can't be opened here will be opened nowhere."""
    try:
        return open_bundle(folder)
    except TailraceError as problem:
        raise CheckFailed(f"the bundle was written but does not pass its own verification: {problem}") from problem


def budget_s(text: str | None) -> float | None:
    """Seconds of a time budget. Raises UsageError."""
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
    """A bundle may be replaced; anything else is somebody's. Where nothing can be written is better known before."""
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).exists() or not any(out.iterdir()))):
        raise UsageError(f"{out} exists and is no bundle; name another folder")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ConfigurationError(f"{out} can't be written: {there} is no folder that is open to you")
