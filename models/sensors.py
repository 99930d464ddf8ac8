"""Sensors: the detector of multichannel and multi-rate sensors. Frames, parts, levels, placement.

In: `Scenes` of sensors and the entities' rows. Out: `Scored`. Remembers: nothing; a row holds what scores need.

    scenes -> bins -> views -> parts -> ratios (over the held-out 99 % quantile) -> levels -> mean = a frame's score
    a window's score is the largest of the frames that it is the first to show

A frame into which no sample falls repeats the last score, and moves nothing, for as long as any sensor's value stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import levels, stuck
from models import own_references as own
from models.bins import NEVER, Bins, Grid, bins
from models.detector import Frames, Scored, SensorPart, WindowSpec
from models.embedding import Embedding, embed
from models.explanation import explain
from models.networks import Networks, apart, code_of, seen_by
from models.parts import OF_PATCHES, DistancePart, Moments, Part, ReconstructionPart, Views, settled, views
from models.placement import Placement, assign
from models.scenes import F32, F64, I32, I64, Bool, Scenes


@dataclass(frozen=True)
class Scaling:
    """Of raw samples, [c] each: the training's mean and standard deviation; and of the bins' spreads and slopes."""

    centre: F64
    scale: F64
    moments: Moments


@dataclass(frozen=True)
class Fitted:
    """Everything trained. `parts`: those the score is made of, in its order."""

    sensors: tuple[str, ...]
    grid: Grid
    scaling: Scaling
    parts: dict[str, Part]
    unit: F64  # [p] the held-out 99 % quantile of each part
    pace: levels.Pace
    embedding: Embedding
    known: Placement
    networks: Networks
    own: own.OwnPace | None = None  # whether entities keep references of their own
    still: I32 | None = None  # [c] frames for which a sensor may stand still; 0: for ever; None: every sensor may

    @property
    def distances(self) -> dict[str, DistancePart]:
        return {name: part for name, part in self.parts.items() if isinstance(part, DistancePart)}


@dataclass(frozen=True)
class Judged:
    """Of the `n` scored frames: score, and each part's contribution before the mean."""

    score: F64
    parts: F64  # [n, p]


