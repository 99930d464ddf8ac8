"""How much a refit loses when a part of its range was anomalous and nobody said so: `python -m training.poisoning`.

In: a seed. Out: of the demo's fleet the faults that a clean and a poisoned refit find. Remembers: nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models.bundle import write
from stream_app import fleet
from stream_app.config import parse
from stream_app.intervals import Interval
from stream_app.opening import open_bundle
from training.dataset import Dataset, from_indices
from training.fit_sensors import SensorTraining, fit
from training.gates import Trial, judged

KINDS: tuple[tuple[fleet.FaultKind, str], ...] = (
    ("stuck", "pressure"),
    ("decoupled", "vibration"),
    ("spike", "flow"),
    ("drift", "temperature"),
)
POISONED = 0.05  # of the time
FAULT_S = 45.0  # as long as an episode of the demo, or so
RISK = 1e-3


@dataclass(frozen=True)
class Scale:
    """How much of it."""

    pumps: int = 8
    seconds: float = 900.0
    trial_s: float = 1200.0
    faults: int = 24  # in the trial


@dataclass(frozen=True)
class Outcome:
    """Of one refit."""

    recall: float
    false_alarms: int
    left_out: dict[str, int]


def compare(seed: int, scale: Scale) -> dict[str, Outcome]:
    """The same range with and without faults, the same trial."""
    rng = np.random.default_rng(seed)
    before = fleet.Fleet(scale.pumps, scale.seconds)
    after = fleet.Fleet(scale.pumps, scale.trial_s, before.start_us + int(scale.seconds * 1e6))
    poison = scattered(before, round(POISONED * scale.pumps * scale.seconds / FAULT_S), rng)
    faults = scattered(after, scale.faults, rng)
    trial = table(after, faults, seed + 1)
    return {
        name: _tried(table(before, given, seed), trial, faults, seed)
        for name, given in (("clean", ()), ("poisoned", poison))
    }


def scattered(over: fleet.Fleet, n: int, rng: np.random.Generator) -> tuple[fleet.Fault, ...]:
    """Faults of all kinds in turn, on pumps in turn, at random times; none in the first fifth."""
    found = []
    for i in range(n):
        kind, sensor = KINDS[i % len(KINDS)]
        seconds = 3.0 if kind == "spike" else FAULT_S
        start_us = over.start_us + int(1e6 * rng.uniform(0.2, 0.95) * over.seconds)
        found.append(fleet.Fault(kind, over.names[i % over.pumps], sensor, start_us, start_us + int(seconds * 1e6)))
    return tuple(found)


def table(over: fleet.Fleet, faults: Sequence[fleet.Fault], seed: int) -> Dataset:
    """The fleet's samples as training data."""
    made = fleet.pumps(over, faults, np.random.default_rng(seed))
    columns = (made.entity.astype(np.int64), made.sensor.astype(np.int64), made.t_us, made.value)
    return from_indices(made.entities, made.sensors, columns)


def _tried(train: Dataset, trial: Dataset, faults: Sequence[fleet.Fault], seed: int) -> Outcome:
    made = fit(train, SensorTraining(seed=seed, trim=True))
    with TemporaryDirectory() as folder:
        write(Path(folder), made.bundle)
        detector = open_bundle(Path(folder))
    config = parse({"sources": [{"topic": "trial"}], "alarms": {"risk": RISK}})
    said = judged(detector, Trial(config, trial, (), (Interval("", 0, 2**62, "all"),)), "trial")
    moment = said.end_us - detector.windows.stride_us
    told = np.zeros(len(said.entity), bool)
    found = 0
    for fault in faults:
        own = said.entity == trial.entities.index(fault.entity)
        near = own & (said.end_us > fault.start_us) & (moment < fault.end_us + detector.windows.length_us)
        found += bool((said.alarm & near).any())
        told |= near
    return Outcome(found / len(faults), int((said.opened & ~told).sum()), made.report["left_out"])


if __name__ == "__main__":
    for one in map(int, sys.argv[1:] or ["1"]):
        outcomes = compare(one, Scale())
        ratio = outcomes["poisoned"].recall / max(outcomes["clean"].recall, 1e-9)
        print(
            json.dumps({"seed": one, "ratio": ratio} | {name: o.__dict__ for name, o in outcomes.items()}), flush=True
        )
