"""Windows of tokens: so many tokens in the order in which they came, since many tokens share a time.

In: `Samples` in order of arrival. Out: `Closed`. Remembers: an `INGEST` row per entity, and the tokens of open windows.

A session is an entity's tokens until a tombstone, until silence or until the end of a file. Window j of a session is
[j*stride, j*stride + length) by position and closes with its last token. When the session is over, one more window
closes: the next one, shorter, if it would have begun within the session.

    length 4, stride 2      0 1 2 3 4 5 6 |          a session of 7 tokens
                           [0 1 2 3]
                               [2 3 4 5]
                                   [4 5 6]           ended: the end is part of the sequence

Silence ends a session but keeps the slot: the entity's next token is at position 0 again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from models.detector import WindowSpec
from models.scenes import I32, I64, Bool, Scenes
from stream_app.config import Limits
from stream_app.keys import Keys, Row
from stream_app.samples import Samples
from stream_app.windows.closed import STAGE, Causes, Change, Closed, Cuts
from stream_app.windows.idle import Silence, silences
from stream_app.windows.pending import Pending
from stream_app.windows.segments import (
    Columns,
    bases_of,
    extremes,
    grouped,
    last_of,
    lengths_of,
    ranges,
    running_max,
    starts_of,
)

COLUMNS = {"t_us": np.int64, "value": np.float64, "offset": np.int64}


@dataclass(frozen=True)
class Counts:
    """Where windows lie in a session, 0 < stride <= length."""

    length: int
    stride: int

    def closed(self, n: I64) -> I64:
        """How many windows have closed when the session has n tokens and goes on."""
        return np.maximum((n - self.length) // self.stride + 1, 0)

    def all(self, n: I64) -> I64:
        """How many windows a session of n tokens has when it is over."""
        closed = self.closed(n)
        return closed + (closed * self.stride < n)

    def covered(self, windows: I64) -> I64:
        """How many tokens are in the first so many windows."""
        return np.where(windows > 0, (windows - 1) * self.stride + self.length, 0)


@dataclass(frozen=True)
class _Sessions:
    """The sessions a call moves on or ends, by slot, then in order; all of a slot but its last are over. [s] each"""

    slot: I32
    start: I64  # position before this call
    end: I64  # position after it
    ordinal: I64  # of the session's first window
    over: Bool

    def at(self, which: I64 | Bool) -> _Sessions:
        return _Sessions(self.slot[which], self.start[which], self.end[which], self.ordinal[which], self.over[which])


class CountWindows:
    """The stage for windows of tokens. One call at a time."""

    def __init__(self, spec: WindowSpec, idle_us: int, limits: Limits, keys: Keys) -> None:
        assert 0 < spec.stride_tokens <= spec.length_tokens
        self._counts = Counts(spec.length_tokens, spec.stride_tokens)
        self._idle_us, self._keys = idle_us, keys
        self._pending = Pending(COLUMNS)
        self._silence = Silence(idle_us, limits, keys, self._pending)
        self._n_open = 0

    def update(self, samples: Samples, clock_us: int) -> Closed:
        """Takes the next tokens of the partition; `clock_us` is its clock after the batch, also of an empty one."""
        order = grouped(samples.entity)
        forced = self._silence.excess()
        change = Change.begin(self._keys, samples.entity[order], forced)
        is_end = samples.end[order]
        sessions, duplicate = self._take(samples, order[~is_end], change.slots, forced)
        ended = self._end(samples, order[is_end])
        idle = self._silence.due(clock_us)
        change.touch(idle)
        sessions = self._finished(sessions, np.union1d(ended, idle))
        return self._close(sessions, change, duplicate, Causes(ended, idle, forced))

    def finish(self, over: bool = True) -> Closed:
        """The end of a file: all windows close. `over`: the sessions end there too."""
        slots = self._pending.slots()
        change = Change(self._keys, slots)
        sessions = self._finished(_no_sessions(), slots)
        return self._close(sessions, change, np.empty(0, np.int64), Causes(open_end=not over))

    def needed_offset(self, floor: Callable[[int], int] = int) -> int | None:
        """From where records must be read again to have the tokens of all open windows; None: nothing is open.

        `floor` rounds an offset down to where reading may begin. Resends are known by `seq`, which the row remembers.
        """
        oldest = self._pending.oldest_offset()
        return None if oldest is None else floor(oldest)

    def forget(self, slots: I32) -> None:
        """The slots are about to be released. Only such as are closed may be: ended, idle or forced."""
        assert not self._pending.count(slots).any(), "tokens are pending in a slot to be released"

    # --- the place of each token --------------------------------------------------------------------------------------

    def _take(self, samples: Samples, order: I64, slots: I32, forced: I32) -> tuple[_Sessions, I64]:
        """Stores tokens that lie by slot, within a slot as they came. Gives sessions and duplicates' offsets."""
        state, row = self._keys[STAGE], self._keys[STAGE].take(slots)
        starts = starts_of(samples.entity[order])
        group = np.searchsorted(slots, samples.entity[order])
        begins = silences(samples.clock_us[order], starts, row["clock_us"][group[starts]]) >= self._idle_us
        begins[starts] |= np.isin(slots[group[starts]], forced)
        session = group + np.cumsum(begins)
        heads = np.arange(len(slots)) + bases_of(np.bincount(group[begins], minlength=len(slots)))
        n_sessions = len(slots) + int(begins.sum())
        seq, known = samples.seq[order], np.full(n_sessions, -1)
        known[heads] = row["last_seq"]
        before = running_max(seq, session, known)
        fresh = (seq < 0) | (seq > before)
        sessions = self._sessions(row, slots, heads, np.bincount(session[fresh], minlength=n_sessions))
        tails = starts + lengths_of(starts, len(order)) - 1
        seen = slots[group[tails]]
        state["clock_us"][seen] = samples.clock_us[order[tails]]
        state["last_seq"][seen] = np.maximum(before, seq)[tails]
        silent_now = forced[~np.isin(forced, seen)]
        self._store(samples, order[fresh])
        return self._finished(sessions, silent_now), samples.offset[order[~fresh]]

    def _sessions(self, row: Row, slots: I32, heads: I64, n_new: I64) -> _Sessions:
        """The sessions of each slot: the one that was open, and one more after each silence."""
        n = lengths_of(heads, len(n_new))
        start = np.zeros(len(n_new), np.int64)
        start[heads] = row["position"]
        windows = self._counts.all(start + n_new)
        earlier = bases_of(windows)
        ordinal = earlier + np.repeat(row["ordinal"] - earlier[heads], n)
        slot = np.repeat(slots, n)
        return _Sessions(slot, start, start + n_new, ordinal, ~last_of(slot))

    def _store(self, samples: Samples, order: I64) -> None:
        slots = samples.entity[order]
        starts = starts_of(slots)
        columns: Columns = {name: getattr(samples, name)[order] for name in COLUMNS}
        self._pending.add(slots[starts], lengths_of(starts, len(order)), columns)
        self._n_open += len(order)

    def _end(self, samples: Samples, order: I64) -> I32:
        """Tombstones. Gives their slots."""
        slots, state = samples.entity[order], self._keys[STAGE]
        state["ended_at"][slots], state["clock_us"][slots] = samples.offset[order], samples.clock_us[order]
        return slots

    def _finished(self, sessions: _Sessions, slots: I32) -> _Sessions:
        """The sessions, with the last one of these slots over."""
        others = np.setdiff1d(slots, sessions.slot)
        row = self._keys[STAGE].take(others)
        quiet = _Sessions(others, row["position"], row["position"], row["ordinal"], np.ones(len(others), bool))
        over = sessions.over | np.isin(sessions.slot, slots)
        if not len(others):
            return replace(sessions, over=over)
        together = _joined(replace(sessions, over=over), quiet)
        return together.at(np.argsort(together.slot, kind="stable"))

    def _settle(self, sessions: _Sessions) -> None:
        """Writes where each slot's last session is, or that the next token begins a new one."""
        state, s = self._keys[STAGE], sessions.at(last_of(sessions.slot))
        state["position"][s.slot] = np.where(s.over, 0, s.end)
        state["ordinal"][s.slot] = s.ordinal + np.where(s.over, self._counts.all(s.end), 0)
        state["last_seq"][s.slot[s.over]] = -1

    # --- closing ------------------------------------------------------------------------------------------------------

    def _close(self, sessions: _Sessions, change: Change, duplicate: I64, causes: Causes) -> Closed:
        """Takes the tokens of slots with a window to close, and cuts."""
        self._settle(sessions)
        to_close = sessions.slot[self._counts.closed(sessions.start) < self._windows_of(sessions)]
        wanted = np.isin(change.slots, to_close) | self._pending.crowded(change.slots)
        slots = change.slots[wanted & (self._pending.count(change.slots) > 0)]
        part = sessions.at(np.isin(sessions.slot, slots))
        cuts = self._cut(part, slots, causes.open_end) if len(slots) else Cuts()  # most small batches close nothing
        self._n_open -= len(cuts.scored)
        return Closed.of(replace(cuts, duplicate=duplicate), change, causes.done(self._pending.count), self._n_open)

    def _cut(self, sessions: _Sessions, slots: I32, open_end: bool) -> Cuts:
        counts, rows = self._pending.take(slots)
        held = self._held(sessions, counts)
        self._put_back(held, rows)
        scored = rows["offset"][ranges(held.row(held.counted), held.row(held.until) - held.row(held.counted))]
        scenes, ordinal = _scenes(self._counts, held, rows, open_end)
        return Cuts(lambda: scenes, ordinal, np.zeros(len(ordinal), np.int32), scored)

    def _windows_of(self, s: _Sessions) -> I64:
        """How many windows of each session have closed after this call."""
        return np.where(s.over, self._counts.all(s.end), self._counts.closed(s.end))

    def _held(self, s: _Sessions, counts: I64) -> _Held:
        """Where the tokens of each session lie. What a slot has beyond its new ones is of its first session."""
        n, heads = s.end - s.start, starts_of(s.slot)
        n[heads] += counts - np.add.reduceat(n, heads)
        was, now = self._counts.closed(s.start), self._windows_of(s)
        until = np.where(s.over, s.end, self._counts.covered(now))
        return _Held(s, bases_of(n), n, was, now, self._counts.covered(was), until)

    def _put_back(self, held: _Held, rows: Columns) -> None:
        """Tokens at or after the start of the next window stay, unless their session is over."""
        start = held.row(np.where(held.sessions.over, held.sessions.end, held.now * self._counts.stride))
        n = held.base + held.n - start
        kept = ranges(start, n)
        self._pending.pack(held.sessions.slot[n > 0], n[n > 0], {name: column[kept] for name, column in rows.items()})


