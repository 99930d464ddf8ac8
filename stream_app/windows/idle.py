"""Who has been silent for too long, found without looking at everybody in every batch.

In: the partition's clock. Out: slots to close. Remembers: a queue of the entities by the time at which they are due.

Every `idle` of the partition's clock all entities with open windows are queued by the time at which they would be due
if nothing more came. An entity heard from after that can't be due before the next queue is made, so that in between
only the head of the queue is looked at.
"""

from __future__ import annotations

import numpy as np

from models.scenes import I32, I64
from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.windows.closed import STAGE
from stream_app.windows.pending import Pending
from stream_app.windows.segments import NEVER, distinct

RELIEF = 8  # a limit that is reached makes room for an eighth, so that it is not reached again at once


def silences(clock_us: I64, starts: I64, before_us: I64) -> I64:
    """How long each record's entity had been silent, for records by entity; `before_us`: the clock before the first."""
    previous = np.empty_like(clock_us)
    previous[1:] = clock_us[:-1]
    previous[starts] = before_us
    return clock_us - previous


class Silence:
    """Finds the entities that are due, and the least recently seen ones when a limit is reached."""

    def __init__(self, idle_us: int, limits: Limits, keys: Keys, pending: Pending) -> None:
        self._idle_us, self._limits, self._keys, self._pending = idle_us, limits, keys, pending
        self._slots, self._due_us = np.empty(0, np.int32), np.empty(0, np.int64)
        self._again_us = NEVER

    def due(self, clock_us: int) -> I32:
        """The slots with pending samples whose last record lies `idle` behind the clock, ascending."""
        clocks = self._keys[STAGE]["clock_us"]
        if clock_us >= self._again_us:
            slots = self._pending.slots()
            due_us = clocks[slots] + self._idle_us
            order = np.argsort(due_us, kind="stable")
            self._slots, self._due_us, self._again_us = slots[order], due_us[order], clock_us + self._idle_us
        n = int(np.searchsorted(self._due_us, clock_us, side="right"))
        head, self._slots, self._due_us = self._slots[:n], self._slots[n:], self._due_us[n:]
        still = (self._pending.count(head) > 0) & (clocks[head] + self._idle_us <= clock_us)
        return np.sort(head[still])

    def excess(self) -> I32:
        """The least recently seen slots, as many as must be closed for the limits, ascending."""
        many, room = len(self._pending), self._limits.pending_samples
        entities, seats = len(self._keys), self._limits.entities
        found = [np.empty(0, np.int32)]
        if many > room:
            slots = self._by_silence(self._pending.slots())
            left = many - np.cumsum(self._pending.count(slots))
            found.append(slots[: int(np.searchsorted(-left, -(room - room // RELIEF))) + 1])
        if entities > seats:
            found.append(self._by_silence(self._keys.live())[: entities - (seats - seats // RELIEF)])
        return distinct(*found)

    def _by_silence(self, slots: I32) -> I32:
        clocks: I64 = self._keys[STAGE]["clock_us"][slots]
        return slots[np.argsort(clocks, kind="stable")]
