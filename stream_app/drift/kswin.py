"""KSWIN: whether the law of a stream of values has changed, by a Kolmogorov-Smirnov test over a sliding window.

In: finite values, one by one. Out: whether the law has changed with the last. Remembers: the last 200 values.
Raab, Heusinger and Schleif, Reactive Soft Prototype Computing for Concept Drift Streams, Neurocomputing 2020.

It says what river's KSWIN says, draw by draw, at a tenth of the cost: two samples of one size differ by whole steps of
their distribution functions, so how many are too many for chance is computed once, and not for every value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from math import comb
from random import Random

import numpy as np

ALPHA = 1e-6  # a test: consecutive tests share most of their values, and there is one per value
WINDOW, RECENT = 200, 60  # values; as many of the rest are drawn as are recent


def kswin(seed: int) -> Callable[[float], bool]:
    """The test, scale free: takes a finite value, says whether the law has changed. Begin anew once it has."""
    window: deque[float] = deque(maxlen=WINDOW)
    random, needed = Random(seed), steps_needed()

    def changed(value: float) -> bool:
        window.append(value)
        if len(window) < WINDOW:
            return False
        values = np.array(window)
        drawn, recent = np.sort(values[random.sample(range(WINDOW - RECENT), RECENT)]), np.sort(values[-RECENT:])
        every = np.concatenate([drawn, recent])
        steps = np.searchsorted(drawn, every, side="right") - np.searchsorted(recent, every, side="right")
        return bool(np.abs(steps).max() >= needed)

    return changed


@cache
def steps_needed() -> int:
    """The fewest steps by which two samples of one law differ with probability ALPHA at most."""
    return next(steps for steps in range(1, RECENT + 1) if _chance(steps) <= ALPHA)


def _chance(steps: int) -> float:
    """That two samples of RECENT values of one continuous law differ by so many steps or more: the share of the paths
    that leave the band, by reflection (Gnedenko and Korolyuk 1951)."""
    ways = sum((-1) ** (j + 1) * comb(2 * RECENT, RECENT - j * steps) for j in range(1, RECENT // steps + 1))
    return float(2 * ways / comb(2 * RECENT, RECENT))
