"""Residual convolution: what a sensor of a middle or slow rate did, bin by bin, from one frame per bin.

In: frames of some sensors. Out: features per bin, and a vector. Remembers: nothing.
Residual blocks of two convolutions (He et al. 2016, arXiv:1512.03385) over the few bins there are: the frames between
hold the same samples again, or none. Padded on the left only, so that a bin's feature uses that bin and elder ones.
All sensors of a rate share the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from models.rates import KERNEL, Rate
from models.tcn_encoder import CHANNELS

BLOCKS = 2  # of two convolutions of 3: a feature sees 9 bins, all there are


class ConvEncoder(nn.Module):
    """Features of a middle or slow rate."""

    def __init__(self, rate: Rate, width: int) -> None:
        super().__init__()
        self.back = rate.back
        self.first = nn.Linear(CHANNELS, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, KERNEL) for _ in range(2 * BLOCKS))
        self.weigh = nn.Parameter(torch.zeros(rate.bins))  # how much each bin counts in the vector

    def forward(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Of frames [b, t, k, CHANNELS] the last n: features [b, n, k, bins, width] and vectors [b, n, k, width]."""
        b, t, k, channels = x.shape
        bins = torch.stack([x[:, t - n - back : t - back] for back in self.back], 3)  # [b, n, k, bins, CHANNELS]
        h = self.first(bins.reshape(b * n * k, len(self.back), channels)).transpose(1, 2)  # [b * n * k, width, bins]
        for one, two in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            h = h + two(_left(torch.relu(one(_left(torch.relu(h))))))
        features = h.transpose(1, 2).reshape(b, n, k, len(self.back), -1)  # [b, n, k, bins, width]
        return features, torch.einsum("bnkiw,i->bnkw", features, self.weigh.softmax(0))


def _left(h: Tensor) -> Tensor:
    return pad(h, (KERNEL - 1, 0))
