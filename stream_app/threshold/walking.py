"""Walking: many values of one entity, one after the other as plain numbers, for as long as nothing rare happens.

In: an entity's column and its values. Out: the column, changed in place, and the trace. Remembers: nothing.

On columns of one entity the price of numpy's calls is twenty times that of the arithmetic. Operation by operation this
is what the stage's step does with `note`, its judgement and `learn`, so that their numbers are the same, to the last
bit. What is rare is left to the step: where a cluster or a piece of it ends, an episode begins, or turns grave.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.scenes import F64
from models.tail import depth
from stream_app.threshold.judgement import GUARD, WORSE, Trace
from stream_app.threshold.learning import (
    ACCEPTING,
    FAR_CAP,
    FAR_RATE,
    FEEDBACK,
    MARGIN_MIN,
    NEAR_CAP,
    NEAR_RATE,
    RATE_HORIZON,
    REST,
    STRAIN,
    TIE_HORIZON,
    TIES_ON,
    TIRED,
)
from stream_app.threshold.population import (
    CONTINUOUS,
    HELD,
    HORIZON_LONG,
    HORIZON_YOUNG,
    NONE,
    SHOWN,
    Columns,
    Settings,
)
from stream_app.threshold.warmup import GATHERED_AFTER, SETTLED_AFTER

HUGE = 1e100  # of scores and their level: beyond it products overflow, and Python's least of a NaN is not numpy's
_MOVING = ("level", "scale", "initial", "margin", "start_rate", "age", "seen")  # of what a value is judged by
_PLACES = [Columns._fields.index(name) for name in _MOVING]


def walk(columns: F64, x: list[float], trace: Trace, begin: int, s: Settings) -> int:
    """Takes the values x[begin:] of one entity up to the first with which something rare happens, or that shows that
    scores are discrete; gives its place in x. All of them feed. columns [column]: changed in place, but for an entity
    without a tail, which is left as it is."""
    c: Any = Columns(*columns.tolist())
    if c.mode != CONTINUOUS or not c.scale > 0 or not max(abs(c.level), c.scale_long) < HUGE:
        return begin
    level, scale, initial, margin, start_rate, age, seen = (getattr(c, name) for name in _MOVING)
    ties, last, run, largest, largest_rate = c.ties, c.last, c.run, c.largest, c.largest_rate
    near, far, fatigue, scale_long = c.near_tokens, c.far_tokens, c.fatigue, c.scale_long
    cluster, before, alarms = _Cluster(c, s), list[tuple[float, ...]](), list[int]()
    for value in x[begin:]:
        deviation, tied = value - level, value == last
        ties_now = ties + (tied - ties) / min(TIE_HORIZON, age + 1)
        excess, lower = deviation / scale - initial, max(margin - FEEDBACK * s.risk, MARGIN_MIN)
        if seen + 1 >= cluster.end or ties_now > TIES_ON or not abs(value) < HUGE:
            break
        alarm = starts = False
        if excess > 0:
            atom = value == largest and largest_rate > GUARD * s.risk
            if (taken := cluster.take(excess, seen + 1, s.depth + lower, atom)) is None:
                break
            alarm, starts = taken
            if alarm:
                alarms.append(begin + len(before))
        before.append((level, scale, initial, margin, start_rate, age, seen))
        seen, age, ties, run, last, margin = seen + 1, age + 1, ties_now, run * tied + 1, value, lower
        largest_rate = 0.0 if value > largest else largest_rate + ((value == largest) - largest_rate) / RATE_HORIZON
        largest = max(largest, value)
        near, far = min(near + NEAR_RATE * s.risk, NEAR_CAP), min(far + FAR_RATE * s.risk, FAR_CAP)
        fatigue = max(fatigue - REST, 0.0) + STRAIN * alarm
        accepting = fatigue >= TIRED
        if accepting or not alarm:
            pace = ACCEPTING / s.horizon if accepting else 1 / min(s.horizon, seen - 1 + s.head_start)
            size, three = abs(deviation), 3 * scale
            scale_long += (min(size, 10 * three) - scale_long) / min(max(age, SETTLED_AFTER), HORIZON_LONG)
            level += pace * min(max(deviation, -three), three)
            scale = max(0.1 * scale_long, scale + pace * (min(size, three) - scale))
        initial += c.tail_scale / (s.rate * min(max(age, HORIZON_YOUNG), HORIZON_LONG)) * (starts - s.rate)
        start_rate += (starts - start_rate) / min(max(age, GATHERED_AFTER), RATE_HORIZON)
    if not before:
        return begin
    _write(trace, columns, (begin, before), alarms)
    moved = dict(zip(_MOVING, (level, scale, initial, margin, start_rate, age, seen), strict=True))
    known = {"ties": ties, "last": last, "run": run, "largest": largest, "largest_rate": largest_rate}
    spent = {"near_tokens": near, "far_tokens": far, "fatigue": fatigue, "scale_long": scale_long}
    columns[:] = c._replace(**moved, **known, **spent, **cluster.columns())
    return begin + len(before)


class _Cluster:
    """The open cluster of an entity and its last piece. What exceeds the initial threshold begins or extends it."""

    __slots__ = ("_alarmed", "_base", "_c", "_gap", "_peak", "_piece", "_start", "end")

    def __init__(self, c: Any, s: Settings) -> None:
        self._c, self._base, self._gap, self._piece = c, -math.log(s.rate), s.gap, s.piece
        self.end, self._start, self._peak, self._alarmed = c.cluster_end, c.piece_start, c.peak, c.piece_alarmed

    def take(self, excess: float, seen: float, needed: float, atom: bool) -> tuple[bool, bool] | None:
        """Whether the value is an alarm, and whether it begins a cluster. None, and nothing changed: it is rare."""
        starts = math.isinf(self.end)
        if not starts and seen - self._start >= self._piece:
            return None
        alarm, episode = False, self._c.episode
        if not atom and float(np.float32(excess)) > self._c.guard:
            beyond = self._base + float(depth(*_of_one(excess, self._c))) - needed
            alarm = beyond >= 0
            if alarm and (episode == NONE or (episode == SHOWN and beyond > WORSE)):
                return None
        self._peak = max(0.0 if starts else self._peak, excess)
        self._alarmed = max(0.0 if starts else self._alarmed, float(alarm))
        self._start, self.end = seen if starts else self._start, seen + self._gap
        return alarm, starts

    def columns(self) -> dict[str, float]:
        """As they stand now."""
        return {
            "cluster_end": self.end,
            "piece_start": self._start,
            "peak": self._peak,
            "piece_alarmed": self._alarmed,
        }


def _of_one(excess: float, c: Any) -> tuple[F64, F64, F64]:
    """numpy's logarithm is not Python's to the last bit."""
    return np.float64(excess), np.float64(c.tail_shape), np.float64(c.tail_scale)  # type: ignore[return-value]


def _write(trace: Trace, columns: F64, taken: tuple[int, list[tuple[float, ...]]], alarms: list[int]) -> None:
    """What was known before each of the values taken, from a place on, and which of them are alarms."""
    begin, before = taken
    here, episode = slice(begin, begin + len(before)), columns[Columns._fields.index("episode")]
    trace.before[:, here] = columns[: Trace.N, None]
    trace.before[_PLACES, here] = np.array(before).T
    trace.open[here] = episode not in (NONE, HELD)
    trace.alarm[alarms] = episode != HELD
