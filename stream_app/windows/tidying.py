"""Tidying: samples that did not come in order of time are put in order, and resends are found among them.

In: pending samples of some entities, as they came. Out: the same in order, each once. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import I64
from stream_app.windows.segments import Columns, Packing


@dataclass(frozen=True)
class Tidied:
    """Rows by (group, time, sensor), and the resends that were among them: as they came, the first one counts."""

    columns: Columns
    group: I64
    resent: I64  # offsets of the resends
    origin: I64  # offsets of what they repeat


def tidied(columns: Columns, group: I64) -> Tidied:
    """Puts rows in order that lie by group, within a group as they came."""
    packing = Packing.of(columns["t_us"], int(group[-1]) + 1 if len(group) else 0)
    key = packing.own(group, columns["t_us"])
    order = _order(key, columns["sensor"])
    columns, group, key = {n: c.take(order) for n, c in columns.items()}, group[order], key[order]
    again = np.append(False, (key[1:] == key[:-1]) & (columns["sensor"][1:] == columns["sensor"][:-1]))[: len(key)]
    if not again.any():
        return Tidied(columns, group, group[:0], group[:0])
    origin = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
    resent, kept = np.flatnonzero(again), np.flatnonzero(~again)
    offset = columns["offset"]
    return Tidied({n: c.take(kept) for n, c in columns.items()}, group[kept], offset[resent], offset[origin[resent]])


def _order(key: I64, sensor: I64) -> I64:
    """By key, then sensor, then as they are."""
    n_sensors = int(sensor.max(initial=0)) + 1
    if int(key.max(initial=0)) < 2**62 // n_sensors:
        return np.argsort(key * n_sensors + sensor, kind="stable")
    return np.lexsort((sensor, key))
