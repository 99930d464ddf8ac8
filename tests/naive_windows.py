"""The slow, obvious twins of the windows stage: one sample at a time, one list per window."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Arrival:
    """One sample, or a tombstone, of a session."""

    session: str
    t: int = 0
    sensor: int = 0
    value: float = 0.0
    offset: int = 0
    clock: int = 0
    seq: int = -1
    end: bool = False

    @property
    def content(self) -> tuple[object, ...]:
        return self.t, self.sensor, repr(float(np.float64(self.value))), self.offset


@dataclass
class Story:
    """What became of one session: its windows in order of closing, and the outcome of each of its records."""

    windows: list[tuple[object, ...]] = field(default_factory=list)
    outcomes: list[tuple[int, str]] = field(default_factory=list)


class NaiveTime:
    """Windows of time of one session."""

    def __init__(self, length: int, stride: int, lateness: int, idle: int) -> None:
        self.length, self.stride, self.lateness, self.idle = length, stride, lateness, idle
        self.story = Story()
        self.open: dict[int, list[Arrival]] = {}
        self.seen: set[tuple[int, int]] = set()
        self.scored: set[int] = set()
        self.max_t: int | None = None
        self.closed_until: int | None = None
        self.clock: int | None = None

    def holding(self, t: int) -> list[int]:
        """Starts of all windows that hold t: those in (t - length, t]."""
        first = (t - self.length) // self.stride * self.stride + self.stride
        return list(range(first, t + 1, self.stride))

    def is_closed(self, start: int) -> bool:
        return self.closed_until is not None and start + self.length <= self.closed_until

    def take(self, a: Arrival) -> None:
        if self.clock is not None and a.clock - self.clock >= self.idle:
            self.close_all()
        self.clock = a.clock
        if a.end:
            self.close_all(ended=True)
        elif all(self.is_closed(start) for start in self.holding(a.t)):
            self.story.outcomes.append((a.offset, "late"))
        elif (a.sensor, a.t) in self.seen:
            self.story.outcomes.append((a.offset, "duplicate"))
        else:
            self.accept(a)

    def accept(self, a: Arrival) -> None:
        self.seen.add((a.sensor, a.t))
        for start in self.holding(a.t):
            if not self.is_closed(start):
                self.open.setdefault(start, []).append(a)
        self.max_t = a.t if self.max_t is None else max(self.max_t, a.t)
        self.close_until(self.max_t - self.lateness)

    def close_until(self, until: int, ended: bool = False) -> None:
        self.closed_until = until if self.closed_until is None else max(self.closed_until, until)
        closing = sorted(start for start in self.open if self.is_closed(start))
        for start in closing:
            held = sorted(self.open.pop(start), key=lambda a: (a.t, a.sensor))
            for a in held:
                if a.offset not in self.scored:
                    self.scored.add(a.offset)
                    self.story.outcomes.append((a.offset, "scored"))
            last = ended and start == closing[-1]
            self.story.windows.append((start, start + self.length, tuple(a.content for a in held), last))

    def close_all(self, ended: bool = False) -> None:
        if self.max_t is not None:
            self.close_until(self.max_t // self.stride * self.stride + self.length, ended)


class NaiveCount:
    """Windows of tokens of one slot, which sees several sessions when it falls silent in between."""

    def __init__(self, length: int, stride: int, idle: int) -> None:
        self.length, self.stride, self.idle = length, stride, idle
        self.story = Story()
        self.tokens: list[Arrival] = []
        self.n_windows = self.n_scored = 0
        self.last_seq = -1
        self.clock: int | None = None

    def take(self, a: Arrival) -> None:
        if self.clock is not None and a.clock - self.clock >= self.idle:
            self.close_all()
        self.clock = a.clock
        if a.end:
            self.close_all()
        elif 0 <= a.seq <= self.last_seq:
            self.story.outcomes.append((a.offset, "duplicate"))
        else:
            self.last_seq = max(self.last_seq, a.seq)
            self.tokens.append(a)
            if len(self.tokens) == self.n_windows * self.stride + self.length:
                self.close(ended=False)

    def close(self, ended: bool) -> None:
        start = self.n_windows * self.stride
        held = self.tokens[start : start + self.length]
        self.story.windows.append((start, held[0].t, held[-1].t, tuple(a.content for a in held), ended))
        for a in self.tokens[self.n_scored : start + self.length]:
            self.story.outcomes.append((a.offset, "scored"))
        self.n_windows, self.n_scored = self.n_windows + 1, start + self.length

    def close_all(self, ended: bool = True) -> None:
        if self.n_windows * self.stride < len(self.tokens):
            self.close(ended)
        self.tokens, self.n_windows, self.n_scored, self.last_seq = [], 0, 0, -1
