"""Token view: the networks' hidden states as points that can be clustered: unit length, then the main directions.

In: hidden states [n, h]. Out: points [n, width]. Fitted by `fit_view`, then frozen.
Unit length first: how long a mean state is says how uniform the window was, not what it did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32

WIDTH = 16  # as many directions told system calls' programs apart as well as 32 did, and HDBSCAN slows with each


@dataclass(frozen=True)
class View:
    """A projection onto the main directions of what it was fitted to."""

    mean: F32  # [h]
    directions: F32  # [h, width]


def fit_view(hidden: F32, width: int = WIDTH) -> View:
    """Principal directions of unit vectors [n, h], n >= 1; fewer than `width` where n or h is smaller."""
    unit = _unit(hidden)
    mean = unit.mean(0)
    rows = np.linalg.svd((unit - mean).astype(np.float64), full_matrices=False)[2][:width]
    # The sign of a direction is chance: its largest entry is made positive, so that equal data give equal views.
    sign = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])
    return View(mean, (rows * sign[:, None]).T.astype(np.float32))


def embed(view: View, hidden: F32) -> F32:
    """[n, h] -> [n, width]."""
    return ((_unit(hidden) - view.mean) @ view.directions).astype(np.float32)


def _unit(hidden: F32) -> F32:
    length = np.linalg.norm(hidden, axis=1, keepdims=True)
    unit: F32 = (hidden / np.maximum(length, 1e-12)).astype(np.float32)
    return unit
