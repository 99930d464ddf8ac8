"""What we write to Kafka and to alerts.jsonl, as bytes. Every key of the JSON is a contract of DESIGN.md.

In: messages, and columns of windows. Out: JSON, and CloudEvents' headers in binary mode, so that the value stays plain
for readers who know nothing of CloudEvents. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from stream_app.alerts.alert import rfc3339s
from stream_app.alerts.episodes import Alert
from stream_app.judging import ScoredWindows
from stream_app.samples import Headers

_JSON = b"application/json"


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


def score_rows(windows: ScoredWindows, topic: str, partition: int) -> Iterator[tuple[str, bytes]]:
    """Entity and JSON of each window; the names are those of alerts."""
    columns = _score_columns(windows, topic, partition)
    names = tuple(columns)
    for entity, row in zip(windows.entities, zip(*columns.values(), strict=True), strict=True):
        yield entity, orjson.dumps(dict(zip(names, row, strict=True)))


def _score_columns(windows: ScoredWindows, topic: str, partition: int) -> dict[str, Sequence[Any]]:
    scenes, scored, judged, n = windows.scenes, windows.scored, windows.judged, len(windows.entities)
    speaker = windows.speaker
    belongs = zip(scored.cluster.tolist(), scored.membership_probability.tolist(), strict=True)
    offsets = zip(scenes.first_offset.tolist(), scenes.last_offset.tolist(), strict=True)
    label = speaker.cluster_names.get
    return {
        "detector": [speaker.detector] * n,
        "entity": windows.entities,
        "data_start_time": rfc3339s(scenes.start_us),
        "data_end_time": rfc3339s(scenes.end_us),
        "position": scenes.position.tolist(),
        "anomaly_score": scored.score.tolist(),
        "threshold": judged.threshold.tolist(),
        "tail_probability": judged.tail_probability.tolist(),
        "anomaly_grade": judged.grade.tolist(),
        "anomalous": judged.alarm.tolist(),
        "state": ["warming" if warming else "live" for warming in judged.warming.tolist()],
        "cluster": [{"id": c, "membership_probability": p, "label": label(c)} for c, p in belongs],
        "parts": [dict(zip(speaker.part_names, parts, strict=True)) for parts in scored.parts.tolist()],
        "bundle": [speaker.bundle] * n,
        "inputs": [
            [{"topic": topic, "partition": partition, "first_offset": first, "last_offset": last}]
            for first, last in offsets
        ],
    }
