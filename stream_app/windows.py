"""Windows of event time: which sample is late, when a window closes, what it holds.

In: `Samples` in order of arrival. Out: `Closed`. Remembers: an `INGEST` row per entity, the samples in open windows.

Windows are half-open, aligned to the epoch and numbered: window k is [k*stride, k*stride + length). What is closed of
an entity is one number, the last closed window; the watermark, idleness and tombstones only ever raise it. A sample
belongs to the windows that hold its time and are open when it comes; it is late if there are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from models.detector import Detector, WindowSpec
from models.scenes import I32, I64, Bool
from stream_app.closed import INGEST as INGEST
from stream_app.closed import STAGE as STAGE
from stream_app.closed import Causes, Change, Cuts
from stream_app.closed import Closed as Closed
from stream_app.config import Config, Limits
from stream_app.counted import CountWindows
from stream_app.cutting import Closing, Grid, Rows, cut, in_order
from stream_app.errors import ConfigurationError
from stream_app.idle import Silence, silences
from stream_app.keys import Keys, Row
from stream_app.pending import Pending
from stream_app.resends import Resends
from stream_app.samples import Samples
from stream_app.segments import NEVER, grouped, lengths_of, running_max, starts_of

DEFAULT = WindowSpec(length_us=60_000_000, stride_us=10_000_000)  # where neither settings nor bundle say anything
COLUMNS = {"t_us": np.int64, "value": np.float64, "offset": np.int64, "sensor": np.int32, "skipped": np.int32}


def of(config: Config, detector: Detector | None, keys: Keys) -> TimeWindows | CountWindows:
    """The stage as configured; what the settings leave open is the detector's. Raises ConfigurationError."""
    spec = extents(config.windows.length, config.windows.stride, detector.windows if detector else DEFAULT)
    idle_us = config.windows.idle_us(spec.length_us)
    if spec.counted:
        return CountWindows(spec, idle_us, config.limits, keys)
    return TimeWindows(spec, config.windows.lateness, idle_us, config.limits, keys)


