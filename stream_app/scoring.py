"""Scoring: closed windows become scores, through the detector's pure function and each entity's carried row.

In: `Scenes`. Out: `Scored`, and the windows that could not be scored. Remembers: the carry row per entity.

A window that makes the detector fail, or whose score is not finite, is refused before it touches anything behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from models.detector import Detector, Frames, Scored, SensorPart
from models.scenes import I64, Bool, Scenes, select
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
        except Exception:  # one window must not take its neighbours along
            return self._one_at_a_time(scenes)

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

    def _one_at_a_time(self, scenes: Scenes) -> tuple[Scored, I64, list[Refused]]:
        """As `update`, a window at a time: slow, and needed only for the batch that holds the window that fails."""
        none = np.empty(0, np.int64)
        done, rows, refused = [self._score(scenes, none)[0]], none, list[Refused]()
        for i in range(len(scenes)):
            try:
                scored, row, problems = self._score(scenes, np.array([i]))
            except Exception as problem:
                refused.append(Refused(i, "score_failed", f"{type(problem).__name__}: {problem}"[:200]))
            else:
                done, rows, refused = [*done, scored], np.append(rows, row), refused + problems
        return join(done), rows, refused


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