class SensorDetector:
    """See `models.detector.Detector`."""

    kind = "sensors"

    def __init__(self, fitted: Fitted, tail: dict[str, Any], risk: float, digest: str = "") -> None:
        self.fitted, self.tail, self.risk, self.digest = fitted, tail, risk, digest
        self.sensors = fitted.sensors
        self.vocabulary: dict[str, int] = {}
        self.part_names = tuple(fitted.parts)
        self.cluster_names: dict[int, str] = {}
        grid = fitted.grid
        self.windows = WindowSpec(grid.length * grid.step_us, grid.stride * grid.step_us)
        more = own.layout(fitted.distances, fitted.own) if fitted.own else []
        more += stuck.layout(len(fitted.sensors)) if fitted.still is not None else []
        self.carry_initial = initial_row(fitted.pace, more)

    def score(self, scenes: Scenes, carry: NDArray[np.void]) -> Scored:
        """Scores windows; see the protocol. Costs by frames, whatever the overlap of the windows."""
        entities, owner = np.unique(scenes.entity, return_inverse=True)
        carry = carry.copy()
        if not len(scenes):
            return self._nothing(carry)
        scaling, until = self.fitted.scaling, carry["until"][owner]
        seen = bins(scenes, self.fitted.grid, until, (scaling.centre, scaling.scale))
        view = seen_by(self.fitted.networks, views(seen, scaling.moments), seen.runs(self.fitted.grid))
        frame_owner = np.searchsorted(entities, seen.entity())
        view = self._apart((seen, view), frame_owner, carry)
        before = carry["last"].copy()
        judged = self._judge((seen, view), frame_owner, carry)
        carry["until"][owner] = scenes.end_us // self.fitted.grid.step_us  # the last window of each entity stands
        frames = _frames(seen, self.fitted.grid, judged.score)
        best, last = _of_windows(seen.stretches.fresh, judged.score)
        parts = np.zeros((len(scenes), len(self.part_names)), np.float32)
        score = _stands(seen.stretches.fresh, judged.score, (owner, frame_owner), before)
        ends, some = np.full(len(scenes), -1), best >= 0
        score[some], parts[some], ends[some] = (
            judged.score[best[some]],
            judged.parts[best[some]],
            seen.scored[last[some]],
        )
        left_out = np.zeros((len(scenes), len(self.sensors)), bool)
        left_out[some] = (view.heard & ~view.present)[ends[some]]
        cluster, membership, embedding = self._place(view, ends)
        told = self._explainer((seen, view), frames, judged, best)
        return Scored(score, parts, cluster, membership, embedding, frames, carry, told, left_out)

    def _apart(self, data: tuple[Bins, Views], owner: I64, carry: NDArray[np.void]) -> Views:
        """The views without the sensors that are stuck, where they are; who does not rebuild sensors can't tell."""
        (seen, view), limit, part = data, self.fitted.still, self.fitted.parts.get("reconstruction")
        if limit is None or not isinstance(part, ReconstructionPart):
            return view
        unit = self.fitted.unit[list(self.fitted.parts).index("reconstruction")]

        def loudness(rows: I64) -> F64:
            """Of each sensor's contradiction: one lifts the score by itself to what is rare in normal frames."""
            at = seen.scored[rows]
            ratio = part.errors(view, at) / (unit * np.maximum(view.present[at].sum(1), 1)[:, None])
            out: F64 = np.minimum(ratio / len(self.fitted.parts), 1.0) ** 2
            return out

        out = np.zeros(view.present.shape, bool)
        out[seen.scored] = stuck.stuck(seen, (owner, carry), limit, loudness)
        return apart(self.fitted.networks, view, out, seen.runs(self.fitted.grid))

    def _nearer(self, view: Views, shared: I64, first: I64, carry: NDArray[np.void]) -> dict[str, F64]:
        """The distance parts of entities that keep references of their own; brings these up to date."""
        pace, rows = self.fitted.own, (first, carry["frames"])
        if pace is None:
            return {}
        every = self.fitted.distances.items()
        return {name: own.distances(p, view, shared, (carry[own.OWN + name], *rows), pace) for name, p in every}

    def ratios(self, view: Views, frames: tuple[I64, I64], known: dict[str, F64]) -> F64:
        """Each part over its unit, at the frames `at`; of a patch at those that they share. [n, p]

        known: parts that were scored already.
        """
        at, shared = frames
        looked, place = np.unique(shared, return_inverse=True) if self.fitted.grid.every > 1 else (at, slice(None))
        said = []
        for name, part in self.fitted.parts.items():
            if name in known:
                said.append(known[name])
            else:
                said.append(part.score(view, looked)[place] if isinstance(part, OF_PATCHES) else part.score(view, at))
        ratio: F64 = np.stack(said, 1) / self.fitted.unit
        for column, part in enumerate(self.fitted.parts.values()):  # without its context a part says what is usual
            ratio[~settled(view.present, at, part.needs), column] = self.fitted.pace.start[column]
        return ratio

    def _judge(self, data: tuple[Bins, Views], owner: I64, carry: NDArray[np.void]) -> Judged:
        """Scores of the scored frames, in order; brings `carry` up to date."""
        seen, view = data
        live = seen.live()[seen.scored]
        first = np.searchsorted(owner[live], np.arange(len(carry) + 1))
        shared = seen.shared(self.fitted.grid)[live]
        ratio = self.ratios(view, (seen.scored[live], shared), self._nearer(view, shared, first, carry))
        parts = np.zeros((len(seen.scored), ratio.shape[1]))
        parts[live] = levels.update(ratio, first, carry, self.fitted.pace)
        score = parts.mean(1)
        stands = np.any(seen.age[seen.scored] >= 0, axis=1)
        return Judged(_held(score, (live, stands), owner, carry), parts)

    def _place(self, view: Views, at: I64) -> tuple[I32, F32, F32]:
        """Cluster, membership and embedding of windows that end at the frames `at`; -1: a window without frames."""
        cluster, probability = np.full(len(at), -1, np.int32), np.zeros(len(at), np.float32)
        embedding = np.zeros((len(at), self.fitted.embedding.width), np.float32)
        some = np.flatnonzero(at >= 0)
        code = code_of(self.fitted.embedding.encoder, view)[at[some]]
        embedding[some] = embed(self.fitted.embedding, view.squashed, at[some], code)
        cluster[some], probability[some] = assign(self.fitted.known, embedding[some])
        return cluster, probability, embedding

    def _explainer(
        self, data: tuple[Bins, Views], frames: Frames, judged: Judged, best: I64
    ) -> Callable[[int], tuple[SensorPart, ...]]:
        def of(window: int) -> tuple[SensorPart, ...]:
            if best[window] < 0:
                return ()
            moment = int(data[0].scored[best[window]]), int(frames.start_us[best[window]])
            return explain(self.fitted, data, moment, judged.parts[best[window]])

        return of

    def _nothing(self, carry: NDArray[np.void]) -> Scored:
        i32, i64, f32, f64 = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0)
        parts, width = np.empty((0, len(self.part_names)), np.float32), self.fitted.embedding.width
        embedding, frames = np.empty((0, width), np.float32), Frames(i32, i64, i64, f64)
        none = np.empty((0, len(self.sensors)), bool)
        return Scored(f64, parts, i32, f32, embedding, frames, carry, lambda _: (), none)


