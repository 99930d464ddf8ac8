"""Page's test: whether the mean of a stream of values has moved, up or down, by its cumulated deviations.

In: finite values, one by one. Out: whether the mean has moved with the last. Remembers: the mean and four sums.
Page, Continuous Inspection Schemes, Biometrika 41:100, 1954.

It says what river's PageHinkley says without forgetting (`alpha` 1), to the last bit. River's loads pandas and
scikit-learn with it, a second of every command's start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PageHinkley:
    """Settings. `delta`: deviations that are let pass; `threshold`: of the sum of the rest."""

    min_instances: int
    delta: float
    threshold: float


def page_hinkley(settings: PageHinkley) -> Callable[[float], bool]:
    """The test: takes a finite value, says whether the mean has moved. Begin anew once it has.

    >>> moved = page_hinkley(PageHinkley(min_instances=4, delta=0.5, threshold=3.0))
    >>> [moved(x) for x in (0.0, 0.0, 0.0, 0.0, 3.0, 3.0)]
    [False, False, False, False, False, True]
    """
    n, mean, rising, falling = 0, 0.0, 0.0, 0.0
    lowest, highest = float("inf"), -1.0

    def moved(value: float) -> bool:
        nonlocal n, mean, rising, falling, lowest, highest
        n += 1
        mean += (1.0 / n) * (value - mean)
        deviation = value - mean
        rising, falling = rising + deviation - settings.delta, falling + deviation + settings.delta
        lowest, highest = min(lowest, rising), max(highest, falling)
        far = rising - lowest > settings.threshold or highest - falling > settings.threshold
        return n >= settings.min_instances and far

    return moved
