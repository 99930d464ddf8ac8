"""The smallest detector that uses everything the interface offers: carried state, parts, frames, explanations.

The score of a window is the distance of its mean from the entity's running mean; tests know what it must give.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.detector import Frames, Scored, SensorPart, WindowSpec
from models.scenes import Scenes

CARRY = np.zeros(1, [("n", np.float64), ("mean", np.float64)])

MINUTES = WindowSpec(length_us=60_000_000, stride_us=10_000_000)


@dataclass(frozen=True)
class PlainDetector:
    windows: WindowSpec = MINUTES
    sensors: tuple[str, ...] = ("a", "b")
    vocabulary: dict[str, int] = field(default_factory=dict)
    kind: str = "sensors"
    digest: str = "plain-1"
    part_names: tuple[str, ...] = ("distance",)
    cluster_names: dict[int, str] = field(default_factory=dict)
    risk: float = 1e-2
    tail: dict[str, Any] = field(default_factory=dict)
    gain: float = 1.0  # what the distance is multiplied by
    fail_above: float = np.inf  # a window with a mean above it makes the detector raise
    nan_above: float = np.inf  # a window with a mean above it gets a score that is not a number

    @property
    def carry_initial(self) -> np.ndarray:
        return CARRY

    def score(self, scenes: Scenes, carry: np.ndarray) -> Scored:
        entities, carry, w = np.unique(scenes.entity), carry.copy(), len(scenes)
        score = np.zeros(w)
        for i in range(w):
            values = scenes.value[scenes.first[i] : scenes.last[i]]
            values = values[np.isfinite(values)]
            mean = float(values.mean()) if len(values) else 0.0
            if mean > self.fail_above:
                raise ValueError(f"mean {mean} is too large for this detector")
            state = carry[np.searchsorted(entities, scenes.entity[i])]
            score[i] = self.gain * abs(mean - state["mean"]) if mean <= self.nan_above else np.nan
            state["n"] += 1
            state["mean"] += (mean - state["mean"]) / min(state["n"], 50.0)
        none = np.zeros(w, np.float32)
        frames = Frames(scenes.entity, scenes.end_us - self.windows.stride_us, scenes.end_us, score)
        return Scored(
            score,
            score[:, None].astype(np.float32),
            np.zeros(w, np.int32),
            none,
            none[:, None],
            frames,
            carry,
            lambda i: (SensorPart(self.sensors[0], 1.0, float(score[i]), 0.0),),
        )
