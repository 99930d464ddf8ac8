"""Attention: fusion of sensors over tokens (sensor, bin), first within each sensor, then across sensors.

In: tokens, and which may be seen. Out: what each query found. Remembers: nothing.
Scaled dot products with several heads after Vaswani et al. 2017 (arXiv:1706.03762), normalised before (Xiong et al.
2020, arXiv:2002.04745). There is always one more token, "nothing", that everybody sees: who sees no sensor sees it.
A step that does without attention takes the plain mean of what may be seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STEPS = ("within", "across")  # of the fusion
HEADS = 2
FORBIDDEN = -1e9  # a score that no other comes near; infinity would make rows of nothing else NaN


class Attention(nn.Module):
    """Queries over tokens, then a small network on what was found; both added to the query."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_q, self.norm_t, self.norm_o = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """[n, q, width] of queries [n, q, width], tokens [n, l, width], seen [n, q, l] or [n, 1, l]."""
        n, q, width = queries.shape
        size = width // HEADS
        tokens = torch.cat([self.nothing.expand(n, 1, width), tokens], 1)  # [n, 1 + l, width]
        kv = self.key_value(self.norm_t(tokens)).reshape(n, -1, 2, HEADS, size)
        key, value = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)  # [n, HEADS, 1 + l, size]
        ask = self.query(self.norm_q(queries)).reshape(n, q, HEADS, size).transpose(1, 2)  # [n, HEADS, q, size]
        score = ask @ key.transpose(2, 3) / math.sqrt(size)  # [n, HEADS, q, 1 + l]
        score[..., 1:].masked_fill_(~seen[:, None], FORBIDDEN)
        found = (score.softmax(-1) @ value).transpose(1, 2).reshape(n, q, width)
        h: Tensor = queries + self.out(found)
        out: Tensor = h + self.mlp(self.norm_o(h))
        return out


class Mean(nn.Module):
    """As `Attention`, but everything seen weighs alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_t, self.norm_o = nn.LayerNorm(width), nn.LayerNorm(width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """As of `Attention`."""
        value = self.value(self.norm_t(torch.cat([self.nothing.expand(len(tokens), 1, -1), tokens], 1)))
        weight = torch.nn.functional.pad(seen.to(value.dtype), (1, 0), value=1.0)  # [n, q or 1, 1 + l]
        h: Tensor = queries + self.out(weight @ value / weight.sum(-1, keepdim=True))
        out: Tensor = h + self.mlp(self.norm_o(h))
        return out
