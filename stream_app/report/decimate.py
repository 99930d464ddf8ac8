"""Long series made short enough to draw, without losing what stands out.

In: times and values. Out: per bucket of time the extremes, or the row that is highest. Remembers: nothing.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F64, I64


class Envelope:
    """Lowest and highest value per bucket of time, of several series; filled batch by batch, in bounded memory."""

    def __init__(self, n_series: int, start: int, end: int, buckets: int) -> None:
        """Times in [start, end]."""
        self._start, self._width = start, max(1, -(-(end - start + 1) // buckets))
        self._low = np.full((n_series, buckets), np.inf)
        self._high = np.full((n_series, buckets), -np.inf)

    def add(self, series: I64, t: I64, value: F64) -> None:
        """Samples; those without a value or outside of the time are left out. [n]"""
        bucket = (t - self._start) // self._width
        fine = np.isfinite(value) & (bucket >= 0) & (bucket < self._low.shape[1])
        at = series[fine], bucket[fine]
        np.minimum.at(self._low, at, value[fine])
        np.maximum.at(self._high, at, value[fine])

    def series(self, i: int) -> tuple[I64, F64, F64]:
        """Times (of the buckets' middles), lowest and highest values, of the buckets that have any."""
        some = np.flatnonzero(np.isfinite(self._low[i]))
        return self._start + some * self._width + self._width // 2, self._low[i, some], self._high[i, some]


def zigzag(t: I64, low: F64, high: F64) -> tuple[I64, F64]:
    """One line through both extremes of each bucket; where they are one, one point."""
    both = low != high
    n = 1 + both
    at = np.repeat(np.arange(len(t)), n)
    second = np.diff(at, prepend=-1) == 0
    return t[at], np.where(second, high[at], low[at])


def highest(t: I64, value: F64, n: int) -> I64:
    """The row of the highest value in each of n stretches of time, ascending; all rows where there are few. [<= n]"""
    if len(t) <= n:
        return np.arange(len(t))
    bucket = (t - t.min()) * n // (int(t.max() - t.min()) + 1)
    order = np.lexsort((-value, bucket))
    first = np.flatnonzero(np.diff(bucket[order], prepend=-1))
    return np.sort(order[first])
