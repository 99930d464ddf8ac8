"""TCN encoder: what a fast sensor did, bin by bin, from every frame of it.

In: frames of some sensors. Out: features per bin, and a vector. Remembers: nothing.
Causal dilated convolutions with residual connections after Bai, Kolter, Koltun 2018 (arXiv:1803.01271), without their
normalisation, and without padding: a feature uses `RECEPTIVE` frames and nothing later. All sensors of a rate share
the weights; what a sensor is, is added later, by its own vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.rates import DILATIONS, KERNEL, Rate

CHANNELS = 4  # mean, spread, slope, and whether the sensor is present


class TcnEncoder(nn.Module):
    """Features of a fast rate."""

    def __init__(self, rate: Rate, width: int) -> None:
        super().__init__()
        self.back = rate.back
        self.first = nn.Conv1d(CHANNELS, width, KERNEL)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, KERNEL, dilation=d) for d in DILATIONS)
        self.weigh = nn.Parameter(torch.zeros(rate.bins))  # how much each bin counts in the vector

    def forward(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Of frames [b, t, k, CHANNELS] the last n: features [b, n, k, bins, width] and vectors [b, n, k, width]."""
        b, t, k, channels = x.shape
        h = x.permute(0, 2, 3, 1).reshape(b * k, channels, t)  # [b * k, CHANNELS, t]
        h = torch.relu(self.first(h))
        for block in self.blocks:
            later = block(h)
            h = h[..., h.shape[-1] - later.shape[-1] :] + torch.relu(later)
        end = h.shape[-1]  # [b * k, width, end]: the last column belongs to the last frame
        bins = [h[..., end - n - back : end - back] for back in self.back]
        features = torch.stack(bins, -1).reshape(b, k, -1, n, len(self.back))  # [b, k, width, n, bins]
        features = features.permute(0, 3, 1, 4, 2)  # [b, n, k, bins, width]
        return features, torch.einsum("bnkiw,i->bnkw", features, self.weigh.softmax(0))
