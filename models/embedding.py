"""Embedding: a window as the vector by which it is placed among the known behaviours.

In: frames at which windows end. Out: [n, width]. Remembers: nothing.

The scaled, decimated patch in the axes of its training variance, the length of what those axes leave out, and the
network's code, where there is one. A projection without the residual coordinate would put the anomalies among the
normal windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.patches import PatchShape, patches
from models.reconstruct import Subspace
from models.scenes import F32, I64

AXES_MAX = 15  # with the residual and the code's 16 values: a width of 32 at most


@dataclass(frozen=True)
class Embedding:
    """axes: rotation of patches; scale: one over the training's spread, [width], so that the blocks weigh alike."""

    axes: Subspace
    shape: PatchShape
    scale: F32
    encoder: str = "tcn"  # whose code: none, tcn, fusion

    @property
    def width(self) -> int:
        return len(self.scale)


def raw(axes: Subspace, shape: PatchShape, squashed: F32, at: I64, code: F32) -> F32:
    """Unscaled [n, axes + 1 + k]; `code` [n, k] is the network's at those frames, k = 0: none."""
    gap = patches(squashed, at, shape) - axes.centre
    turned = gap @ axes.components
    beyond = np.sqrt(np.maximum((gap * gap).sum(1) - (turned * turned).sum(1), 0))
    return np.concatenate([turned, beyond[:, None], code], 1).astype(np.float32)


def embed(known: Embedding, squashed: F32, at: I64, code: F32) -> F32:
    """[n, width]"""
    return raw(known.axes, known.shape, squashed, at, code) * known.scale


def fit_scale(x: F32, axes: int) -> F32:
    """Of raw embeddings [n, width]: each block divided by its total spread, which keeps the proportions within it."""
    spread, blocks = x.std(0), (axes, axes + 1, x.shape[1])
    out, start = np.empty(x.shape[1], np.float32), 0
    for end in blocks:
        out[start:end] = 1 / max(float(np.sqrt((spread[start:end] ** 2).sum())), 1e-6)
        start = end
    return out
