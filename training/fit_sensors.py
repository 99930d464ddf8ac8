"""Fits the detector of sensors: from samples to a bundle's content.

In: `Dataset`. Out: `Trained`: the bundle, and what the report shows. Remembers: nothing. One seed, one bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.bins import NEVER, Bins, Grid, bins
from models.bundle import Bundle, Golden, golden_of
from models.detector import WindowSpec
from models.embedding import AXES_MAX, Embedding, embed, fit_scale, raw
from models.levels import Pace, quantile_scale, update
from models.networks import code_of
from models.parts import Moments, ResidualPart, views
from models.patches import PatchShape, patches
from models.reconstruct import Subspace, fit_subspace
from models.scenes import F32, F64, I64, Scenes
from models.sensors import Fitted, Scaling, SensorDetector, initial_row
from models.sensors_bundle import pack
from models.stuck import limits
from stream_app.config import Windows
from stream_app.intervals import Interval
from stream_app.recipe import DEFAULT, Recipe
from stream_app.threshold.population import FEWEST_SCORES, fit_population
from stream_app.windows.extents import unheeded
from training.dataset import Dataset, cut, outside
from training.fit_budget import within
from training.fit_networks import Trained as Networks
from training.fit_networks import fit_networks
from training.fit_parts import FittedPart, fit_parts
from training.fit_placement import fit_membership, fit_placement
from training.frames import Frames, evenly
from training.limits import WINDOWS_FEW, few_windows, of_entities, spoken
from training.look import Look, look, look_again
from training.paces import own_pace, pace_of
from training.ranks import ALONE, Ranks
from training.rehearsal import Sample, rehearsed, sample_of
from training.sensor_report import lines, sensor_report
from training.trimming import ENOUGH, spread, strange, usual

# Live frames to learn from. On three sensors, faults were told from the rest with an AUC of .55 after 30 frames, .77
# after 75, .92 after 100, .999 after 150; alarms kept their rate throughout.
FRAMES_MIN = 100
FRAMES_MAX = 60_000  # learned from; of more, blocks spread evenly over the data
GOLDEN_WINDOWS = 24
WEEK_US = 604_800_000_000
UNIT_LEAST = 0.25  # of the unit over all frames
EVENTS_MIN = 10  # of held-out windows beyond the default risk: a rarer one could not be calibrated
RISK_MAX = 0.01
STRANGE = "strange"  # why windows are left out that no interval covers


@dataclass(frozen=True)
class SensorTraining:
    """How to train. say: told what is being done."""

    seed: int = 0
    recipe: Recipe = DEFAULT
    device: str = "cpu"
    ranks: Ranks = ALONE
    budget_s: float | None = None  # for everything that `fit` does; None: as long as it takes
    alarms_per_week: float = 1.0  # false alarms per entity, that the default risk aims at
    without: tuple[Interval, ...] = ()  # windows that overlap them are not learned from
    trim: bool = False  # leave out frames that are strange among their own: against anomalies that nobody noticed
    like: Fitted | None = None  # the bundle to be followed: windows and sensors stay as they are there
    sample: Sample | None = None  # of what `like` was trained on: rehearsed, and its network is gone on from
    asked: Windows | None = None  # what the settings ask for, and is not heeded: windows are chosen by the data
    noise: bool = False  # tell from which membership on a window is noise: for alarms.also
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Trained:
    """The bundle, ready to be written, and figures for the report."""

    bundle: Bundle
    choices: tuple[str, ...]
    report: dict[str, Any]


def fit(data: Dataset, how: SensorTraining) -> Trained:
    """Everything that `train` does with sensors. Raises ValueError, in words, where the data do not suffice."""
    began = time.monotonic()
    data = data if how.like is None else data.with_sensors(how.like.sensors)
    seen = look(data) if how.like is None else look_again(data, how.like)
    spec = WindowSpec(seen.grid.length * seen.grid.step_us, seen.grid.stride * seen.grid.step_us)
    for note in (*seen.notes, unheeded(how.asked, spec)):
        if note:
            how.say(note)
    scenes, left_out = outside(cut(data, spec), data.entities, how.without)
    scaling = _scale(scenes, len(data.sensors))
    table = _table(scenes, seen.grid, scaling)
    still = limits(table, how.like.still if how.like else None)
    again = how.like if how.sample is not None else None
    if again is not None and how.sample is not None:
        table = rehearsed(table, how.sample, again, scaling)
    frames, scaling = _frames(table, seen, scaling, how)
    frames = replace(frames, start=again.networks if again else None)
    how.say(f"{len(frames.at):,} frames of {of_entities(len(np.unique(frames.entity)))} to learn from")
    budget_s = how.budget_s and how.budget_s / (2 if how.trim else 1)  # trimmed, it is learned twice
    extent = within(frames, budget_s, began)
    for note in extent.notes:
        how.say(note)
    learned = _learn(extent.frames)
    if how.trim:
        learned, left_out[STRANGE] = _trimmed(learned, how)
    frames, trained, parts, held = learned.frames, learned.trained, learned.parts, learned.held
    unit = _unit(held, frames)
    pace = pace_of(held / unit, frames)
    ratio = np.where(np.isnan(held), pace.start, held / unit)
    embedding, embedded = _embedding(frames, parts)
    drawn = _drawn(embedded, extent.n_placed, np.random.default_rng(how.seed))
    placed = fit_placement(drawn)
    for note in lines(trained.report, placed):
        how.say(note)
    made = {name: part.part for name, part in parts.items()}
    fitted = Fitted(data.sensors, seen.grid, scaling, made, unit, pace, embedding, placed.known, trained.networks)
    fitted = replace(fitted, own=own_pace(fitted, frames), still=still)
    scores = _held_scores(ratio, frames, pace)
    risk = _risk(len(scores) // seen.grid.stride, seen.grid, how.alarms_per_week)
    tail = fit_population(*_windows(scores, frames.entity, seen.grid.stride), 1)
    tail |= fit_membership(drawn, how.say) if how.noise else {}
    detector = SensorDetector(fitted, tail, risk)
    settings, arrays = pack(fitted)
    sample = sample_of(frames, table)
    settings, arrays = settings | {"sample": sample.shape()}, arrays | sample.arrays()
    golden = _golden(detector, scenes)
    bundle = Bundle(
        "sensors",
        {"fitted": settings, "risk": risk, "seed": how.seed} | _recipe(how),
        arrays,
        golden,
        tail,
        _lineage(data),
    )
    report = sensor_report(parts, trained.report, placed, scores) | {"seconds": time.monotonic() - began, "risk": risk}
    report |= {"n_windows": len(scenes), "left_out": left_out, "budget": list(extent.notes)}
    return Trained(bundle, (*seen.notes, *extent.notes), report)


@dataclass(frozen=True)
class _Learned:
    """What the frames have taught: networks, parts, and what each part says of frames that it has not seen."""

    frames: Frames
    trained: Networks
    parts: dict[str, FittedPart]
    held: F64  # [n, part]


def _learn(frames: Frames) -> _Learned:
    frames, trained = fit_networks(frames)
    parts = fit_parts(frames, trained.networks)
    return _Learned(frames, trained, parts, np.stack([part.held_out for part in parts.values()], 1))


def _unit(held: F64, frames: Frames) -> F64:
    """What is one in each part's ratio. Of plenty of frames the strangest have no say, or the part that tells anomalies
    in the training data best would count for least; never far below that of all: an error may be rare by its nature."""
    whole = quantile_scale(held)
    if frames.single or not frames.plenty:
        return whole
    return np.maximum(quantile_scale(held[usual(held, frames.entity)]), UNIT_LEAST * whole)


def _trimmed(first: _Learned, how: SensorTraining) -> tuple[_Learned, int]:
    """Learned again without the frames that are strange among their own, and how many windows these are."""
    frames = first.frames
    out = spread(strange(first.held), frames.at, frames.entity, frames.look.long)
    n = int(out.sum())
    if not n or len(out) - n < FRAMES_MIN:
        return first, 0
    how.say(f"{n} of {len(out)} frames are strange among their own: learned again without them")
    return _learn(replace(frames, at=frames.at[~out], entity=frames.entity[~out])), n // frames.look.grid.stride


def _scale(scenes: Scenes, c: int) -> Scaling:
    """Mean and standard deviation of each of c sensors; a constant one is left in its own unit."""
    valid = np.isfinite(scenes.value)
    sensor, value = scenes.sensor[valid], scenes.value[valid]
    n = np.maximum(np.bincount(sensor, minlength=c), 1)
    centre = np.bincount(sensor, value, c) / n
    scale = np.sqrt(np.bincount(sensor, (value - centre[sensor]) ** 2, c) / n)
    still = ~np.isfinite(scale) | (scale < 1e-6 * np.maximum(1, np.abs(centre)))
    zero = np.zeros(c)
    return Scaling(centre, np.where(still, 1.0, scale), Moments(zero, zero + 1, zero, zero + 1))


def _table(scenes: Scenes, grid: Grid, scaling: Scaling) -> Bins:
    return bins(scenes, grid, np.full(len(scenes), NEVER), (scaling.centre, scaling.scale))


def _frames(table: Bins, seen: Look, scaling: Scaling, how: SensorTraining) -> tuple[Frames, Scaling]:
    """The frames to learn from: live ones, at most FRAMES_MAX. Completes the scaling by spreads and slopes."""
    runs = table.stretches
    entity = np.repeat(runs.entity, np.diff(runs.frame))[table.scored]
    live = table.live()[table.scored]
    at, entity = table.scored[live], entity[live]
    needed = max(FRAMES_MIN, FEWEST_SCORES * seen.grid.stride)
    if len(at) < needed:
        step_s = seen.grid.step_us / 1e6
        raise ValueError(
            f"{len(at)} frames of {step_s:g} s with data are too few to tell what is normal; at least {needed} are "
            f"needed, {spoken(needed * step_s)} of data"
        )
    if len(at) < seen.grid.stride * WINDOWS_FEW:
        how.say(few_windows(len(at) // seen.grid.stride, seen.grid.stride * seen.grid.step_us / 1e6))
    index = evenly(len(at), FRAMES_MAX)
    at, entity = at[index], entity[index]
    std, slope = table.std[at].astype(np.float64), table.slope[at].astype(np.float64)
    moments = Moments(std.mean(0), _above(std.std(0)), slope.mean(0), _above(slope.std(0)))
    full = replace(scaling, moments=moments)
    own = (how.seed, how.recipe, how.device, how.ranks)
    frames = Frames(views(table, moments), at, entity.astype(np.int64), seen, *own)
    return replace(frames, plenty=len(at) >= ENOUGH * seen.grid.per_bin), full


def _above(scale: F64) -> F64:
    return np.where(scale < 1e-6, 1.0, scale)


def _embedding(frames: Frames, parts: dict[str, FittedPart]) -> tuple[Embedding, F32]:
    """The embedding, and that of the training frames."""
    residual = parts.get("residual")
    shape = PatchShape(frames.look.long, frames.views.squashed.shape[1])
    if residual is not None and isinstance(residual.part, ResidualPart):
        axes = residual.part.known
    else:
        axes = fit_subspace(patches(frames.views.squashed, frames.at, shape))
    axes = Subspace(axes.centre, np.ascontiguousarray(axes.components[:, :AXES_MAX]))
    encoder = frames.recipe.encoder
    code = code_of(encoder, frames.views)[frames.at]
    scale = fit_scale(raw(axes, shape, frames.views.squashed, frames.at, code), axes.components.shape[1])
    made = Embedding(axes, shape, scale, encoder)
    return made, embed(made, frames.views.squashed, frames.at, code)


def _drawn(x: F32, n: int, rng: np.random.Generator) -> F32:
    """At most n rows, evenly drawn."""
    return x if len(x) <= n else x[np.sort(rng.choice(len(x), n, replace=False))]


def _held_scores(ratio: F64, frames: Frames, pace: Pace) -> F64:
    """Scores of the training frames as if they had been met in a stream. [n]"""
    kinds = np.unique(frames.entity)
    rows = np.repeat(initial_row(pace), len(kinds))
    first = np.searchsorted(frames.entity, np.append(kinds, kinds[-1] + 1))
    scores: F64 = update(ratio, first, rows, pace).mean(1)
    return scores


def _windows(scores: F64, entity: I64, stride: int) -> tuple[F64, I64]:
    """Largest score of each `stride` frames, and their entity."""
    if stride == 1:
        return scores, entity
    n = len(scores) // stride * stride
    return scores[:n].reshape(-1, stride).max(1), entity[:n:stride]


def _risk(n_windows: int, grid: Grid, alarms_per_week: float) -> float:
    """Per window: the alarms allowed in a week over its windows; no rarer than the held-out windows can show."""
    wanted = alarms_per_week * grid.stride * grid.step_us / WEEK_US
    return float(min(RISK_MAX, max(wanted, EVENTS_MIN / max(1, n_windows))))


def _golden(detector: SensorDetector, scenes: Scenes) -> Golden:
    """The first windows of the first entity, with their samples."""
    w = int(min(GOLDEN_WINDOWS, (scenes.entity == scenes.entity[0]).sum()))
    a, b = int(scenes.first[0]), int(scenes.last[w - 1])
    columns = {
        n: getattr(scenes, n)[:w].copy()
        for n in ("entity", "start_us", "end_us", "position", "first_offset", "last_offset", "ended")
    }
    rows = {n: getattr(scenes, n)[a:b].copy() for n in ("sensor", "t_us", "value")}
    return golden_of(detector, Scenes(**columns, first=scenes.first[:w] - a, last=scenes.last[:w] - a, **rows))


def _lineage(data: Dataset) -> dict[str, Any]:
    return {
        "samples": len(data), "entities": len(data.entities), "sensors": len(data.sensors),
        "from_us": int(data.t_us.min()), "to_us": int(data.t_us.max()),
    }  # fmt: skip


def _recipe(how: SensorTraining) -> dict[str, Any]:
    return {"recipe": how.recipe.model_dump(mode="json")}
