"""Small worlds of sensors, and detectors trained on them in seconds: one rate, one sensor, several rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.detector import Scored
from models.scenes import Scenes
from models.sensors import SensorDetector
from models.sensors_bundle import open_bundle
from stream_app.recipe import Recipe
from training.dataset import Dataset, cut, from_indices
from training.fit_sensors import SensorTraining, Trained, fit

SECOND = 1_000_000
START = 1_600_000_000 * SECOND
RATES = {"aligned": (1.0, 1.0, 1.0), "single": (1.0,), "multirate": (10.0, 10.0, 4.0, 1.0), "fast": (100.0,)}


@dataclass(frozen=True)
class World:
    """seconds of data of some entities; `lost`: share of samples missing; `fault_s`: when sensor 0 begins to stray."""

    kind: str
    entities: int = 1
    seconds: float = 300.0
    seed: int = 0
    lost: float = 0.0
    fault_s: float = np.inf
    gone: tuple[int, ...] = ()  # sensors that send nothing

    def data(self) -> Dataset:
        rng = np.random.default_rng(self.seed)
        columns: list[list[np.ndarray]] = [[], [], [], []]
        for entity in range(self.entities):
            phase, offset = rng.uniform(0, 6), int(rng.integers(0, 1000)) * SECOND
            for sensor, rate in enumerate(RATES[self.kind]):
                t = np.arange(0, self.seconds, 1 / rate) + rng.uniform(0, 0.3 / rate)
                value = np.sin(t / 5 + phase + sensor) * (sensor + 1) + rng.normal(0, 0.1, len(t)) + 10 * sensor
                value = np.where((t >= self.fault_s) & (sensor == 0), value + rng.normal(3, 1, len(t)), value)
                keep = (rng.random(len(t)) >= self.lost) & (sensor not in self.gone)
                parts = (
                    np.full(len(t), entity),
                    np.full(len(t), sensor),
                    START + offset + (t * SECOND).astype(np.int64),
                    value,
                )
                for column, part in zip(columns, parts, strict=True):
                    column.append(part[keep])
        names = tuple(f"s{i}" for i in range(len(RATES[self.kind])))
        made = tuple(np.concatenate(column) for column in columns)
        return from_indices(tuple(f"e{i}" for i in range(self.entities)), names, (made[0], made[1], made[2], made[3]))


@lru_cache
def trained(kind: str) -> Trained:
    """Trained on one entity, or on six where rates differ."""
    entities = 6 if kind == "multirate" else 1
    seconds = {"multirate": 60.0, "fast": 10.0}.get(kind, 400.0)
    return fit(World(kind, entities, seconds).data(), SensorTraining(seed=1, recipe=Recipe(steps=20)))


def detector(kind: str) -> SensorDetector:
    return open_bundle(trained(kind).bundle)


def scenes(known: SensorDetector, data: Dataset) -> Scenes:
    return cut(data, known.windows)


def score(known: SensorDetector, given: Scenes) -> Scored:
    return known.score(given, np.repeat(known.carry_initial, len(np.unique(given.entity))))


def part(given: Scenes, windows: slice) -> Scenes:
    """Some windows with only the samples that they hold."""
    a, b = int(given.first[windows].min()), int(given.last[windows].max())
    per_window = ("entity", "start_us", "end_us", "position", "first_offset", "last_offset", "ended")
    columns = {name: getattr(given, name)[windows] for name in per_window}
    rows = {name: getattr(given, name)[a:b] for name in ("sensor", "t_us", "value")}
    return Scenes(**columns, first=given.first[windows] - a, last=given.last[windows] - a, **rows)
