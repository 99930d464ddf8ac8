"""Patches: the last frames of a table as one vector, decimated. What distances are measured on.

In: frames, and at which of them a patch ends. Out: vectors. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, I64

WIDTH_MAX = 1_600  # values in a patch: principal components cost width^3
BINS_MAX = 63  # a longer patch is averaged over groups of frames: distances need the form, not every sample
SPREAD_FLOOR = 0.1  # in units of the training's own spread: flat patches are not blown up


@dataclass(frozen=True)
class PatchShape:
    """frames: length; sensors; level: share of the patch's mean that is removed; normal: divided by its own spread."""

    frames: int
    sensors: int
    level: float = 0.0
    normal: bool = False

    @property
    def group(self) -> int:
        """Frames averaged into one value."""
        return -(-self.frames // max(1, min(BINS_MAX, WIDTH_MAX // self.sensors)))

    @property
    def bins(self) -> int:
        return self.frames // self.group

    @property
    def width(self) -> int:
        return self.bins * self.sensors


def patches(frames: F32, ends: I64, shape: PatchShape) -> F32:
    """[n, sensors * bins], sensor by sensor, oldest bin first. `ends`: each patch's last frame of `frames` [f, c]."""
    n, sensors = len(ends), frames.shape[1]
    size = shape.bins * shape.group
    if not n:
        return np.empty((0, shape.width), np.float32)
    view = np.lib.stride_tricks.sliding_window_view(frames, size, axis=0)  # [f - size + 1, c, size], no copy
    out = view[ends - size + 1].reshape(n, sensors, shape.bins, shape.group)
    out = out.mean(3, dtype=np.float32) if shape.group > 1 else out[..., 0]
    if shape.level:
        out = out - shape.level * out.mean(2, keepdims=True)
    if shape.normal:
        out = out / np.maximum(out.std(2, keepdims=True), SPREAD_FLOOR)
    return np.ascontiguousarray(out.reshape(n, shape.width), np.float32)
