"""The books of one partition: what became of every sample, by the offset it came at, and how to look back.

In: outcomes by offset, and the windows stage's rows before each change. Out: `Accounting` of everything below an
offset, and the rows as they were at an offset. Remembers: one page per stretch of offsets that is not settled yet.

A page is a stretch of offsets with its tallies and, for each entity it touched, that entity's row before the page. The
safe offset is always a page's start (or the next offset to read): so the row of any entity at the safe offset is the
first `before` at or after it, else the current row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from models.scenes import I32, I64
from stream_app.keys import Row
from stream_app.windows.segments import distinct, lengths_of, starts_of

MAX_PAGES = 64  # bounds the undo log; more pages are merged, which only makes the safe offset coarser
READ, SCORED, LATE, DUPLICATE, DEAD = range(5)


@dataclass(frozen=True)
class Accounting:
    """samples_read = scored + late + duplicate + dead_lettered + open, always."""

    samples_read: int = 0
    scored: int = 0
    late: int = 0
    duplicate: int = 0
    dead_lettered: int = 0

    @property
    def open(self) -> int:
        """Samples in windows that are not closed yet."""
        return self.samples_read - self.scored - self.late - self.duplicate - self.dead_lettered

    def as_dict(self) -> dict[str, int]:
        return asdict(self) | {"open": self.open}

    @staticmethod
    def of(counts: I64) -> Accounting:
        return Accounting(*map(int, counts))

    def counts(self) -> I64:
        return np.array([self.samples_read, self.scored, self.late, self.duplicate, self.dead_lettered], np.int64)


class _Page:
    """A stretch of offsets from `start` on. `befores` are in order of time: of a slot, the first one counts."""

    def __init__(self, start: int, clock_us: int) -> None:
        self.start, self.clock_us, self.records = start, clock_us, 0
        self.counts = np.zeros(5, np.int64)
        self.befores: list[tuple[I32, Row]] = []
        self._rows, self._packed = 0, 0

    def note(self, slots: I32, rows: Row) -> None:
        self.befores.append((slots, rows))
        self._rows += len(slots)
        if self._rows > 1024 + 2 * self._packed:
            self.compact()

    def compact(self) -> None:
        if len(self.befores) > 1:
            slots, first = np.unique(np.concatenate([s for s, _ in self.befores]), return_index=True)
            self.befores = [(slots, np.concatenate([r for _, r in self.befores]).take(first))]
        self._rows = self._packed = sum(len(s) for s, _ in self.befores)

    def absorb(self, later: _Page) -> None:
        self.records += later.records
        self.counts += later.counts
        self.befores += later.befores
        self.compact()


class Ledger:
    """Books from `offset` on; `base` is the accounting of everything below it."""

    def __init__(self, offset: int = 0, base: Accounting | None = None, clock_us: int = np.iinfo(np.int64).min) -> None:
        self._base = (base or Accounting()).counts()
        self._pages: list[_Page] = []
        self.next_offset, self.clock_us = offset, clock_us

    def begin(self, first: int, end: int, clock_us: int) -> None:
        """A batch of records at offsets [first, end) follows; `clock_us`: the partition's clock after it."""
        self._pages.append(_Page(first, self.clock_us))
        self._pages[-1].records += end - first
        self.next_offset, self.clock_us = end, clock_us
        if len(self._pages) > MAX_PAGES:
            sizes = [a.records + b.records for a, b in zip(self._pages, self._pages[1:], strict=False)]
            i = int(np.argmin(sizes))
            self._pages[i].absorb(self._pages.pop(i + 1))

    def note(self, slots: I32, rows: Row) -> None:
        """The rows of `slots` before the current batch changed them."""
        if len(slots) and self._pages:
            self._pages[-1].note(slots, rows)

    def add(self, outcome: int, n: int) -> None:
        """`n` samples of the current batch came to this outcome."""
        if n:
            self._pages[-1].counts[outcome] += n

    def count(self, outcome: int, offsets: I64) -> None:
        """One sample per entry of `offsets` came to this outcome. Equal offsets are neighbours, mostly."""
        if not len(offsets):
            return
        runs = starts_of(offsets)
        at = np.searchsorted([page.start for page in self._pages], offsets[runs], side="right") - 1
        assert at.min() >= 0, "an outcome for an offset that is already settled"
        counts = np.bincount(at, lengths_of(runs, len(offsets))).astype(np.int64)
        for i in np.flatnonzero(counts):
            self._pages[i].counts[outcome] += counts[i]

    def accounting(self) -> Accounting:
        """Of everything read so far."""
        return Accounting.of(self._base + sum((p.counts for p in self._pages), np.zeros(5, np.int64)))

    def safe_offset(self, needed: int | None) -> int:
        """The largest offset that may be committed when the records from `needed` on are still needed."""
        if needed is None:
            return self.next_offset
        return max((p.start for p in self._pages if p.start <= needed), default=needed)

    def below(self, offset: int) -> tuple[Accounting, int]:
        """Accounting of, and the partition's clock after, everything below a safe offset."""
        counts = self._base + sum((p.counts for p in self._pages if p.start < offset), np.zeros(5, np.int64))
        clock = next((p.clock_us for p in self._pages if p.start >= offset), self.clock_us)
        accounting = Accounting.of(counts)
        assert accounting.open == 0, f"{accounting.open} samples below the safe offset {offset} have no outcome"
        return accounting, clock

    def rows_at(self, offset: int, slots: I32, current: Row) -> Row:
        """The rows of `slots` as they were before the record at `offset`; `current`: as they are now, [all slots]."""
        rows = current.copy()
        raw = rows.view(
            f"V{rows.itemsize}"
        )  # numpy copies rows with fields field by field, which takes ten times as long
        for page in reversed(self._pages):
            if page.start < offset:
                break
            for touched, before in reversed(page.befores):
                raw[touched] = before.view(raw.dtype)
        return rows.take(slots)

    def touched(self, start: int, end: int) -> I32:
        """Slots with a change in the pages that start in [start, end)."""
        found = [s for p in self._pages if start <= p.start < end for s, _ in p.befores]
        return distinct(*found) if found else np.empty(0, np.int32)

    def settle(self, offset: int) -> None:
        """Forgets the pages below a committed safe offset; their tallies go to the base."""
        while self._pages and self._pages[0].start < offset:
            self._base = self._base + self._pages.pop(0).counts
