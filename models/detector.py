"""What every detector is: the interface behind which sensors and tokens are scored.

In: `Scenes` and, per entity, a row of state. Out: `Scored`. Remembers: nothing; what a score needs from the past is the
entity's row (`carry`), which the caller keeps, snapshots and hands back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.scenes import F32, F64, I32, I64, Bool, Scenes


@dataclass(frozen=True)
class WindowSpec:
    """How the stream is cut: windows of time give `length_us` and `stride_us`, windows of tokens the two counts."""

    length_us: int = 0
    stride_us: int = 0
    length_tokens: int = 0
    stride_tokens: int = 0

    @property
    def counted(self) -> bool:
        return self.length_tokens > 0


@dataclass(frozen=True)
class Frames:
    """The score over time without overlaps, as fine as the detector's bins; sorted by (entity, start_us)."""

    entity: I32
    start_us: I64
    end_us: I64
    score: F64


@dataclass(frozen=True)
class SensorPart:
    """One sensor's share of one window's score, for a reader."""

    sensor: str
    contribution: float  # share of the score, all sensors sum to 1
    actual: float | None  # in the sensor's unit, at the moment that contributes most
    expected: float | None
    bins: tuple[tuple[int, float], ...] = ()  # (start_us, share of this sensor's contribution)


@dataclass(frozen=True)
class Scored:
    """What a detector says of `w` windows. Row i belongs to window i of the scenes. Higher is stranger."""

    score: F64  # [w]; a non-finite one is dead-lettered by the caller before it touches anything
    parts: F32  # [w, part]; names in Detector.part_names
    cluster: I32  # [w]; -1 is noise
    membership_probability: F32  # [w]; of belonging to `cluster`
    embedding: F32  # [w, width]
    frames: Frames
    carry: NDArray[np.void]  # [number of distinct entities] in the order of np.unique(scenes.entity)
    explain: Callable[[int], tuple[SensorPart, ...]]  # of window i, largest contribution first; computed when asked
    left_out: Bool | None = None  # [w, sensor] not judged at the window's end, since it is stuck; None: never any


class Detector(Protocol):
    """A fitted, frozen detector: all of one bundle. A pure function of its input.

    Laws (tested for every detector): scores do not depend on how windows are batched over calls, given that each
    entity's windows come in order and its carry is handed on; an entity's scores do not depend on other entities in the
    call; the input is not changed; the score of a window uses nothing later than its end.
    """

    @property
    def kind(self) -> str:
        """ "sensors" or "tokens"."""

    @property
    def digest(self) -> str:
        """Of the bundle; named in every result."""

    @property
    def windows(self) -> WindowSpec: ...

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names, index = Scenes.sensor; ("token",) for tokens."""

    @property
    def vocabulary(self) -> dict[str, int]:
        """Tokens' ids; empty for sensors."""

    @property
    def part_names(self) -> tuple[str, ...]: ...

    @property
    def cluster_names(self) -> dict[int, str]: ...

    @property
    def carry_initial(self) -> NDArray[np.void]:
        """Shape [1], structured dtype without objects: the state of an entity never seen."""

    @property
    def tail(self) -> dict[str, Any]:
        """What training fitted for stream_app.threshold.stage: the population's tail, numbers and arrays."""

    @property
    def risk(self) -> float:
        """Default risk per window, chosen at training from the alarm budget and the data."""

    def score(self, scenes: Scenes, carry: NDArray[np.void]) -> Scored:
        """Scores windows. `carry`: one row per distinct entity, in the order of np.unique(scenes.entity)."""
        ...
