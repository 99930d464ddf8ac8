"""Stretches: what one step of a network's training sees of the runs of frames.

In: runs. Out: a batch drawn from them. Remembers: nothing.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F32, I64


def draw(runs: list[F32], longest: int, n: int, rng: np.random.Generator) -> F32:
    """`n` stretches [n, frames, ...] of one length, `longest` or that of the longest run, of runs [frames, ...] that
    hold one, in proportion to their frames."""
    length = min(longest, max(len(run) for run in runs))
    runs = [run for run in runs if len(run) >= length]
    room = np.array([len(run) - length + 1 for run in runs])
    picks: I64 = rng.integers(0, room.sum(), n)
    which = np.searchsorted(np.cumsum(room), picks, side="right")
    at = picks - (np.cumsum(room) - room)[which]
    return np.stack([runs[r][a : a + length] for r, a in zip(which, at, strict=True)])
