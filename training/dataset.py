"""Training data as columns: what was read, before anything is fitted to it.

In: columns of samples of any number of entities. Out: `Dataset`, sorted, and its `Scenes`. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.detector import WindowSpec
from models.scenes import F64, I32, I64, Bool, Scenes, select
from stream_app.config import Limits
from stream_app.intervals import Interval, overlapping
from stream_app.keys import Keys
from stream_app.samples import Samples
from stream_app.windows.closed import INGEST, STAGE
from stream_app.windows.timed import TimeWindows

_FOREVER_US = 1 << 60  # of lateness and silence: 36,000 years, and no overflow when taken from a time


@dataclass(frozen=True)
class Dataset:
    """Samples of sensors or of tokens. Rows by (entity, t_us, sensor), of tokens by (entity, order of arrival)."""

    kind: str  # "sensors" or "tokens"
    entities: tuple[str, ...]  # names, index = entity
    sensors: tuple[str, ...]  # names, index = sensor; ("token",) for tokens
    vocabulary: dict[str, int]  # tokens' ids; empty for sensors
    entity: I32
    sensor: I32  # 0 for tokens
    t_us: I64
    value: F64  # NaN: missing; for tokens the id in the vocabulary

    def __len__(self) -> int:
        return len(self.entity)

    def bounds(self) -> I64:
        """Rows of entity e are bounds[e]:bounds[e + 1]. [number of entities + 1]"""
        return np.searchsorted(self.entity, np.arange(len(self.entities) + 1)).astype(np.int64)

    def with_sensors(self, names: Sequence[str]) -> Dataset:
        """The same samples of these sensors, present or not, in this order, and those that are new after them."""
        sensors = (*names, *(name for name in self.sensors if name not in names))
        place = np.array([sensors.index(name) for name in self.sensors], np.int32)
        if np.array_equal(place, np.arange(len(place))):
            return replace(self, sensors=sensors)
        moved = replace(self, sensors=sensors, sensor=place[self.sensor])
        return moved.at(np.lexsort((moved.sensor, moved.t_us, moved.entity)))

    def at(self, rows: I64 | Bool) -> Dataset:
        """Some of the rows, in this order."""
        entity, sensor = self.entity[rows], self.sensor[rows]
        return replace(self, entity=entity, sensor=sensor, t_us=self.t_us[rows], value=self.value[rows])


@dataclass(frozen=True)
class Columns:
    """Unsorted samples with names in place of indices, as a file or a topic gives them."""

    entity: Sequence[str] | np.ndarray[tuple[int], np.dtype[np.object_]]
    sensor: Sequence[str] | np.ndarray[tuple[int], np.dtype[np.object_]]
    t_us: I64
    value: F64


def sensor_dataset(columns: Columns) -> Dataset:
    """Sorted by (entity, time, sensor); of samples repeated at one time the first stands. Infinite is missing."""
    entities, entity = np.unique(np.asarray(columns.entity, object).astype(str), return_inverse=True)
    sensors, sensor = np.unique(np.asarray(columns.sensor, object).astype(str), return_inverse=True)
    return from_indices(
        tuple(map(str, entities)), tuple(map(str, sensors)), (entity, sensor, columns.t_us, columns.value)
    )


def from_indices(entities: tuple[str, ...], sensors: tuple[str, ...], columns: tuple[I64, I64, I64, F64]) -> Dataset:
    """As `sensor_dataset`, of columns (entity, sensor, t_us, value) that already hold indices."""
    entity, sensor, t_us, value = (np.asarray(column) for column in columns)
    order = np.lexsort((sensor, t_us, entity))
    entity, sensor, t_us, value = entity[order], sensor[order], t_us[order], value[order].astype(np.float64)
    again = (np.diff(entity) == 0) & (np.diff(t_us) == 0) & (np.diff(sensor) == 0)
    keep = np.concatenate([np.ones(min(1, len(entity)), bool), ~again])
    value = np.where(np.isfinite(value), value, np.nan)[keep]
    return Dataset(
        "sensors", entities, sensors, {}, entity[keep].astype(np.int32), sensor[keep].astype(np.int32),
        t_us[keep].astype(np.int64), value,
    )  # fmt: skip


def cut(data: Dataset, spec: WindowSpec) -> Scenes:
    """All windows of time of all entities, by the stage that cuts the live stream: nothing is late, all close.

    Entity e has the slot e. Windows without a sample do not exist.
    """
    n = len(data)
    keys = Keys({STAGE: INGEST})
    slots = keys.slots([name.encode() for name in data.entities])
    assert np.array_equal(slots, np.arange(len(slots))), "slots are given out in order"
    none, zero = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    samples = Samples.of_rows(
        entity=data.entity, sensor=data.sensor, t_us=data.t_us, value=data.value, offset=np.arange(n), clock_us=zero,
        seq=none, end=np.zeros(n, bool),
    )  # fmt: skip
    windows = TimeWindows(spec, _FOREVER_US, _FOREVER_US, Limits(pending_samples=n + 1, entities=len(slots) + 1), keys)
    windows.update(samples, 0)
    return windows.finish().scenes


def varies(data: Dataset) -> bool:
    """Whether a sensor has two values; tokens count as one that has."""
    if data.kind == "tokens":
        return True
    valid = np.isfinite(data.value)
    sensor, value = data.sensor[valid], data.value[valid]
    first = np.full(len(data.sensors), np.nan)
    first[sensor[::-1]] = value[::-1]
    return bool((value != first[sensor]).any())


def outside(scenes: Scenes, names: Sequence[str], without: Sequence[Interval]) -> tuple[Scenes, dict[str, int]]:
    """The windows that overlap none of the intervals, and how many do, by reason.

    names: of the entities, index = slot. Raises ValueError where no window is left.
    """
    if not without or not len(scenes):
        return scenes, {}
    found = overlapping(without, scenes.entity, names, (scenes.start_us, scenes.end_us))
    keep = np.ones(len(scenes), bool)
    for rows in found.values():
        keep[rows] = False
    counts = {why: len(rows) for why, rows in found.items()}
    if not keep.any():
        said = ", ".join(f"{n} by {why}" for why, n in counts.items())
        raise ValueError(f"all {len(scenes)} windows are left out: {said}")
    return select(scenes, np.flatnonzero(keep)), counts