def extents(length: int | str | None, stride: int | str | None, default: WindowSpec) -> WindowSpec:
    """Length and stride, in microseconds or as text in tokens. Raises ConfigurationError where they do not go together.

    >>> extents("100 tokens", None, DEFAULT)
    WindowSpec(length_us=0, stride_us=0, length_tokens=100, stride_tokens=50)
    """
    if length is None:
        length = f"{default.length_tokens} tokens" if default.counted else default.length_us
        if stride is None:
            stride = f"{default.stride_tokens} tokens" if default.counted else default.stride_us
    if stride is None:
        stride = f"{max(1, _tokens(length) // 2)} tokens" if isinstance(length, str) else max(1, length // 6)
    if isinstance(length, str) != isinstance(stride, str):
        raise ConfigurationError(f"windows: length {length} and stride {stride} must both be times or both be tokens")
    n_length, n_stride = (_tokens(e) if isinstance(e, str) else e for e in (length, stride))
    if not 0 < n_stride <= n_length:
        raise ConfigurationError(f"windows: stride {stride} must be above 0 and at most the length, {length}")
    if isinstance(length, str):
        return WindowSpec(length_tokens=n_length, stride_tokens=n_stride)
    return WindowSpec(length_us=n_length, stride_us=n_stride)


def _tokens(text: str) -> int:
    return int(re.sub(r"\D", "", text))


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
        order = grouped(samples.entity)
        forced = self._silence.excess()
        change = Change.begin(self._keys, samples.entity[order], forced)
        self._shut_all(forced)
        is_end = samples.end[order]
        late = self._take(samples, order[~is_end])
        ended, shut = self._end(samples, order[is_end])
        idle = self._silence.due(clock_us)
        change.touch(idle)
        self._shut_all(idle)
        return self._close(change, late, Causes(ended, idle, forced, shut))

    def finish(self, over: bool = True) -> Closed:
        """The end of a file: all windows close. `over` concerns tokens only: time goes on after a file."""
        slots = self._pending.slots()
        change = Change.begin(self._keys, slots)
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

    def _take(self, samples: Samples, order: I64) -> I64:
        """Judges and stores samples that lie by slot, within a slot as they came. Gives the late ones' offsets.

        The largest time may be taken over late samples too: what they could shut is shut, or they were not late.
        """
        if not len(order):
            return order
        t_us, clock_us, slots = samples.t_us[order], samples.clock_us[order], samples.entity[order]
        starts = starts_of(slots)
        lengths = lengths_of(starts, len(slots))
        tails = starts + lengths - 1
        state, heads = self._keys[STAGE], slots[starts]
        row = state.take(heads)
        groups = np.repeat(np.arange(len(heads)), lengths)
        passed = self._grid.ended(t_us - self._lateness_us)
        shut = running_max(passed, groups, self._grid.ended(row["closed_until_us"]))
        silent = silences(clock_us, starts, row["clock_us"]) >= self._idle_us
        if silent.any():
            shut = np.maximum(shut, self._shut_by_silence(silent, groups, t_us, row))
        state["closed_until_us"][heads] = self._grid.end_us(np.maximum(shut, passed)[tails])
        state["max_t_us"][heads] = np.maximum(row["max_t_us"], np.maximum.reduceat(t_us, starts))
        state["clock_us"][heads] = clock_us[tails]
        late = self._grid.last(t_us) <= shut
        skipped = np.maximum(shut + 1 - self._grid.first(t_us), 0)
        self._store(samples, order[~late], skipped[~late])
        return samples.offset[order[late]]

    def _shut_by_silence(self, silent: Bool, groups: I64, t_us: I64, row: Row) -> I64:
        """The last window that silence has closed when a sample comes, that before this sample included. [n]"""
        reached = running_max(self._grid.last(t_us), groups, self._grid.last(row["max_t_us"]))
        shut = np.where(silent, reached, NEVER)
        return np.maximum(shut, running_max(shut, groups, np.full(len(row), NEVER)))

    def _store(self, samples: Samples, order: I64, skipped: I64) -> None:
        slots = samples.entity[order]
        starts = starts_of(slots)
        columns = {name: getattr(samples, name)[order] for name in ("t_us", "value", "offset", "sensor")}
        self._pending.add(slots[starts], lengths_of(starts, len(order)), columns | {"skipped": skipped})
        self._n_open += len(order)

    def _end(self, samples: Samples, order: I64) -> tuple[I32, I64]:
        """Tombstones: all windows of their slots are shut. Gives the slots and their last window shut before."""
        slots, state = samples.entity[order], self._keys[STAGE]
        silent = samples.clock_us[order] - state["clock_us"][slots] >= self._idle_us
        self._shut_all(slots[silent])
        shut = self._grid.ended(state["closed_until_us"][slots])
        state["ended_at"][slots], state["clock_us"][slots] = samples.offset[order], samples.clock_us[order]
        self._shut_all(slots)
        return slots, shut

    def _shut_all(self, slots: I32) -> None:
        """As if the watermark had passed the last window that holds anything."""
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
        ended_above = np.full(len(slots), -NEVER)
        _, place, which = np.intersect1d(slots, causes.ended, assume_unique=True, return_indices=True)
        ended_above[place] = causes.shut[which]
        closing = Closing(slots, before[at], now[at], ended_above)
        cuts = self._cut(closing) if len(slots) else Cuts()  # most small batches close nothing
        self._n_open -= len(cuts.scored) + len(cuts.duplicate)
        return Closed(
            scenes=cuts.scenes,
            ordinal=cuts.ordinal,
            block=cuts.block,
            late=late,
            duplicate=cuts.duplicate,
            scored=cuts.scored,
            touched=change.slots,
            before=change.before,
            ended=causes.ended,
            idle=causes.idle[self._pending.count(causes.idle) == 0],
            forced=causes.forced[self._pending.count(causes.forced) == 0],
            n_open=self._n_open,
        )

    def _cut(self, closing: Closing) -> Cuts:
        rows, duplicate = self._taken(closing.slots)
        done = cut(self._grid, rows, closing)
        self._put_back(closing.slots, rows.at(done.stays))
        ordinal = done.k - NEVER // self._grid.stride_us
        return Cuts(done.scenes, ordinal, done.block, rows.offset[done.scored], duplicate)

    def _taken(self, slots: I32) -> tuple[Rows, I64]:
        """The pending samples of some entities in order, each once, and the offsets of the resends among them."""
        counts, c = self._pending.take(slots)
        groups = np.repeat(np.arange(len(slots)), counts)
        rows, again = in_order(Rows(groups, c["t_us"], c["value"], c["offset"], c["sensor"], c["skipped"]))
        if not len(again):
            return rows, rows.offset[:0]
        first = np.ones(len(rows.group), bool)
        first[again] = False
        origin = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
        self._resends.add(rows.offset[origin[again]], rows.offset[again])
        return rows.at(np.flatnonzero(first)), rows.offset[again]

    def _put_back(self, slots: I32, rows: Rows) -> None:
        starts = starts_of(rows.group)
        columns = {name: getattr(rows, name) for name in COLUMNS}
        self._pending.pack(slots[rows.group[starts]], lengths_of(starts, len(rows.group)), columns)
