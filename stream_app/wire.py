"""What we write to Kafka and to alerts.jsonl, as bytes. Every key of the JSON is a contract of DESIGN.md.

In: messages, and columns of windows. Out: JSON, and CloudEvents' headers in binary mode, so that the value stays plain
for readers who know nothing of CloudEvents. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from models.detector import Detector
from stream_app.alerts import Alert
from stream_app.judging import ScoredWindows
from stream_app.samples import Headers

_JSON = b"application/json"


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


def encode_alert(alert: Alert) -> bytes:
    """One alert message. A number that is not finite becomes null."""
    return orjson.dumps(alert)


def alert_headers(alert: Alert) -> Headers:
    """CloudEvents 1.0 attributes by the Kafka binding. The id names the message: an episode has several."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": f"{alert.alert_id}:{alert.status}:{alert.data_end_time}",
        "ce_source": f"/tailrace/{alert.detector}",
        "ce_type": f"tailrace.alert.{alert.status}",
        "ce_time": alert.published_at,
        "ce_subject": alert.entity,
    }
    return [*((name, text.encode()) for name, text in attributes.items()), ("content-type", _JSON)]


def encode_drift(event: Any) -> bytes:
    """One drift event, a dataclass."""
    return orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)


def score_rows(windows: ScoredWindows, speaker: Speaker, topic: str, partition: int) -> Iterator[tuple[str, bytes]]:
    """Entity and JSON of each window; the names are those of alerts."""
    scenes, scored, judged = windows.scenes, windows.scored, windows.judged
    columns = zip(
        windows.entities,
        _rfc3339(scenes.start_us),
        _rfc3339(scenes.end_us),
        scored.score.tolist(),
        judged.threshold.tolist(),
        judged.tail_probability.tolist(),
        judged.grade.tolist(),
        judged.alarm.tolist(),
        judged.warming.tolist(),
        scored.cluster.tolist(),
        scored.membership_probability.tolist(),
        scored.parts.tolist(),
        scenes.first_offset.tolist(),
        scenes.last_offset.tolist(),
        strict=True,
    )
    # Per window, not per sample; what is left of it is one call of the encoder.
    for (
        entity,
        start,
        end,
        score,
        threshold,
        tail,
        grade,
        alarm,
        warming,
        cluster,
        member,
        parts,
        first,
        last,
    ) in columns:
        yield (
            entity,
            orjson.dumps(
                {
                    "detector": speaker.detector,
                    "entity": entity,
                    "data_start_time": start,
                    "data_end_time": end,
                    "anomaly_score": score,
                    "threshold": threshold,
                    "tail_probability": tail,
                    "anomaly_grade": grade,
                    "anomalous": alarm,
                    "state": "warming" if warming else "live",
                    "cluster": {
                        "id": cluster,
                        "membership_probability": member,
                        "label": speaker.cluster_names.get(cluster),
                    },
                    "parts": dict(zip(speaker.part_names, parts, strict=True)),
                    "bundle": speaker.bundle,
                    "inputs": [{"topic": topic, "partition": partition, "first_offset": first, "last_offset": last}],
                }
            ),
        )


def _rfc3339(us: Any) -> list[str]:
    """RFC 3339 in UTC, to the microsecond.

    >>> _rfc3339(np.array([0, 1_700_000_000_123_456]))
    ['1970-01-01T00:00:00.000000Z', '2023-11-14T22:13:20.123456Z']
    """
    return [f"{text}Z" for text in np.datetime_as_string(us.astype("datetime64[us]"), unit="us").tolist()]
