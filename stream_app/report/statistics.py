"""What a report says of chance: how many alarms are no surprise, and whether the tail is as the threshold takes it.

In: counts, and depths of tail probabilities. Out: intervals, quantiles, fits. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F64, I64
from models.tail import cluster_of, zhang_stephens

PEAKS_MIN = 10  # fewer can't carry a law of two parameters
STEPS = 24  # initial thresholds tried


@dataclass(frozen=True)
class Interval:
    """Of a count's expectation."""

    low: float
    high: float


def garwood(count: int, level: float = 0.95) -> Interval:
    """The exact interval of a Poisson mean, given one count (Garwood, Biometrika 28:437, 1936).

    >>> interval = garwood(3)
    >>> round(interval.low, 3), round(interval.high, 3), garwood(0).low
    (0.619, 8.767, 0.0)
    """
    from scipy.special import gammaincinv  # scipy.stats would take as long to load as all the rest

    beyond = (1 - level) / 2
    low = float(gammaincinv(count, beyond)) if count else 0.0
    return Interval(low, float(gammaincinv(count + 1, 1 - beyond)))


def poisson_quantile(level: float, mean: F64) -> F64:
    """The smallest counts that a Poisson law of these means keeps to with such a probability. [n]

    >>> poisson_quantile(0.975, np.array([0.0, 1.0, 3.0])).tolist()
    [0.0, 3.0, 7.0]
    """
    from scipy.special import pdtr, pdtrik

    # Within a rounding of a whole number the next one may be found: it is gone back by one where that is enough.
    count = np.ceil(pdtrik(level, np.maximum(mean, 1e-300)))
    less = np.maximum(count - 1, 0.0)
    found: F64 = np.where(pdtr(less, mean) >= level, less, count)
    return found


@dataclass(frozen=True)
class Quantiles:
    """Excess depths [n], ascending, beside those of an exponential law with their 95 % band."""

    expected: F64
    seen: F64
    low: F64
    high: F64


def exponential_quantiles(excess: F64, points: int = 400) -> Quantiles:
    """For a QQ plot. Of many values some are drawn, the largest all. [n >= 1]"""
    from scipy.special import betaincinv

    seen = np.sort(excess)
    n = len(seen)
    at = np.unique(np.concatenate([np.linspace(0, n - 1, points).astype(int), np.arange(max(0, n - 50), n)]))
    low, high = (-np.log1p(-betaincinv(at + 1, n - at, q)) for q in (0.025, 0.975))
    return Quantiles(-np.log1p(-(at + 0.5) / n), seen[at], low, high)


def cluster_peaks(depth: F64, entity: I64, place: I64, gap: int) -> F64:
    """The largest depth of each run of exceedances; rows by entity and place, which counts its windows. [n]"""
    if not len(depth):
        return np.empty(0)
    apart = np.concatenate([[0], np.cumsum(np.diff(entity) != 0)]) * (int(place.max()) + gap + 2)
    cluster = cluster_of(place + apart, gap)
    peaks: F64 = np.maximum.reduceat(depth, np.flatnonzero(np.diff(cluster, prepend=-1)))
    return peaks


@dataclass(frozen=True)
class Stability:
    """A law fitted above each initial threshold: shape and scale with their standard errors, and from how many."""

    threshold: F64
    n: I64
    shape: F64
    shape_error: F64
    scale: F64
    scale_error: F64


def stability(peaks: F64, lowest: float) -> Stability:
    """Fits a generalised Pareto law above rising thresholds (Coles 2001, 4.3.4). Errors are asymptotic."""
    ordered = np.sort(peaks[peaks > lowest])
    highest = ordered[-PEAKS_MIN] if len(ordered) > PEAKS_MIN else lowest
    threshold = np.linspace(lowest, highest, STEPS) if highest > lowest else np.empty(0)
    threshold = threshold[threshold < ordered[-1:].max(initial=-np.inf)]  # peaks may all be the same
    fits = [zhang_stephens(ordered[ordered > u] - u) for u in threshold]
    n = len(ordered) - np.searchsorted(ordered, threshold, side="right")
    shape, scale = np.array([f.shape for f in fits]), np.array([f.scale for f in fits])
    errors = (1 + shape) / np.sqrt(n), scale * np.sqrt(2 * np.maximum(1 + shape, 0) / n)
    return Stability(threshold, n.astype(np.int64), shape, errors[0], scale, errors[1])
