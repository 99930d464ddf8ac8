"""Energy distance: whether two samples of vectors come from one law, with a threshold of stated false-alarm rate.

In: vectors. Out: a distance, and the distance that chance gives. Remembers: nothing.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F64


def distances(a: F64, b: F64) -> F64:
    """Euclidean distances of all pairs. [n, width], [m, width] -> [n, m]"""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: F64 = np.sqrt(np.maximum(squared, 0.0))
    return found


def energy_distance(a: F64, b: F64) -> float:
    """2 E|A-B| - E|A-A'| - E|B-B'| of samples [n, width], [m, width]; zero where they are one law's (Szekely 2013)."""
    return float(2 * distances(a, b).mean() - distances(a, a).mean() - distances(b, b).mean())


def chance_distance(baseline: F64, n: int, false_alarms: float, rng: np.random.Generator) -> float:
    """The energy distance that n of the baseline's vectors [m, width] have from the others in a share of draws.

    false_alarms: that share, say 1e-3; the threshold is the largest of 1 / false_alarms - 1 draws, so that it holds for
    vectors that are exchangeable with the baseline's. Windows that overlap are not: thin them first. n < m.
    """
    m, draws = len(baseline), max(1, round(1 / false_alarms) - 1)
    apart = distances(baseline, baseline)
    chosen = np.zeros((draws, m))
    np.put_along_axis(chosen, rng.random((draws, m)).argsort(axis=1)[:, :n], 1.0, axis=1)
    rows = chosen @ apart
    within = (rows * chosen).sum(axis=1)
    across = rows.sum(axis=1) - within
    others = apart.sum() - within - 2 * across
    found = 2 * across / (n * (m - n)) - within / n**2 - others / (m - n) ** 2
    return float(found.max())
