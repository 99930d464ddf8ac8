"""The threshold stage: a score becomes an alarm where normal windows would give one at the promised rate.

In: scores per entity. Out: `Judged`. Remembers: per entity a row of 1.3 kB (`population.LAYOUT`): level and scale, the
tail's law, the open cluster, a ring of the last 256 cluster maxima.

The promise is of episodes. A score is standardised by the entity's local level and scale; what exceeds the initial
threshold u forms clusters, and a generalised Pareto law is fitted to the clusters' maxima. u follows the rate of
cluster starts, so that P(a cluster reaches z) = rate * S(z - u). Alarmed clusters feed the law as well, on a budget and
cut at a depth, since a law that never sees them creeps inwards, and one that sees all goes deaf.

An episode that began near the threshold and turns grave after a while ends there, and another begins: what was doubtful
must not hide what is not. Under a right law one episode in ten is as grave, fewer of those that were not at first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.scenes import F64, I32, I64, Bool
from models.tail import excess_at, fit_tail
from stream_app.keys import Keys, Row
from stream_app.threshold.judgement import (
    GUARD,
    WORSE,
    Judged,
    Trace,
    base_depth,
    begin_episodes,
    depth_of,
    held_back,
    needed_depth,
)
from stream_app.threshold.learning import FEEDBACK, TIES_ON, between, learn, note
from stream_app.threshold.population import (
    BOOKS,
    CONTINUOUS,
    DISCRETE,
    HELD,
    N_COLUMNS,
    NONE,
    RING,
    Columns,
    Ring,
    Settings,
    initial,
)
from stream_app.threshold.walking import walk
from stream_app.threshold.warmup import GATHERED_AFTER, LARGEST_KEPT, begin_tail, gather

__all__ = ["STAGE", "Judged", "Threshold", "initial"]

STAGE = "threshold"
FAR = math.log(30)  # depth beyond the alarm's: of alarms under a right fit one in 30 is as deep, so what is, is no tail
MARGIN_MAX = 2.3  # of fed alarms on the margin: at most a factor 10 up
FIT_EVERY = 8  # peaks; a quarter of them while there are few
TIES_OFF = 0.3
ALONE, FEW = 20, 3  # a step of all entities costs so many values walked alone, and to begin with an entity so many


class Threshold:
    """The stage for all entities of a partition. What it says does not depend on how windows fall into batches."""

    def __init__(self, risk: float, keys: Keys, tail: dict[str, Any] | None = None, overlap: int = 1) -> None:
        self.settings = Settings.of(risk, overlap, tail)
        self._keys = keys
        self._fresh = (initial({}, risk), initial(tail or {}, risk))  # to begin anew: discrete, and continuous

    def update(self, slots: I32, scores: F64, feeds: Bool) -> Judged:
        """Judges windows, then learns from those that feed. Windows of one entity are neighbours, in order. [w]

        A score that is not finite gets no verdict and changes nothing.
        """
        finite = np.flatnonzero(np.isfinite(scores))
        if feeds.all() and (firsts := _alone(slots[finite])) is not None:
            return self._one_by_one(slots, scores, np.split(finite, firsts[1:]))
        ranks = _Ranks.of(slots[finite])
        state = self._keys[STAGE]
        scalars = state.view(np.float64).reshape(len(state), -1)[:, :N_COLUMNS]
        columns = np.ascontiguousarray(scalars[ranks.slots].T)
        run = _Run(self.settings, columns, state["ring"], ranks.slots, self._fresh)
        trace = Trace(len(finite))
        x, fed = scores[finite][ranks.rows], feeds[finite][ranks.rows]
        with np.errstate(all="ignore"):  # an entity without a scale yet divides by zero, and is masked
            for begin, end in ranks:
                trace.before[:, begin:end] = columns[: Trace.N, : end - begin]
                run.step(x[begin:end], fed[begin:end], trace, begin)
            scalars[ranks.slots] = columns.T
            return trace.judged(self.settings, x, finite[ranks.rows], len(scores))

    def _one_by_one(self, slots: I32, scores: F64, parts: list[I64]) -> Judged:
        """As `update`, entity by entity: each one's windows are walked as plain numbers where nothing rare happens."""
        state, rows = self._keys[STAGE], np.concatenate(parts)
        scalars = state.view(np.float64).reshape(len(state), -1)[:, :N_COLUMNS]
        trace, x, every = Trace(len(rows)), scores[rows], np.ones(1, bool)
        values, at = x.tolist(), 0
        with np.errstate(all="ignore"):
            for part in parts:
                slot, end = slots[part[:1]], at + len(part)
                columns = scalars[slot].T
                run = _Run(self.settings, columns, state["ring"], slot, self._fresh)
                while (at := walk(columns[:, 0], values[:end], trace, at, self.settings)) < end:
                    trace.before[:, at] = columns[: Trace.N, 0]
                    run.step(x[at : at + 1], every, trace, at)
                    at += 1
                scalars[slot] = columns.T
            return trace.judged(self.settings, x, rows, len(scores))


