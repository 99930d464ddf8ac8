"""The gate: what a candidate's figures must be before it may go live.

In: figures, and the limits of the settings. Out: `Gate`, check by check. Remembers: nothing; how the figures are
measured is `training.gates`' affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stream_app.config import Gates
from stream_app.model_store.pointers import Check, Gate

SIGNIFICANT = 0.95  # an alarm rate is too high when chance explains it in less than one case in twenty


@dataclass(frozen=True)
class Figures:
    """Of a candidate, on windows that it has not learned from. None: there was nothing to measure it on."""

    windows: int
    episodes: int  # that the candidate opened, where nobody knows of an anomaly
    promised: float  # episodes, by the contract
    alarmed: float  # share of the windows
    agreement: float | None  # share of the windows that the live bundle calls normal which it calls normal too
    labelled: int  # episodes labelled anomalous that the live bundle finds
    lost: int  # of these, how many the candidate does not find
    golden: float  # largest relative gap to the golden scores
    clusters: int
    noise: float  # share of the training windows in no cluster
    placement: float  # share of the training windows that are placed where the fit put them
    still: int  # dimensions of the embedding that do not vary, or -1 if no window's score differs from another's
    latency_ms: float  # per window


def gate(figures: Figures, limits: Gates) -> Gate:
    """All checks that have a limit; passed if every one is."""
    checks = tuple(check for check in _checks(figures, limits))
    return Gate(all(check.passed for check in checks), checks)


def refused(name: str, why: str) -> Gate:
    """Of a candidate that could not be made, or not be measured."""
    return Gate(False, (Check(name, None, None, False, why),))


def most_episodes(promised: float) -> int:
    """How many episodes are not too many where so many are expected: the 95 % point of the Poisson law.

    >>> most_episodes(0.0), most_episodes(1.0), most_episodes(10.0)
    (0, 3, 15)
    """
    if promised > 500:  # exp(-promised) nears the smallest number there is; the law is a normal one by then
        return math.ceil(promised + 1.645 * math.sqrt(promised))
    n, term = 0, math.exp(-promised)
    total = term
    while total < SIGNIFICANT:
        n += 1
        term *= promised / n
        total += term
    return n


def _checks(figures: Figures, limits: Gates) -> Iterator[Check]:
    f = figures
    yield from _least("windows", f.windows, limits.windows, "held out: too few say nothing about the alarm rate")
    if limits.alarm_ratio is not None:
        most = most_episodes(limits.alarm_ratio * f.promised)
        words = f"episodes; {f.promised:.2g} promised, {limits.alarm_ratio:g} times as many allowed, and chance"
        yield from _most("alarm_rate", f.episodes, most, words)
    yield from _most("time_in_alarm", f.alarmed, limits.time_in_alarm, "of the windows")
    words = "of the windows that the live bundle calls normal" if f.agreement is not None else "no live bundle"
    yield from _least("agreement", f.agreement, limits.agreement, words)
    yield from _most("episodes_lost", f.lost, limits.episodes_lost, f"of {f.labelled} labelled, found by the live one")
    yield from _most("golden", f.golden, limits.golden, "relative gap of the golden scores")
    yield from _least("clusters", f.clusters, limits.clusters, "known behaviours")
    yield from _most("noise", f.noise, limits.noise, "of the windows belong to no known behaviour")
    yield from _least("placement", f.placement, limits.placement, "of the windows land where the fit put them")
    constant = "all scores are the same" if f.still < 0 else "dimensions of the embedding that never vary"
    yield Check("variance", float(f.still), 0.0, f.still == 0, constant)
    yield from _most("latency_ms", f.latency_ms, limits.latency and limits.latency / 1000, "per window")


def _least(name: str, value: float | None, limit: float | None, words: str) -> Iterator[Check]:
    if limit is not None:
        yield Check(name, _plain(value), float(limit), value is None or value >= limit, words)


def _most(name: str, value: float, limit: float | None, words: str) -> Iterator[Check]:
    if limit is not None:
        yield Check(name, _plain(value), float(limit), value <= limit, words)


def _plain(value: float | None) -> float | None:
    """A number that JSON has; one that is not finite fails its check and is shown as none."""
    return None if value is None or not math.isfinite(value) else float(value)
