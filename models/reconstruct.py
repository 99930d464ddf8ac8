"""Reconstruction: what each sensor should show, given all the others, now and a little before. Closed form.

In: frames with their spread and slope. Out: each sensor's squared, standardised error. Remembers: nothing.

Inputs x are every sensor's value at 0, 1, 2, 3 bins back and, where bins hold several samples, its spread and slope
now; features are x, x^2 - 1 and a constant. One ridge regression B = Q A'y, Q = (A'A + 0.1 n I)^-1, knows every sensor
from all features; the regression without a set S of features follows from it, exactly, by a block inverse:
    B_without = B - Q[:, S] Q[S, S]^-1 B[S]
so a sensor is left out of its own reconstruction, and sensors that are absent out of everybody's, without a new fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.scenes import F32, F64, I64, Bool

LAGS = (0, 1, 2, 3)  # in bins
RIDGE = 0.1
FLOOR = 0.02  # added to a sensor's held-out error, which can be nothing at all
FEATURES_MAX = 1_600  # beyond it first the squares, then the lags are left out: the inverse costs features^3
VIEW_MAX = 12.0  # of an input; asinh of 80,000 spreads: squares must not explode where training had no values


@dataclass(frozen=True)
class Inputs:
    """Which features there are, of how many sensors."""

    sensors: int
    per_bin: int  # frames in a bin
    spread: bool
    lags: tuple[int, ...] = LAGS
    squares: bool = True

    @classmethod
    def of(cls, sensors: int, per_bin: int, spread: bool) -> Inputs:
        """The richest choice within the bound."""
        choices = ((LAGS, True), (LAGS, False), ((0,), False))
        made = [cls(sensors, per_bin, spread, lags, squares) for lags, squares in choices]
        return next((inputs for inputs in made if inputs.count <= FEATURES_MAX), made[-1])

    @property
    def count(self) -> int:
        return self.sensors * (len(self.lags) + 2 * self.spread) * (1 + self.squares) + 1

    @property
    def owner(self) -> I64:
        """The sensor each feature comes from; -1 for the constant."""
        return np.append(np.tile(np.arange(self.sensors), (self.count - 1) // self.sensors), -1)

    @property
    def reach(self) -> int:
        """Frames looked back on."""
        return max(self.lags) * self.per_bin


@dataclass(frozen=True)
class Table:
    """Frames, [f, c] each, in the view of the detector: squashed by asinh."""

    mean: F32
    std: F32
    slope: F32


def features(table: Table, at: I64, inputs: Inputs) -> F32:
    """[n, inputs.count] at the given frames, each at least `inputs.reach` from the start."""
    columns = [table.mean[at - lag * inputs.per_bin] for lag in inputs.lags]
    if inputs.spread:
        columns += [table.std[at], table.slope[at]]
    x = np.clip(np.concatenate(columns, 1), -VIEW_MAX, VIEW_MAX)
    parts = [x, x * x - 1] if inputs.squares else [x]
    return np.concatenate([*parts, np.ones((len(x), 1), np.float32)], 1)


@dataclass(frozen=True, eq=False)  # equal is what is the same: the cache below keys on it
class Reconstruction:
    """Q and B of the module's text, and each sensor's held-out error."""

    inputs: Inputs
    inverse: F64  # [features, features]
    solution: F64  # [features, c]
    rms: F64  # [c]

    def weights(self, present: Bool) -> F32:
        """Each present sensor's regression on the other present ones. [features, c]; zero for the absent."""
        return _weights(self, present.tobytes())


@lru_cache(maxsize=64)
def _weights(known: Reconstruction, pattern: bytes) -> F32:
    present, owner = np.frombuffer(pattern, bool), known.inputs.owner
    gone = np.isin(owner, np.flatnonzero(~present))
    out = np.zeros(known.solution.shape, np.float32)
    for sensor in np.flatnonzero(present):  # a loop over sensors, once per pattern of absence
        out[:, sensor] = without(known, int(sensor), gone | (owner == sensor))
    return out


