"""Cutting: the samples of entities whose windows close become scenes.

In: pending samples of the closing entities. Out: `Cut`: the windows, and which samples stay. Remembers: nothing.

One sample may be in some of the windows that hold its time and not in others: the earlier ones had closed before it
came. Where such windows close in one call, they can't share their rows; each then gets a block of rows of its own, and
the same windows come out as if they had closed in calls of their own.

                 |---- window 1 ----|             closed when b came
                        |---- window 2 ----|
    samples         a       b            c        b came last: window 1 holds a; window 2 holds b, c
    rows            a   |   b c                   two blocks
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from models.scenes import F64, I32, I64, Bool, Scenes
from stream_app.segments import Packing, bases_of, extremes, last_of, lengths_of, ranges, starts_of


@dataclass(frozen=True)
class Grid:
    """Where windows lie: window k is [k*stride, k*stride + length), 0 < stride <= length."""

    length_us: int
    stride_us: int

    def first(self, t_us: I64) -> I64:
        """The first window that holds a time."""
        return (t_us - self.length_us) // self.stride_us + 1

    def last(self, t_us: I64) -> I64:
        """The last window that holds a time."""
        return t_us // self.stride_us

    def ended(self, until_us: I64) -> I64:
        """The last window that ends at or before a time."""
        return (until_us - self.length_us) // self.stride_us

    def start_us(self, k: I64) -> I64:
        return k * self.stride_us

    def end_us(self, k: I64) -> I64:
        return k * self.stride_us + self.length_us


@dataclass(frozen=True)
class Rows:
    """Pending samples of some entities, one row each."""

    group: I64  # the entity: its place among the closing ones
    t_us: I64
    value: F64
    offset: I64
    sensor: I32
    skipped: I32  # how many of the windows that hold its time had closed before it came: the first ones

    def at(self, rows: I64) -> Rows:
        return Rows(*(getattr(self, f.name).take(rows) for f in fields(self)))


@dataclass(frozen=True)
class Closing:
    """The entities whose windows close. [g] each"""

    slots: I32
    before: I64  # their last closed window before this call
    now: I64  # and after it
    ended_above: I64  # later windows are closed by a tombstone; far ahead where none came


@dataclass(frozen=True)
class Cut:
    """The windows that closed, in order of (entity, end), and what becomes of the rows."""

    scenes: Scenes
    k: I64  # [w]
    block: I32  # [w]
    scored: I64  # rows counted by this call
    stays: I64  # rows in a window that is still open, ascending


def in_order(rows: Rows) -> tuple[Rows, I64]:
    """The rows by (entity, time, sensor, arrival), and which of them repeat the one before: resends."""
    key = _packing(rows).own(rows.group, rows.t_us)
    step = np.diff(key)
    ties = np.flatnonzero(step == 0)
    if (step < 0).any() or (rows.sensor[ties + 1] < rows.sensor[ties]).any():
        order = _order(key, rows.sensor)
        rows, key = rows.at(order), key[order]
        ties = np.flatnonzero(np.diff(key) == 0)
    return rows, ties[rows.sensor[ties + 1] == rows.sensor[ties]] + 1


def _order(key: I64, sensor: I32) -> I64:
    """By key, then sensor, then as they are."""
    n_sensors = int(sensor.max()) + 1
    if int(key.max()) < 2**62 // n_sensors:
        return np.argsort(key * n_sensors + sensor, kind="stable")
    return np.lexsort((sensor, key))


def _packing(rows: Rows) -> Packing:
    return Packing.of(rows.t_us, int(rows.group[-1]) + 1 if len(rows.group) else 0)


def cut(grid: Grid, rows: Rows, closing: Closing) -> Cut:
    """Cuts the windows in (before, now] of each entity from its rows, which are in order and have no resends."""
    packing, heads = _packing(rows), starts_of(rows.group)
    key, entities = packing.own(rows.group, rows.t_us), np.arange(len(heads))

    def row_of(group: I64, t_us: I64) -> I64:
        return np.searchsorted(key, packing.pack(group, t_us))

    group, k = _windows(grid, rows, closing)
    spans = _Spans(group, k, row_of(group, grid.start_us(k)), row_of(group, grid.end_us(k)))
    late = _Latecomers.of(grid, rows, closing)
    shown, spans = _shown(spans, *late.missing(spans))
    start, stop = (row_of(entities, grid.end_us(k)) for k in (closing.before, closing.now))
    left = row_of(entities, grid.start_us(closing.now + 1))
    in_time = ranges(start, stop - start)  # counted with the first window that holds their time
    return Cut(
        _scenes(grid, rows, shown, closing, spans),
        spans.k,
        _blocks(spans),
        late.scored(in_time[rows.skipped[in_time] == 0]),
        ranges(left, heads + lengths_of(heads, len(key)) - left),
    )


def _windows(grid: Grid, rows: Rows, closing: Closing) -> tuple[I64, I64]:
    """Entity and number of each window in (before, now] that holds the time of a row, ascending. [w] each

    Looked at is the first row of each stride: the others of the stride are in no window that it is not in. Its windows
    rise from stride to stride, so each adds what lies above the last one of the stride before.
    """
    high = grid.last(rows.t_us)
    opens = np.ones(len(high), bool)
    opens[1:] = (high[1:] != high[:-1]) | (rows.group[1:] != rows.group[:-1])
    at = np.flatnonzero(opens)
    group = rows.group[at]
    low = np.maximum(grid.first(rows.t_us[at]), closing.before[group] + 1)
    high = np.minimum(high[at], closing.now[group])
    low[1:] = np.where(group[1:] == group[:-1], np.maximum(low[1:], high[:-1] + 1), low[1:])
    n = np.maximum(high - low + 1, 0)
    return np.repeat(group, n), ranges(low, n)


@dataclass(frozen=True)
class _Latecomers:
    """Rows that came when some of the windows that hold their time had closed: these are not theirs. [l] each"""

    row: I64
    group: I64
    low: I64  # the first window that holds their time, of those that close in this call
    opened: I64  # the first that is theirs
    before: I64
    now: I64

    @classmethod
    def of(cls, grid: Grid, rows: Rows, closing: Closing) -> _Latecomers:
        row = np.flatnonzero(rows.skipped)
        group, low = rows.group[row], grid.first(rows.t_us[row])
        before, now = closing.before[group], closing.now[group]
        return cls(row, group, np.maximum(low, before + 1), low + rows.skipped[row], before, now)

    def missing(self, spans: _Spans) -> tuple[I64, I64]:
        """Pairs (window, row): the row lies in the window's range and is not in it."""
        n = np.maximum(np.minimum(self.opened - 1, self.now) - self.low + 1, 0)
        packing = Packing.of(spans.k, int(spans.group[-1]) + 1 if len(spans.group) else 0)
        wanted = packing.pack(np.repeat(self.group, n), ranges(self.low, n))
        return np.searchsorted(packing.own(spans.group, spans.k), wanted), np.repeat(self.row, n)

    def scored(self, others: I64) -> I64:
        """Adds those whose first window closes."""
        return np.append(others, self.row[(self.opened > self.before) & (self.opened <= self.now)])


