"""What the demo tells: data to train on, data to judge, and what was done to it.

In: a folder. Out: `Story`s, their files written. Remembers: nothing.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stream_app import fleet
from stream_app.errors import ConfigurationError

SEED = 20260101
TRAIN_S, LIVE_S = 1200.0, 600.0  # of the fleet: enough cycles of the slowest wave, little enough to send in seconds
SESSIONS, LIVE_SESSIONS, CYCLES = 40, 12, 40
REAL_TRAIN_SHARE = 0.4  # before the first of the series' four unusual stretches


@dataclass(frozen=True)
class Story:
    """One detector's part of the demo."""

    name: str
    train: Path
    live: Path
    topic: str
    faults: tuple[fleet.Fault, ...] = ()
    windows: dict[str, Any] = field(default_factory=dict)
    alarms: dict[str, Any] = field(default_factory=dict)
    budget: str | None = None


def fleet_stories(home: Path) -> list[Story]:
    """Eight pumps with sensors of three rates, and a dozen controllers that speak in tokens."""
    return [_pumps(home), _controllers(home)]


def _pumps(home: Path) -> Story:
    rng = np.random.default_rng(SEED)
    before = fleet.Fleet(seconds=TRAIN_S)
    after = fleet.Fleet(seconds=LIVE_S, start_us=before.start_us + int(TRAIN_S * 1e6))
    faults = fleet.pump_faults(after)
    files = home / "pumps-normal.parquet", home / "pumps-live.parquet"
    fleet.write(fleet.pumps(before, (), rng), files[0])
    fleet.write(fleet.pumps(after, faults, rng), files[1])
    return Story("pumps", *files, "pump-samples", faults, alarms={"at_most": 24, "per": "day"}, budget="40s")


def _controllers(home: Path) -> Story:
    rng = np.random.default_rng(SEED + 1)
    normal, _ = fleet.controllers([f"normal-{i}" for i in range(SESSIONS)], CYCLES, (), rng)
    names = [f"controller-{i + 1}" for i in range(LIVE_SESSIONS)]
    live, faults = fleet.controllers(names, CYCLES, names[4:5], rng, fleet.START_US + 1_200_000_000)
    files = home / "controllers-normal.parquet", home / "controllers-live.parquet"
    fleet.write(normal, files[0])
    fleet.write(live, files[1])
    return Story("controllers", *files, "controller-tokens", faults, budget="30s")


def real_story(home: Path) -> Story:
    """Water flow through a pipe, one value an hour for two months: a series that river's package contains."""
    source = _packaged("river", "datasets/water-flow.csv")
    table = pa.csv.read_csv(source).rename_columns(["t", "flow"])
    order = pa.compute.sort_indices(table["t"])
    table = table.take(order)
    n = int(REAL_TRAIN_SHARE * table.num_rows)
    files = home / "water-normal.parquet", home / "water-live.parquet"
    pa.parquet.write_table(table.slice(0, n), files[0])
    pa.parquet.write_table(table.slice(n), files[1])
    return Story("water", *files, "water-flow", alarms={"at_most": 1, "per": "week"})


def _packaged(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported for it."""
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (file := Path(folder) / path).exists():
            return file
    raise ConfigurationError(f"the package {package} with its {path} is not installed; make install brings it")
