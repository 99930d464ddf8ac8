"""The pending samples of entities whose windows close, in order, looked at where they lie in the store.

In: a `Chain` whose chunks are in order. Out: places and columns of rows. Remembers: nothing.

Rows are counted end to end over all chunks, as if they lay in one column. A mark says what is not plain about a chunk;
almost all have none, and then nothing is looked at row by row.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.scenes import I64
from stream_app.windows.pending import U8, Chain
from stream_app.windows.segments import (
    Columns,
    Joints,
    Packing,
    bases_of,
    bisected,
    distinct,
    inner,
    lengths_of,
    picked,
    ranges,
    starts_of,
)

UNORDERED = 1  # rows that are not in order of (time, sensor), or are there twice
GAPPY = 2  # more than a stride between two rows
SKIPPING = 4  # rows that came when some of their windows had closed
MIXED = 8  # rows that are not in order of offset


def marks(joints: Joints, starts: I64, stride_us: int) -> U8:
    """Of rows that lie by segment: UNORDERED, GAPPY. [segments]"""
    result = np.zeros(len(starts), np.uint8)
    if len(joints.row):
        segment = np.searchsorted(starts, joints.row, side="right") - 1
        result[segment[joints.step > stride_us]] |= GAPPY
        result[segment[joints.falls]] |= UNORDERED
    return result


def joints(columns: Columns, starts: I64, stride_us: int) -> Joints:
    """Of rows that lie by segment."""
    t_us, sensor = columns["t_us"], columns["sensor"]
    step = t_us[1:] - t_us[:-1]
    odd, _ = inner(np.flatnonzero((step <= 0) | (step > stride_us)) + 1, starts)
    step = step[odd - 1]
    return Joints(odd, step, (step < 0) | ((step == 0) & (sensor[odd - 1] >= sensor[odd])))


def oddities(columns: Columns, starts: I64) -> U8:
    """Of rows that did not come in order or in time, which lie by segment: SKIPPING, MIXED. [segments]"""
    result = np.zeros(len(starts), np.uint8)
    skipping, offset = np.flatnonzero(columns["skipped"]), columns["offset"]
    result[np.searchsorted(starts, skipping, side="right") - 1] |= SKIPPING
    result[inner(np.flatnonzero(offset[1:] < offset[:-1]) + 1, starts)[1]] |= MIXED
    return result


def unordered(chain: Chain) -> I64:
    """The owners whose chunks are not in order, or not one after the other. Ascending."""
    t_us, sensor = chain.columns["t_us"], chain.columns["sensor"]
    before, after = (chain.start + chain.length - 1)[:-1], chain.start[1:]
    falls = t_us[after] < t_us[before]
    ties = np.flatnonzero(t_us[after] == t_us[before])
    falls[ties] = sensor[after[ties]] <= sensor[before[ties]]
    falls &= chain.owner[1:] == chain.owner[:-1]
    found = (chain.mark & UNORDERED) > 0
    found[1:] |= falls
    owners = chain.owner[found]
    return owners[starts_of(owners)]


class Ordered:
    """The rows of a chain, each owner's in order of (time, sensor). Owners are called groups."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self._base = chain, bases_of(chain.length)
        self._n = int(chain.length.sum())
        self.first_us = chain.columns["t_us"][chain.start]
        self.last_us = chain.columns["t_us"][chain.start + chain.length - 1]
        self._packing = Packing.of(self.last_us, int(chain.owner[-1]) + 1 if len(chain.owner) else 0)
        self._last = self._packing.own(chain.owner, self.last_us)

    def marked(self, mark: int) -> I64:
        """The chunks that bear the mark."""
        return np.flatnonzero(self.chain.mark & mark)

    def row_of(self, group: I64, t_us: I64) -> I64:
        """The group's first row at or after a time; the row after its last one where there is none."""
        chunk = np.searchsorted(self._last, self._packing.pack(group, t_us))
        there = np.minimum(chunk, len(self._last) - 1)
        first, own = self.chain.start[there], (chunk == there) & (self.chain.owner[there] == group)
        last = first + np.where(own, self.chain.length[there], 0)
        inside = bisected(self.chain.columns["t_us"], first, last, t_us) - first
        return np.where(chunk == there, self._base[there] + inside, self._n)

    def stretches(self, gap_us: int) -> tuple[I64, I64, I64]:
        """Group, first and last time of stretches that have no gap above `gap_us`, the store's stride. In order."""
        gappy = self.marked(GAPPY)
        group, first, last = self.chain.owner, self.first_us, self.last_us
        if not len(gappy):
            return group, first, last
        at, length = self.chain.start[gappy], self.chain.length[gappy]
        t_us = picked({"t_us": self.chain.columns["t_us"]}, at, length)["t_us"]
        breaks, place = inner(np.flatnonzero(np.diff(t_us) > gap_us) + 1, bases_of(length))
        chunk = gappy[place]
        group = np.insert(group, chunk + 1, group[chunk])
        return group, np.insert(first, chunk + 1, t_us[breaks]), np.insert(last, chunk, t_us[breaks - 1])

    def skipping(self) -> tuple[I64, I64]:
        """The rows that came when some of their windows had closed, and how many had. Ascending."""
        at = self.marked(SKIPPING)
        skipped = picked({"skipped": self.chain.columns["skipped"]}, self.chain.start[at], self.chain.length[at])
        found = np.flatnonzero(skipped["skipped"])
        return ranges(self._base[at], self.chain.length[at])[found], skipped["skipped"][found].astype(np.int64)

    def group_of(self, rows: I64) -> I64:
        return self.chain.owner[self._chunk_of(rows)]

    def at(self, name: str, rows: I64) -> I64:
        """A column at some rows."""
        column: I64 = self.chain.columns[name].take(self.place(rows))
        return column

    def place(self, rows: I64) -> I64:
        """Where rows lie in the store's columns."""
        chunk = self._chunk_of(rows)
        place: I64 = self.chain.start[chunk] + rows - self._base[chunk]
        return place

    def places(self, first: I64, last: I64) -> tuple[I64, I64]:
        """Where half-open ranges of rows lie, ascending and disjoint: starts and lengths of ranges in the columns."""
        there = first < last
        first, last = first[there], last[there]
        opens = np.append(True, first[1:] != last[:-1])[: len(first)]
        first, last = first[opens], last[np.append(opens[1:], True)[: len(last)]]
        ends = distinct(first, last, self._base)
        of = np.searchsorted(first, ends, side="right") - 1
        inside = np.flatnonzero((of >= 0) & (ends < np.append(last, 0)[of]))
        at, length = ends[inside], lengths_of(ends, self._n)[inside]
        return self.place(at), length

    def picked(self, names: Iterable[str], starts: I64, lengths: I64) -> Columns:
        return picked({name: self.chain.columns[name] for name in names}, starts, lengths)

    def before(self, rows: I64) -> I64:
        """How many rows of each chunk lie before its group's row. `rows`: one per group"""
        n: I64 = np.minimum(np.maximum(rows[self.chain.owner] - self._base, 0), self.chain.length)
        return n

    def _chunk_of(self, rows: I64) -> I64:
        chunk: I64 = np.searchsorted(self._base, rows, side="right") - 1
        return chunk
