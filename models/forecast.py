"""Forecast: a causal dilated convolution network that predicts every sensor's next bin from the bins before.

In: scaled frames. Out: the squared, standardised error of each sensor's forecast. Remembers: nothing.
Temporal convolutions after Bai, Kolter, Koltun 2018 (arXiv:1803.01271), without padding: an output uses the `MEMORY`
frames before it and nothing else. A second head reconstructs recent bin means from a narrow code: it is a task that
steadies training, and its code is the network's state. `forward` is written for arrays and tensors alike, so that
training (torch) and serving (numpy) run the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.scenes import F32, F64

WIDTH, KERNEL = 32, 3
DILATIONS = (1, 2, 4, 8, 16)
MEMORY = 1 + (KERNEL - 1) * (1 + sum(DILATIONS))  # 65 frames of input for one output
CODE, HIDDEN = 16, 64
RECENT, RECENT_BINS = 32, 8  # the code reconstructs the last 32 frames as 8 means
FLOOR = 0.02  # added to the standardised error: a sensor forecast perfectly in training may still be off by rounding

Function = Callable[[Any], Any]
Weights = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Forecast:
    """The network's weights and each sensor's error in training."""

    weights: Mapping[str, F32]
    rms: F64  # [c]


def shapes(sensors: int) -> dict[str, tuple[int, ...]]:
    """The weights' shapes, [kernel, in, out] for convolutions."""
    convolutions: dict[str, tuple[int, ...]] = {
        f"conv{i}": (KERNEL, WIDTH, WIDTH) for i in range(1, len(DILATIONS) + 1)
    }
    heads: dict[str, tuple[int, ...]] = {"forecast": (WIDTH, sensors), "code": (WIDTH, CODE)}
    memory: dict[str, tuple[int, ...]] = {"hidden": (CODE, HIDDEN), "recent": (HIDDEN, RECENT_BINS * sensors)}
    matrices: dict[str, tuple[int, ...]] = {"conv0": (KERNEL, sensors, WIDTH)}
    matrices |= convolutions | heads | memory
    return matrices | {f"{name}_bias": shape[-1:] for name, shape in matrices.items()}


def forward(x: Any, w: Weights, rectify: Function, tanh: Function) -> tuple[Any, Any]:
    """Of frames [..., t, c]: forecasts of the next frame [..., t - MEMORY + 1, c] and codes [..., t - MEMORY + 1, 16].

    The first of both stands at frame MEMORY - 1; the last forecast is of the frame after the end.
    """
    h = rectify(_convolve(x, w["conv0"], w["conv0_bias"], 1))
    for i, dilation in enumerate(DILATIONS, 1):
        h = h[..., (KERNEL - 1) * dilation :, :] + rectify(_convolve(h, w[f"conv{i}"], w[f"conv{i}_bias"], dilation))
    return h @ w["forecast"] + w["forecast_bias"], tanh(h @ w["code"] + w["code_bias"])


def recall(code: Any, w: Weights, rectify: Function) -> Any:
    """The recent past as the code remembers it: RECENT_BINS means of every sensor. [..., 16] -> [..., 8 * c]"""
    return rectify(code @ w["hidden"] + w["hidden_bias"]) @ w["recent"] + w["recent_bias"]


def _convolve(x: Any, kernel: Any, bias: Any, dilation: int) -> Any:
    """Causal convolution without padding, as one product per tap. [..., t, in] -> [..., t - 2 * dilation, out]"""
    t = x.shape[-2] - (KERNEL - 1) * dilation
    total = x[..., :t, :] @ kernel[0]
    for tap in range(1, KERNEL):
        total = total + x[..., tap * dilation : tap * dilation + t, :] @ kernel[tap]
    return total + bias


def run(known: Forecast, frames: F32) -> tuple[F32, F32]:
    """Forecast of each frame of runs [..., t, c] from those before [..., t - MEMORY, c], and the code just before it.

    The first of a run is that of its frame MEMORY: runs must be longer.
    """
    guess, code = forward(frames[..., :-1, :], known.weights, lambda a: np.maximum(a, 0), np.tanh)
    return guess, code


def errors(known: Forecast, frames: F32, guess: F32) -> F32:
    """(|error| / rms + floor)^2 of frames and their forecasts, [n, c] each. [n, c]"""
    gap = np.abs(frames - guess) / known.rms + FLOOR
    out: F32 = (gap * gap).astype(np.float32)
    return out
