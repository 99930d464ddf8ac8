"""A synthetic fleet for demos and tests: pumps with sensors of three rates, and controllers that speak in tokens.

In: a seed and durations. Out: long tables of samples, and what was done to them. Remembers: nothing.

A pump's load wanders; its flow (10 Hz) follows the load, its pressure (10 Hz) the square of it, its vibration (100 Hz)
grows with it, and its bearing's temperature (1 per 5 s) follows slowly. A controller repeats work cycles of a fixed
grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from models.scenes import F64, I32, I64

FaultKind = Literal["stuck", "decoupled", "spike", "drift", "token_order", "variance", "level"]
RATES_HZ = {"vibration": 100.0, "flow": 10.0, "pressure": 10.0, "temperature": 0.2}
SENSORS = tuple(RATES_HZ)
START_US = 1_767_225_600_000_000  # 2026-01-01, so that a run is the same on every day
_LOAD_STEP_S = 1.0
_MEAN_LOAD = 0.8
_LEAD_S = 60.0  # of load before the first sample, so that what follows it slowly is in its stride
_LEVEL_SHIFT = 0.25  # of the sensor's mean: more than its own wandering in a normal hour
_CYCLE = ("IDLE", "PRIME", "VALVE_OPEN", "RAMP_UP", "RUN", "RUN", "SAMPLE", "RUN", "RAMP_DOWN", "VALVE_CLOSE")
_OPTIONAL = {"SAMPLE": 0.7, "PRIME": 0.9}  # steps that a cycle may skip, by how often it has them
_TOKEN_STEP_US = 1_000_000


@dataclass(frozen=True)
class Fault:
    """What is done to one entity in [start_us, end_us)."""

    kind: FaultKind
    entity: str
    sensor: str
    start_us: int
    end_us: int


@dataclass(frozen=True)
class Table:
    """Samples sorted by time: what a long file holds. `token` is None for sensors."""

    entities: tuple[str, ...]
    sensors: tuple[str, ...]
    entity: I32
    sensor: I32
    t_us: I64
    value: F64
    token: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.t_us)


@dataclass(frozen=True)
class Fleet:
    """How many pumps, for how long."""

    pumps: int = 8
    seconds: float = 600.0
    start_us: int = START_US

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"pump-{i + 1}" for i in range(self.pumps))


def write(table: Table, path: Path) -> None:
    """A long Parquet file."""
    columns = {
        "entity": pa.DictionaryArray.from_arrays(pa.array(table.entity), pa.array(table.entities)),
        "t": pa.array(table.t_us, pa.timestamp("us", tz="UTC")),
    }
    if table.token is not None:
        columns["token"] = pa.array(table.token)
    else:
        columns["sensor"] = pa.DictionaryArray.from_arrays(pa.array(table.sensor), pa.array(table.sensors))
        columns["value"] = pa.array(table.value)
    pa.parquet.write_table(pa.table(columns), path)


def pumps(fleet: Fleet, faults: Sequence[Fault], rng: np.random.Generator) -> Table:
    """The samples of all pumps, faults and all. Times are exact multiples of the sensors' periods."""
    parts = [_pump(i, name, fleet, faults, rng) for i, name in enumerate(fleet.names)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((columns[1], columns[0], columns[2]))
    entity, sensor, t_us, value = (column[order] for column in columns)
    return Table(fleet.names, SENSORS, entity.astype(np.int32), sensor.astype(np.int32), t_us, value)


def pump_faults(fleet: Fleet) -> tuple[Fault, ...]:
    """One fault of each kind, each on a pump of its own, spread over the middle of the time."""

    def fault(kind: FaultKind, pump: int, sensor: str, start: float, seconds: float) -> Fault:
        start_us = fleet.start_us + int(start * fleet.seconds) * 1_000_000
        return Fault(kind, fleet.names[pump % fleet.pumps], sensor, start_us, start_us + int(seconds * 1e6))

    return (
        fault("stuck", 0, "pressure", 0.30, 90),
        fault("decoupled", 2, "vibration", 0.42, 90),
        fault("spike", 4, "flow", 0.55, 3),
        fault("drift", 5, "temperature", 0.55, 150),
    )


def new_regime(fleet: Fleet, start_us: int) -> tuple[Fault, ...]:
    """Not a fault but another normal: from a time on all pumps' vibration has twice its variance, and their flow
    another level."""
    end_us = fleet.start_us + int(fleet.seconds * 1e6) + 1
    changes: tuple[tuple[FaultKind, str], ...] = (("variance", "vibration"), ("level", "flow"))
    return tuple(Fault(kind, name, sensor, start_us, end_us) for name in fleet.names for kind, sensor in changes)


def _pump(
    index: int, name: str, fleet: Fleet, faults: Sequence[Fault], rng: np.random.Generator
) -> tuple[I64, I64, I64, F64]:
    """Entity, sensor, time and value of one pump's samples."""
    load = _load(fleet.seconds, rng)
    mine = [fault for fault in faults if fault.entity == name]
    parts = []
    for s, sensor in enumerate(SENSORS):
        t_s = np.arange(0.0, fleet.seconds, 1 / RATES_HZ[sensor])
        at = np.interp(t_s, np.arange(len(load)) * _LOAD_STEP_S - _LEAD_S, load)
        t_us = fleet.start_us + np.rint(t_s * 1e6).astype(np.int64)
        for fault in mine:
            if fault.kind == "decoupled" and fault.sensor == sensor:
                # As if it followed another machine: high where the load is low. Its own range stays as it was.
                at = np.where((t_us >= fault.start_us) & (t_us < fault.end_us), 2 * _MEAN_LOAD - at, at)
        value = (
            _reading(sensor, index, t_s, at, rng) if sensor != "temperature" else _temperature(index, t_s, load, rng)
        )
        for fault in mine:
            if fault.sensor == sensor:
                value = _disturbed(fault, t_us, value)
        parts.append((np.full(len(t_s), index), np.full(len(t_s), s), t_us, value))
    entity, sensors, t, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return entity, sensors, t, values


def _load(seconds: float, rng: np.random.Generator) -> F64:
    """A wandering load around its mean, one value per second, from a minute before the first sample on: three slow
    waves of random phase and a little noise."""
    t = np.arange(0.0, _LEAD_S + seconds + 2 * _LOAD_STEP_S, _LOAD_STEP_S)
    waves = [(0.2, 97.0), (0.12, 41.0), (0.06, 17.0)]
    load = _MEAN_LOAD + sum(a * np.sin(2 * np.pi * (t / period + rng.random())) for a, period in waves)
    return np.asarray(load + 0.01 * rng.standard_normal(len(t)))


def _reading(sensor: str, index: int, t_s: F64, load: F64, rng: np.random.Generator) -> F64:
    """What a healthy fast sensor shows under a load; every pump has its own offsets."""
    own = 1 + 0.03 * index
    noise = rng.standard_normal(len(t_s))
    if sensor == "vibration":
        return np.asarray(own * load**2 * np.sin(2 * np.pi * (7 + index % 3) * t_s) + 0.05 * noise)
    if sensor == "flow":
        return np.asarray(12 * own * load + 0.1 * noise)
    assert sensor == "pressure"
    return np.asarray(150 + 60 * own * load**2 + 0.5 * noise)


def _temperature(index: int, t_s: F64, load: F64, rng: np.random.Generator) -> F64:
    """A bearing's temperature: the mean of the load over the last minute."""
    n = int(_LEAD_S / _LOAD_STEP_S)
    slow = np.convolve(load, np.full(n, 1 / n), mode="valid")
    mean = np.interp(t_s, np.arange(len(slow)) * _LOAD_STEP_S, slow)
    return np.asarray(40 + 15 * mean + 2 * index % 5 + 0.1 * rng.standard_normal(len(t_s)))


def _disturbed(fault: Fault, t_us: I64, value: F64) -> F64:
    inside = (t_us >= fault.start_us) & (t_us < fault.end_us)
    if fault.kind == "stuck":
        return np.where(inside, value[np.argmax(inside)], value)
    if fault.kind == "spike":
        return np.where(inside, value * 3, value)
    if fault.kind == "drift":
        share = (t_us - fault.start_us) / (fault.end_us - fault.start_us)
        return np.where(inside, value + 25 * share, value)
    if fault.kind == "variance":
        return np.where(inside, value.mean() + np.sqrt(2) * (value - value.mean()), value)
    if fault.kind == "level":
        return np.where(inside, value + _LEVEL_SHIFT * value.mean(), value)
    return value


def controllers(
    names: Sequence[str], cycles: int, broken: Sequence[str], rng: np.random.Generator, start_us: int = START_US
) -> tuple[Table, tuple[Fault, ...]]:
    """Sessions of tokens, one per name, `cycles` long; those in `broken` have two cycles backwards."""
    parts = [_session(cycles, name in broken, rng) for name in names]
    lengths = [len(words) for words, _ in parts]
    entity = np.repeat(np.arange(len(names), dtype=np.int32), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    t_us = start_us + place * _TOKEN_STEP_US
    words = [word for said, _ in parts for word in said]
    order = np.lexsort((entity, t_us))
    faults = tuple(
        Fault("token_order", name, "token", start_us + a * _TOKEN_STEP_US, start_us + b * _TOKEN_STEP_US)
        for name, (_, wrong) in zip(names, parts, strict=True)
        for a, b in wrong
    )
    zeros = np.zeros(len(order))
    tokens = tuple(words[i] for i in order)
    return Table(tuple(names), ("token",), entity[order], zeros.astype(np.int32), t_us[order], zeros, tokens), faults


def _session(cycles: int, broken: bool, rng: np.random.Generator) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of a session, and where it is out of order."""
    words: list[str] = []
    wrong: list[tuple[int, int]] = []
    for cycle in range(cycles):
        said = [word for word in _CYCLE if rng.random() < _OPTIONAL.get(word, 1.0)]
        if broken and cycle in (cycles // 2, cycles // 2 + 1):
            wrong.append((len(words), len(words) + len(said)))
            said = said[::-1]
        words += said
    return words, [(wrong[0][0], wrong[-1][1])] if wrong else []