def _alone(slots: I32) -> I64 | None:
    """Where each entity's windows begin, if they are so many for so few entities that each is better walked alone."""
    first = np.flatnonzero(np.diff(slots, prepend=-1))
    longest = int(np.diff(first, append=len(slots)).max(initial=0))
    return first if FEW * len(first) + len(slots) < ALONE * longest else None


class _Ranks:
    """Windows by their rank within their entity: the r-th windows of all entities are one step."""

    def __init__(self, slots: I32, rows: I64, n_entities: I64) -> None:
        self.slots, self.rows, self._n_entities = slots, rows, n_entities

    @classmethod
    def of(cls, slots: I32) -> _Ranks:
        first = np.flatnonzero(np.diff(slots, prepend=-1))
        length = np.diff(first, append=len(slots))
        order = np.argsort(-length, kind="stable")  # entities with many windows first: each step is a prefix
        first, length = first[order], length[order]
        place = np.repeat(np.arange(len(first)), length)
        rank = np.arange(len(slots)) - np.repeat(np.cumsum(length) - length, length)
        rows = np.repeat(first, length) + rank
        by_rank = np.lexsort((place, rank))
        return cls(slots[first], rows[by_rank], np.bincount(rank))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        begin = 0
        for n in self._n_entities.tolist():
            yield begin, begin + n
            begin += n


@dataclass(frozen=True)
class _Verdict:
    """On the entities whose cluster begins, goes on or ends with this window."""

    alarm: Bool
    shown: Bool  # the alarm, unless a warming entity holds it back
    episode_start: Bool
    episode_worse: Bool
    starts: Bool
    closing: Bool
    peak: F64  # of the piece that closes
    alarmed: Bool


