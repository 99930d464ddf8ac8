"""Own references: what an entity itself did some time ago, beside the training's references of a distance part.

In: patches of frames, and the entities' rows. Out: distances. Remembers: the patches, in the rows; hundreds of kB per
entity, so this is for few entities, and off unless the recipe says `references: online`.

Every `every`-th live frame of an entity leaves its patch in a ring. A patch joins the references `lag` frames later, so
that an anomaly does not make itself normal, and leaves them when it is no longer among the newest `kept`. Which patches
a frame sees depends on the entity's count of frames alone, not on how frames came in calls.

    patches left      | | | | | | | | | | | | | | | |
    seen by frame k       |<----- kept ----->|<- lag ->k
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.parts import NEIGHBOURS, DistancePart, Views
from models.scenes import F32, F64, I64

OWN = "own_"  # prefix of the fields in an entity's row


@dataclass(frozen=True)
class OwnPace:
    """In live frames of an entity, but for `kept`."""

    lag: int
    every: int
    kept: int  # patches that are seen at one time

    @property
    def slots(self) -> int:
        """Of the ring: those seen, those that wait, and the newest."""
        return self.kept + -(-self.lag // self.every) + 1


def layout(parts: dict[str, DistancePart], pace: OwnPace) -> list[tuple[str, type, tuple[int, ...]]]:
    """Fields of an entity's row."""
    return [(OWN + name, np.float32, (pace.slots, part.shape.width)) for name, part in parts.items()]


def distances(part: DistancePart, views: Views, at: I64, own: tuple[F32, I64, I64], pace: OwnPace) -> F64:
    """Mean distance to the nearest of training's and own references. [n]

    at: frames of which entity i has the rows first[i]:first[i + 1]. own: the entities' rings [e, slots, width], `first`
    and how many live frames each had before. The rings are brought up to date.
    """
    (ring, first, before), x = own, part.patches(views, at)
    nearest = part.nearest(views, at)
    owner = np.repeat(np.arange(len(before)), np.diff(first))
    count = np.arange(len(at)) - first[owner] + before[owner]  # live frames of the entity before this one
    newest = (count - pace.lag + 1) // pace.every - 1  # patch j was left by frame j * every + every - 1
    edges = np.flatnonzero((np.diff(newest) != 0) | (np.diff(owner) != 0)) + 1
    out: F64 = nearest.mean(1)
    for rows in np.split(np.arange(len(at)), edges):  # `every` frames see the same patches: one product for them
        if not len(rows) or newest[rows[0]] < NEIGHBOURS - 1:
            continue
        e, last = int(owner[rows[0]]), int(newest[rows[0]])
        seen = np.arange(max(0, last - pace.kept + 1), last + 1)
        here = first[e] + seen * pace.every + pace.every - 1 - before[e]  # where in this call it is left; else earlier
        points = np.where((here >= first[e])[:, None], x[np.maximum(here, 0)], ring[e, seen % pace.slots])
        gaps = _gaps(part, x[rows], points, views.present[at[rows]])
        both = np.concatenate([nearest[rows], gaps], 1)
        out[rows] = np.partition(both, NEIGHBOURS - 1, 1)[:, :NEIGHBOURS].mean(1)
    _leave(ring, x, (first, before), pace)
    return out


def _gaps(part: DistancePart, x: F32, points: F32, present: NDArray[np.bool_]) -> F64:
    """Distances [n, m] of patches [n, width] to others [m, width], through the sensors present."""
    seen = np.repeat(present, part.shape.bins, axis=1).astype(np.float64)
    x64, p64 = x.astype(np.float64) * seen, points.astype(np.float64)
    squared = (x64 * x64).sum(1)[:, None] - 2 * x64 @ p64.T + seen @ (p64 * p64).T
    wider = part.shape.sensors / np.maximum(present.sum(1), 1)
    return np.asarray(np.sqrt(np.maximum(squared, 0) * wider[:, None]))


def _leave(ring: F32, x: F32, frames: tuple[I64, I64], pace: OwnPace) -> None:
    """Puts the patches that the call's frames leave into the rings."""
    first, before = frames
    for e, n in enumerate(np.diff(first)):  # once per entity; few by choice
        made = np.arange(before[e] // pace.every, (before[e] + n) // pace.every)[-pace.slots :]
        ring[e, made % pace.slots] = x[first[e] + made * pace.every + pace.every - 1 - before[e]]
