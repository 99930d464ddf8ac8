"""Levels: each part of the score smoothed, then measured against the entity's own level some time ago.

In: ratios of parts, frame by frame. Out: the same, on a scale where the entity's normal is the training's normal.
Remembers: a `LEVEL` row per entity, the same whatever the calls.

A part's ratio r is smoothed by an exponential mean of span w. The level is an exponential mean e of that with time
constant T, which starts at the training's mean b0 and is read D frames late, so that an anomaly does not hide itself:
score = r * b0 / e. The delay line holds every (D/16)-th level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scenes import F32, F64, I64

SLOTS = 17  # of the delay line: 16 steps back, and the present
BLOCK = 64  # frames per product of the exponential mean


@dataclass(frozen=True)
class Pace:
    """In frames. `span` [p] of the smoothing; `time` constant of the level; `delay` before it is read."""

    span: F64
    time: float
    delay: int
    start: F64  # [p] b0, above zero

    @property
    def slot(self) -> int:
        """Frames between two entries of the delay line."""
        return max(1, self.delay // (SLOTS - 1))


def layout(parts: int) -> list[tuple[str, type, tuple[int, ...]]]:
    """Fields of an entity's row."""
    return [
        ("frames", np.int64, ()),
        ("smooth", np.float64, (parts,)),
        ("level", np.float64, (parts,)),
        ("line", np.float32, (SLOTS, parts)),
    ]


def initial(row: NDArray[np.void], pace: Pace) -> None:
    """Writes the start into the row of an entity never seen: everything at the training's mean."""
    row["smooth"] = row["level"] = row["line"] = pace.start


def update(ratio: F64, first: I64, rows: NDArray[np.void], pace: Pace) -> F64:
    """Scores [n, p] of ratios [n, p]; entity i has the rows first[i]:first[i + 1]. `rows` are brought up to date."""
    smooth = exponential(ratio, first, 2 / (pace.span + 1), rows["smooth"])
    level = exponential(smooth, first, np.full(ratio.shape[1], 1 / pace.time), rows["level"])
    counts, slot = np.diff(first), pace.slot
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.arange(len(ratio)) - first[owner] + rows["frames"][owner]  # frames of the entity before this one
    entry = before // slot - (SLOTS - 1)
    at = entry * slot - 1 - rows["frames"][owner]  # where in this call the entry was made; negative: before it
    here = np.clip(at + first[owner], 0, max(0, len(ratio) - 1))
    elder = rows["line"][owner, np.maximum(entry, 0) % SLOTS].astype(np.float64)
    # an entry goes through the line's float32 whether it was made in this call or not: calls must not show
    late = np.where((at >= 0)[:, None], level[here].astype(np.float32).astype(np.float64), elder)
    late = np.where((entry < 1)[:, None], pace.start, late)
    _advance(rows, (smooth, level), first, slot)
    return smooth * pace.start / np.maximum(late, pace.start * 1e-3)


def _advance(rows: NDArray[np.void], means: tuple[F64, F64], first: I64, slot: int) -> None:
    """Moves the rows to the end of their frames."""
    counts = np.diff(first)
    some = np.flatnonzero(counts)
    end = rows["frames"] + counts
    for back in range(SLOTS):
        entry = end // slot - back
        at = entry * slot - 1 - rows["frames"]
        made = np.flatnonzero((at >= 0) & (entry >= 1) & (counts > 0))
        rows["line"][made, entry[made] % SLOTS] = means[1][first[made] + at[made]]
    rows["smooth"][some], rows["level"][some] = means[0][first[some + 1] - 1], means[1][first[some + 1] - 1]
    rows["frames"] = end


def exponential(x: F64, first: I64, weight: F64, start: F64) -> F64:
    """y[i] = y[i-1] + weight * (x[i] - y[i-1]) down each entity's rows, from start [entity, p]. [n, p]

    Blocks of 64 frames of all entities at once: y = M x + decay * y before, M lower triangular.
    """
    out, counts = np.empty_like(x), np.diff(first)
    lag = np.arange(BLOCK)[:, None] - np.arange(BLOCK)
    keep = 1 - weight
    matrix = np.where(lag[None] >= 0, weight[:, None, None] * keep[:, None, None] ** np.maximum(lag, 0), 0.0)
    decay = keep[None] ** np.arange(1, BLOCK + 1)[:, None]  # [block, p]
    state, active, at = start.astype(np.float64).copy(), np.flatnonzero(counts), 0
    while len(active):
        take = np.minimum(counts[active] - at, BLOCK)
        size = int(take.max())
        index = (first[active] + at)[:, None] + np.minimum(np.arange(size), take[:, None] - 1)
        y = np.einsum("pij,ejp->eip", matrix[:, :size, :size], x[index]) + decay[None, :size] * state[active][:, None]
        valid = np.arange(size) < take[:, None]
        out[index[valid]] = y[valid]
        state[active] = y[np.arange(len(active)), take - 1]
        at += BLOCK
        active = active[counts[active] > at]
    return out


def quantile_scale(held_out: F32 | F64) -> F64:
    """The 99 % quantile of each part's held-out scores [n, p] (NaN: none), above zero: a ratio of one."""
    return np.maximum(np.nanquantile(np.asarray(held_out, np.float64), 0.99, axis=0), 1e-9)
