"""Alerts for other reasons than the tail, where `alarms.also` asks for them: windows of no known behaviour, drift, and
sensors that are stuck. (Silence shows in no window: see `silence`.)

In: windows with scores and verdicts, drift events. Out: `Alert` messages. Remembers: per entity the open episodes of
noise and of stuck sensors, in a row each; nothing of drift, whose alerts are opened and closed with the window that
showed it.

None is part of the alarm contract: noise is calibrated to a share of normal windows, not to episodes a week. Windows
that no threshold can judge yet give neither noise nor drift, nor do those after an entity has fallen silent, which show
where it was. An episode of stuck sensors lasts for as long as the detector leaves some out of the score: it names them,
and its score is their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.detector import Detector, Scored, SensorPart
from models.scenes import I32, Bool, Scenes
from models.stuck import STILL
from stream_app.alerts import silence
from stream_app.alerts.alert import Alert
from stream_app.alerts.episodes import INITIAL, NOISE_STAGE, STUCK_STAGE, Episodes, Origin
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys, Row
from stream_app.threshold.judgement import Judged

MEMBERSHIP = "membership"  # in a bundle's tail: tau, and the share of held-out normal windows that are noise
FRESH = 10  # a sample in the last tenth of a window
FALSE_RATE = 0.05  # of normal windows that count as none of the known behaviours


class OtherReasons:
    """The opt-in rules for all entities of a partition."""

    def __init__(self, origin: Origin, detector: Detector, keys: Keys, also: Sequence[str]) -> None:
        """Raises ConfigurationError where the bundle can't tell what is noise."""
        self._below = membership_needed(detector) if "noise" in also else None
        self._noise = Episodes(origin, keys, reason="noise")
        self._drift = Episodes(origin, keys, reason="drift") if "drift" in also else None
        self._stuck = Episodes(origin, keys, reason="stuck") if "stuck" in also else None
        self._sensors = detector.sensors
        must_suit(detector, also)

    def update(self, scenes: Scenes, scored: Scored, judged: Judged, drifted: Sequence[int]) -> list[Alert]:
        """drifted: windows at which a drift was noticed. Windows of one entity are neighbours, in order."""
        found: list[Alert] = []
        known = np.isfinite(judged.threshold) & _fresh(scenes)
        if self._below is not None:
            noise = known & ((scored.cluster < 0) | (scored.membership_probability < self._below))
            of_noise = replace(judged, alarm=noise, episode_open=noise, episode_worse=np.zeros(len(noise), bool))
            found += self._noise.update(scenes, scored, of_noise)
        if self._drift is not None:
            for i in drifted:
                found += self._drift.at_once(scenes, scored, judged, i) if known[i] else []
        if self._stuck is not None and scored.left_out is not None:
            found += self._stuck.update(scenes, *_of_stuck(self._sensors, scored, judged))
        return found

    def end(self, slots: I32) -> list[Alert]:
        """Nothing more is awaited of these entities for now."""
        found = [] if self._below is None else self._noise.end(slots)
        return found + ([] if self._stuck is None else self._stuck.end(slots))


def _of_stuck(sensors: tuple[str, ...], scored: Scored, judged: Judged) -> tuple[Scored, Judged]:
    """What is said of windows as an episode of stuck sensors wants it: the score is how many are left out, the
    threshold none, and the sensors are those."""
    out = scored.left_out
    assert out is not None
    n = out.sum(1)

    def explain(i: int) -> tuple[SensorPart, ...]:
        return tuple(SensorPart(sensors[c], 1 / int(n[i]), None, None) for c in np.flatnonzero(out[i]))

    some, none, no, sure = n > 0, np.zeros(len(n), bool), np.zeros(len(n)), np.ones(len(n))
    verdict = replace(judged, alarm=some, episode_open=some, episode_worse=none, warming=none, threshold=no)
    verdict = replace(verdict, tail_probability=sure, grade=sure, confidence=sure)
    return replace(scored, score=n.astype(np.float64), explain=explain), verdict


def _fresh(scenes: Scenes) -> Bool:
    """Windows that hold something new: their newest sample is of their last tenth. [w]"""
    newest = scenes.t_us[np.maximum(scenes.last - 1, 0)] if len(scenes.t_us) else scenes.start_us
    found: Bool = newest >= scenes.end_us - (scenes.end_us - scenes.start_us) // FRESH
    return found


def must_suit(detector: Detector, also: Sequence[str]) -> None:
    """Raises ConfigurationError where the bundle can't do what is asked for."""
    if "noise" in also:
        membership_needed(detector)
    if "stuck" in also and STILL not in (detector.carry_initial.dtype.names or ()):
        raise ConfigurationError(
            "alarms.also: stuck needs a detector of several sensors that leaves out those that stand still; this one"
            f" is of {detector.kind}" + (": train it again" if detector.kind == "sensors" else "")
        )


def membership_needed(detector: Detector) -> float:
    """The membership below which a window is noise. Raises ConfigurationError where the bundle has none to offer."""
    found: Any = detector.tail.get(MEMBERSHIP)
    if found is None:
        raise ConfigurationError(
            "alarms.also: noise needs a bundle that was trained with it: tailrace train --config with the same alarms"
        )
    tau, noise = map(float, found)
    if noise > FALSE_RATE:
        raise ConfigurationError(
            f"alarms.also: noise can't be had with this bundle: {noise:.0%} of normal windows belong to no known "
            f"behaviour, and {FALSE_RATE:.0%} are allowed"
        )
    return tau


def layouts(also: Sequence[str]) -> dict[str, Row]:
    """The rows that the rules need, as they are at first."""
    rows = {
        "noise": (NOISE_STAGE, INITIAL),
        "stuck": (STUCK_STAGE, INITIAL),
        "silence": (silence.STAGE, silence.INITIAL),
    }
    return dict(rows[reason] for reason in rows if reason in also)
