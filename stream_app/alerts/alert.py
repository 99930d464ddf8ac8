"""What an alert message is: the record on the alerts topic, field by field; and who speaks.

In: nothing. Out: the types. Remembers: nothing. Changing a name here breaks consumers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from models.detector import Detector
from models.scenes import I64

Status = Literal["open", "update", "closed", "retracted"]
Reason = Literal["tail", "noise", "drift", "silence", "stuck", "classifier"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Speaker:
    """Who speaks in scores, and what its numbers are called."""

    detector: str
    bundle: str = ""
    part_names: tuple[str, ...] = ()
    cluster_names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, detector: Detector | None) -> Speaker:
        if detector is None:
            return cls(name)
        return cls(name, detector.digest, detector.part_names, detector.cluster_names)


@dataclass(frozen=True)
class Cluster:
    """The known behaviour that the worst window was nearest to; -1: none."""

    id: int
    membership_probability: float
    label: str | None


@dataclass(frozen=True)
class AlertSensor:
    """A sensor's share of the score, with what it showed and what was expected."""

    sensor: str
    contribution: float
    actual: float | str | None  # of tokens the token
    expected: float | str | None
    bins: tuple[tuple[str, float], ...]  # (start, or index of the token; share); empty in a closing message


@dataclass(frozen=True)
class Input:
    """The records an alert is made from."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True)
class Alert:
    """One message about one episode, names as on the topic. Times are RFC 3339 in UTC, to the microsecond."""

    alert_id: str
    status: Status
    detector: str
    entity: str
    data_start_time: str
    data_end_time: str
    detected_at: str  # event time: the end of the first anomalous window
    published_at: str  # wall clock: the only field in which a replay differs
    anomaly_score: float
    threshold: float
    tail_probability: float
    anomaly_grade: float
    confidence: float
    state: Literal["live", "warming"]
    reason: Reason
    cluster: Cluster
    sensors: tuple[AlertSensor, ...]
    bundle: str
    inputs: tuple[Input, ...]
    reproduce: str


def rfc3339(us: int | np.int64) -> str:
    """Microseconds since the epoch as a text.

    >>> rfc3339(1_700_000_000_000_001)
    '2023-11-14T22:13:20.000001Z'
    """
    moment = _EPOCH + timedelta(microseconds=int(us))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339s(us: I64) -> list[str]:
    """As `rfc3339`, of many.

    >>> rfc3339s(np.array([0, 1_700_000_000_123_456]))
    ['1970-01-01T00:00:00.000000Z', '2023-11-14T22:13:20.123456Z']
    """
    return [f"{text}Z" for text in np.datetime_as_string(us.astype("datetime64[us]"), unit="us").tolist()]
