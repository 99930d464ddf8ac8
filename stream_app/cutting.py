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
from stream_app.segments import Packing, bases_of, extremes, last_of, ranges, starts_of


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

    def at(self, rows: I64 | Bool) -> Rows:
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
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
    scored: Bool  # [rows] counted by this call
    stays: Bool  # [rows] in a window that is still open


def in_order(rows: Rows) -> tuple[Rows, Bool]:
    """The rows by (entity, time, sensor, arrival), and which of them repeat the one before: resends."""
    order = _order(rows)
    if order is not None:
        rows = rows.at(order)
    same = np.zeros(len(rows.group), bool)
    same[1:] = (np.diff(rows.t_us) == 0) & (np.diff(rows.sensor) == 0) & (np.diff(rows.group) == 0)
    return rows, same


def _order(rows: Rows) -> I64 | None:
    """None where they are in order already, as they are when each sensor sends in order of time."""
    key = _packing(rows).pack(rows.group, rows.t_us)
    step = np.diff(key)
    if not ((step < 0) | ((step == 0) & (np.diff(rows.sensor) < 0))).any():
        return None
    n_sensors = int(rows.sensor.max()) + 1
    if int(key[-1]) < 2**62 // n_sensors and int(key.max()) < 2**62 // n_sensors:
        return np.argsort(key * n_sensors + rows.sensor, kind="stable")
    return np.lexsort((rows.sensor, key))


def _packing(rows: Rows) -> Packing:
    return Packing.of(rows.t_us, int(rows.group[-1]) + 1 if len(rows.group) else 0)


def cut(grid: Grid, rows: Rows, closing: Closing) -> Cut:
    """Cuts the windows in (before, now] of each entity from its rows, which are in order and have no resends."""
    low, high = grid.first(rows.t_us), grid.last(rows.t_us)
    before, now = closing.before[rows.group], closing.now[rows.group]
    opened = low + rows.skipped
    group, k = _windows(rows.group, np.maximum(low, before + 1), np.minimum(high, now))
    packing = _packing(rows)
    key = packing.pack(rows.group, rows.t_us)
    first = np.searchsorted(key, packing.pack(group, grid.start_us(k)))
    last = np.searchsorted(key, packing.pack(group, grid.end_us(k)))
    spans = _Spans(group, k, first, last)
    came_after = np.flatnonzero((rows.skipped > 0) & (opened - 1 > before) & (low <= now))
    lowest, highest = np.maximum(low, before + 1)[came_after], np.minimum(opened - 1, now)[came_after]
    shown, scenes_spans = _shown(spans, *_missing(spans, rows.group[came_after], came_after, (lowest, highest)))
    scenes = _scenes(grid, rows.at(shown), closing, scenes_spans)
    return Cut(scenes, scenes_spans.k, _blocks(scenes_spans), (opened > before) & (opened <= now), high > now)


def _windows(group: I64, low: I64, high: I64) -> tuple[I64, I64]:
    """Entity and number of each window from `low` to `high` of any row, once, ascending. [w] each

    Both rise with the rows of an entity, so a row adds what lies above the row before it.
    """
    low = low.copy()
    follows = group[1:] == group[:-1]
    low[1:] = np.where(follows, np.maximum(low[1:], high[:-1] + 1), low[1:])
    adds = np.flatnonzero(high >= low)
    n = high[adds] - low[adds] + 1
    return np.repeat(group[adds], n), ranges(low[adds], n)


@dataclass(frozen=True)
class _Spans:
    """Windows as half-open ranges of rows. [w] each"""

    group: I64
    k: I64
    first: I64
    last: I64
    alone: Bool | None = None  # shares its rows with no other window


def _missing(spans: _Spans, group: I64, row: I64, k: tuple[I64, I64]) -> tuple[I64, I64]:
    """Pairs of a window and a row in its range that is not in it, for rows that missed the windows k[0]..k[1]."""
    n = np.maximum(k[1] - k[0] + 1, 0)
    packing = Packing.of(spans.k, int(spans.group[-1]) + 1 if len(spans.group) else 0)
    windows = packing.pack(spans.group, spans.k)
    wanted = packing.pack(np.repeat(group, n), ranges(k[0], n))
    return np.searchsorted(windows, wanted), np.repeat(row, n)


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


def _scenes(grid: Grid, rows: Rows, closing: Closing, spans: _Spans) -> Scenes:
    first_offset, last_offset = extremes(rows.offset, spans.first, spans.last)
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
        sensor=rows.sensor,
        t_us=rows.t_us,
        value=rows.value,
    )
