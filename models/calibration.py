"""Calibration: how rare a value of a statistic is among held-out normal windows, as -ln p.

In: values of a statistic. Out: their surprise -ln P(a normal window's value is as large), in nats. Fitted, then frozen.

Empirical up to the 95 % point u, with straight lines between the values seen; beyond it an exponential tail of the
excess with mean `beta`, since otherwise everything beyond the largest value seen would be equally strange.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F64, I64

TAIL_SHARE = 0.05
N_TAIL_MIN = 5  # a mean excess of fewer values is mostly chance
N_POINTS_MAX = 4096  # in the bundle; the body is good to one rank in 4,096, and the tail is a formula


@dataclass(frozen=True)
class Calibration:
    """A rising piecewise linear function: through the points, and with slope 1 / beta beyond the last, which is u."""

    points: F64  # [k] values, ascending
    nats: F64  # [k] the surprise of each
    beta: float  # mean excess over u


def fit_calibration(values: F64, least_excess: float = 0.0) -> Calibration:
    """Of at least one value, all finite. From fewer than some 100 the tail is an extrapolation.

    least_excess: `beta` is not smaller, in the unit of the values; so that values which hardly differ do not make
    every other one strange beyond measure.
    """
    ordered = np.sort(values)
    n = len(ordered)
    n_tail = max(N_TAIL_MIN, round(n * TAIL_SHARE))
    u = float(ordered[max(0, n - n_tail - 1)])
    points: F64 = np.unique(ordered[ordered <= u])
    points = points[np.unique(np.linspace(0, len(points) - 1, N_POINTS_MAX).round().astype(np.int64))]
    as_large: I64 = n - np.searchsorted(ordered, points, side="left")
    above = ordered[ordered > u]
    # Ties can leave nothing above u; then the spread of the whole is the only scale there is.
    spread = float(np.std(ordered))
    beta = float(np.mean(above - u)) if len(above) else spread
    # Values that are all alike have no scale of their own: a thousandth of what they are is taken for one.
    least = 1e-3 * (spread + abs(u)) + 1e-12
    return Calibration(points, -np.log((as_large + 1) / (n + 1)), max(beta, least, least_excess))


def surprise(calibration: Calibration, x: F64) -> F64:
    """-ln p of each value, in nats: 0 for the least strange. Never falls with x; NaN for NaN."""
    body: F64 = np.interp(x, calibration.points, calibration.nats)
    beyond: F64 = np.maximum(0.0, x - calibration.points[-1]) / calibration.beta
    return body + beyond
