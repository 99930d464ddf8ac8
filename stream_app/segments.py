"""Arithmetic on segments: stretches of rows that belong together, one after the other in a column.

In: columns sorted by group. Out: columns. Remembers: nothing. No loop over rows or groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import I32, I64, Bool

NEVER = -(2**62)  # earlier than any time; sums and differences with it stay within 64 bits


def grouped(slots: I32) -> I64:
    """The rows in order of slot, within a slot as they came. [n]"""
    if len(slots) < 2 or bool((slots[1:] >= slots[:-1]).all()):
        return np.arange(len(slots))
    return np.argsort(slots, kind="stable")


def starts_of(groups: I32 | I64) -> I64:
    """The first row of each run of equal values. [runs]"""
    first = np.ones(len(groups), bool)
    np.not_equal(groups[1:], groups[:-1], out=first[1:])
    return np.flatnonzero(first)


def lengths_of(starts: I64, n: int) -> I64:
    """How many rows each segment has, given where they start and how many rows there are. [segments]"""
    return np.diff(starts, append=n)


def bases_of(lengths: I64) -> I64:
    """Where segments of these lengths start when they are put end to end. [segments]"""
    return np.cumsum(lengths) - lengths


def ranges(starts: I64, lengths: I64) -> I64:
    """The rows of half-open ranges, end to end.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(int(lengths.sum())) + np.repeat(starts - bases_of(lengths), lengths)


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
        distinct = np.unique(values)
        return cls(0, len(distinct) + 1, distinct)

    def own(self, groups: I64, values: I64) -> I64:
        """Packs values that have a number of their own."""
        if self.distinct is not None:
            return groups * self.span + np.searchsorted(self.distinct, values)
        return groups * self.span + (values - self.origin)

    def pack(self, groups: I64, values: I64) -> I64:
        """Packs any values."""
        if self.distinct is not None:
            return groups * self.span + np.searchsorted(self.distinct, values)
        return groups * self.span + np.clip(values - self.origin, 0, self.span - 1)

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

    Ranges may overlap as they like: they are covered by two blocks of a power of two, so that the cost is that of the
    rows times the logarithm of the longest range, not that of all ranges' lengths.
    """
    size = last - first
    low, high = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
    lows = highs = values
    block = 1
    while len(first) and block <= int(size.max()):
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