class _Run:
    """One update's walk through the ranks. `columns` [column, entity] is changed in place, as is `ring` [slot, 256]."""

    def __init__(self, settings: Settings, columns: F64, ring: Ring, slots: I32, fresh: tuple[Row, Row]) -> None:
        self._s, self._columns, self._ring, self._slots, self._fresh = settings, columns, ring, slots, fresh
        self._prefix = Columns(*columns)

    def step(self, x: F64, feeds: Bool, trace: Trace, begin: int) -> None:
        """The next window of the first len(x) entities."""
        k = len(x)
        if len(self._prefix.level) != k:
            self._prefix = Columns(*self._columns[:, :k])
        c = self._prefix
        held = None if feeds.all() else self._columns[:, :k][:, ~feeds]
        deviation = x - c.level
        residual = deviation / c.scale
        excess = residual - c.initial
        atom = (x == c.largest) & (c.largest_rate > GUARD * self._s.risk)
        note(c, x, self._s.risk)
        touched = ((excess > 0) | (c.seen >= c.cluster_end)).nonzero()[0]
        alarm, starts = np.zeros(k, bool), np.zeros(k)
        if len(touched):
            verdict = self._judge(touched, excess[touched], atom[touched], feeds[touched])
            alarm[touched], starts[touched] = verdict.alarm, verdict.starts
            at = begin + touched
            trace.alarm[at], trace.start[at], trace.worse[at] = (
                verdict.shown,
                verdict.episode_start,
                verdict.episode_worse,
            )
        trace.open[begin : begin + k] = (c.episode != NONE) & (c.episode != HELD)
        learn(c, deviation, alarm, starts, self._s)
        if len(touched):
            fed = verdict.closing & feeds[touched] & (verdict.peak > 0)
            if fed.any():
                self._feed(touched[fed], verdict.peak[fed], verdict.alarmed[fed])
        self._warm_up(c, x, residual, feeds)
        self._switch(c, feeds)
        if held is not None:
            for learned in (slice(0, BOOKS.start), slice(BOOKS.stop, None)):
                self._columns[learned, :k][:, ~feeds] = held[learned]

    def _judge(self, rows: I64, excess: F64, atom: Bool, feeds: Bool) -> _Verdict:
        """Steps 2 and 3: alarms, clusters and their pieces."""
        own = self._columns[:, rows]
        c, s = Columns(*own), self._s
        above = excess > 0
        self._refresh_guards(c, rows, np.flatnonzero(above & (c.mode == DISCRETE)))
        # The ring is float32: a tie with a peak kept there must not count as above it.
        beyond = excess.astype(np.float32) > c.guard
        depth = depth_of(c, excess, s) - needed_depth(c, s)
        alarm = above & ~atom & beyond & (depth >= 0)
        opened = np.isfinite(c.cluster_end)
        cut = above & opened & (c.seen - c.piece_start >= s.piece)
        starts, closing = above & (~opened | cut), ~above | cut
        peak, alarmed = c.peak.copy(), c.piece_alarmed > 0
        shown, worse = begin_episodes(c, alarm, depth > WORSE, (s.gap, held_back(c, s)))
        c.peak[:] = np.maximum(np.where(starts, 0.0, c.peak), np.where(feeds & above, excess, 0.0))
        c.piece_alarmed[:] = np.maximum(np.where(starts, 0.0, c.piece_alarmed), alarm)
        c.piece_start[starts] = c.seen[starts]
        c.cluster_end[:] = np.where(above, c.seen + s.gap, np.inf)
        c.episode[~above] = NONE
        self._columns[:, rows] = own
        seen = alarm & (c.episode != HELD)
        return _Verdict(alarm, seen, shown, worse, starts, closing, peak, alarmed)

    def _feed(self, rows: I64, peak: F64, alarmed: Bool) -> None:
        """Steps 6 to 8: the closed pieces' maxima enter the ring, alarmed ones on a budget; then fit."""
        own = self._columns[:, rows]
        c, s = Columns(*own), self._s
        far = alarmed & (depth_of(c, peak, s) > needed_depth(c, s) + FAR)
        near = alarmed & ~far
        fed = (c.mode >= CONTINUOUS) & np.where(far, c.far_tokens >= 1, ~near | (c.near_tokens >= 1))
        c.near_tokens[fed & near] -= 1
        c.far_tokens[fed & far] -= 1
        deepest = excess_at(np.maximum(needed_depth(c, s) + FAR - base_depth(c, s), 0.0), c.tail_shape, c.tail_scale)
        peak = between(np.where(far, np.minimum(peak, deepest), peak), 1 / LARGEST_KEPT, LARGEST_KEPT)
        c.margin[:] = np.minimum(c.margin + FEEDBACK * (fed & alarmed), MARGIN_MAX)
        self._ring[self._slots[rows[fed]], c.head[fed].astype(np.int64)] = peak[fed]
        c.head[fed] = (c.head[fed] + 1) % RING
        c.n_peaks[fed] = np.minimum(c.n_peaks[fed] + 1, RING)
        c.unfitted[fed] += 1
        due = np.flatnonzero(fed & (c.unfitted >= np.clip(c.n_peaks // 4, 1, FIT_EVERY)))
        for i in due:  # one entity in about 800 values
            tail = fit_tail(self._ring[self._slots[rows[i]], : int(c.n_peaks[i])].astype(np.float64))
            c.tail_scale[i], c.tail_shape[i], c.unfitted[i] = tail.scale, tail.shape, 0.0
        self._refresh_guards(c, rows, due)
        self._columns[:, rows] = own

    def _refresh_guards(self, c: Columns, rows: I64, at: I64) -> None:
        """The excess seen GUARD times more often than promised; discrete scores get no slack: no law splits a tie."""
        if not len(at):
            return
        discrete, n = c.mode[at] == DISCRETE, c.n_peaks[at]
        in_use = np.arange(RING) < n[:, None]
        peaks = np.sort(self._ring[self._slots[rows[at]]].astype(np.float64) * in_use, axis=1)
        slack, rate = np.where(discrete, 1.0, GUARD), np.where(discrete, c.start_rate[at], self._s.rate)
        k = np.ceil(slack * self._s.risk * n / rate)
        seen = peaks[np.arange(len(at)), (RING - np.clip(k, 1, np.maximum(n, 1))).astype(np.int64)]
        c.guard[at] = np.where(discrete & (k > n), 0.0, seen)

    def _warm_up(self, c: Columns, x: F64, residual: F64, feeds: Bool) -> None:
        rows = ((c.mode < CONTINUOUS) & feeds).nonzero()[0]
        if not len(rows):
            return
        ring = self._ring[self._slots[rows]]
        gather(c, rows, x[rows], residual[rows], ring)
        ready = np.flatnonzero(c.age[rows] == GATHERED_AFTER)
        for i in ready:
            begin_tail(c, int(rows[i]), float(x[rows[i]]), ring[i], self._s)
        self._ring[self._slots[rows]] = ring
        self._refresh_guards(c, np.arange(len(x)), rows[ready][c.mode[rows[ready]] == CONTINUOUS])

    def _switch(self, c: Columns, feeds: Bool) -> None:
        """Discrete scores follow what is seen three times in a row; an entity that changes its kind begins anew."""
        discrete, tied = c.mode == DISCRETE, c.ties > TIES_ON
        if not (discrete | tied).any():
            return
        np.copyto(c.level, c.last, where=discrete & (c.run >= 3))
        changes = (c.mode == CONTINUOUS) & tied & feeds, discrete & (c.ties < TIES_OFF) & feeds
        for fresh, rows in zip(self._fresh, changes, strict=True):
            for row in np.flatnonzero(rows):  # once in the life of most entities
                self._begin_anew(c, int(row), fresh)

    def _begin_anew(self, c: Columns, row: int, fresh: Row) -> None:
        """The row of an entity never seen, but for the open cluster and the run of equal values."""
        kept, last, run = self._columns[BOOKS, row].copy(), c.last[row], c.run[row]
        self._columns[:, row] = fresh.view(np.float64)[:N_COLUMNS]
        self._columns[BOOKS, row] = kept
        c.last[row], c.run[row], c.peak[row], c.shown[row] = last, run, 0.0, 0.0
        self._ring[self._slots[row]] = fresh["ring"][0]
