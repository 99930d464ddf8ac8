"""The tail's arithmetic: a generalised Pareto law of excesses, its fit, its probabilities, and runs of exceedances.

In: excesses over an initial threshold, or residuals. Out: shape, scale, depths and quantiles. Remembers: nothing.

The shape has scipy's sign: positive for heavy tails, negative for bounded ones; the location is always zero. The
*depth* of an excess e is -ln P(excess > e) = ln(1 + shape * e / scale) / shape: added to -ln of the rate at which
clusters of exceedances start, it gives -ln of the rate of clusters that reach e.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scenes import F64, I64

PRIOR_SHAPE = 0.1
PRIOR_WEIGHT = 30.0  # of so many excesses: shape ~ N(0.1, 0.2^2), since its variance is (1 + shape)^2 / n
FEWEST_TO_FIT = 5  # below it the shape is the prior's alone
SHAPE_MIN = -0.9  # at -1 and below the likelihood has no maximum in the scale
SHAPE_MAX = 1.5  # a Cauchy law has 1; more is a fit gone astray
SCALE_WITHOUT_EXCESSES = 0.5  # mean absolute deviations: between a normal law's 0.45 and an exponential's 1
_FLAT = 1e-9  # shapes nearer to zero are taken as zero, where the formulas become 0/0
_NEWTON_STEPS = 60


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto law of excesses; `scale` in the unit of the excesses."""

    shape: float
    scale: float


def fit_tail(excess: F64) -> Tail:
    """The law of positive excesses [n], the shape shrunk to a prior, the scale most likely at that shape.

    Zhang & Stephens 2009 for the shape; xi = (n xi^ + 30 * 0.1) / (n + 30), as PSIS does (Vehtari 2024).
    """
    n = len(excess)
    if n == 0:
        return Tail(PRIOR_SHAPE, SCALE_WITHOUT_EXCESSES)
    own = zhang_stephens(excess).shape if n >= FEWEST_TO_FIT else PRIOR_SHAPE
    shape = (n * own + PRIOR_WEIGHT * PRIOR_SHAPE) / (n + PRIOR_WEIGHT)
    shape = min(max(shape, SHAPE_MIN), SHAPE_MAX)
    return Tail(shape, scale_given_shape(excess, shape))


def zhang_stephens(excess: F64) -> Tail:
    """The quasi-Bayesian estimate of Zhang & Stephens (Technometrics 51:316, 2009), sections 2 and 4. [n], n >= 1.

    Their k is -shape, their theta is -shape / scale; the grid has 20 + floor(sqrt n) points.

    >>> tail = zhang_stephens(-np.log(1 - (np.arange(1000) + 0.5) / 1000))   # an exponential law's quantiles
    >>> round(tail.shape, 2), round(tail.scale, 2)
    (0.0, 1.0)
    """
    x = np.sort(excess)
    n = len(x)
    m = 20 + int(math.sqrt(n))
    largest = x[-1]
    quartile = max(x[max(0, int(n / 4 + 0.5) - 1)], 1e-12 * largest)  # keeps the grid finite
    theta = 1 / largest + (1 - np.sqrt(m / (np.arange(m) + 0.5))) / (3 * quartile)
    theta = _away_from_zero(theta, largest)
    k = _mean_log1p(-theta, x)
    likelihood = n * (np.log(-theta / k) - k - 1)
    weight = np.exp(likelihood - likelihood.max())
    best = _away_from_zero(np.array([(weight @ theta) / weight.sum()]), largest)
    shape = float(_mean_log1p(-best, x)[0])
    return Tail(shape, -shape / float(best[0]))


def scale_given_shape(excess: F64, shape: float) -> float:
    """The most likely scale of excesses [n], n >= 1, at a known shape > -1.

    It is the root s of (1 + xi) mean(x / (s + xi x)) = 1. The left side is convex and falls with s: Newton's steps,
    once left of the root, approach it from there.
    """
    lowest = max(0.0, -shape * float(excess.max())) * (1 + 1e-9)
    scale = max((1 + shape) * float(excess.mean()) * 0.7, 1.5 * lowest)
    for _ in range(_NEWTON_STEPS):
        share = excess / (scale + shape * excess)
        value = (1 + shape) * float(share.mean()) - 1
        slope = (1 + shape) * float((share / (scale + shape * excess)).mean())
        step = scale + value / slope
        step = step if step > lowest else (scale + lowest) / 2
        if abs(step - scale) <= 1e-12 * scale:
            break
        scale = step
    return scale


