"""Fits each part of the sensors' score, and what it says of frames that it has not learned from.

In: views of the training frames. Out: the part and its held-out scores. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models import reconstruct as ridge
from models.forecast import MEMORY
from models.parts import (
    SEVERAL,
    SINGLE,
    DistancePart,
    ForecastPart,
    Part,
    ReconstructionPart,
    ResidualPart,
    Views,
    patterns,
    settled,
)
from models.patches import PatchShape, patches
from models.scenes import F32, F64, I64, Bool
from training.fit_forecast import Fit, fit_forecast
from training.folds import ENTITIES_MIN, folds
from training.look import Look

REFERENCES = 2_000
LEARNED = 0.85  # of the frames teach the network, the rest says how much worse it is on new ones
FULL_MIN = 24  # frames with all their context; with fewer those without are learned from as well
STEPS, STEPS_FEW, FEW = 250, 150, 1_000  # of training; fewer where there are fewer than FEW frames


@dataclass(frozen=True)
class Frames:
    """The training frames: views of all, and which of them are learned from."""

    views: Views
    at: I64  # [n] live frames, in order of (entity, time)
    entity: I64  # [n]
    look: Look
    seed: int
    steps: int | None = None  # of the network's training; None: by the rule
    device: str = "cpu"

    @property
    def single(self) -> bool:
        return bool(self.views.squashed.shape[1] == 1)

    def folds(self, embargo: int) -> list[tuple[I64, I64]]:
        """Folds with something to learn from and to judge; too few frames: everything judges itself."""
        made = [(a, b) for a, b in folds(self.entity, embargo) if len(a) and len(b)]
        everything = np.arange(len(self.at))
        return made if sum(len(b) for _, b in made) == len(self.at) else [(everything, everything)]


@dataclass(frozen=True)
class FittedPart:
    """held_out: [n], NaN at frames before which there is too little for the part to speak."""

    part: Part
    held_out: F64


def learnable(frames: Frames, needs: int) -> Frames:
    """The frames at which a part that needs so many can speak; all of them, where there are hardly any."""
    full = settled(frames.views.present, frames.at, needs)
    return replace(frames, at=frames.at[full], entity=frames.entity[full]) if full.sum() >= FULL_MIN else frames


def _spread(frames: Frames, used: Frames, held: F64) -> F64:
    """Held-out scores of the frames used, at their places among all."""
    out = np.full(len(frames.at), np.nan)
    out[np.searchsorted(frames.at, used.at)] = held
    return out


def fit_parts(frames: Frames) -> tuple[dict[str, FittedPart], Fit]:
    """All parts for the number of sensors there is, and the network's training."""
    forecast, fit = _forecast(frames)
    made = {"forecast": forecast}
    for name in (SINGLE if frames.single else SEVERAL)[1:]:
        made[name] = _distance(frames, name) if name in _SHAPES else _FITS[name](frames)
    return made, fit


def _forecast(frames: Frames) -> tuple[FittedPart, Fit]:
    wide = frames.single
    source = frames.views.wide if wide else frames.views.squashed
    learned = _learned(frames)
    few = len(frames.at) < FEW
    steps = frames.steps or (STEPS_FEW if few else STEPS)
    fit = fit_forecast(_runs(source, frames.at[learned], frames.entity[learned]), steps, frames.seed, frames.device)
    part = ForecastPart(fit.forecast, wide)
    used = learnable(frames, part.needs)
    learned, score = learned[np.searchsorted(frames.at, used.at)], part.score(frames.views, used.at)
    if not learned.all() and learned.any():
        worse = np.median(score[~learned]) / max(float(np.median(score[learned])), 1e-12)
        score = np.where(learned, score * max(1.0, worse), score)
    return FittedPart(part, _spread(frames, used, score)), fit


