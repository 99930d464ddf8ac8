"""Fits each part of the sensors' score, and what it says of frames that it has not learned from.

In: views of the training frames. Out: the part and its held-out scores. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models import reconstruct as ridge
from models.fusion_parts import FusionForecastPart, FusionMaskedPart
from models.networks import Networks
from models.parts import DistancePart, ForecastPart, Part, ReconstructionPart, ResidualPart, patterns
from models.patches import PatchShape, patches
from models.rates import BINS
from models.scenes import F32, F64, I64, Bool
from training.fit_networks import as_new, learned_frames
from training.frames import Frames, learnable, spread
from training.trimming import weights

REFERENCES = 2_000
ROUNDS = 3  # of weighing the frames for the regression
LEAST = 0.65  # of a sensor's error in all frames: what its error in the usual ones counts for at least
RMS_MIN = 1e-3  # of a fusion head, in scaled units: a sensor that never moves is told exactly


@dataclass(frozen=True)
class FittedPart:
    """held_out: [n], NaN at frames before which there is too little for the part to speak."""

    part: Part
    held_out: F64


def fit_parts(frames: Frames, networks: Networks) -> dict[str, FittedPart]:
    """The parts of the score, in its order; the views hold what the networks say."""
    return {name: _FITS[name](frames, networks, name) for name in frames.part_names}


def _forecast(frames: Frames, networks: Networks, _: str) -> FittedPart:
    assert networks.tcn is not None  # fitted since the part is wanted
    part = ForecastPart(networks.tcn, networks.wide)
    used = learnable(frames, part.needs)
    return FittedPart(part, spread(frames, used, as_new(frames, used, part.score(frames.views, used.at))))


def _fusion_forecast(frames: Frames, networks: Networks, _: str) -> FittedPart:
    assert networks.fusion is not None
    part = FusionForecastPart(np.ones(frames.views.squashed.shape[1]), networks.fusion.shape.reach + 1)
    taught = _taught(frames, part.needs)
    part = replace(part, rms=_rms(part.gaps(frames.views, taught), frames.views.present[taught]))
    used = learnable(frames, part.needs)
    return FittedPart(part, spread(frames, used, as_new(frames, used, part.score(frames.views, used.at))))


def _fusion_masked(frames: Frames, networks: Networks, _: str) -> FittedPart:
    assert networks.fusion is not None
    shape = networks.fusion.shape
    part = FusionMaskedPart(np.ones((shape.sensors, BINS)), shape.reach, shape.spacing)
    taught = _taught(frames, part.needs)
    part = replace(part, rms=_rms(part.gaps(frames.views, taught), part.there(frames.views, taught)))
    used = learnable(frames, part.needs)
    return FittedPart(part, spread(frames, used, as_new(frames, used, part.score(frames.views, used.at))))


def _taught(frames: Frames, needs: int) -> I64:
    """The frames with their context that the networks have learned from."""
    used = learnable(frames, needs)
    return np.intersect1d(used.at, learned_frames(frames)) if len(used.at) < len(frames.at) else learned_frames(frames)


def _rms(gap: F32, there: Bool) -> F64:
    """Root mean square over the frames at which the sensor is there."""
    n = np.maximum(there.sum(0), 1)
    rms: F64 = np.maximum(np.sqrt((gap.astype(np.float64) ** 2).sum(0) / n), RMS_MIN)
    return rms


def _distance(frames: Frames, _: Networks, name: str) -> FittedPart:
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
    return FittedPart(whole, spread(frames, used, held))


def _drawn(index: I64, rng: np.random.Generator) -> I64:
    return index if len(index) <= REFERENCES else np.sort(rng.choice(index, REFERENCES, replace=False))


def _residual(frames: Frames, _: Networks, __: str) -> FittedPart:
    shape = PatchShape(frames.look.long, frames.views.squashed.shape[1])
    used = learnable(frames, shape.frames)
    every = patches(frames.views.squashed, used.at, shape)
    held = np.empty(len(every))
    for learn, judge in used.folds(shape.frames // 2 + 1):
        part = ResidualPart(ridge.fit_subspace(every[learn]), shape)
        held[judge] = part.score(frames.views, used.at[judge])
    return FittedPart(ResidualPart(ridge.fit_subspace(every), shape), spread(frames, used, held))


def _reconstruction(frames: Frames, _: Networks, __: str) -> FittedPart:
    """Where there are plenty of frames, those teach little that the round before could not explain."""
    table, grid = frames.views.table, frames.look.grid
    inputs = ridge.Inputs.of(table.mean.shape[1], grid.per_bin, grid.spread)
    x, y = ridge.features(table, frames.at, inputs), table.mean[frames.at]
    present, folds = frames.views.present[frames.at], frames.folds(2 * inputs.reach + 1)
    weight, rounds = np.ones(len(y)), ROUNDS if frames.plenty else 0
    for left in range(rounds, -1, -1):
        gap = np.zeros(y.shape)
        for learn, judge in folds:
            known = ridge.Reconstruction(inputs, *ridge.fit(x[learn], y[learn], weight[learn]), np.ones(y.shape[1]))
            for pattern, rows in patterns(present[judge]):
                gap[judge[rows]] = y[judge[rows]] - x[judge[rows]] @ known.weights(pattern)
        rms = _usual_error(np.where(present, gap, 0), present, weight)
        held = (np.where(present, gap / (rms + ridge.FLOOR), 0) ** 2).sum(1) / np.maximum(present.sum(1), 1)
        if left:
            weight = weights(held, frames.entity)
    return FittedPart(ReconstructionPart(ridge.Reconstruction(inputs, *ridge.fit(x, y, weight), rms)), held)


def _usual_error(gap: F64, present: Bool, weight: F64) -> F64:
    """Root mean square per sensor of weighted frames; no less than a part of that of all, or a sensor that moves in
    strange frames only would drown the rest. gap: [n, c], zero where the sensor is not present."""
    trusted = weight[:, None] * present
    usual, whole = ((gap**2 * w).sum(0) / np.maximum(w.sum(0), 1) for w in (trusted, present))
    rms: F64 = np.sqrt(np.maximum(usual, LEAST**2 * whole))
    return rms


_FITS: dict[str, Callable[[Frames, Networks, str], FittedPart]] = {
    "forecast": _forecast,
    "distance": _distance,
    "distance_short": _distance,
    "shape": _distance,
    "residual": _residual,
    "reconstruction": _reconstruction,
    "fusion_forecast": _fusion_forecast,
    "fusion_masked": _fusion_masked,
}