def depth(excess: F64, shape: F64, scale: F64) -> F64:
    """-ln P(excess > e) under each tail; all [k]; infinite beyond a bounded tail's end. `excess` >= 0, `scale` > 0."""
    stretched = shape * excess / scale
    flat = np.abs(shape) < _FLAT
    inside = stretched > -1
    curved = np.log1p(np.where(inside, stretched, 0.0)) / np.where(flat, 1.0, shape)
    found: F64 = np.where(inside, np.where(flat, excess / scale, curved), np.inf)
    return found


def excess_at(depth: F64, shape: F64, scale: F64) -> F64:
    """The excess of a given depth, the inverse of `depth`; all [k]."""
    flat = np.abs(shape) < _FLAT
    found: F64 = scale * np.where(flat, depth, np.expm1(shape * depth) / np.where(flat, 1.0, shape))
    return found


def cluster_of(at: I64, gap: int) -> I64:
    """Runs declustering: for each exceedance, given its place `at` (ascending), the number of its cluster, from 0.

    A new cluster begins more than `gap` places after the last exceedance (Coles 2001, 5.3.2).

    >>> cluster_of(np.array([0, 2, 6]), gap=2)
    array([0, 0, 1])
    """
    return np.cumsum(np.diff(at, prepend=at[:1]) > gap, dtype=np.int64)


def cluster_maxima(residual: F64, at: I64, threshold: float, gap: int) -> F64:
    """The largest excess over `threshold` of each cluster of `residual` [n], in order of their places `at` [n]."""
    above = residual > threshold
    cluster = cluster_of(at[above], gap)
    if not len(cluster):
        return np.empty(0)
    first = np.flatnonzero(np.diff(cluster, prepend=-1))
    maxima: F64 = np.maximum.reduceat(residual[above] - threshold, first)
    return maxima


def initial_threshold(residual: F64, at: I64, rate: float, gap: int) -> float:
    """The highest order statistic of `residual` [n >= 2], at places `at`, with `rate` clusters per value above it.

    Where none has so many, the one with the most: below it clusters only run into each other.
    """
    most, best = -1.0, float(residual.max())
    for threshold, found in _cluster_rates(residual, at, gap):
        if found >= rate:
            return threshold
        if found > most:
            most, best = found, threshold
    return best


def busiest_rate(residual: F64, at: I64, gap: int) -> float:
    """The most clusters per value that any threshold gives: few where a high score stays high for long."""
    return max((rate for _, rate in _cluster_rates(residual, at, gap)), default=0.0)


def _cluster_rates(residual: F64, at: I64, gap: int) -> Iterator[tuple[float, float]]:
    """Thresholds, falling, and clusters per value above each. The number of exceedances grows by 5 % a step."""
    falling = np.sort(residual)[::-1]
    k = 1
    while k < len(falling) - 1:
        cluster = cluster_of(at[residual > falling[k]], gap)
        yield float(falling[k]), (float(cluster[-1] + 1) if len(cluster) else 0.0) / len(residual)
        k = max(k + 1, int(k * 1.05))


def thinned(excess: F64, n: int) -> F64:
    """`n` excesses that stand for all of `excess` [m], m > 0: its quantiles at (i + 1/2) / n.

    Their order mixes small and large (golden-ratio steps), so that replacing them one by one takes no part of the law
    away first.
    """
    quantiles: F64 = np.quantile(excess, (np.arange(n) + 0.5) / n)
    return quantiles[np.argsort((np.arange(n) * 0.6180339887498949) % 1.0, kind="stable")]


def risk_of_budget(at_most: float, windows: float, channels: int = 1, sure: float | None = None) -> float:
    """The risk per window under which an entity has `at_most` false episodes in `windows` windows.

    at_most: on average, or, where `sure` is given (0.95), in that share of periods, counts being Poisson. `channels`
    alarm alone and share the budget.

    >>> round(risk_of_budget(1, 2016), 6), round(risk_of_budget(1, 1, sure=0.95), 3)
    (0.000496, 0.355)
    """
    mean = at_most
    if sure is not None:
        from scipy.special import pdtri  # heavy, and rarely asked for

        mean = float(pdtri(int(at_most), sure))
    return mean / (windows * channels)


def _mean_log1p(factor: F64, x: F64) -> F64:
    """mean of ln(1 + f x) over x, for each factor."""
    mean: F64 = np.log1p(factor[:, None] * x).mean(axis=1)
    return mean


def _away_from_zero(theta: F64, largest: NDArray[np.float64] | float) -> F64:
    nearest = _FLAT / largest
    moved: F64 = np.where(np.abs(theta) < nearest, nearest, theta)
    return moved
