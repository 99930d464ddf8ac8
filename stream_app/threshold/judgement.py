"""What the threshold says of a window, computed from what was known before it.

In: the columns of the entities' states as they were, and scores. Out: `Judged`; and the depths that decide alarms.
Remembers: nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.scenes import F64, I64, Bool
from models.tail import FEWEST_TO_FIT, depth, excess_at
from stream_app.threshold.population import (
    BOOKS,
    CONTINUOUS,
    DISCRETE,
    GRAVE,
    HELD,
    N_COLUMNS,
    NONE,
    SHOWN,
    Columns,
    Settings,
)

GUARD = 3.0  # never alarm at what was seen so many times more often than promised
WORSE = math.log(10)  # deeper than an alarm is grave: an episode in ten, of those that last, may become two
WARM_AFTER = 500  # own values, for an entity with a borrowed tail
WARM_EPISODES = 2.0  # promised ones, for an entity without; until then it shows at most 1 + 2 per promised one


@dataclass(frozen=True)
class Judged:
    """What the threshold says of `w` windows."""

    threshold: F64  # [w] in the unit of the score; NaN while there is none
    tail_probability: F64  # [w] P(a normal window scores this high or higher), as episodes per window
    alarm: Bool  # [w]
    episode_start: Bool  # [w] the first alarm of an episode
    episode_open: Bool  # [w] an episode is open after this window
    grade: F64  # [w] 0: no alarm, up to 1: impossible under the tail
    confidence: F64  # [w] 0..1, how well the entity's own normal is known: one half after 500 windows
    warming: Bool  # [w]
    episode_worse: Bool  # [w] a start within an episode, which ends there: what was doubtful has become grave
    tail_shape: F64  # [w] of the law in use; NaN while there is none


class Trace:
    """What was known before each window, in the order of the walk; from it all verdicts are computed at once."""

    N = BOOKS.start + 1  # the columns that a window is judged by, and how many were seen

    def __init__(self, n: int) -> None:
        self.before = np.empty((self.N, n))
        self.alarm, self.start, self.open, self.worse = (np.zeros(n, bool) for _ in range(4))

    def judged(self, settings: Settings, x: F64, rows: I64, n: int) -> Judged:
        """Columns in the order of the windows; `rows` says where each of the walk's windows belongs. [n]"""
        c = Columns(*self.before, *([np.empty(0)] * (N_COLUMNS - self.N)))
        has_tail = c.mode >= CONTINUOUS
        threshold = c.level + c.scale * (c.initial + np.maximum(_excess_needed(c, settings), c.guard))
        probability = _tail_probability(c, (x - c.level) / c.scale, settings)
        own = c.age - c.borrowed
        columns = (
            (np.where(has_tail, threshold, np.nan), np.nan),
            (np.where(has_tail, probability, np.nan), np.nan),
            (self.alarm, False),
            (self.start, False),
            (self.open, False),
            (np.where(self.alarm, np.clip(1 - probability / settings.risk, 0.0, 1.0), 0.0), 0.0),
            (c.age / (c.age + WARM_AFTER), 0.0),
            (np.where(c.borrowed > 0, own < WARM_AFTER, own * settings.risk < WARM_EPISODES) | ~has_tail, True),
            (self.worse, False),
            (np.where(has_tail, c.tail_shape, np.nan), np.nan),
        )
        return Judged(*(_scatter(column, rows, n, missing) for column, missing in columns))


def base_depth(c: Columns, s: Settings) -> F64:
    """The depth of the initial threshold: -ln of the rate of cluster starts."""
    return np.where(c.mode == DISCRETE, -np.log(c.start_rate), -math.log(s.rate))


def needed_depth(c: Columns, s: Settings) -> F64:
    """The depth of an alarm. Discrete scores have their own rate and need no feedback."""
    return s.depth + np.where(c.mode == DISCRETE, 0.0, c.margin)


def _too_few(c: Columns) -> Bool:
    lawless: Bool = (c.mode == DISCRETE) & (c.n_peaks < FEWEST_TO_FIT)
    return lawless


def depth_of(c: Columns, excess: F64, s: Settings) -> F64:
    """-ln of the rate of clusters that reach an excess >= 0. Discrete scores with few peaks have no law of them."""
    return base_depth(c, s) + np.where(_too_few(c), 0.0, depth(excess, c.tail_shape, c.tail_scale))


def _excess_needed(c: Columns, s: Settings) -> F64:
    more = needed_depth(c, s) - base_depth(c, s)
    lawless = np.where(more > 0, np.inf, 0.0)
    return np.where(_too_few(c), lawless, excess_at(np.maximum(more, 0.0), c.tail_shape, c.tail_scale))


def held_back(c: Columns, s: Settings) -> Bool:
    """A warming entity with no population has shown as many episodes as it may."""
    promised = (c.age - c.borrowed) * s.risk
    held: Bool = (c.borrowed == 0) & (promised < WARM_EPISODES) & (c.shown >= 1 + 2 * promised)
    return held


def begin_episodes(c: Columns, alarm: Bool, far: Bool, rules: tuple[int, Bool]) -> tuple[Bool, Bool]:
    """Which alarms are shown as the first of an episode, and which of these end another that was not grave.

    far: the alarm is too deep for the tail. rules: how long an episode stays one whatever comes, in values, and which
    entities show none for now.
    """
    gap, held = rules
    first = alarm & (c.episode == NONE)
    grave = alarm & far
    worse = grave & (c.episode == SHOWN) & (c.seen - c.begun >= gap)
    shown = (first | worse) & ~held
    c.episode[first] = np.where(shown[first], SHOWN, HELD)
    c.begun[first] = c.seen[first]
    c.shown[shown] += 1
    c.episode[grave & (c.episode == SHOWN)] = GRAVE
    return shown, shown & worse


def _tail_probability(c: Columns, residual: F64, s: Settings) -> F64:
    """Above the initial threshold the law's; below it, for a reader, log-linear from one half at the level."""
    excess = residual - c.initial
    above = np.exp(needed_depth(c, s) - s.depth - depth_of(c, np.maximum(excess, 0.0), s))
    at_initial = np.minimum(np.exp(needed_depth(c, s) - s.depth - base_depth(c, s)), 0.5)
    share = np.clip(residual / np.maximum(c.initial, 1e-9), -1.0, 1.0)
    half = 0.5 * (at_initial / 0.5) ** np.abs(share)
    below = np.where(c.mode == DISCRETE, 1.0, np.where(share < 0, 1 - half, half))
    return np.minimum(np.where(excess > 0, above, below), 1.0)


def _scatter(column: Any, rows: I64, n: int, missing: float | bool) -> Any:
    found = np.full(n, missing, column.dtype)
    found[rows] = column
    return found