def initial_row(pace: levels.Pace, more: list[tuple[str, type, tuple[int, ...]]] | None = None) -> NDArray[np.void]:
    """The state of an entity never seen, with more fields where it keeps more. [1]"""
    row = np.zeros(1, [("until", np.int64), ("last", np.float64), *levels.layout(len(pace.start)), *(more or [])])
    row["until"] = NEVER
    levels.initial(row, pace)
    return row


def _scored_per_stretch(seen: Bins) -> I64:
    runs = seen.stretches
    total = np.concatenate([[0], np.cumsum(runs.fresh)])
    return np.diff(total[runs.window])


def _frames(seen: Bins, grid: Grid, score: F64) -> Frames:
    """The scored frames with their times."""
    counts = _scored_per_stretch(seen)
    within = np.arange(len(score)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.repeat(seen.stretches.start, counts) + within) * grid.step_us
    return Frames(seen.entity(), start, start + grid.step_us, score)


def _of_windows(fresh: I64, score: F64) -> tuple[I64, I64]:
    """Per window the frame with the largest score (the first of equals) and the last frame; -1 where it has none."""
    window = np.repeat(np.arange(len(fresh)), fresh)
    order = np.lexsort((np.arange(len(score)), -score, window))
    first = np.cumsum(fresh) - fresh
    best = order[np.minimum(first, max(0, len(order) - 1))] if len(order) else first
    return np.where(fresh > 0, best, -1), np.where(fresh > 0, first + fresh - 1, -1)


def _stands(fresh: I64, score: F64, owners: tuple[I64, I64], before: F64) -> F64:
    """Per window the entity's last score up to its end: what a window stands for that shows no frame first."""
    at = np.cumsum(fresh) - 1
    of_window, of_frame = owners
    known = (at >= 0) & (of_frame[np.maximum(at, 0)] == of_window) if len(of_frame) else np.zeros(len(at), bool)
    out = before[of_window]
    out[known] = score[at[known]]
    return out


def _held(score: F64, heard: tuple[Bool, Bool], owner: I64, carry: NDArray[np.void]) -> F64:
    """Silent frames repeat the entity's last score while any sensor's value stands, else are zero. Updates `last`."""
    (live, stands), at = heard, np.arange(len(score))
    latest = np.maximum.accumulate(np.where(live, at, -1)) if len(score) else at
    begin = np.searchsorted(owner, owner)
    value = np.where(latest >= begin, score[np.maximum(latest, 0)], carry["last"][owner])
    out = np.where(live | stands, value, 0.0)
    ends = np.searchsorted(owner, np.arange(len(carry)), side="right")
    some = ends > np.searchsorted(owner, np.arange(len(carry)))
    carry["last"][some] = value[ends[some] - 1]
    return out
