"""What happens to data in life: samples lost, sensors that die or stick, anomalies in what was taken for normal.

In: `Dataset`s. Out: `Dataset`s, and tables of them. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from models.scenes import F64, I64
from training.dataset import Dataset, from_indices
from training.detection_metrics import events
from training.labelled import Judged

PIECES = 4  # an anomaly put into training data takes at most one part in so many of what is to be put there
TRIES = 1_000


def thinned(data: Dataset, share: float, rng: np.random.Generator) -> Dataset:
    """Without a share of the samples, chosen by chance."""
    return data.at(rng.random(len(data)) >= share)


def gone(data: Dataset, sensor: str) -> Dataset:
    """Without a sensor's samples."""
    return data.at(data.sensor != data.sensors.index(sensor)) if sensor in data.sensors else data


def constant(data: Dataset, sensor: str, normal: Dataset) -> Dataset:
    """A sensor that stands still at the middle of what it showed in normal data."""
    if sensor not in data.sensors:
        return data
    usual = normal.value[normal.sensor == normal.sensors.index(sensor)]
    here = (data.sensor == data.sensors.index(sensor)) & np.isfinite(data.value)
    return replace(data, value=np.where(here, np.nanmedian(usual), data.value))


def contaminated(
    normal: Dataset, series: Sequence[tuple[Judged, Dataset]], share: float, rng: np.random.Generator
) -> Dataset:
    """Normal data in which a share of the time is replaced by pieces of the series' anomalies, at random places."""
    bounds = normal.bounds()
    spans = [(int(normal.t_us[a]), int(normal.t_us[b - 1])) for a, b in pairwise(bounds)]
    length = np.array([end - start for start, end in spans], np.float64)
    left_us = share * float(length.sum())
    piece_us = left_us / PIECES
    found = [(judged, data, a, b) for judged, data in series for a, b in events(judged.label)]
    spoiled = normal
    for _ in range(TRIES):
        if left_us <= 0 or not found:
            break
        judged, data, a, b = found[int(rng.integers(len(found)))]
        start_us = int(judged.t_us[a])
        end_us = min(int(judged.t_us[b - 1]) + 1, start_us + int(min(piece_us, left_us)) + 1)
        entity = int(rng.choice(len(spans), p=length / length.sum()))
        room = spans[entity][1] - spans[entity][0] - (end_us - start_us)
        if room <= 0:
            continue
        to_us = spans[entity][0] + int(rng.integers(room))
        spoiled = _replaced(spoiled, _piece(normal, data, (start_us, end_us)), (entity, to_us - start_us))
        left_us -= end_us - start_us
    return spoiled


def to_table(data: Dataset) -> pa.Table:
    """A long table, in order of time."""
    order = np.argsort(data.t_us, kind="stable")
    names = (data.entities, data.sensors)
    entity, sensor = (
        pa.DictionaryArray.from_arrays(pa.array(column[order]), pa.array(words)).cast(pa.string())
        for column, words in zip((data.entity, data.sensor), names, strict=True)
    )
    t = pa.array(data.t_us[order], pa.timestamp("us", tz="UTC"))
    return pa.table({"entity": entity, "sensor": sensor, "t": t, "value": data.value[order]})


def _piece(normal: Dataset, data: Dataset, span: tuple[int, int]) -> tuple[I64, I64, F64]:
    """Sensor (as the normal data number them), time and value of the samples in a span, of sensors both have."""
    place = {name: i for i, name in enumerate(normal.sensors)}
    index = np.array([place.get(name, -1) for name in data.sensors])
    rows = np.flatnonzero((data.t_us >= span[0]) & (data.t_us < span[1]))
    rows = rows[index[data.sensor[rows]] >= 0]
    return index[data.sensor[rows]].astype(np.int64), data.t_us[rows], data.value[rows]


def _replaced(data: Dataset, piece: tuple[I64, I64, F64], to: tuple[int, int]) -> Dataset:
    """The data with a piece, moved in time to an entity, in place of what that had there."""
    sensor, t_us, value = piece
    if not len(t_us):
        return data
    entity, by_us = to
    moved = t_us + by_us
    rest = data.at((data.entity != entity) | (data.t_us < moved.min()) | (data.t_us > moved.max()))
    columns = (
        np.concatenate([rest.entity.astype(np.int64), np.full(len(moved), entity)]),
        np.concatenate([rest.sensor.astype(np.int64), sensor]),
        np.concatenate([rest.t_us, moved]),
        np.concatenate([rest.value, value]),
    )
    return from_indices(data.entities, data.sensors, columns)
