"""The windows of a data set, one after another: what `training.dataset.cut` must give."""

from __future__ import annotations

from models.detector import WindowSpec
from training.dataset import Dataset

Window = tuple[int, int, int, list[tuple[int, int, float]]]  # entity, start, end, samples as (sensor, time, value)


def windows(data: Dataset, spec: WindowSpec) -> list[Window]:
    """By entity, then by time; only such as hold a sample."""
    found = []
    for entity in range(len(data.entities)):
        rows = [i for i in range(len(data)) if data.entity[i] == entity]
        if not rows:
            continue
        first, last = int(data.t_us[rows[0]]), int(data.t_us[rows[-1]])
        start = (first - spec.length_us) // spec.stride_us * spec.stride_us
        while start <= last:
            end = start + spec.length_us
            inside = [i for i in rows if start <= data.t_us[i] < end]
            if inside:
                found.append(
                    (entity, start, end, [(int(data.sensor[i]), int(data.t_us[i]), data.value[i]) for i in inside])
                )
            start += spec.stride_us
    return found
