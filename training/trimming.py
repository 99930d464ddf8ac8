"""Trimming: frames that are strange among their own, so that data with unnoticed anomalies do not teach them.

In: held-out scores of the training frames, part by part. Out: which to leave out, or how much each shall teach.
Remembers: nothing.

On the demo's fleet one frame in 700 of normal data lies beyond the limit, and half of those in a fault, with their
neighbours nearly all; of a server's normal day (asd) one in 60. So data with few such frames are left as they are:
their heavy tail is theirs, and must be calibrated, not cut off.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F64, I64, Bool

LIMIT = (
    6.0  # of log scores over their median, in distances of the upper quartile from it: robust to a quarter of poison
)
FEWEST = 0.02  # share of the frames beyond the limit below which nothing is left out
MOST = 0.1  # share that is called strange at most: beyond it, it is what the data are like
TRUSTED = 1.3  # middle errors up to which a frame teaches in full
FLOOR = 0.02  # of a frame's weight: what nothing contradicts is learned all the same
NEAR, WIDELY = 5, 15  # frames whose mean decides: a single one may be chance
STRANGEST = 0.05  # share of the frames that have no say in a part's unit
ENOUGH = 4_000  # bins, which frames may share: of fewer, the strangest are all that is known of what is normal and rare
BEFORE = 3  # frames: smoothing and bins find an anomaly late


def strange(held: F64) -> Bool:
    """Frames beyond the limit in any part; of too many the worst. held: [n, part], NaN where a part is silent. [n]"""
    log = np.log(np.maximum(held, 1e-12))
    log = log[:, np.isfinite(log).any(0)]
    if not log.size:
        return np.zeros(len(held), bool)
    middle, upper = np.nanquantile(log, (0.5, 0.75), axis=0)
    far = np.nan_to_num((log - middle) / np.maximum(upper - middle, 1e-3), nan=0.0).max(1, initial=0.0)
    limit = max(LIMIT, float(np.quantile(far, 1 - MOST)))
    found: Bool = far > limit
    return found if found.mean() >= FEWEST else np.zeros(len(far), bool)


def weights(error: F64, entity: I64) -> F64:
    """How much each frame shall teach, by the mean squares of its error, held out: 1 as a rule, the less the more its
    neighbourhood's error stands out from its entity's middle one. [n]"""
    far = np.sqrt(_near(error, NEAR))
    far /= np.maximum(_middle(far, entity), 1e-12)
    limit = max(TRUSTED, float(np.quantile(far, 1 - MOST)))
    found: F64 = np.maximum(np.minimum(1, limit / np.maximum(far, 1e-12)) ** 3, FLOOR)
    return found


def usual(held: F64, entity: I64) -> Bool:
    """All frames but the strangest twentieth by all parts together, smoothed, as their entity is. held: [n, part], NaN
    where silent. [n]"""
    log = np.log(np.maximum(held, 1e-12))
    log = log[:, np.isfinite(log).any(0)]
    above = log - np.nanmedian(log, 0)
    far = _near(np.nansum(above, 1) / np.maximum(np.isfinite(above).sum(1), 1), WIDELY)
    far -= _middle(far, entity)
    found: Bool = far <= np.quantile(far, 1 - STRANGEST)
    return found


def _middle(x: F64, entity: I64) -> F64:
    """Of each frame's entity. [n]"""
    kinds, owner = np.unique(entity, return_inverse=True)
    return np.array([np.median(x[owner == i]) for i in range(len(kinds))])[owner]


def _near(x: F64, n: int) -> F64:
    """Mean of each n neighbours; at the ends of those there are."""
    window = np.ones(n)
    mean: F64 = np.convolve(x, window, "same")[: len(x)] / np.convolve(np.ones(len(x)), window, "same")[: len(x)]
    return mean


def spread(found: Bool, at: I64, entity: I64, after: int) -> Bool:
    """The frames found, those just before, and those that look back on them: `after` frames. [n] each

    at: where each frame lies in its table, ascending.
    """
    out = found.copy()
    hits = np.flatnonzero(found)
    if not len(hits):
        return out
    for side in ("left", "right"):  # the frame found last before each, and the one found next after it
        near = np.searchsorted(hits, np.arange(len(at)), side=side) - (side == "right")
        there = (near >= 0) & (near < len(hits))
        hit = hits[np.clip(near, 0, len(hits) - 1)]
        gap = at - at[hit]
        out |= there & (entity[hit] == entity) & (gap <= after) & (gap >= -BEFORE)
    return out
