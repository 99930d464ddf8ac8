"""Frames: what every part of the sensors' detector is fitted to, and which of it may be learned from.

In: views of the training data. Out: `Frames`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.networks import Networks
from models.parts import OF_ONE, OF_OTHERS, SEVERAL, SINGLE, Views, settled
from models.scenes import F64, I64
from stream_app.recipe import DEFAULT, Recipe
from training.folds import folds
from training.look import Look
from training.ranks import ALONE, Ranks

BLOCK = 2_000  # frames that stay together where not all are learned from
FULL_MIN = 24  # frames with all their context; with fewer those without are learned from as well


@dataclass(frozen=True)
class Frames:
    """The training frames: views of all, and which of them are learned from."""

    views: Views
    at: I64  # [n] live frames, in order of (entity, time)
    entity: I64  # [n]
    look: Look
    seed: int
    recipe: Recipe = DEFAULT
    device: str = "cpu"
    ranks: Ranks = ALONE
    start: Networks | None = None  # to go on from
    steps_max: int | None = None  # of each network's training; None: as many as are of use
    plenty: bool = False  # so many frames that the strangest need not be believed

    @property
    def single(self) -> bool:
        return bool(self.views.squashed.shape[1] == 1)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of the score's parts. Raises ValueError where the recipe names one that the data can't have."""
        wrong = set(self.recipe.parts or ()) & set(OF_OTHERS if self.single else OF_ONE)
        if wrong:
            needs = "several sensors" if self.single else "a single sensor"
            raise ValueError(f"training.parts: {', '.join(sorted(wrong))} is for {needs}")
        return self.recipe.parts or (SINGLE if self.single else SEVERAL)

    def folds(self, embargo: int) -> list[tuple[I64, I64]]:
        """Folds with something to learn from and to judge; too few frames: everything judges itself."""
        made = [(a, b) for a, b in folds(self.entity, embargo) if len(a) and len(b)]
        everything = np.arange(len(self.at))
        return made if sum(len(b) for _, b in made) == len(self.at) else [(everything, everything)]


def evenly(n: int, most: int) -> I64:
    """Rows of n of which at most so many are kept: blocks of BLOCK neighbours, spread evenly; ascending."""
    if n <= most:
        return np.arange(n)
    block = min(BLOCK, most)
    starts = np.linspace(0, n - block, most // block).astype(int)
    return np.unique((starts[:, None] + np.arange(block)).ravel())


def thinned(frames: Frames, most: int) -> Frames:
    """At most so many of the frames, evenly."""
    index = evenly(len(frames.at), most)
    return replace(frames, at=frames.at[index], entity=frames.entity[index])


def learnable(frames: Frames, needs: int) -> Frames:
    """The frames at which a part that needs so many can speak; all of them, where there are hardly any."""
    full = settled(frames.views.present, frames.at, needs)
    return replace(frames, at=frames.at[full], entity=frames.entity[full]) if full.sum() >= FULL_MIN else frames


def spread(frames: Frames, used: Frames, held: F64) -> F64:
    """Held-out scores of the frames used, at their places among all; NaN at the others. [n]"""
    out = np.full(len(frames.at), np.nan)
    out[np.searchsorted(frames.at, used.at)] = held
    return out
