"""Scoring: closed windows become scores, through the detector's pure function and each entity's carried row.

In: `Scenes`. Out: `Scored`, and the windows that could not be scored. Remembers: the carry row per entity.

A window that makes the detector fail, or whose score is not finite, is refused before it touches anything behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from models.detector import Detector, Frames, Scored, SensorPart
from models.scenes import I32, I64, Bool, Scenes, select
from stream_app.keys import Keys, Row
from stream_app.records.refusals import Reason

STAGE = "scoring"
COLUMNS = ("score", "parts", "cluster", "membership_probability", "embedding")


@dataclass(frozen=True)
class Refused:
    """A window that got no score; it travels to the dead letter topic as the offsets of its records."""

    window: int  # its row in the scenes
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Carried:
    """Entities as the detector finds them: slots, ascending, and their rows."""

    slots: I32
    rows: Row


Told = tuple[Scored, I64, list[Refused]]


@dataclass(frozen=True)
class Scoring:
    """The stage. The detector is replaced between two batches, never within one."""

    detector: Detector
    keys: Keys

    def update(self, scenes: Scenes) -> Told:
        """Scores the windows; gives also which rows of the scenes the rows of `Scored` are. [scored windows]"""
        try:
            return self._score(scenes)
        except Exception:  # one window must not take its neighbours along
            return self._one_at_a_time(scenes)

    def carried(self, scenes: Scenes) -> Carried:
        """What the detector is given of the windows' entities."""
        slots = np.unique(scenes.entity)
        return Carried(slots, self.keys[STAGE][slots])

    def absorb(self, scored: Scored, scenes: Scenes, given: Carried) -> Told:
        """What the detector said of the windows, given `carried`: as `update`."""
        fine = np.isfinite(scored.score)
        if len(scenes) > 1 and not fine.all():  # what came after it in this call was scored with what it had left
            return self._one_at_a_time(scenes)
        self.keys[STAGE][given.slots] = scored.carry if fine.all() else given.rows
        refused = [Refused(int(i), Reason.NONFINITE_SCORE, f"score {scored.score[i]}") for i in np.flatnonzero(~fine)]
        return (scored if fine.all() else keep(scored, fine)), np.flatnonzero(fine), refused

    def _score(self, scenes: Scenes) -> Told:
        given = self.carried(scenes)
        return self.absorb(self.detector.score(scenes, given.rows), scenes, given)

    def _one_at_a_time(self, scenes: Scenes) -> Told:
        """As `update`, a window at a time: slow, and needed only for a batch with a window that gets no score."""
        none = np.empty(0, np.int64)
        done, rows, refused = [self._score(select(scenes, none))[0]], none, list[Refused]()
        for i in range(len(scenes)):
            try:
                scored, row, problems = self._score(select(scenes, np.array([i])))
            except Exception as problem:
                refused.append(Refused(i, Reason.SCORE_FAILED, f"{type(problem).__name__}: {problem}"[:200]))
            else:
                done, rows = [*done, scored], np.append(rows, row + i)
                refused += [replace(p, window=i) for p in problems]
        return join(done), rows, refused


def keep(scored: Scored, fine: Bool) -> Scored:
    """The rows of `scored` where `fine`; frames of refused windows are left out by their score."""
    at = np.flatnonzero(fine)
    frames = scored.frames
    finite = np.isfinite(frames.score)
    columns = {n: getattr(scored, n)[at] for n in COLUMNS}
    kept = Frames(frames.entity[finite], frames.start_us[finite], frames.end_us[finite], frames.score[finite])
    left_out = scored.left_out[at] if scored.left_out is not None else None
    return replace(scored, **columns, frames=kept, explain=lambda i: scored.explain(int(at[i])), left_out=left_out)


def join(parts: list[Scored]) -> Scored:
    """Several results end to end. At least one."""
    ends = np.cumsum([len(p.score) for p in parts])

    def explain(i: int) -> tuple[SensorPart, ...]:
        k = int(np.searchsorted(ends, i, side="right"))
        return parts[k].explain(i - (int(ends[k - 1]) if k else 0))

    def column(name: str) -> Any:
        return np.concatenate([getattr(p, name) for p in parts])

    frames = Frames(*(np.concatenate([getattr(p.frames, f.name) for p in parts]) for f in fields(Frames)))
    left_out = column("left_out") if all(p.left_out is not None for p in parts) else None
    return Scored(**{n: column(n) for n in (*COLUMNS, "carry")}, frames=frames, explain=explain, left_out=left_out)
