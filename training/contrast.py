"""Contrastive losses: which of many belongs to this one.

In: tensors of vectors. Out: a loss, in nats. Remembers: nothing. Tensors: torch is imported where it is used.
"""

from __future__ import annotations

from typing import Any

TEMPERATURE = 0.2  # of NT-Xent; 0.1 to 0.5 are usual, and small batches want it high
FAR = -1e9  # of a pair that is no candidate


def nt_xent(one: Any, two: Any) -> Any:
    """Normalised, temperature-scaled cross entropy of two views of the same b things. [..., b, d] each; b >= 2.

    Chen, Kornblith, Norouzi, Hinton 2020 (arXiv:2002.05709), equation 1: each of the 2 b vectors is to find its other
    view among the 2 b - 1 others, by cosine.
    """
    import torch
    from torch.nn.functional import normalize

    b = one.shape[-2]
    z = normalize(torch.cat([one, two], -2), dim=-1)
    alike = z @ z.transpose(-1, -2) / TEMPERATURE  # [..., 2 b, 2 b]
    itself = torch.eye(2 * b, dtype=torch.bool, device=z.device)
    ln_p = alike.masked_fill(itself, FAR).log_softmax(-1)
    at = torch.arange(2 * b, device=z.device)
    return -ln_p[..., at, (at + b) % (2 * b)].mean()


def info_nce(predicted: Any, came: Any) -> Any:
    """Cross entropy of finding what came among what came in the other stretches. [..., b, d] each.

    Van den Oord, Li, Vinyals 2018 (arXiv:1807.03748), equation 4, with products of normalised vectors.
    """
    import torch
    from torch.nn.functional import normalize

    alike = normalize(predicted, dim=-1) @ normalize(came, dim=-1).transpose(-1, -2) / TEMPERATURE  # [..., b, b]
    at = torch.arange(alike.shape[-1], device=alike.device)
    return -alike.log_softmax(-1)[..., at, at].mean()