@dataclass(frozen=True)
class _Spans:
    """Windows as half-open ranges of rows. [w] each"""

    group: I64
    k: I64
    first: I64
    last: I64
    alone: Bool | None = None  # shares its rows with no other window


def _shown(spans: _Spans, window: I64, row: I64) -> tuple[I64, _Spans]:
    """The rows to show, end to end, and the windows as ranges of them; windows that lost all their rows are gone."""
    lost = np.bincount(window, minlength=len(spans.k))
    alone = lost > 0
    shares = np.zeros(len(alone), bool)
    shares[1:] = (spans.group[1:] == spans.group[:-1]) & ~alone[1:] & ~alone[:-1]
    start = spans.first.copy()
    start[1:] = np.where(shares[1:], np.maximum(start[1:], spans.last[:-1]), start[1:])
    n = spans.last - start
    shown, kept = ranges(start, n), np.ones(int(n.sum()), bool)
    kept[bases_of(n)[window] + row - start[window]] = False
    last = np.cumsum(n - lost)
    size = spans.last - spans.first - lost
    there = size > 0
    inside = _Spans(spans.group[there], spans.k[there], (last - size)[there], last[there], alone[there])
    return shown[kept], inside


def _blocks(spans: _Spans) -> I32:
    """The block of each window, counted from 0 per entity: a window alone is a block, and so are those in between."""
    assert spans.alone is not None
    opens = np.zeros(len(spans.k), np.int64)
    opens[1:] = (spans.group[1:] == spans.group[:-1]) & (spans.alone[1:] | spans.alone[:-1])
    count, heads = np.cumsum(opens), starts_of(spans.group)
    return (count - np.repeat(count[heads], np.diff(heads, append=len(count)))).astype(np.int32)


def _scenes(grid: Grid, rows: Rows, shown: I64, closing: Closing, spans: _Spans) -> Scenes:
    first_offset, last_offset = extremes(rows.offset.take(shown), spans.first, spans.last)
    return Scenes(
        entity=closing.slots[spans.group],
        start_us=grid.start_us(spans.k),
        end_us=grid.end_us(spans.k),
        position=np.zeros(len(spans.k), np.int64),
        first=spans.first,
        last=spans.last,
        first_offset=first_offset,
        last_offset=last_offset,
        ended=(spans.k > closing.ended_above[spans.group]) & last_of(spans.group),
        sensor=rows.sensor.take(shown),
        t_us=rows.t_us.take(shown),
        value=rows.value.take(shown),
    )
