"""Learning: what a value changes in its entity's column, whatever becomes of it: counts, ties, tokens, level and scale.

In: values and their deviations from the level. Out: columns, changed in place. Remembers: nothing.
`note` and `learn` take one value of each of many entities; `stream_app.threshold.walking` many values of one.
"""

from __future__ import annotations

import numpy as np

from models.scenes import F64, Bool
from stream_app.threshold.population import (
    CONTINUOUS,
    GATHERING,
    HORIZON_LONG,
    HORIZON_YOUNG,
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
