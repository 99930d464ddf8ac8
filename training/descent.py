"""Descent: the steps that all sensors' networks are trained by: AdamW, clipped, on one cycle of the rate.

In: parameters and gradients. Out: nothing; parameters change in place. Remembers: the moments of the gradients.
AdamW after Loshchilov, Hutter 2019 (arXiv:1711.05101); one cycle after Smith, Topin 2019 (arXiv:1708.07120). torch's
own optimisers would load its compiler first, for seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEARNING_RATE = 5e-3
CLIP, DECAY = 1.0, 0.01  # of the gradient's length; of the weights
BAD_STEPS_MAX = 10  # steps with a non-finite loss are skipped; more of them end the run
UP = 0.3  # of a cycle the rate rises


def rate(step: int, steps: int, peak: float = LEARNING_RATE) -> float:
    """One cycle: up over the first 30 % of the steps and down to nothing, both as cosines."""
    up = UP * steps
    if step < up:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * step / up)) / 2)
    return peak * (1 + math.cos(math.pi * (step - up) / (steps - up))) / 2


class Descent:
    """AdamW over named parameters, of which each step may move others: a frozen one keeps its moments."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        import torch

        self.parameters = parameters
        self.skipped = 0
        self._moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in parameters.items()}
        self._taken = dict.fromkeys(parameters, 0)

    def is_finite(self, loss: float, step: int) -> bool:
        """Whether the step can be taken; raises ValueError where too many could not."""
        if np.isfinite(loss):
            return True
        self.skipped += 1
        if self.skipped > BAD_STEPS_MAX:
            raise ValueError(f"the loss was not finite in {self.skipped} of {step + 1} steps; training ended")
        return False

    def move(self, names: Sequence[str], gradients: Sequence[Any], rate: float) -> None:
        """One step of the named parameters against their gradients, which are clipped together."""
        import torch

        zero = torch.zeros((), device=gradients[0].device)
        length = float(torch.sqrt(sum(((g * g).sum() for g in gradients), zero)))
        clip = min(1.0, CLIP / max(length, 1e-12))
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                self._taken[name] += 1
                _adamw(self.parameters[name], gradient * clip, self._moments[name], (rate, self._taken[name]))


def _adamw(w: Any, gradient: Any, moments: tuple[Any, Any], at: tuple[float, int]) -> None:
    """One step, in place."""
    (rate, n), (mean, square) = at, moments
    mean.mul_(0.9).add_(gradient, alpha=0.1)
    square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    w.mul_(1 - rate * DECAY)
    w.addcdiv_(mean / (1 - 0.9**n), (square / (1 - 0.999**n)).sqrt_().add_(1e-8), value=-rate)