def without(known: Reconstruction, sensor: int, gone: Bool) -> F64:
    """The regression of one sensor that uses none of the features `gone`. [features]"""
    s = np.flatnonzero(gone)
    correction = np.linalg.solve(known.inverse[np.ix_(s, s)], known.solution[s, sensor])
    weights: F64 = known.solution[:, sensor] - known.inverse[:, s] @ correction
    weights[s] = 0
    return weights


def fit(x: F32, y: F32, weight: F64) -> tuple[F64, F64]:
    """Q [features, features] and B [features, c] of frames' features [n, features], sensors [n, c] and weights [n]."""
    weighted = np.asarray(x, np.float64).T * weight
    gram = weighted @ x + RIDGE * len(x) * np.eye(x.shape[1])
    inverse = np.linalg.inv(gram)
    inverse = (inverse + inverse.T) / 2
    return inverse, inverse @ (weighted @ np.asarray(y, np.float64))


def expected(known: Reconstruction, table: Table, at: I64, present: Bool) -> F32:
    """What every sensor should show at frames `at`, all of which have the same sensors present. [n, c]"""
    return features(table, at, known.inputs) @ known.weights(present)


def errors(known: Reconstruction, table: Table, at: I64, present: Bool) -> F32:
    """(error / (held-out error + floor))^2. [n, c]; zero for the absent."""
    return errors_of(known, features(table, at, known.inputs), table.mean[at], present)


def errors_of(known: Reconstruction, x: F32, mean: F32, present: Bool) -> F32:
    """As `errors`, of features [n, features] and what the sensors showed [n, c]."""
    gap = (mean - x @ known.weights(present)) / (known.rms + FLOOR)
    return np.where(present, gap**2, 0).astype(np.float32)


def errors_without(known: Reconstruction, x: F32, mean: F32, present: Bool) -> F32:
    """As `errors_of` one frame, of features [1, features] and [c], for several choices of present sensors [m, c]."""
    gap = (mean - x @ _stacked(known, present.tobytes()))[:, 0] / (known.rms + FLOOR)
    return np.where(present, gap**2, 0).astype(np.float32)


@lru_cache(maxsize=4)
def _stacked(known: Reconstruction, patterns: bytes) -> F32:
    """The weights of several choices. [m, features, c]"""
    present = np.frombuffer(patterns, bool).reshape(-1, len(known.rms))
    return np.stack([known.weights(pattern) for pattern in present])


@dataclass(frozen=True)
class Subspace:
    """Principal components of patches."""

    centre: F32  # [d]
    components: F32  # [d, r], orthonormal


def fit_subspace(x: F32, share: float = 0.9) -> Subspace:
    """As many components as hold `share` of the variance of x [n, d]. d is bounded by the patches' shape."""
    centre = x.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov((x - centre).T.astype(np.float64)).reshape(x.shape[1], -1))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    rank = int(np.searchsorted(np.cumsum(values), share * values.sum()) + 1)
    # signs are eigh's own choice; ours is that the largest entry is positive, so that machines agree
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0))
    components = (vectors * np.where(signs == 0, 1, signs))[:, : min(rank, len(values))]
    return Subspace(centre.astype(np.float32), components.astype(np.float32))


def residual(known: Subspace, x: F32) -> F32:
    """Squared distance to the subspace, per coordinate. [n, d] -> [n, d]"""
    gap = x - known.centre
    beyond = gap - (gap @ known.components) @ known.components.T
    squared: F32 = (beyond * beyond).astype(np.float32)
    return squared


def restricted(known: Subspace, columns: Bool) -> Subspace:
    """The subspace seen through some coordinates only: what is left of the components, made orthonormal again."""
    q, r = np.linalg.qr(known.components[columns].astype(np.float64))
    keep = np.abs(np.diag(r)) > 1e-6
    return Subspace(known.centre[columns], q[:, keep].astype(np.float32))
