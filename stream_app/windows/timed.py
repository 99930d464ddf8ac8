"""Windows of event time: which sample is late, when a window closes, what it holds.

In: `Samples` in order of arrival. Out: `Closed`. Remembers: an `INGEST` row per entity, the samples in open windows.

Windows are half-open, aligned to the epoch and numbered: window k is [k*stride, k*stride + length). What is closed of
an entity is one number, the last closed window; the watermark, idleness and tombstones only ever raise it. A sample
belongs to the windows that hold its time and are open when it comes; it is late if there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models.detector import Detector, WindowSpec
from models.scenes import I32, I64, Bool
from stream_app.config import Config, Limits
from stream_app.keys import Keys, Row
from stream_app.samples import Runs, Samples
from stream_app.windows.arrivals import Arrivals, arrivals, without
from stream_app.windows.closed import INGEST as INGEST
from stream_app.windows.closed import STAGE as STAGE
from stream_app.windows.closed import Causes, Change, Cuts
from stream_app.windows.closed import Closed as Closed
from stream_app.windows.counted import CountWindows
from stream_app.windows.cutting import Closing, Grid, cut
from stream_app.windows.extents import configured
from stream_app.windows.idle import Silence
from stream_app.windows.ordered import Ordered, joints, marks, oddities, unordered
from stream_app.windows.pending import Chain, Pending
from stream_app.windows.resends import Resends
from stream_app.windows.segments import (
    NEVER,
    Columns,
    Joints,
    distinct,
    inner,
    last_of,
    lengths_of,
    ranges,
    running_max,
    starts_of,
)
from stream_app.windows.tidying import tidied

COLUMNS = {"t_us": np.int64, "value": np.float64, "offset": np.int64, "sensor": np.int32, "skipped": np.int32}


def of(config: Config, detector: Detector | None, keys: Keys) -> TimeWindows | CountWindows:
    """The stage as configured; what the settings leave open is the detector's. Raises ConfigurationError."""
    spec = configured(config, detector)
    idle_us = config.windows.idle_us(spec.length_us)
    if spec.counted:
        return CountWindows(spec, idle_us, config.limits, keys)
    return TimeWindows(spec, config.windows.lateness, idle_us, config.limits, keys)


@dataclass(frozen=True)
class _Pieces:
    """What came for an entity, in pieces: within one, times do not fall and no sample came after a silence.

    No sample of a piece can shut a window that holds the time of a later one, so all are judged by what was shut when
    the piece began. [p] each
    """

    group: I64
    first: I64  # row
    length: I64
    first_us: I64
    last_us: I64
    silent: Bool  # its first sample came after a silence


def _pieces(came: Arrivals, odd: Joints, clock_us: I64, idle_us: int) -> _Pieces:
    """The pieces of all entities, in order; `clock_us`: the clock at each entity's last sample before."""
    starts = came.starts
    silent = starts[came.first_clock_us - clock_us >= idle_us]
    if (pauses := came.pauses(idle_us)).size:
        silent = distinct(silent, inner(pauses, starts)[0])
    falls = odd.row[odd.step < 0]
    first = distinct(starts, falls, silent) if len(falls) or len(silent) else starts
    length = lengths_of(first, len(came))
    group = np.arange(len(first))
    if len(first) > len(starts):
        group = np.searchsorted(starts, first, side="right") - 1
    is_silent = np.zeros(len(first), bool)
    is_silent[np.searchsorted(first, silent)] = True
    return _Pieces(group, first, length, came.at("t_us", first), came.at("t_us", first + length - 1), is_silent)