def _learned(frames: Frames) -> Bool:
    """Which frames teach the network: the first part of the time, or the first of the entities."""
    kinds = np.unique(frames.entity)
    if len(kinds) >= ENTITIES_MIN:
        early: Bool = frames.entity <= kinds[int(np.ceil(LEARNED * len(kinds))) - 1]
        return early
    return np.arange(len(frames.at)) < LEARNED * len(frames.at)


def _runs(source: F32, at: I64, entity: I64) -> list[F32]:
    """Contiguous frames, each run with the context before it: how an entity begins is learned as well."""
    breaks = np.flatnonzero((np.diff(at) != 1) | (np.diff(entity) != 0)) + 1
    pieces = np.split(at, breaks)
    # a break within an entity is a silence, after which its values stand: the frames before it are context
    return [source[max(0, piece[0] - MEMORY) : piece[-1] + 1] for piece in pieces if len(piece)]


_SHAPES = ("distance", "distance_short", "shape")


def _distance(frames: Frames, name: str) -> FittedPart:
    look, sensors = frames.look, frames.views.squashed.shape[1]
    # one sensor: a level half removed and the linear view see long changes best; several: nothing removed, measured
    level, plain = (0.5, "linear") if frames.single else (0.0, "squashed")
    shapes = {
        "distance": (PatchShape(look.long, sensors, level), plain),
        "distance_short": (PatchShape(look.short, sensors, 1.0), "squashed"),
        "shape": (PatchShape(look.short, sensors, 1.0, True), "wide"),
    }
    shape, view = shapes[name]
    rng, used = np.random.default_rng(frames.seed), learnable(frames, shape.frames)
    every = patches(getattr(frames.views, view), used.at, shape)
    held = np.empty(len(every))
    for learn, judge in used.folds(shape.frames // 2 + 1):
        part = DistancePart(every[_drawn(learn, rng)], shape, view)
        held[judge] = part.score(frames.views, used.at[judge])
    whole = DistancePart(every[_drawn(np.arange(len(every)), rng)], shape, view)
    return FittedPart(whole, _spread(frames, used, held))


def _drawn(index: I64, rng: np.random.Generator) -> I64:
    return index if len(index) <= REFERENCES else np.sort(rng.choice(index, REFERENCES, replace=False))


def _residual(frames: Frames) -> FittedPart:
    shape = PatchShape(frames.look.long, frames.views.squashed.shape[1])
    used = learnable(frames, shape.frames)
    every = patches(frames.views.squashed, used.at, shape)
    held = np.empty(len(every))
    for learn, judge in used.folds(shape.frames // 2 + 1):
        part = ResidualPart(ridge.fit_subspace(every[learn]), shape)
        held[judge] = part.score(frames.views, used.at[judge])
    return FittedPart(ResidualPart(ridge.fit_subspace(every), shape), _spread(frames, used, held))


def _reconstruction(frames: Frames) -> FittedPart:
    table, grid = frames.views.table, frames.look.grid
    inputs = ridge.Inputs.of(table.mean.shape[1], grid.per_bin, grid.spread)
    x, y = ridge.features(table, frames.at, inputs), table.mean[frames.at]
    present = frames.views.present[frames.at]
    gap = np.zeros(y.shape)
    for learn, judge in frames.folds(2 * inputs.reach + 1):
        known = ridge.Reconstruction(inputs, *ridge.fit(x[learn], y[learn]), np.ones(y.shape[1]))
        for pattern, rows in patterns(present[judge]):
            gap[judge[rows]] = y[judge[rows]] - x[judge[rows]] @ known.weights(pattern)
    gap = np.where(present, gap, 0)
    rms = np.sqrt((gap**2).sum(0) / np.maximum(present.sum(0), 1))
    held = ((gap / (rms + ridge.FLOOR)) ** 2).sum(1) / np.maximum(present.sum(1), 1)
    return FittedPart(ReconstructionPart(ridge.Reconstruction(inputs, *ridge.fit(x, y), rms)), held)


_FITS = {"residual": _residual, "reconstruction": _reconstruction}
