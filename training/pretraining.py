"""Pretraining: what each encoder is taught by itself, before any sensor sees another. None of it enters the bundle.

In: what `Fusion.encode` gives. Out: losses by name. Remembers: the weights of heads that are thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from models.fusion import CODE, Fusion, FusionShape
from models.rates import BINS
from training.contrast import info_nce, nt_xent

BETA = 0.5  # of the smooth L1 loss, in scaled units, as for the forecasting network
PROJECTED = 16  # values in which views are compared


@dataclass(frozen=True)
class Batch:
    """b stretches of t frames, of which the last n are judged. Tensors [b, t, c, 4] unless said."""

    clear: Tensor
    hidden: Tensor  # with blocks hidden
    views: tuple[Tensor, Tensor]  # augmented
    after: Tensor  # [b, n, c] means of the frame after each judged one
    bins: Tensor  # [b, n, c, BINS] means of the bins that end at each
    there: Tensor  # [b, n, c] whether the sensor is present

    @property
    def n(self) -> int:
        return int(self.after.shape[1])


class Heads(nn.Module):
    """Per rate: forecast, own bins, projection, and the prediction of later bins. And a projection of the code."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        width, rates = shape.encoder_width, shape.rates
        self.forecast = nn.ModuleList(nn.Linear(width, 1) for _ in rates)
        self.bins = nn.ModuleList(nn.Linear(width, BINS) for _ in rates)
        self.project = nn.ModuleList(_projection(width) for _ in rates)
        self.later = nn.ModuleList(nn.Linear(width, width) for _ in rates)
        self.code = _projection(CODE)


def encoder_losses(net: Fusion, heads: Heads, batch: Batch, wanted: set[str]) -> dict[str, Tensor]:
    """The wanted losses of each encoder alone, mean over rates."""
    losses: dict[str, list[Tensor]] = {name: [] for name in sorted(wanted)}
    clear = net.encode(batch.clear, batch.n)
    hidden = net.encode(batch.hidden, batch.n) if "masked" in wanted else clear
    views = [net.encode(view, 1) for view in batch.views] if "contrast" in wanted else []
    for i, rate in enumerate(net.shape.rates):
        sensors = list(rate.sensors)
        (features, vector), there = clear[i], batch.there[:, :, sensors]
        if "forecast" in wanted:
            losses["forecast"].append(among(heads.forecast[i](vector)[..., 0], batch.after[:, :, sensors], there))
        for name, given in (("bins", vector), ("masked", hidden[i][1])):
            if name in wanted:
                losses[name].append(among(heads.bins[i](given), batch.bins[:, :, sensors], there))
        if "contrast" in wanted:
            one, two = (heads.project[i](view[i][1][:, 0]).transpose(0, 1) for view in views)  # [k, b, PROJECTED]
            losses["contrast"].append(nt_xent(one, two))
        if "cpc" in wanted:
            last = features[:, -1].permute(1, 2, 0, 3)  # [b, k, bins, w] -> [k, bins, b, w]
            ahead = last.shape[1] // 2  # so far that the later bin saw hardly a frame that the elder one saw
            losses["cpc"].append(info_nce(heads.later[i](last[:, :-ahead]), last[:, ahead:]))
    return {name: torch.stack(each).mean() for name, each in losses.items()}


def fusion_losses(net: Fusion, heads: Heads, batch: Batch, wanted: set[str], frozen: bool) -> dict[str, Tensor]:
    """The wanted losses of the whole; `frozen`: the encoders learn nothing. CPC is the encoders' alone."""

    def through(x: Tensor, n: int) -> Tensor:
        return net.fuse(x, _encoded(net, x, n, frozen)).code[:, -1]

    losses, said = {}, net.fuse(batch.hidden, _encoded(net, batch.hidden, batch.n, frozen))
    if "forecast" in wanted:
        losses["forecast"] = among(said.forecast, batch.after, batch.there)
    if "masked" in wanted:
        losses["masked"] = among(said.masked, batch.bins, batch.there)
    if "bins" in wanted:
        losses["bins"] = among(said.bins, batch.bins, batch.there)
    if "contrast" in wanted:
        losses["contrast"] = nt_xent(*(heads.code(through(view, 1)) for view in batch.views))
    return losses


def among(said: Tensor, came: Tensor, there: Tensor) -> Tensor:
    """Smooth L1 over the sensors that are present; said and came [b, n, k] or [b, n, k, BINS], there [b, n, k]."""
    loss = smooth_l1_loss(said, came, beta=BETA, reduction="none").reshape(*there.shape, -1).mean(-1)
    return (loss * there).sum() / there.sum().clamp(min=1)


def _encoded(net: Fusion, x: Tensor, n: int, frozen: bool) -> list[tuple[Tensor, Tensor]]:
    with torch.set_grad_enabled(not frozen):
        return net.encode(x, n)


def _projection(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTED))
