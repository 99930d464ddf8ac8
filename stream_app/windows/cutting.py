"""Cutting: the samples of entities whose windows close become scenes.

In: `Ordered`: pending samples of the closing entities. Out: `Cut`: the windows, and from where on samples stay.
Remembers: nothing. What is looked at row by row are rows in windows that close, and in plain order only to copy them.

One sample may be in some of the windows that hold its time and not in others: the earlier ones had closed before it
came. Where such windows close in one call, they can't share their rows; each then gets a block of rows of its own, and
the same windows come out as if they had closed in calls of their own.

                 |---- window 1 ----|             closed when b came
                        |---- window 2 ----|
    samples         a       b            c        b came last: window 1 holds a; window 2 holds b, c
    rows            a   |   b c                   two blocks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.scenes import I32, I64, Bool, Scenes
from stream_app.windows.ordered import MIXED, Ordered
from stream_app.windows.segments import Packing, bases_of, extremes, last_of, ranges, starts_of


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
class Closing:
    """The entities whose windows close. [g] each"""

    slots: I32
    before: I64  # their last closed window before this call
    now: I64  # and after it
    ended_above: I64  # later windows are closed by a tombstone; far ahead where none came


@dataclass(frozen=True)
class Cut:
    """The windows that closed, in order of (entity, end), and what becomes of the rows."""

    shown: Callable[[], Scenes]  # to be called before the store is changed
    k: I64  # [w]
    block: I32  # [w]
    scored: I64  # offsets of the samples counted by this call
    stays: I64  # per entity the first row that is in a window still open


def cut(grid: Grid, rows: Ordered, closing: Closing) -> Cut:
    """Cuts the windows in (before, now] of each entity, each of which has rows."""
    group, k = _windows(grid, rows, closing)
    every, n = np.arange(len(closing.slots)), len(k)
    ends = (grid.end_us(closing.before), grid.end_us(closing.now), grid.start_us(closing.now + 1))
    found = rows.row_of(
        np.concatenate([group, group, every, every, every]),
        np.concatenate([grid.start_us(k), grid.end_us(k), *ends]),
    )
    start, stop, left = found[2 * n :].reshape(3, -1)
    spans, late = _Spans(group, k, found[:n], found[n : 2 * n]), _Latecomers.of(grid, rows, closing)
    shown = _shown(rows, spans, *late.missing(spans))
    scored = late.scored(_in_time(rows, start, stop, late), rows)
    return Cut(partial(_scenes, grid, rows, shown, closing), shown.spans.k, _blocks(shown.spans), scored, left)


def _windows(grid: Grid, rows: Ordered, closing: Closing) -> tuple[I64, I64]:
    """Entity and number of each window in (before, now] that holds the time of a row, ascending. [w] each

    A stretch without gaps has a row in each stride, so it gives all windows from the first of its first row to the
    last of its last one. Windows rise from stretch to stretch: each adds what lies above the last one of that before.
    """
    group, first_us, last_us = rows.stretches(grid.stride_us)
    low = np.maximum(grid.first(first_us), closing.before[group] + 1)
    high = np.minimum(grid.last(last_us), closing.now[group])
    low[1:] = np.where(group[1:] == group[:-1], np.maximum(low[1:], high[:-1] + 1), low[1:])
    n = np.maximum(high - low + 1, 0)
    return np.repeat(group, n), ranges(low, n)


def _in_time(rows: Ordered, start: I64, stop: I64, late: _Latecomers) -> I64:
    """Offsets of the rows counted with the first window that holds their time. [rows]"""
    names = ("offset", "skipped") if len(late.row) else ("offset",)
    columns = rows.picked(names, *rows.places(start, stop))
    return columns["offset"][columns["skipped"] == 0] if len(late.row) else columns["offset"]


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
    def of(cls, grid: Grid, rows: Ordered, closing: Closing) -> _Latecomers:
        row, skipped = rows.skipping()
        group, low = rows.group_of(row), grid.first(rows.at("t_us", row))
        before, now = closing.before[group], closing.now[group]
        return cls(row, group, np.maximum(low, before + 1), low + skipped, before, now)

    def missing(self, spans: _Spans) -> tuple[I64, I64]:
        """Pairs (window, row): the row lies in the window's range and is not in it."""
        n = np.maximum(np.minimum(self.opened - 1, self.now) - self.low + 1, 0)
        packing = Packing.of(spans.k, int(spans.group[-1]) + 1 if len(spans.group) else 0)
        wanted = packing.pack(np.repeat(self.group, n), ranges(self.low, n))
        return np.searchsorted(packing.own(spans.group, spans.k), wanted), np.repeat(self.row, n)

    def scored(self, others: I64, rows: Ordered) -> I64:
        """Adds the offsets of those whose first window closes."""
        if not len(self.row):
            return others
        return np.append(others, rows.at("offset", self.row[(self.opened > self.before) & (self.opened <= self.now)]))


@dataclass(frozen=True)
class _Spans:
    """Windows as half-open ranges of rows. [w] each"""

    group: I64
    k: I64
    first: I64
    last: I64
    alone: Bool | None = None  # shares its rows with no other window


@dataclass(frozen=True)
class _Shown:
    """The rows to show, as ranges of the store's columns end to end, and the windows as ranges of what they give."""

    starts: I64
    lengths: I64
    spans: _Spans
    offsets: tuple[I64, I64] | None  # smallest and largest per window where rows lie in order of offset


def _shown(rows: Ordered, spans: _Spans, window: I64, row: I64) -> _Shown:
    """What remains of the windows without the given pairs; windows that lose all their rows are gone."""
    lost = np.bincount(window, minlength=len(spans.k))
    alone = lost > 0
    shares = np.zeros(len(alone), bool)
    shares[1:] = (spans.group[1:] == spans.group[:-1]) & ~alone[1:] & ~alone[:-1]
    start = spans.first.copy()
    start[1:] = np.where(shares[1:], np.maximum(start[1:], spans.last[:-1]), start[1:])
    n = spans.last - start
    last = np.cumsum(n - lost)
    size = spans.last - spans.first - lost
    there = size > 0
    inside = _Spans(spans.group[there], spans.k[there], (last - size)[there], last[there], alone[there])
    if not len(row):
        plain = None if len(rows.marked(MIXED)) else (rows.at("offset", spans.first), rows.at("offset", spans.last - 1))
        return _Shown(*rows.places(start, spans.last), inside, plain)
    kept = np.ones(int(n.sum()), bool)
    kept[bases_of(n)[window] + row - start[window]] = False
    places = rows.place(ranges(start, n)[kept])
    return _Shown(places, np.ones(len(places), np.int64), inside, None)


def _blocks(spans: _Spans) -> I32:
    """The block of each window, counted from 0 per entity: a window alone is a block, and so are those in between."""
    assert spans.alone is not None
    opens = np.zeros(len(spans.k), np.int64)
    opens[1:] = (spans.group[1:] == spans.group[:-1]) & (spans.alone[1:] | spans.alone[:-1])
    count, heads = np.cumsum(opens), starts_of(spans.group)
    return (count - np.repeat(count[heads], np.diff(heads, append=len(count)))).astype(np.int32)


def _scenes(grid: Grid, rows: Ordered, shown: _Shown, closing: Closing) -> Scenes:
    names, spans = ["t_us", "value", "sensor"], shown.spans
    columns = rows.picked(names if shown.offsets else [*names, "offset"], shown.starts, shown.lengths)
    first_offset, last_offset = shown.offsets or extremes(columns["offset"], spans.first, spans.last)
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
        sensor=columns["sensor"],
        t_us=columns["t_us"],
        value=columns["value"],
    )
