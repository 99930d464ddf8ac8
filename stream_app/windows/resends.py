"""Samples that came twice, and why reading must not begin again between the two.

In: offsets of a sample and of its resend. Out: an offset that divides no such pair. Remembers: the pairs whose second
half may be read again.

A resend is known by its first, which is pending when it comes. If records were read again from between the two, the
resend would be alone and count as scored where it had counted as a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.scenes import I64


class Resends:
    """Disjoint ranges (first, again] of offsets at which reading must not begin, ascending."""

    def __init__(self) -> None:
        self._first, self._again = np.empty(0, np.int64), np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._first)

    def add(self, first: I64, again: I64) -> None:
        """Notes resends; two in one record are never divided."""
        apart = first < again
        if not apart.any():
            return
        first, again = np.append(self._first, first[apart]), np.append(self._again, again[apart])
        order = np.argsort(first, kind="stable")
        first, reach = first[order], np.maximum.accumulate(again[order])
        opens = np.append(True, first[1:] > reach[:-1])  # ranges that overlap lead from one to the other: one range
        self._first, self._again = first[opens], reach[np.append(opens[1:], True)]

    def needed(self, oldest: int | None, floor: Callable[[int], int]) -> int | None:
        """The largest offset up to `oldest` that `floor` gives and that divides no pair; None where oldest is."""
        if oldest is None:
            self._first, self._again = self._first[:0], self._again[:0]
            return None
        at = floor(oldest)
        while (divided := (self._first < at) & (at <= self._again)).any():
            at = floor(int(self._first[divided].min()))
        ahead = self._again >= at
        self._first, self._again = self._first[ahead], self._again[ahead]
        return at
