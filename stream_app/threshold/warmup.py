"""How an entity without a population to borrow from begins: 100 values give its level, 256 its tail.

In: the first values, kept in the ring until peaks take their place. Out: the row's columns, set. Remembers: nothing.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F64, I64
from models.tail import PRIOR_SHAPE, cluster_maxima, fit_tail, initial_threshold
from stream_app.threshold.population import CONTINUOUS, DISCRETE, GATHERING, RING, SETTLING, Columns, Ring, Settings

SETTLED_AFTER, GATHERED_AFTER = 100, RING
LEFT_OUT = 64  # first values, whose level is that of all of the first hundred
TIES_AT_START = 0.5  # above it scores are discrete
LARGEST_KEPT = 1e30  # of a residual, in the ring's float32


def gather(c: Columns, rows: I64, x: F64, residual: F64, ring: Ring) -> None:
    """Takes one more value of entities that have no tail yet: columns' `rows` [k]; x, residual [k]; ring [k, 256]."""
    age, mode = c.age[rows], c.mode[rows]
    first = rows[age == 1]
    c.level[first] = x[age == 1]
    settling = mode == SETTLING
    kept = np.where(settling, x - c.level[rows], residual)
    kept = np.clip(np.where(np.isfinite(kept), kept, 0.0), -LARGEST_KEPT, LARGEST_KEPT)
    ring[np.arange(len(rows)), age.astype(int) - 1] = kept
    for i in np.flatnonzero(settling & (age == SETTLED_AFTER)):
        _settle(c, rows[i], ring[i])


def _settle(c: Columns, row: int, ring: Ring) -> None:
    """Level and scale of the first hundred, kept as differences from the first; they become residuals."""
    first = ring[:SETTLED_AFTER].astype(np.float64)
    middle = float(np.median(first))
    scale = float(np.abs(first - middle).mean())
    c.level[row] += middle
    c.scale[row] = c.scale_long[row] = scale
    c.mode[row] = GATHERING
    ring[:SETTLED_AFTER] = (first - middle) / scale if scale > 0 else 0.0


def begin_tail(c: Columns, row: int, x: float, ring: Ring, settings: Settings) -> None:
    """All of the ring's residuals are there: discrete scores begin at their last value, others with a fitted tail."""
    residual = ring[LEFT_OUT:].astype(np.float64)
    ring[:] = 0.0
    c.n_peaks[row] = c.head[row] = c.unfitted[row] = c.peak[row] = 0.0
    if c.ties[row] > TIES_AT_START or not c.scale[row] > 0:
        c.mode[row], c.level[row], c.scale[row], c.initial[row] = DISCRETE, x, 1.0, 0.0
        c.start_rate[row] = 0.5 / (GATHERED_AFTER + 1)
        c.tail_scale[row], c.tail_shape[row], c.guard[row] = 1.0, PRIOR_SHAPE, 0.0
        return
    at = np.arange(len(residual))
    threshold = initial_threshold(residual, at, settings.rate, settings.gap)
    peaks = cluster_maxima(residual, at, threshold, settings.gap)
    tail = fit_tail(peaks)
    ring[: len(peaks)] = peaks
    c.mode[row], c.initial[row] = CONTINUOUS, threshold
    c.tail_scale[row], c.tail_shape[row] = tail.scale, tail.shape
    c.n_peaks[row] = c.head[row] = len(peaks)
