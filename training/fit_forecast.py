"""Fits the forecasting network of `models.forecast`: one flat loop, in minutes on a CPU, the same for the same seed.

In: runs of scaled frames. Out: `Forecast` and the training curve. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.forecast import FLOOR, MEMORY, RECENT, RECENT_BINS, Forecast, forward, recall, run, shapes
from models.scenes import F32, F64
from training.descent import LEARNING_RATE, Descent, rate
from training.ranks import ALONE, Ranks
from training.stretches import draw

STRETCH = 130  # targets per drawn stretch: twice the memory, so that most of the work is targets
BATCH = 16
BETA = 0.5  # of the smooth L1 loss, in scaled units
FROZEN = ("conv1", "conv2", "conv3")  # layers between the sensors and the longest memory: what time looks like
GENTLY = 0.1  # of the rate, where training goes on from an earlier bundle
HIDE, HIDE_FRAMES = 0.1, 8  # share of (sensor, 8 frames) blocks set to zero: no sensor is relied on alone


@dataclass(frozen=True)
class Fit:
    forecast: Forecast
    curve: F64  # [steps] loss
    skipped: int


@dataclass(frozen=True)
class Run:
    """How a network is trained, on which device, and with whom."""

    steps: int
    seed: int
    device: str = "cpu"
    ranks: Ranks = ALONE
    start: Forecast | None = None  # go on from there: lower layers frozen, at a low rate


def fit_forecast(runs: list[F32], how: Run) -> Fit:
    """Trains on runs of frames [f, c], each an entity's own; runs shorter than MEMORY + 1 give nothing.

    Raises ValueError where no run is long enough or the loss is not finite again and again.
    """
    import torch

    torch.set_num_threads(1)  # the products are small: threads that wait for each other cost more than they give
    runs = [run for run in runs if len(run) > MEMORY]
    if not runs:
        raise ValueError(f"a forecast needs a run of more than {MEMORY} frames")
    rng, sensors = np.random.default_rng(how.seed), runs[0].shape[1]
    begin, peak = _begin(how.start, _start(sensors, rng))
    weights = {n: torch.tensor(w, device=how.device, requires_grad=True) for n, w in begin.items()}
    descent, names = Descent(weights), [n for n in weights if how.start is None or not n.startswith(FROZEN)]
    rng = np.random.default_rng(how.ranks.seed(how.seed)) if how.ranks.world > 1 else rng
    curve = np.full(how.steps, np.nan)
    for step in range(how.steps):
        clear = draw(runs, MEMORY + STRETCH, BATCH, rng)
        hidden = torch.tensor(clear * _mask(clear.shape, rng), device=how.device)
        loss = _loss(hidden, torch.tensor(clear, device=how.device), weights)
        gradients = torch.autograd.grad(loss, [weights[name] for name in names])
        loss = loss.detach()
        how.ranks.average([loss, *gradients])
        curve[step] = float(loss)
        if descent.is_finite(curve[step], step):
            descent.move(names, gradients, rate(step, how.steps, peak))
    final = {name: w.detach().cpu().numpy() for name, w in weights.items()}
    return Fit(Forecast(final, _rms(final, runs, sensors)), curve, descent.skipped)


def _begin(start: Forecast | None, fresh: dict[str, F32]) -> tuple[dict[str, F32], float]:
    """Weights to begin with, and the highest rate. What has another shape now, for new sensors, begins anew."""
    if start is None:
        return fresh, LEARNING_RATE
    known = start.weights
    return {n: known[n] if known[n].shape == w.shape else w for n, w in fresh.items()}, LEARNING_RATE * GENTLY


def _loss(hidden: Any, clear: Any, weights: dict[str, Any]) -> Any:
    """Smooth L1 of the forecasts and of the recent past. Tensors: torch is imported where it is used."""
    import torch
    from torch.nn.functional import smooth_l1_loss

    guess, code = forward(hidden[:, :-1], weights, torch.relu, torch.tanh)
    recent = recall(code, weights, torch.relu)
    n, sensors = guess.shape[1], clear.shape[2]
    per_bin = RECENT // RECENT_BINS
    means = clear.unfold(1, per_bin, 1).mean(-1)  # [batch, t - 3, c]: means of 4 frames from each on
    last = torch.arange(MEMORY - 1, MEMORY - 1 + n)  # the frame each output stands at
    starts = last[:, None] - RECENT + 1 + torch.arange(0, RECENT, per_bin)
    target = means[:, starts].reshape(len(clear), n, RECENT_BINS * sensors)
    return smooth_l1_loss(guess, clear[:, MEMORY:], beta=BETA) + smooth_l1_loss(recent, target, beta=BETA)


def _start(sensors: int, rng: np.random.Generator) -> dict[str, F32]:
    """Uniform in +-1/sqrt(fan in), zero biases."""
    out = {}
    for name, shape in shapes(sensors).items():
        bound = 0.0 if name.endswith("_bias") else 1 / np.sqrt(np.prod(shape[:-1]))
        out[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return out


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> F32:
    batch, frames, sensors = shape
    blocks = rng.random((batch, -(-frames // HIDE_FRAMES), sensors)) >= HIDE
    return np.repeat(blocks, HIDE_FRAMES, axis=1)[:, :frames].astype(np.float32)


def _rms(weights: dict[str, F32], runs: list[F32], sensors: int) -> F64:
    """Root mean square error of each sensor over the training frames, never below a hundredth of the floor's scale."""
    known = Forecast(weights, np.ones(sensors))
    squared = [((frames[MEMORY:] - run(known, frames)[0]).astype(np.float64)) ** 2 for frames in runs]
    rms: F64 = np.maximum(np.sqrt(np.concatenate(squared).mean(0)), FLOOR / 10)
    return rms
