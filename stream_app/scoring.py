"""Scoring: closed windows become scores, through the detector's pure function and each entity's carried row.

In: `Scenes`. Out: `Scored`, and the windows that could not be scored. Remembers: the carry row per entity.

A window that makes the detector fail, or whose score is not finite, is refused before it touches anything behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from models.detector import Detector, Frames, Scored, SensorPart
from models.scenes import I64, Bool, Scenes
from stream_app.keys import Keys

STAGE = "scoring"
COLUMNS = ("score", "parts", "cluster", "membership_probability", "embedding")


@dataclass(frozen=True)
class Refused:
    """A window that got no score; it travels to the dead letter topic as the offsets of its records."""

    window: int  # its row in the scenes
    reason: str  # "score_failed" or "nonfinite_score"
    detail: str


@dataclass(frozen=True)
class Scoring:
    """The stage. The detector is replaced between two batches, never within one."""

    detector: Detector
    keys: Keys

    def update(self, scenes: Scenes) -> tuple[Scored, I64, list[Refused]]:
        """Scores the windows; gives also which rows of the scenes the rows of `Scored` are. [scored windows]"""
        try:
            return self._score(scenes, np.arange(len(scenes)))
        except Exception as problem:  # one window must not take its neighbours along
            return self._one_entity_at_a_time(scenes, problem)

    def _score(self, scenes: Scenes, rows: I64) -> tuple[Scored, I64, list[Refused]]:
        part = select(scenes, rows)
        slots = np.unique(part.entity)
        before = self.keys[STAGE][slots]
        scored = self.detector.score(part, before)
        fine = np.isfinite(scored.score)
        poisoned = np.isin(slots, part.entity[~fine])
        self.keys[STAGE][slots] = np.where(poisoned, before, scored.carry)
        refused = [Refused(int(rows[i]), "nonfinite_score", f"score {scored.score[i]}") for i in np.flatnonzero(~fine)]
        return (scored if fine.all() else keep(scored, fine)), rows[fine], refused

    def _one_entity_at_a_time(self, scenes: Scenes, problem: Exception) -> tuple[Scored, I64, list[Refused]]:
        entities = np.unique(scenes.entity)
        if len(entities) == 1:
            detail = f"{type(problem).__name__}: {problem}"[:200]
            refused = [Refused(i, "score_failed", detail) for i in range(len(scenes))]
            nothing = self.detector.score(select(scenes, np.empty(0, np.int64)), self.keys[STAGE][:0])
            return nothing, np.empty(0, np.int64), refused
        done = [self._entity(scenes, np.flatnonzero(scenes.entity == entity)) for entity in entities]
        return (
            join([scored for scored, _, _ in done]),
            np.concatenate([rows for _, rows, _ in done]),
            [r for _, _, refused in done for r in refused],
        )

    def _entity(self, scenes: Scenes, rows: I64) -> tuple[Scored, I64, list[Refused]]:
        try:
            return self._score(scenes, rows)
        except Exception as problem:
            nothing, none, refused = self._one_entity_at_a_time(select(scenes, rows), problem)
            return nothing, none, [replace(r, window=int(rows[r.window])) for r in refused]


def select(scenes: Scenes, rows: I64) -> Scenes:
    """Some of the windows, ascending; the samples stay as they are."""
    if len(rows) == len(scenes):
        return scenes
    names = ("entity", "start_us", "end_us", "position", "first", "last", "first_offset", "last_offset", "ended")
    return replace(scenes, **{name: getattr(scenes, name)[rows] for name in names})


def keep(scored: Scored, fine: Bool) -> Scored:
    """The rows of `scored` where `fine`; frames of refused windows are left out by their score."""
    at = np.flatnonzero(fine)
    frames = scored.frames
    finite = np.isfinite(frames.score)
    columns = {n: getattr(scored, n)[at] for n in COLUMNS}
    kept = Frames(frames.entity[finite], frames.start_us[finite], frames.end_us[finite], frames.score[finite])
    return replace(scored, **columns, frames=kept, explain=lambda i: scored.explain(int(at[i])))


def join(parts: list[Scored]) -> Scored:
    """Several results end to end. At least one."""
    ends = np.cumsum([len(p.score) for p in parts])

    def explain(i: int) -> tuple[SensorPart, ...]:
        k = int(np.searchsorted(ends, i, side="right"))
        return parts[k].explain(i - (int(ends[k - 1]) if k else 0))

    def column(name: str) -> Any:
        return np.concatenate([getattr(p, name) for p in parts])

    frames = Frames(*(np.concatenate([getattr(p.frames, f.name) for p in parts]) for f in fields(Frames)))
    return Scored(**{n: column(n) for n in (*COLUMNS, "carry")}, frames=frames, explain=explain)
