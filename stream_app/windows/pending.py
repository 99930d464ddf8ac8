"""The store of the samples in open windows: appended batch by batch, taken back entity by entity.

In: rows grouped by slot. Out: the same rows, all of a slot's together, or where they lie. Remembers: them.

Rows lie in columns that only grow at the end. What one call appends for a slot is a chunk, and a slot's chunks are
linked from the newest to the oldest. Appending therefore costs the same however many slots there are and however old
the stream is; taking costs what is taken, and rows that lie in order can be looked at, and dropped from the oldest on,
without being moved (`Chain`). Taken rows are garbage: the longest stretch of it is written to next, since memory that
was never used costs far more than memory that was (columns longer than what is used of them cost nothing). When most of
what is used is garbage, or the columns are full, the living rows are pushed together or, if they need more than half of
the columns or little of them, moved to longer or shorter ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.scenes import I32, I64, Bool
from stream_app.windows.segments import Columns, bases_of, pick, picked, ranges, spread, starts_of

Ranges = tuple[I64, I64]  # starts and lengths
U8 = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)
FIRST_ROWS = 65_536  # a few MB: small stores never notice that they move
FIRST_CHUNKS = 1_024
BLOCK = 262_144  # rows copied at a time
SPACE = 2_097_152  # rows of the next columns: what is not used of them is no memory, and most stores never move again
ROOM = 3  # used rows for each living one: moving costs each row half a copy in a growing store
RELIEF = 8  # a stretch of garbage of an 8th of the rows in use is worth writing to
MANY_CHUNKS = 64  # a chain this long is worth packing: taking it costs a step per chunk
PACKED_PER_CHUNK = 16  # but not before the chain has a 16th of the rows that packing would copy


@dataclass(frozen=True)
class Chain:
    """Where the rows of some slots lie: their chunks, oldest first, slot by slot. No chunk is empty. [c] each"""

    columns: Columns  # the store's own: not to be written to
    owner: I64  # the slot's place among those asked for
    chunk: I64
    start: I64
    length: I64
    mark: U8


class Pending:
    """Rows of `columns` by slot. One column is `offset`: the record a row came in."""

    def __init__(self, columns: Mapping[str, DTypeLike]) -> None:
        self._rows: Columns = {name: np.zeros(FIRST_ROWS, dtype) for name, dtype in columns.items()}
        self._blank = set(columns)  # columns that nobody gave yet: zeros that are nowhere written take no memory
        self._used, self._limit = 0, FIRST_ROWS  # rows are appended from here up to there
        self._top, self._alive, self._freed = 0, 0, 0  # rows ever used; in use; given up since we looked for a stretch
        self._start, self._length = np.empty(FIRST_CHUNKS, np.int64), np.zeros(FIRST_CHUNKS, np.int32)
        self._older, self._oldest = np.empty(FIRST_CHUNKS, np.int32), np.empty(FIRST_CHUNKS, np.int64)
        self._mark = np.zeros(FIRST_CHUNKS, np.uint8)
        self._n_chunks = 0
        self._head, self._count = np.full(64, -1, np.int32), np.zeros(64, np.int64)
        self._chain, self._packed = np.zeros(64, np.int32), np.zeros(64, np.int64)

    def __len__(self) -> int:
        return self._alive

    def count(self, slots: I32) -> I64:
        """How many rows each slot has. [slots]"""
        self._reach(slots)
        return self._count[slots]

    def slots(self) -> I32:
        """The slots that have rows, ascending."""
        return np.flatnonzero(self._count).astype(np.int32)

    def crowded(self, slots: I32) -> Bool:
        """Which slots have so many chunks that they should be taken and put back as one. [slots]"""
        self._reach(slots)
        return self._chain[slots] > np.maximum(MANY_CHUNKS, self._packed[slots] // PACKED_PER_CHUNK)

    def oldest_offset(self) -> int | None:
        """The smallest offset of any row."""
        alive = self._length[: self._n_chunks] > 0
        return int(self._oldest[: self._n_chunks][alive].min()) if self._alive else None

    def add(
        self,
        slots: I32,
        lengths: I64,
        columns: Mapping[str, NDArray[Any]],
        rows: tuple[Ranges, Mapping[str, NDArray[Any]]] | None = None,
    ) -> None:
        """Appends rows that lie slot by slot; `lengths` of them per slot, at least one. A slot occurs once.

        With `rows` the rows to append are those of these ranges of the columns, end to end, and some columns have one
        value per range. A column that is not given is 0.
        """
        n, chunks = int(lengths.sum()), len(slots)
        self._make_room(n, chunks)
        self._reach(slots)
        added = {name: column[self._used : self._used + n] for name, column in self._rows.items()}
        at, by_range = rows or ((np.zeros(1, np.int64), np.array([n])), {})
        pick(columns, *at, {name: added[name] for name in columns})
        for name, column in by_range.items():
            spread(column, at[1], added[name])
        self._blank -= columns.keys() | by_range.keys()
        for name in added.keys() - columns.keys() - by_range.keys() - self._blank:
            added[name][:] = 0
        if n:
            self._link(slots, lengths, added["offset"])

    def _link(self, slots: I32, lengths: I64, offset: I64) -> None:
        """Makes a chunk per slot of the rows behind the last one used."""
        new, bases = slice(self._n_chunks, self._n_chunks + len(slots)), bases_of(lengths)
        self._start[new], self._length[new], self._mark[new] = self._used + bases, lengths, 0
        self._older[new] = self._head[slots]
        self._oldest[new] = np.minimum.reduceat(offset, bases)
        self._head[slots] = np.arange(new.start, new.stop, dtype=np.int32)
        self._count[slots] += lengths
        self._chain[slots] += 1
        self._used, self._n_chunks, self._alive = self._used + len(offset), new.stop, self._alive + len(offset)

    def pack(self, slots: I32, lengths: I64, columns: Mapping[str, NDArray[Any]]) -> None:
        """Puts back what is left of slots that were taken."""
        self.add(slots, lengths, columns)
        self._packed[slots] = lengths

    def mark(self, slots: I32, marks: U8) -> None:
        """Marks the newest chunk of each slot. What a mark says is the caller's; `chain` gives it back."""
        self._mark[self._head[slots]] = marks

    def take(self, slots: I32) -> tuple[I64, Columns]:
        """Removes all rows of these slots: how many of each, and the rows slot by slot in the order of appending."""
        chain, counts = self.chain(slots), self._count[slots]
        self._length[chain.chunk] = 0
        self._head[slots], self._count[slots], self._chain[slots], self._packed[slots] = -1, 0, 0, 0
        self._alive, self._freed = self._alive - int(counts.sum()), self._freed + int(counts.sum())
        return counts, picked(self._rows, chain.start, chain.length)

    def chain(self, slots: I32) -> Chain:
        """Where the rows of these slots lie, until the store is next changed."""
        self._reach(slots)
        owner, chunk = self._chunks(slots)
        lengths = self._length[chunk].astype(np.int64)
        return Chain(self._rows, owner, chunk, self._start[chunk], lengths, self._mark[chunk])

    def drop(self, slots: I32, chain: Chain, lengths: I64) -> None:
        """Removes the first rows of each chunk of the slots' chain: all of the older ones, none of the newer."""
        left = chain.length - lengths
        self._start[chain.chunk], self._length[chain.chunk] = chain.start + lengths, left
        there = np.flatnonzero(left)
        chunk, heads = chain.chunk[there], starts_of(owner := chain.owner[there])
        shorter = chunk[lengths[there] > 0]
        self._oldest[shorter] = self._smallest_offset(shorter)
        self._older[chunk[heads]] = -1
        self._head[slots] = -1
        self._head[slots[owner]] = chunk  # the newest is written last
        self._chain[slots] = np.bincount(owner, minlength=len(slots))
        self._count[slots] -= np.bincount(chain.owner, lengths, len(slots)).astype(np.int64)
        self._packed[slots] = np.minimum(self._packed[slots], self._count[slots])
        self._alive, self._freed = self._alive - int(lengths.sum()), self._freed + int(lengths.sum())

    def _smallest_offset(self, chunk: I64) -> I64:
        start, length = self._start[chunk], self._length[chunk].astype(np.int64)
        offset: I64 = picked({"offset": self._rows["offset"]}, start, length)["offset"]
        return np.minimum.reduceat(offset, bases_of(length)) if len(chunk) else offset

    def _chunks(self, slots: I32) -> tuple[I64, I64]:
        """Owner and number of the chunks of each slot, oldest first. A loop over the longest chain; `crowded` keeps
        chains short."""
        owner, chunk = np.arange(len(slots)), self._head[slots].astype(np.int64)
        owners, chunks = [owner[:0]], [chunk[:0]]
        while len(chunk):
            there = chunk >= 0
            owner, chunk = owner[there], chunk[there]
            owners.append(owner)
            chunks.append(chunk)
            chunk = self._older[chunk].astype(np.int64)
        found, of = np.concatenate(chunks[::-1]), np.concatenate(owners[::-1])
        order = np.argsort(of, kind="stable")
        return of[order], found[order]

    def _reach(self, slots: I32) -> None:
        """Makes the tables by slot long enough."""
        short = int(slots.max(initial=-1)) + 1 - len(self._head)
        if short > 0:
            more = max(short, len(self._head))
            self._head = np.concatenate([self._head, np.full(more, -1, np.int32)])
            self._count, self._packed = (
                np.concatenate([c, np.zeros(more, np.int64)]) for c in (self._count, self._packed)
            )
            self._chain = np.concatenate([self._chain, np.zeros(more, np.int32)])

    def _make_room(self, n: int, chunks: int) -> None:
        """Finds room: in a stretch of garbage, behind all rows, or by moving them. The table of chunks just grows."""
        if self._used + n > self._limit and not self._found_room(n):
            self._move(n)
            self._found_room(n)
        if self._n_chunks + chunks > len(self._start):
            self._number(np.flatnonzero(self._length[: self._n_chunks]), chunks)

    def _found_room(self, n: int) -> bool:
        """In the longest stretch of garbage, or a step beyond the rows ever used."""
        self._top, step = max(self._top, self._used), max(n, self._alive // RELIEF, FIRST_ROWS // RELIEF)
        if self._freed > step:
            self._freed = 0
            start, length = self._longest_stretch()
            if length >= step:
                self._used, self._limit = start, start + length
                return True
        end = min(len(self._rows["offset"]), max(FIRST_ROWS, ROOM * (self._alive + n)))
        if self._top + n <= end:
            self._used, self._limit = self._top, min(self._top + step, end)
            return True
        return False

    def _longest_stretch(self) -> tuple[int, int]:
        """Start and length of the longest stretch of garbage."""
        alive = np.flatnonzero(self._length[: self._n_chunks])
        start = self._start[alive]
        order = np.argsort(start)
        before = np.append(0, (start + self._length[alive])[order])
        gap = np.append(start[order], self._top) - before
        longest = int(np.argmax(gap))
        return int(before[longest]), int(gap[longest])

    def _move(self, n: int) -> None:
        alive = np.flatnonzero(self._length[: self._n_chunks])
        alive = alive[np.argsort(self._start[alive])]
        start, lengths = self._start[alive], self._length[alive].astype(np.int64)
        capacity, n_alive = len(self._rows["offset"]), int(lengths.sum())
        wanted = max(SPACE, ROOM * (n_alive + n))
        fits = n_alive + n <= capacity // 2 and capacity <= 4 * wanted
        for name, column in self._rows.items():  # one by one: at most one column lies in memory twice
            if not fits:
                self._rows[name] = (np.zeros if name in self._blank else np.empty)(wanted, column.dtype)
            if name in self._blank:
                continue
            if not fits:
                pick({name: column}, start, lengths, {name: self._rows[name][:n_alive]})
            else:
                _pushed_together(column, ranges(start, lengths))
        self._start[alive] = bases_of(lengths)
        self._number(alive, 0)
        self._used = self._top = n_alive
        self._freed = 0

    def _number(self, alive: I64, more: int) -> None:
        """Numbers the chunks anew, so that only those in use have a number, with room for more."""
        room = FIRST_CHUNKS + 2 * len(alive) + more
        renamed = np.full(self._n_chunks + 1, -1, np.int32)  # the last entry: "no chunk" stays -1
        renamed[alive] = np.arange(len(alive))
        self._head = renamed[self._head]
        self._older = _moved(renamed[self._older[alive]], np.arange(len(alive)), room)
        self._start, self._length = _moved(self._start, alive, room), _moved(self._length, alive, room)
        self._oldest, self._mark = _moved(self._oldest, alive, room), _moved(self._mark, alive, room)
        self._n_chunks = len(alive)


def _moved(column: NDArray[T], rows: I64, capacity: int) -> NDArray[T]:
    """The given rows at the front of a column with room."""
    new = np.empty(capacity, column.dtype)
    np.take(column, rows, out=new[: len(rows)], mode="clip")  # "clip": numpy copies once more where it must check
    return new


def _pushed_together(column: NDArray[Any], rows: I64) -> None:
    """Moves ascending rows to the front. In blocks: no row is written before it was read, and little is held twice."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        column[start : start + len(block)] = column.take(block, mode="clip")
