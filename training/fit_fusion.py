"""Fits the fusion network of `models.fusion`: pretrain, freeze, fuse, fine-tune, in one flat loop.

In: runs of frames, and what is to be learned. Out: `FusionFit`. Remembers: nothing. The same seed gives the same.

    pretrain    each encoder by itself
    fuse        the encoders frozen, everything behind them
    fine-tune   everything, in small steps
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.fusion import SCORES_MAX, Fusion, FusionShape
from models.scenes import F32, F64
from models.sights import targets
from stream_app.recipe import Losses
from training.augment import blocks, view
from training.descent import LEARNING_RATE, Descent, rate
from training.fit_forecast import Run
from training.pretraining import Batch, Heads, encoder_losses, fusion_losses
from training.stretches import draw

STRETCHES, JUDGED = 16, 4  # stretches in a batch, frames judged in each; fewer where there are many sensors
HIDE = 0.1  # share of (sensor, 8 frames) blocks hidden from the network while it learns
PRETRAINED, FUSED = 0.35, 0.75  # of the steps when the encoders freeze, and when they thaw
FINE = 0.2  # of the learning rate, while everything moves
ENCODERS = ("encoders.", "heads.")
CLIPPED = 12.0  # of an input: one wild value must not be all that a batch is about


@dataclass(frozen=True)
class FusionFit:
    """curve [steps] of the weighted sum; last: the mean of each loss over the last tenth of the steps it was met in."""

    net: Fusion
    curve: F64
    skipped: int
    last: dict[str, float]


def fit_fusion(runs: list[F32], shape: FusionShape, wanted: tuple[Losses, Fusion | None], how: Run) -> FusionFit:
    """Trains on runs of frames [f, c, 4] as `models.sights.inputs` gives them, each an entity's own.

    wanted: the losses, and a network of the same shape to go on from, encoders frozen, in small steps; None: anew.

    Raises ValueError where no run is longer than the network looks back, or the loss is not finite again and again.
    """
    losses, start = wanted
    runs = [np.clip(run, -CLIPPED, CLIPPED) for run in runs if len(run) > shape.reach]
    if not runs:
        raise ValueError(f"the fusion network needs a run of more than {shape.reach} frames")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        net, heads = Fusion(shape).to(how.device), Heads(shape).to(how.device)
    if start is not None:
        net.load_state_dict(start.state_dict())
    every = dict(net.named_parameters()) | {f"heads.{name}": w for name, w in heads.named_parameters()}
    weights = {name: weight for name, weight in losses.model_dump().items() if weight > 0}
    descent, rng = Descent(every), np.random.default_rng(how.ranks.seed(how.seed))
    curve, seen = np.full(how.steps, np.nan), dict[str, list[float]]()
    freeze, thaw = (0, how.steps) if start else (round(PRETRAINED * how.steps), round(FUSED * how.steps))
    for step in range(how.steps):
        batch = _batch(_draw(runs, shape, rng), shape, rng, how.device)
        if step < freeze:
            phase, names, peak = (0, freeze), [n for n in every if n.startswith(ENCODERS)], LEARNING_RATE
            found = encoder_losses(net, heads, batch, set(weights))
        elif step < thaw:
            phase, names = (freeze, thaw), [n for n in every if not n.startswith("encoders.")]
            peak = FINE * LEARNING_RATE if start else LEARNING_RATE
            found = fusion_losses(net, heads, batch, set(weights), frozen=True)
        else:
            phase, names, peak = (thaw, how.steps), list(every), FINE * LEARNING_RATE
            found = fusion_losses(net, heads, batch, set(weights), frozen=False)
        loss = sum((weights[name] * value for name, value in found.items()), torch.zeros((), device=how.device))
        loss.requires_grad_() if not loss.requires_grad else None
        gradients = torch.autograd.grad(loss, [every[n] for n in names], materialize_grads=True)
        total = loss.detach()
        how.ranks.average([total, *gradients])
        curve[step] = float(total)
        if descent.is_finite(curve[step], step):
            descent.move(names, gradients, rate(step - phase[0], phase[1] - phase[0], peak))
            for name, value in found.items():
                seen.setdefault(name, []).append(float(value.detach()))
    last = {name: float(np.mean(values[-max(1, how.steps // 10) :])) for name, values in seen.items()}
    return FusionFit(net.to("cpu").eval().requires_grad_(False), curve, descent.skipped, last)


def _draw(runs: list[F32], shape: FusionShape, rng: np.random.Generator) -> F32:
    """Stretches [b, t + 1, c, 4]: one frame more than is judged."""
    frames = int(np.clip(4 * SCORES_MAX // (shape.sensors * shape.tokens), 4, STRETCHES * JUDGED))
    b = min(STRETCHES, frames)
    return draw(runs, shape.reach + max(1, frames // b), b, rng)


def _batch(drawn: F32, shape: FusionShape, rng: np.random.Generator, device: str) -> Batch:
    """Everything that a step learns from."""
    clear, n = drawn[:, :-1], drawn.shape[1] - shape.reach
    bins = targets(clear[..., 0], shape.spacing)[:, -n:]
    hidden = clear * blocks(clear.shape, HIDE, rng)
    arrays = (clear, hidden, view(clear, rng), view(clear, rng), drawn[:, -n:, :, 0], bins, clear[:, -n:, :, 3])
    tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device) for a in arrays]
    return Batch(tensors[0], tensors[1], (tensors[2], tensors[3]), tensors[4], tensors[5], tensors[6])
