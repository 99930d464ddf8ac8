"""Augmentations: another view of the same stretch, for losses that ask what two views have in common.

In: stretches of frames [b, t, c, 4] (mean, spread, slope, present). Out: the same shape. Remembers: nothing.
The set is that of Um et al. 2017 (arXiv:1706.00527) and Le Guennec et al. 2016, with the sizes below; what is hidden
is hidden as an absent sensor is: everything zero, `present` too. Randomness is passed in.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F32

JITTER = 0.05  # standard deviation of what is added, in scaled units
SCALE = 0.1  # standard deviation of the factor, per stretch and sensor
MASK, MASK_FRAMES = 0.1, 8  # share of (sensor, 8 frames) blocks that is hidden
CUTOUT = 0.15  # of the stretch: one run of frames hidden in all sensors
WARP, KNOTS = 0.2, 4  # how far the pace of time strays, at so many points
Rng = np.random.Generator


def view(x: F32, rng: Rng) -> F32:
    """All of them in turn."""
    for change in (time_warp, scale, jitter, mask, cutout):
        x = change(x, rng)
    return x


def jitter(x: F32, rng: Rng) -> F32:
    """Noise on the means of sensors that are present."""
    out = x.copy()
    noise = rng.normal(0, JITTER, x.shape[:3]).astype(np.float32)
    out[..., 0] += noise * x[..., 3]
    return out


def scale(x: F32, rng: Rng) -> F32:
    """Means, spreads and slopes times a factor near one, the same over the stretch."""
    factor = np.exp(rng.normal(0, SCALE, (len(x), 1, x.shape[2], 1))).astype(np.float32)
    return np.concatenate([x[..., :3] * factor, x[..., 3:]], -1)


def mask(x: F32, rng: Rng) -> F32:
    """Random blocks of (sensor, MASK_FRAMES frames) hidden."""
    return x * blocks(x.shape, MASK, rng)


def blocks(shape: tuple[int, ...], share: float, rng: Rng) -> F32:
    """One, and zero in a random `share` of the blocks of (sensor, MASK_FRAMES frames). [b, t, c, 1]"""
    b, t, c, _ = shape
    kept = rng.random((b, -(-t // MASK_FRAMES), c)) >= share
    return np.repeat(kept, MASK_FRAMES, axis=1)[:, :t, :, None].astype(np.float32)


def cutout(x: F32, rng: Rng) -> F32:
    """One run of frames hidden in all sensors, but never a stretch's last frame."""
    b, t = x.shape[:2]
    size = max(1, round(CUTOUT * t))
    start = rng.integers(0, max(1, t - size), b)[:, None]
    at = np.arange(t)
    hidden = (at >= start) & (at < np.minimum(start + size, t - 1))
    return np.where(hidden[:, :, None, None], np.float32(0), x)


def time_warp(x: F32, rng: Rng) -> F32:
    """Time runs now faster, now slower; the last frame stays in its place. Values between frames are interpolated."""
    b, t = x.shape[:2]
    if t < 2:
        return x.copy()
    pace = np.exp(rng.normal(0, WARP, (b, KNOTS)))
    knot = np.linspace(0, KNOTS - 1, t - 1)
    low = np.minimum(knot.astype(int), KNOTS - 2)
    speed = pace[:, low] * (1 - (knot - low)) + pace[:, low + 1] * (knot - low)  # [b, t - 1]
    passed = np.concatenate([np.zeros((b, 1)), np.cumsum(speed, 1)], 1)
    position = passed * (t - 1) / passed[:, -1:]  # [b, t] ascending from 0 to t - 1
    before = np.minimum(position.astype(int), t - 2)
    share = (position - before)[:, :, None, None].astype(np.float32)
    rows = np.arange(b)[:, None]
    out = x[rows, before] * (1 - share) + x[rows, before + 1] * share
    out[..., 3] = x[rows, before + (share[..., 0, 0] >= 0.5), :, 3]  # present or not, nothing between
    return np.where(out[..., 3:] > 0, out, 0).astype(np.float32)
