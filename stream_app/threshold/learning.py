"""Learning: what a value changes in its entity's column, whatever becomes of it: counts, ties, tokens, level and scale.

In: values and their deviations from the level. Out: columns, changed in place. Remembers: nothing.

It is written twice, side by side. `note` and `learn` take one value of each of many entities. `walk` takes many values
of one entity for as long as nothing happens: as plain numbers, since on columns of one the price of numpy's calls is
twenty times that of the arithmetic. Operation by operation both are the same, so that their numbers are, to the last
bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.scenes import F64, Bool
from stream_app.threshold.judgement import Trace
from stream_app.threshold.population import (
    CONTINUOUS,
    GATHERING,
    HELD,
    HORIZON_LONG,
    HORIZON_YOUNG,
    NONE,
    Columns,
    Settings,
)
from stream_app.threshold.warmup import GATHERED_AFTER, SETTLED_AFTER

NEAR_RATE, NEAR_CAP = 2.0, 10.0  # alarmed clusters fed, per promised one: above 1, or the law would creep inwards
FAR_RATE, FAR_CAP = 0.3, 4.0  # below 1, or anomalies would lift the law
TIRED, REST, STRAIN = 200.0, 0.1, 1.1  # about 200 alarmed values in a row: the change is accepted
ACCEPTING = 8  # times faster level and scale then
FEEDBACK, MARGIN_MIN = 0.1, -1.1  # of time without fed alarms on the margin: at most a factor 3 down
TIE_HORIZON, TIES_ON = 1_000.0, 0.6
RATE_HORIZON = 20_000.0  # of the start rate of discrete scores, and of hits of the largest score
HUGE = 1e100  # of scores and their level: beyond it products overflow, and Python's least of a NaN is not numpy's
_MOVING = ("level", "scale", "initial", "margin", "start_rate", "age", "seen")  # of what a value is judged by
_PLACES = [Columns._fields.index(name) for name in _MOVING]


def note(c: Columns, x: F64, risk: float) -> None:
    """What every value changes, whatever it is: counts, ties, tokens."""
    c.seen[:] += 1
    c.age[:] += 1
    tied = x == c.last
    c.ties[:] += (tied - c.ties) / np.minimum(TIE_HORIZON, c.age)
    c.run[:] = c.run * tied + 1
    c.last[:] = x
    c.largest_rate[:] += ((x == c.largest) - c.largest_rate) / RATE_HORIZON
    np.copyto(c.largest_rate, 0.0, where=x > c.largest)
    np.maximum(c.largest, x, out=c.largest)
    c.near_tokens[:] = np.minimum(c.near_tokens + NEAR_RATE * risk, NEAR_CAP)
    c.far_tokens[:] = np.minimum(c.far_tokens + FAR_RATE * risk, FAR_CAP)
    c.margin[:] = np.maximum(c.margin - FEEDBACK * risk, MARGIN_MIN)


def learn(c: Columns, deviation: F64, alarm: Bool, starts: F64, settings: Settings) -> None:
    """Steps 4 and 5: the initial threshold by the rate of starts; level and scale, unless an alarm says otherwise."""
    c.fatigue[:] = np.maximum(c.fatigue - REST, 0.0) + STRAIN * alarm
    accepting = c.fatigue >= TIRED
    continuous = c.mode == CONTINUOUS
    learns = ((c.mode == GATHERING) | continuous) & (accepting | ~alarm)
    horizon = settings.horizon
    slow = 1 / np.minimum(horizon, c.seen - 1 + settings.head_start)
    pace = learns * np.where(accepting, ACCEPTING / horizon, slow)
    size, three = np.abs(deviation), 3 * c.scale
    long_ = between(c.age, SETTLED_AFTER, HORIZON_LONG)
    c.scale_long[:] += learns * (np.minimum(size, 10 * three) - c.scale_long) / long_
    c.level[:] += pace * between(deviation, -three, three)
    grown = np.maximum(0.1 * c.scale_long, c.scale + pace * (np.minimum(size, three) - c.scale))
    np.copyto(c.scale, grown, where=learns)
    young = between(c.age, HORIZON_YOUNG, HORIZON_LONG)
    moved = c.tail_scale / (settings.rate * young) * (starts - settings.rate)
    np.add(c.initial, moved, out=c.initial, where=continuous)
    c.start_rate[:] += (starts - c.start_rate) / between(c.age, GATHERED_AFTER, RATE_HORIZON)


def between(x: F64, low: F64 | float, high: F64 | float) -> F64:
    """np.clip, at a quarter of its price on short columns."""
    return np.minimum(np.maximum(x, low), high)


def walk(columns: F64, x: list[float], trace: Trace, begin: int, s: Settings) -> int:
    """Takes the values x[begin:] of one entity up to the first that exceeds the initial threshold, ends a cluster, or
    shows that scores are discrete; gives its place in x. All of them feed. columns [column]: changed in place, but for
    an entity without a tail, which is left as it is."""
    c: Any = Columns(*columns.tolist())
    if c.mode != CONTINUOUS or not c.scale > 0 or not max(abs(c.level), c.scale_long) < HUGE:
        return begin
    level, scale, initial, margin, start_rate, age, seen = (getattr(c, name) for name in _MOVING)
    ties, last, run, largest, largest_rate = c.ties, c.last, c.run, c.largest, c.largest_rate
    near, far, fatigue, scale_long = c.near_tokens, c.far_tokens, c.fatigue, c.scale_long
    before: list[tuple[float, ...]] = []
    for value in x[begin:]:
        deviation, tied = value - level, value == last
        ties_now = ties + (tied - ties) / min(TIE_HORIZON, age + 1)
        excess = deviation / scale - initial
        if excess > 0 or seen + 1 >= c.cluster_end or ties_now > TIES_ON or not abs(value) < HUGE:
            break
        before.append((level, scale, initial, margin, start_rate, age, seen))
        seen, age, ties, run, last = seen + 1, age + 1, ties_now, run * tied + 1, value
        largest_rate = 0.0 if value > largest else largest_rate + ((value == largest) - largest_rate) / RATE_HORIZON
        largest = max(largest, value)
        near, far = min(near + NEAR_RATE * s.risk, NEAR_CAP), min(far + FAR_RATE * s.risk, FAR_CAP)
        margin = max(margin - FEEDBACK * s.risk, MARGIN_MIN)
        fatigue = max(fatigue - REST, 0.0)
        pace = ACCEPTING / s.horizon if fatigue >= TIRED else 1 / min(s.horizon, seen - 1 + s.head_start)
        size, three = abs(deviation), 3 * scale
        scale_long += (min(size, 10 * three) - scale_long) / min(max(age, SETTLED_AFTER), HORIZON_LONG)
        level += pace * min(max(deviation, -three), three)
        scale = max(0.1 * scale_long, scale + pace * (min(size, three) - scale))
        initial += c.tail_scale / (s.rate * min(max(age, HORIZON_YOUNG), HORIZON_LONG)) * (0.0 - s.rate)
        start_rate += (0.0 - start_rate) / min(max(age, GATHERED_AFTER), RATE_HORIZON)
    if not before:
        return begin
    here = slice(begin, begin + len(before))
    trace.before[:, here] = columns[: Trace.N, None]
    trace.before[_PLACES, here] = np.array(before).T
    trace.open[here] = c.episode not in (NONE, HELD)
    moved = dict(zip(_MOVING, (level, scale, initial, margin, start_rate, age, seen), strict=True))
    known = {"ties": ties, "last": last, "run": run, "largest": largest, "largest_rate": largest_rate}
    spent = {"near_tokens": near, "far_tokens": far, "fatigue": fatigue, "scale_long": scale_long}
    columns[:] = c._replace(**moved, **known, **spent)
    return here.stop
