"""Arithmetic on segments: stretches of rows that belong together, one after the other in a column.

In: columns sorted by group. Out: columns. Remembers: nothing. No loop over rows or groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.scenes import I32, I64, Bool

Columns = dict[str, NDArray[Any]]
K = TypeVar("K", np.int32, np.int64)
LONG = 256  # rows: slices of this length are copied faster one by one than by an index of each row
NEVER = -(2**62)  # earlier than any time; sums and differences with it stay within 64 bits


def grouped(slots: I32) -> I64:
    """The rows in order of slot, within a slot as they came. [n]"""
    if len(slots) < 2 or bool((slots[1:] >= slots[:-1]).all()):
        return np.arange(len(slots))
    return np.argsort(slots, kind="stable")


def starts_of(groups: NDArray[Any]) -> I64:
    """The first row of each run of equal values. [runs]"""
    first = np.ones(len(groups), bool)
    np.not_equal(groups[1:], groups[:-1], out=first[1:])
    return first.nonzero()[0]


def lengths_of(starts: I64, n: int) -> I64:
    """How many rows each segment has, given where they start and how many rows there are. [segments]"""
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = n - starts[-1:]
    return lengths


def inner(rows: I64, starts: I64) -> tuple[I64, I64]:
    """Those of the rows that are not the first of their segment, and their segments."""
    segment = np.searchsorted(starts, rows, side="right") - 1
    inside = starts[segment] != rows
    return rows[inside], segment[inside]


@dataclass(frozen=True)
class Joints:
    """Rows that do not follow the row before them in their segment as usual, which is later by a stride at most."""

    row: I64  # ascending
    step: I64  # how much later they are
    falls: Bool  # not in order of (time, sensor), or there twice


def bases_of(lengths: I64) -> I64:
    """Where segments of these lengths start when they are put end to end. [segments]"""
    return np.cumsum(lengths) - lengths


def ranges(starts: I64, lengths: I64) -> I64:
    """The rows of half-open ranges, end to end.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(int(lengths.sum())) + np.repeat(starts - bases_of(lengths), lengths)


def distinct(*columns: NDArray[K]) -> NDArray[K]:
    """The values of all columns, ascending, each once. `np.unique` hashes, which takes ten times as long."""
    values = np.sort(np.concatenate(columns), kind="stable")  # merges what is in order, as columns here are
    return values[starts_of(values)]


def picked(columns: Mapping[str, NDArray[Any]], starts: I64, lengths: I64) -> Columns:
    """The rows of half-open ranges, end to end, of each column."""
    n = int(lengths.sum())
    into = {name: np.empty(n, column.dtype) for name, column in columns.items()}
    pick(columns, starts, lengths, into)
    return into


def pick(columns: Mapping[str, NDArray[Any]], starts: I64, lengths: I64, into: Columns) -> None:
    """Copies the rows of half-open ranges, end to end, to columns of their length."""
    if len(lengths) and int(lengths.sum()) >= LONG * len(lengths):
        slices = [slice(a, b) for a, b in zip(starts.tolist(), (starts + lengths).tolist(), strict=True)]
        for name, column in columns.items():
            np.concatenate([column[s] for s in slices], out=into[name])
        return
    rows = ranges(starts, lengths)
    for name, column in columns.items():
        np.take(column, rows, out=into[name], mode="clip")  # "clip": numpy copies once more where it must check


def spread(values: NDArray[Any], lengths: I64, into: NDArray[Any]) -> None:
    """Writes each value so many times, end to end, to a column of their length."""
    if int(lengths.sum()) < LONG * len(lengths):
        into[:] = np.repeat(values, lengths)
        return
    ends = np.cumsum(lengths)
    for first, last, value in zip((ends - lengths).tolist(), ends.tolist(), values.tolist(), strict=True):
        into[first:last] = value


def bisected(values: I64, first: I64, last: I64, wanted: I64) -> I64:
    """Per half-open range of ascending values the first row at or above `wanted`; the range's end where none is."""
    for _ in range(int((last - first).max(initial=0)).bit_length()):
        middle = (first + last) >> 1
        below = (values.take(middle, mode="clip") < wanted) & (first < last)
        first, last = np.where(below, middle + 1, first), np.where(below, last, middle)
    return first


@dataclass(frozen=True)
class Packing:
    """Pairs (group, value) as one number each, in the same order. `values` are the only ones that get a number of
    their own; another one compares with them as it should (`<` of the numbers is `<` of the pairs)."""

    origin: int
    span: int  # above the number of every value
    distinct: I64 | None  # the values in order where their differences would overflow

    @classmethod
    def of(cls, values: I64, n_groups: int) -> Packing:
        if not len(values):
            return cls(0, 1, None)
        low, high = int(values.min()), int(values.max())
        if (high - low + 2) * max(n_groups, 1) < 2**62:
            return cls(low, high - low + 2, None)
        found = distinct(values)
        return cls(0, len(found) + 1, found)

    def own(self, groups: I64, values: I64) -> I64:
        """Packs values that have a number of their own."""
        if self.distinct is not None:
            return groups * self.span + np.searchsorted(self.distinct, values)
        return groups * self.span + (values - self.origin)

    def pack(self, groups: I64, values: I64) -> I64:
        """Packs any values."""
        if self.distinct is not None:
            return groups * self.span + np.searchsorted(self.distinct, values)
        return groups * self.span + np.minimum(np.maximum(values - self.origin, 0), self.span - 1)

    def value(self, packed: I64, groups: I64) -> I64:
        """What was packed, for values that have a number of their own."""
        rest = packed - groups * self.span
        return rest + self.origin if self.distinct is None else self.distinct[rest]


def running_max(values: I64, groups: I64, before: I64) -> I64:
    """Row by row the largest of the group so far, this row left out; `before` holds the start value per group. [n]

    >>> running_max(np.array([3, 1, 7, 2]), np.array([0, 0, 0, 1]), np.array([2, 5])).tolist()
    [2, 3, 3, 5]
    """
    result = before[groups]
    if len(values) < 2:
        return result
    floored = np.maximum(values, result)
    packing = Packing.of(floored, len(before))
    top = packing.value(np.maximum.accumulate(packing.own(groups, floored)), groups)
    same = groups[1:] == groups[:-1]
    result[1:] = np.where(same, top[:-1], result[1:])
    return result


def extremes(values: I64, first: I64, last: I64) -> tuple[I64, I64]:
    """Smallest and largest of `values[first:last]` per range; no range is empty. [ranges] each

    Ranges may overlap as they like: the rows between neighbouring ends are looked at once, and each range is covered
    by two blocks of a power of two of such stretches.
    """
    if not len(first):
        return first, last
    ends = distinct(first, last)
    lows, highs = (f.reduceat(values[: ends[-1]], ends[:-1]) for f in (np.minimum, np.maximum))
    first, last = np.searchsorted(ends, first), np.searchsorted(ends, last)
    size, block = last - first, 1
    low, high = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
    while block <= int(size.max()):
        at = np.flatnonzero((size >= block) & (size < 2 * block))
        a, b = first[at], last[at] - block
        low[at], high[at] = np.minimum(lows[a], lows[b]), np.maximum(highs[a], highs[b])
        lows, highs = np.minimum(lows[:-block], lows[block:]), np.maximum(highs[:-block], highs[block:])
        block *= 2
    return low, high


def last_of(groups: I32 | I64) -> Bool:
    """Whether a row is the last of its run. [n]"""
    result = np.ones(len(groups), bool)
    np.not_equal(groups[1:], groups[:-1], out=result[:-1])
    return result