@dataclass(frozen=True)
class _Held:
    """The tokens of some sessions, end to end. [s] each. After a restart the first ones of a session can be missing."""

    sessions: _Sessions
    base: I64  # its first row
    n: I64  # how many rows
    was: I64  # windows closed before this call
    now: I64  # and after it
    counted: I64  # position before which tokens had an outcome before this call
    until: I64  # and after it

    def row(self, position: I64, of: I64 | slice = slice(None)) -> I64:
        """The row of a position in sessions `of`; the nearest end where it is not among the rows."""
        n = self.n[of]
        at: I64 = self.base[of] + np.clip(position - (self.sessions.end[of] - n), 0, n)
        return at


def _scenes(counts: Counts, held: _Held, rows: Columns, open_end: bool) -> tuple[Scenes, I64]:
    """The windows that close, with the ordinals."""
    n_windows = held.now - held.was
    of, j = np.repeat(np.arange(len(n_windows)), n_windows), ranges(held.was, n_windows)
    first, last = held.row(j * counts.stride, of), held.row(j * counts.stride + counts.length, of)
    of, j, first, last = (column[first < last] for column in (of, j, first, last))
    n_shown = np.where(n_windows > 0, held.row(held.until) - held.base, 0)
    shown, moved = ranges(held.base, n_shown), (held.base - bases_of(n_shown))[of]
    t_us = rows["t_us"]
    first_offset, last_offset = extremes(rows["offset"], first, last)
    scenes = Scenes(
        entity=held.sessions.slot[of],
        start_us=t_us[first],
        end_us=t_us[last - 1],
        position=j * counts.stride,
        first=first - moved,
        last=last - moved,
        first_offset=first_offset,
        last_offset=last_offset,
        ended=held.sessions.over[of] & (j == counts.closed(held.sessions.end[of])) & (not open_end),
        sensor=np.zeros(len(shown), np.int32),
        t_us=t_us[shown],
        value=rows["value"][shown],
    )
    return scenes, held.sessions.ordinal[of] + j


def _joined(a: _Sessions, b: _Sessions) -> _Sessions:
    return _Sessions(*(np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(_Sessions)))


def _no_sessions() -> _Sessions:
    none = np.empty(0, np.int64)
    return _Sessions(np.empty(0, np.int32), none, none, none, np.empty(0, bool))
