"""Scenes: what a closed window holds, as columns. The one form in which data reaches a network, live and in training.

In: nothing. Out: `Scenes`, made by `stream_app.windows.timed`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

PER_SAMPLE = ("sensor", "t_us", "value")  # columns of `Scenes`


@dataclass(frozen=True)
class Scenes:
    """`w` closed windows of any number of entities, and the `n` samples they hold, each sample once.

    Windows are sorted by (entity, order of closing). Samples are sorted by (entity, t_us, sensor) for sensors and by
    (entity, order of arrival) for tokens, so window `i` holds exactly the rows `first[i]:last[i]`, and windows that
    overlap share rows. Windows without any sample do not exist.
    """

    # one per window
    entity: I32  # the entity's slot (see stream_app.keys); windows of one entity are neighbours
    start_us: I64  # half-open [start_us, end_us) of event time; for tokens the times of the first and last token
    end_us: I64
    position: I64  # index in the session of the window's first token; 0 for windows of time
    first: I64  # rows of the samples, half-open
    last: I64
    first_offset: I64  # smallest and largest offset of the records that the samples came in; -1 where there are none
    last_offset: I64
    ended: Bool  # the entity's last window: its session is known to be over (tokens: the end is part of the sequence)

    # one per sample
    sensor: I32  # index in the detector's list of sensors; 0 for tokens
    t_us: I64
    value: F64  # in the sensor's own unit, NaN where missing; for tokens the id in the vocabulary

    def __len__(self) -> int:
        return len(self.entity)


def no_scenes() -> Scenes:
    """Zero windows and zero samples: what an empty batch gives."""
    i32, i64 = np.empty(0, np.int32), np.empty(0, np.int64)
    return Scenes(i32, i64, i64, i64, i64, i64, i64, i64, np.empty(0, bool), i32, i64, np.empty(0))


def select(scenes: Scenes, at: I64) -> Scenes:
    """Some of the windows, ascending, with the samples that they hold."""
    if len(at) == len(scenes):
        return scenes
    border = np.zeros(len(scenes.t_us) + 1, np.int64)
    np.add.at(border, scenes.first[at], 1)
    np.add.at(border, scenes.last[at], -1)
    held = np.cumsum(border)[:-1] > 0
    moved = np.append(0, np.cumsum(held))
    columns = {f.name: getattr(scenes, f.name) for f in fields(Scenes)}
    columns = {name: column[held] if name in PER_SAMPLE else column[at] for name, column in columns.items()}
    return Scenes(**columns | {name: moved[columns[name]] for name in ("first", "last")})


def join_scenes(parts: list[Scenes]) -> Scenes:
    """Several parts end to end. At least one."""
    before = np.cumsum([0, *(len(p.t_us) for p in parts)])[:-1].tolist()
    moved = [replace(p, first=p.first + n, last=p.last + n) for p, n in zip(parts, before, strict=True)]
    return Scenes(*(np.concatenate([getattr(p, f.name) for p in moved]) for f in fields(Scenes)))