class TimeWindows:
    """The stage for windows of time. One call at a time."""

    def __init__(self, spec: WindowSpec, lateness_us: int, idle_us: int, limits: Limits, keys: Keys) -> None:
        assert 0 < spec.stride_us <= spec.length_us
        self._grid = Grid(spec.length_us, spec.stride_us)
        self._lateness_us, self._idle_us, self._keys = lateness_us, idle_us, keys
        self._pending = Pending(COLUMNS)
        self._silence = Silence(idle_us, limits, keys, self._pending)
        self._resends = Resends()
        self._n_open = 0

    def update(self, samples: Samples, clock_us: int) -> Closed:
        """Takes the next samples of the partition; `clock_us` is its clock after the batch, also of an empty one."""
        tombstones = np.flatnonzero(samples.runs.end)
        came = arrivals(without(samples, tombstones))
        forced = self._silence.excess()
        change = Change.of(self._keys, came.slots, samples.runs.entity[tombstones], forced)
        self._shut_all(forced)
        late = self._take(came)
        ended, shut = self._end(samples.runs, tombstones)
        idle = self._silence.due(clock_us)
        change.touch(idle)
        self._shut_all(idle)
        return self._close(change, late, Causes(ended, idle, forced, shut))

    def finish(self, over: bool = True) -> Closed:
        """The end of a file: all windows close. `over` concerns tokens only: time goes on after a file."""
        slots = self._pending.slots()
        change = Change(self._keys, slots)
        self._shut_all(slots)
        return self._close(change, np.empty(0, np.int64), Causes())

    def needed_offset(self, floor: Callable[[int], int] = int) -> int | None:
        """From where records must be read again to have the samples of all open windows; None: nothing is open.

        `floor` rounds an offset down to where reading may begin. A sample is not divided from its resend.
        """
        return self._resends.needed(self._pending.oldest_offset(), floor)

    def forget(self, slots: I32) -> None:
        """The slots are about to be released. Only such as are closed may be: ended, idle or forced."""
        assert not self._pending.count(slots).any(), "samples are pending in a slot to be released"

    # --- the verdict on each sample -----------------------------------------------------------------------------------

    def _take(self, came: Arrivals) -> I64:
        """Judges and stores samples. Gives the late ones' offsets.

        The largest time may be taken over late samples too: what they could shut is shut, or they were not late.
        """
        state, row, slots = self._keys[STAGE], self._keys[STAGE].take(came.slots), came.slots
        odd = came.joints(self._grid.stride_us)
        pieces = _pieces(came, odd, row["clock_us"], self._idle_us)
        passed = self._grid.ended(pieces.last_us - self._lateness_us)
        shut = running_max(passed, pieces.group, self._grid.ended(row["closed_until_us"]))
        if pieces.silent.any():
            shut = np.maximum(shut, self._shut_by_silence(pieces, row))
        heads, tails = starts_of(pieces.group), last_of(pieces.group)
        state["closed_until_us"][slots] = self._grid.end_us(np.maximum(shut, passed)[tails])
        if len(slots):
            state["max_t_us"][slots] = np.maximum(row["max_t_us"], np.maximum.reduceat(pieces.last_us, heads))
        state["clock_us"][slots] = came.last_clock_us
        return self._store(came, odd, pieces, shut)

    def _shut_by_silence(self, pieces: _Pieces, row: Row) -> I64:
        """The last window that silence has closed when a piece comes, that before this piece included. [p]"""
        reached = running_max(self._grid.last(pieces.last_us), pieces.group, self._grid.last(row["max_t_us"]))
        shut = np.where(pieces.silent, reached, NEVER)
        return np.maximum(shut, running_max(shut, pieces.group, np.full(len(row), NEVER)))

    def _store(self, came: Arrivals, odd: Joints, pieces: _Pieces, shut: I64) -> I64:
        """Stores what is in a window that is open. Gives the offsets of the rest."""
        self._n_open += len(came)
        touched = self._grid.first(pieces.first_us) <= shut
        if not touched.any():  # almost always: nothing that came is in a window that is shut
            self._pending.add(came.slots, came.lengths, came.columns, (came.runs, {"offset": came.offset}))
            self._pending.mark(came.slots, marks(odd, came.starts, self._grid.stride_us))
            return came.starts[:0]
        rows, n = ranges(pieces.first[touched], pieces.length[touched]), len(came)
        columns = came.by_entity("t_us", "value", "sensor") | {"offset": came.by_row(came.offset)}
        columns["skipped"] = np.zeros(n, np.int32)
        by, t_us = np.repeat(shut[touched], pieces.length[touched]), columns["t_us"][rows]
        columns["skipped"][rows] = np.maximum(by + 1 - self._grid.first(t_us), 0)
        late = np.zeros(n, bool)
        late[rows] = self._grid.last(t_us) <= by
        self._put(np.repeat(came.slots, came.lengths)[~late], {name: c[~late] for name, c in columns.items()})
        self._n_open -= int(late.sum())
        return columns["offset"][late]

    def _put(self, slots: I32, columns: Columns, pack: bool = False) -> None:
        """Stores rows by slot that came as they liked. `pack`: they are all that their slots have."""
        starts = starts_of(slots)
        put = self._pending.pack if pack else self._pending.add
        given = columns if columns["skipped"].any() else {n: c for n, c in columns.items() if n != "skipped"}
        put(slots[starts], lengths_of(starts, len(slots)), given)
        stride_us = self._grid.stride_us
        self._pending.mark(
            slots[starts], marks(joints(columns, starts, stride_us), starts, stride_us) | oddities(columns, starts)
        )

    def _end(self, runs: Runs, tombstones: I64) -> tuple[I32, I64]:
        """Tombstones: all windows of their slots are shut. Gives the slots and their last window shut before."""
        tombstones = tombstones[np.argsort(runs.entity[tombstones])]
        slots, state = runs.entity[tombstones], self._keys[STAGE]
        silent = runs.clock_us[tombstones] - state["clock_us"][slots] >= self._idle_us
        self._shut_all(slots[silent])
        shut = self._grid.ended(state["closed_until_us"][slots])
        state["ended_at"][slots], state["clock_us"][slots] = runs.offset[tombstones], runs.clock_us[tombstones]
        self._shut_all(slots)
        return slots, shut

    def _shut_all(self, slots: I32) -> None:
        """As if the watermark had passed the last window that holds anything."""
        if not len(slots):
            return  # four times in almost every small batch
        state = self._keys[STAGE]
        last_end = self._grid.end_us(self._grid.last(state["max_t_us"][slots]))
        state["closed_until_us"][slots] = np.maximum(state["closed_until_us"][slots], last_end)

    # --- closing ------------------------------------------------------------------------------------------------------

    def _close(self, change: Change, late: I64, causes: Causes) -> Closed:
        """Takes the samples of entities whose last closed window has changed, and cuts."""
        before = self._grid.ended(change.before["closed_until_us"])
        now = self._grid.ended(self._keys[STAGE]["closed_until_us"][change.slots])
        at = np.flatnonzero(
            (self._pending.count(change.slots) > 0) & ((now > before) | self._pending.crowded(change.slots))
        )
        slots = change.slots[at]
        # most small batches close nothing
        cuts = self._cut(Closing(slots, before[at], now[at], _ended_above(slots, causes))) if len(slots) else Cuts()
        self._n_open -= len(cuts.scored) + len(cuts.duplicate)
        return Closed.of(replace(cuts, late=late), change, causes.done(self._pending.count), self._n_open)

    def _cut(self, closing: Closing) -> Cuts:
        slots = closing.slots
        duplicate = self._tidy(slots, self._pending.chain(slots))
        rows = Ordered(self._pending.chain(slots))
        done = cut(self._grid, rows, closing)
        self._pending.drop(slots, rows.chain, rows.before(done.stays))
        ordinal = done.k - NEVER // self._grid.stride_us
        return Cuts(done.shown, ordinal, done.block, done.scored, duplicate)

    def _tidy(self, slots: I32, chain: Chain) -> I64:
        """Brings the rows of entities into order where they are not. Gives the offsets of resends among them."""
        slots = distinct(slots[unordered(chain)], slots[self._pending.crowded(slots)])
        if not len(slots):
            return np.empty(0, np.int64)
        counts, columns = self._pending.take(slots)
        done = tidied(columns, np.repeat(np.arange(len(slots)), counts))
        self._resends.add(done.origin, done.resent)
        self._put(slots[done.group], done.columns, pack=True)
        return done.resent


def _ended_above(slots: I32, causes: Causes) -> I64:
    """Which windows of each slot a tombstone closed: those above the last one shut before. [slots]"""
    place = np.minimum(np.searchsorted(slots, causes.ended), len(slots) - 1)
    there = slots[place] == causes.ended
    above = np.full(len(slots), -NEVER)
    above[place[there]] = causes.shut[there]
    return above
