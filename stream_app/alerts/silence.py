"""Silence: alerts of entities from which nothing comes any more, where `alarms.also` asks for them.

In: samples as they come, and the partition's clock. Out: `Alert` messages. Remembers: per entity its last record, and
whether its silence was told, in one row, which goes where the entity's state goes: one that never returns keeps no
more than the state that it has anyway, in the changelog, until its tombstone.

An entity is silent when the partition's clock is `windows.idle` ahead of its last record. Its next record, or its
tombstone, ends that. All of it lies on one clock that never falls, so it does not matter whether both records come in
one batch, and records that are read again change nothing. Times in the alert are the entity's own: that of its last
sample, and so much later as the clock has gone on. One that has no open window when a worker ends (tokens whose last
window was just full) is told when it comes back: what is not in memory is not looked for.

    records    x  x  x . . . . . . . . . . . . x
    clock            |--- windows.idle ---|    |
    alert            data_start_time      |    data_end_time, closed
                                          detected_at, open
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.scenes import I32, I64, Bool
from stream_app.alerts.alert import Alert, Cluster, Input, rfc3339
from stream_app.alerts.episodes import Origin, identity, reproduction
from stream_app.keys import Keys
from stream_app.samples import Samples
from stream_app.windows.idle import silences
from stream_app.windows.segments import NEVER, bases_of, grouped, lengths_of, starts_of

STAGE = "silence"
UNHEARD, HEARD, TOLD, OVER = range(4)
INITIAL = np.array(
    [(UNHEARD, -NEVER, NEVER, -1)],
    [
        ("state", np.int8),
        ("clock_us", np.int64),  # the partition's clock at the last record; far ahead before the first: never silent
        ("t_us", np.int64),  # largest time of a sample
        ("offset", np.int64),  # of the last record
    ],
)


class Silences:
    """The rule for all entities of a partition."""

    def __init__(self, origin: Origin, keys: Keys, idle_us: int, now: Callable[[], float] = time.time) -> None:
        """now: seconds since the epoch, for `published_at` alone."""
        self._origin, self._keys, self._idle_us, self._now = origin, keys, idle_us, now
        self._again_us = NEVER  # nobody is due before

    def update(self, samples: Samples, clock_us: int) -> tuple[list[Alert], I32]:
        """Takes what came next, the clock having come to `clock_us`. Gives the messages, and the slots whose silence
        was told without a record of theirs, ascending."""
        found = self._hear(samples) if len(samples.runs) else []
        due = self._due(clock_us)
        found += [self._message(slot, _Last.of(self._keys[STAGE][slot])) for slot in due.tolist()]
        return found, due

    # --- what is heard ---------------------------------------------------------------------------------------------

    def _hear(self, samples: Samples) -> list[Alert]:
        came = self._came(samples)
        rows = self._keys[STAGE].take(came.slots)
        late = np.flatnonzero(silences(came.clock_us, came.starts, rows["clock_us"]) >= self._idle_us)
        found: list[Alert] = []
        for i in late.tolist():  # rare: once for each silence
            group = int(np.searchsorted(came.starts, i, side="right")) - 1
            slot, before = int(came.slots[group]), slice(int(came.starts[group]), i)
            last = came.last(before, _Last.of(rows[group]))
            if before.start < i or rows["state"][group] != TOLD:
                found.append(self._message(slot, last))
            found.append(self._message(slot, last, (int(came.clock_us[i]), int(came.offset[i]))))
        self._keep(came, rows)
        return found

    def _came(self, samples: Samples) -> _Came:
        """What came, without what is read again: it is in the rows already."""
        runs = samples.runs
        fresh = np.flatnonzero(runs.offset > self._keys[STAGE]["offset"][runs.entity])
        fresh = fresh[grouped(runs.entity[fresh])]
        latest = np.maximum.reduceat(samples.t_us, bases_of(runs.length))
        latest = np.where(runs.end, NEVER, latest)  # a tombstone has no time
        entity, columns = runs.entity[fresh], (runs.clock_us[fresh], latest[fresh], runs.offset[fresh], runs.end[fresh])
        starts = starts_of(entity)
        return _Came(entity[starts], starts, *columns)

    def _keep(self, came: _Came, rows: Any) -> None:
        """The rows after what came, and before it."""
        state, slots, ends = self._keys[STAGE], came.slots, came.ends
        if len(slots):
            state["t_us"][slots] = np.maximum(rows["t_us"], np.maximum.reduceat(came.t_us, came.starts))
        state["state"][slots] = np.where(came.end[ends], OVER, HEARD)
        state["clock_us"][slots], state["offset"][slots] = came.clock_us[ends], came.offset[ends]

    def _due(self, clock_us: int) -> I32:
        """The slots that have just fallen silent, which their rows know from now on. Ascending."""
        if clock_us < self._again_us:
            return np.empty(0, np.int32)
        rows = self._keys[STAGE]
        heard = np.flatnonzero(rows["state"] == HEARD)
        due_us = rows["clock_us"][heard] + self._idle_us
        found: I32 = heard[due_us <= clock_us].astype(np.int32)
        rows["state"][found] = TOLD
        self._again_us = int(due_us[due_us > clock_us].min(initial=clock_us + self._idle_us))
        return found

    # --- messages --------------------------------------------------------------------------------------------------

    def _message(self, slot: int, last: _Last, ended: tuple[int, int] | None = None) -> Alert:
        """The score is the silence in units of `windows.idle`; nothing says how probable it is. `ended`: the clock and
        the offset of the record that ended it."""
        o, entity = self._origin, self._keys.name(slot)
        silent_us, until = (ended[0] - last.clock_us, ended[1]) if ended else (self._idle_us, last.offset)
        alert_id = identity((o.detector, entity, "silence"), last.t_us, 0)
        return Alert(
            alert_id=alert_id,
            status="closed" if ended else "open",
            detector=o.detector,
            entity=entity,
            data_start_time=rfc3339(last.t_us),
            data_end_time=rfc3339(last.t_us + silent_us),
            detected_at=rfc3339(last.t_us + self._idle_us),
            published_at=rfc3339(round(self._now() * 1_000_000)),
            anomaly_score=silent_us / self._idle_us if self._idle_us else 1.0,
            threshold=1.0,
            tail_probability=1.0,
            anomaly_grade=1.0,
            confidence=1.0,
            state="live",
            reason="silence",
            cluster=Cluster(-1, 0.0, None),
            sensors=(),
            bundle=o.bundle,
            inputs=(Input(o.topic, o.partition, last.offset, until),),
            reproduce=reproduction(o, last.offset, until, alert_id),
        )


@dataclass(frozen=True)
class _Last:
    """What an entity said last before it fell silent."""

    clock_us: int
    t_us: int
    offset: int

    @classmethod
    def of(cls, row: Any) -> _Last:
        return cls(int(row["clock_us"]), int(row["t_us"]), int(row["offset"]))


@dataclass(frozen=True)
class _Came:
    """Records by entity, of an entity as they came. [r] but for the first two"""

    slots: I32  # [g] ascending
    starts: I64  # [g] the first record of each
    clock_us: I64
    t_us: I64  # the largest of the record
    offset: I64
    end: Bool

    @property
    def ends(self) -> I64:
        """The last record of each. [g]"""
        return self.starts + lengths_of(self.starts, len(self.offset)) - 1

    def last(self, some: slice, before: _Last) -> _Last:
        """The last of some neighbouring records of an entity; `before`: what came before them."""
        if some.start == some.stop:
            return before
        t_us = max(before.t_us, int(self.t_us[some].max()))
        return _Last(int(self.clock_us[some][-1]), t_us, int(self.offset[some][-1]))
