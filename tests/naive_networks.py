"""Slow, obvious twins of what the networks are trained with."""

from __future__ import annotations

import math

import numpy as np

from models.rates import BINS


def targets(mean: np.ndarray, spacing: int, frame: int) -> np.ndarray:
    """[c, BINS] of one frame."""
    ends = [frame + 1 - spacing * back for back in range(BINS - 1, -1, -1)]
    return np.stack([mean[end - spacing : end].mean(0) for end in ends], -1)


def nt_xent(one: np.ndarray, two: np.ndarray, temperature: float) -> float:
    z = [v / np.linalg.norm(v) for v in [*one, *two]]
    b, total = len(one), 0.0
    for i in range(2 * b):
        other = (i + b) % (2 * b)
        weights = [math.exp(float(z[i] @ z[j]) / temperature) for j in range(2 * b) if j != i]
        total -= math.log(math.exp(float(z[i] @ z[other]) / temperature) / sum(weights))
    return total / (2 * b)


def info_nce(predicted: np.ndarray, came: np.ndarray, temperature: float) -> float:
    p, z = ([v / np.linalg.norm(v) for v in given] for given in (predicted, came))
    total = 0.0
    for i in range(len(p)):
        weights = [math.exp(float(p[i] @ other) / temperature) for other in z]
        total -= math.log(weights[i] / sum(weights))
    return total / len(p)
