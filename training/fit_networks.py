"""Fits the networks that a recipe asks for, and shows them the training frames.

In: `Frames`. Out: the frames with what the networks say of them, the networks, and how training went.
Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.forecast import MEMORY
from models.forecast import Forecast as Tcn
from models.networks import Networks, seen_by
from models.rates import rates, spacing
from models.scenes import F32, F64, I64, Bool
from models.sights import inputs
from training.fit_forecast import Run, fit_forecast
from training.folds import ENTITIES_MIN
from training.frames import Frames

LEARNED = 0.85  # of the frames teach the networks, the rest says how much worse they are on new ones
STEPS, STEPS_FEW, FEW = 250, 150, 1_000  # of training; fewer for fewer than FEW frames, and to go on
SILENCE = 20  # frames without a sample that do not end a run: the least for which values stand
STEPS_GRID = 25  # a time budget gives a multiple of it
FUSION_STEPS = 300  # in three phases; twice as many changed little


@dataclass(frozen=True)
class Trained:
    """The networks, and a report of each: its curve, and the steps that were skipped."""

    networks: Networks
    report: dict[str, Any]


def fit_networks(frames: Frames) -> tuple[Frames, Trained]:
    """Those that parts and embedding need, and none else."""
    recipe, report = frames.recipe, dict[str, Any]()
    tcn, fusion = None, None
    if _needs_tcn(frames):
        tcn, report["tcn"] = _tcn(frames)
    if recipe.fusion:
        fusion, report["fusion"] = _fusion(frames)
    networks = Networks(tcn, frames.single, fusion)
    return replace(frames, views=seen_by(networks, frames.views)), Trained(networks, report)


def steps_of(frames: Frames) -> tuple[int, ...]:
    """Of each network that is needed, the steps that it is trained for."""
    needed = ((_needs_tcn(frames), _tcn_steps(frames)), (frames.recipe.fusion, _fusion_steps(frames)))
    return tuple(steps for need, steps in needed if need)


def as_new(frames: Frames, used: Frames, score: F64) -> F64:
    """Scores [used] of a part that its network has learned from, as they would be of frames that it has not."""
    learned = _learned(frames)[np.searchsorted(frames.at, used.at)]
    if learned.all() or not learned.any():
        return score
    worse = np.median(score[~learned]) / max(float(np.median(score[learned])), 1e-12)
    return np.where(learned, score * max(1.0, worse), score)


def learned_frames(frames: Frames) -> I64:
    """The frames that teach the networks."""
    return frames.at[_learned(frames)]


def _needs_tcn(frames: Frames) -> bool:
    return "forecast" in frames.part_names or frames.recipe.encoder == "tcn"


def _tcn_steps(frames: Frames) -> int:
    few = frames.start is not None or len(frames.at) < FEW
    steps = frames.recipe.steps or (STEPS_FEW if few else STEPS)
    return min(steps, frames.steps_max or steps)


def _fusion_steps(frames: Frames) -> int:
    steps = frames.recipe.steps or FUSION_STEPS
    return min(steps, frames.steps_max or steps)


def _tcn(frames: Frames) -> tuple[Tcn, dict[str, Any]]:
    source = frames.views.wide if frames.single else frames.views.squashed
    start = frames.start.tcn if frames.start else None
    how = Run(_tcn_steps(frames), frames.seed, frames.device, frames.ranks, start)
    fit = fit_forecast(_runs(source, frames), how)
    return fit.forecast, {"curve": fit.curve.tolist(), "skipped_steps": fit.skipped}


def _fusion(frames: Frames) -> tuple[Any, dict[str, Any]]:
    from models.attention import STEPS
    from models.fusion import FusionShape
    from training.fit_fusion import fit_fusion

    recipe, table = frames.recipe, frames.views.table
    found = rates(frames.look.interval_us, frames.look.stepwise, frames.look.grid)
    sensors = frames.views.squashed.shape[1]
    widths, attention = (recipe.width, recipe.encoder_width), tuple(s for s in STEPS if s in recipe.attention)
    shape = FusionShape(sensors, spacing(frames.look.grid), *widths, found, attention)
    source = inputs((table.mean, table.std, table.slope), frames.views.present)
    how = Run(_fusion_steps(frames), frames.seed, frames.device, frames.ranks)
    known = frames.start.fusion if frames.start else None
    start = known if known and known.shape == shape else None  # other sensors or rates: from the beginning
    fit = fit_fusion(_runs(source, frames), shape, (recipe.losses, start), how)
    report = {"curve": fit.curve.tolist(), "skipped_steps": fit.skipped, "losses": fit.last}
    return fit.net, report | {"rates": {rate.name: len(rate.sensors) for rate in found}}


def _learned(frames: Frames) -> Bool:
    """Which frames teach the networks: the first part of the time, or the first of the entities."""
    kinds = np.unique(frames.entity)
    if len(kinds) >= ENTITIES_MIN:
        early: Bool = frames.entity <= kinds[int(np.ceil(LEARNED * len(kinds))) - 1]
        return early
    return np.arange(len(frames.at)) < LEARNED * len(frames.at)


def _runs(source: F32, frames: Frames) -> list[F32]:
    """Contiguous frames, each run with the context before it: how an entity begins is learned as well."""
    learned = _learned(frames)
    at, entity = frames.at[learned], frames.entity[learned]
    breaks = np.flatnonzero((np.diff(at) > SILENCE) | (np.diff(entity) != 0)) + 1
    pieces = np.split(at, breaks)
    # a break within an entity is a silence, after which its values stand: the frames before it are context
    return [source[max(0, piece[0] - MEMORY) : piece[-1] + 1] for piece in pieces if len(piece)]
