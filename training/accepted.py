"""The samples that the stream's own windows stage has accepted, each once, as training data.

In: what the stage closes, call by call. Out: `Rows`, and the names of their sessions. Remembers: per slot its session
and how far it was taken. What came late for any of its windows is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.scenes import I32, I64, Bool, Scenes
from stream_app.files.reader import Rows
from stream_app.windows.closed import Closed, rounds
from stream_app.windows.segments import bisected, last_of, ranges, starts_of


class Accepted:
    """Of one partition. A session of windows of time is an entity; one of tokens begins at each position 0."""

    def __init__(self, counted: bool, name_of: Callable[[int], str]) -> None:
        self._counted, self._name_of = counted, name_of
        self.sessions: list[str] = []  # the entity of each
        self._session = np.empty(0, np.int32)  # by slot; -1: none yet
        self._until = np.empty(0, np.int64)  # by slot: time, or position, below which everything was taken

    def take(self, closed: Closed) -> list[Rows]:
        """The samples of the windows that closed which no earlier window held; `entity` is the session."""
        return [self._take(scenes) for scenes, _ in rounds(closed) if len(scenes)]

    def _take(self, scenes: Scenes) -> Rows:
        slots = scenes.entity
        self._grow(int(slots.max()) + 1)
        heads, tails = starts_of(slots), np.flatnonzero(last_of(slots))
        session, begins = self._sessions(scenes, heads)
        continues = np.ones(len(slots), bool)
        continues[heads] = False
        first = np.where(continues, np.maximum(scenes.first, np.roll(scenes.last, 1)), scenes.first)
        old = heads[~begins[heads]]
        first[old] = self._untaken(scenes, old)
        first = np.where(begins, scenes.first, first)
        lengths = np.maximum(scenes.last - first, 0)
        ends = scenes.position + scenes.last - scenes.first if self._counted else scenes.end_us
        self._until[slots[tails]], self._session[slots[tails]] = ends[tails], session[tails]
        rows = ranges(first, lengths)
        columns = (scenes.sensor[rows], scenes.t_us[rows], scenes.value[rows])
        return Rows(np.repeat(session, lengths), *columns, np.repeat(scenes.first_offset, lengths))

    def _sessions(self, scenes: Scenes, heads: I64) -> tuple[I32, Bool]:
        """The session of each window, and whether the window is its first."""
        slots = scenes.entity
        begins = (scenes.position == 0) if self._counted else np.zeros(len(slots), bool)
        begins[heads] |= self._session[slots[heads]] < 0
        session = np.full(len(slots), -1, np.int32)
        session[heads] = self._session[slots[heads]]
        session[begins] = len(self.sessions) + np.arange(np.count_nonzero(begins))
        self.sessions += [self._name_of(slot) for slot in slots[begins].tolist()]
        known = np.where(session >= 0, np.arange(len(slots)), 0)  # every head has one by now
        return session[np.maximum.accumulate(known)], begins

    def _grow(self, n: int) -> None:
        if n > len(self._session):
            more = max(n, 2 * len(self._session)) - len(self._session)
            self._session = np.append(self._session, np.full(more, -1, np.int32))
            self._until = np.append(self._until, np.zeros(more, np.int64))

    def _untaken(self, scenes: Scenes, windows: I64) -> I64:
        """The first row of each window that was not taken before."""
        first, last, until = scenes.first[windows], scenes.last[windows], self._until[scenes.entity[windows]]
        if self._counted:
            begun: I64 = np.clip(first + until - scenes.position[windows], first, last)
            return begun
        return bisected(scenes.t_us, first, last, until)
