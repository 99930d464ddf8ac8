"""Sights: what the networks say of a call's frames, computed once and used by parts, embedding and explanation.

In: nothing. Out: `Sights`, made by `models.networks`. Remembers: nothing. No torch: detectors without the fusion
network never load it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.rates import BINS
from models.scenes import F32, I64, Bool


@dataclass(frozen=True, eq=False)
class Forecasted:
    """Of the forecasting network, frame by frame; zeros before it has its context."""

    guess: F32  # [f, c] of this frame, from those before
    code: F32  # [f, CODE] the state just before this frame


@dataclass(frozen=True, eq=False)
class Fused:
    """Of the fusion network, frame by frame; zeros before it has its context."""

    forecast: F32  # [f, c] of this frame, from those before
    masked: F32  # [f, c, BINS] each sensor's bins that end at this frame, from the other sensors
    code: F32  # [f, CODE]


@dataclass(frozen=True, eq=False)
class Sights:
    """None: the detector has no such network."""

    tcn: Forecasted | None = None
    fusion: Fused | None = None


def at_frames(sights: Sights, at: I64, other: Sights) -> Sights:
    """Where it is of the frames `at`, what the other sights say; both of the same networks. A copy."""
    tcn, fusion = sights.tcn, sights.fusion
    if tcn is not None and other.tcn is not None:
        tcn = Forecasted(_put(tcn.guess, at, other.tcn.guess), _put(tcn.code, at, other.tcn.code))
    if fusion is not None and other.fusion is not None:
        pairs = [(getattr(fusion, name), getattr(other.fusion, name)) for name in ("forecast", "masked", "code")]
        fusion = Fused(*(_put(mine, at, theirs) for mine, theirs in pairs))
    return Sights(tcn, fusion)


def _put(mine: F32, at: I64, theirs: F32) -> F32:
    out = mine.copy()
    out[at] = theirs[at]
    return out


def inputs(table: tuple[F32, F32, F32], present: Bool) -> F32:
    """Frames as the fusion network reads them, from mean, spread and slope [f, c] each. [f, c, 4]"""
    return np.stack([*table, present.astype(np.float32)], -1)


def targets(mean: F32, spacing: int) -> F32:
    """Means of the BINS bins of so many frames that end at each frame, oldest first. [..., f, c] -> [..., f, c, BINS]

    The first BINS * spacing - 1 frames lack some of theirs and are not to be used.
    """
    total = np.cumsum(mean, -2, dtype=np.float64)
    total = np.concatenate([np.zeros_like(total[..., :1, :]), total], -2)
    end = np.arange(1, mean.shape[-2] + 1)
    ends = [np.maximum(end - spacing * back, 0) for back in range(BINS - 1, -1, -1)]
    bins = [total[..., e, :] - total[..., np.maximum(e - spacing, 0), :] for e in ends]
    return (np.stack(bins, -1) / spacing).astype(np.float32)
