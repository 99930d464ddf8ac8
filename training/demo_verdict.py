"""What a demo's alerts are worth: which fault each of them tells of, which of none, and whether the books add up.

In: the faults, the alerts seen, the accounting per partition. Out: `Verdict`. Remembers: nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.detector import Detector
from stream_app.cli.alert_lines import time_text
from stream_app.config import Config
from stream_app.fleet import Fault
from stream_app.judging import risk_of


@dataclass(frozen=True)
class Books:
    """What the worker left behind: the status of each partition, and how many windows it judged."""

    partitions: Sequence[dict[str, Any]]
    windows: int


@dataclass(frozen=True)
class Verdict:
    """What there is to say in the end."""

    faults: list[dict[str, Any]]
    promised: float  # false alarms
    false_alarms: int
    accounting: dict[str, int]

    @property
    def adds_up(self) -> bool:
        """Everything read is accounted for, and nothing is left open at the end."""
        rest = sum(n for name, n in self.accounting.items() if name != "samples_read")
        return self.accounting["samples_read"] == rest > 0


def judge(
    faults: Sequence[Fault], seen: Sequence[dict[str, Any]], books: Books, config: Config, detector: Detector
) -> Verdict:
    """Matches alerts with faults by entity and time."""
    last_words = {alert["alert_id"]: alert for alert in seen}
    last_words = {name: alert for name, alert in last_words.items() if alert.get("status") != "retracted"}
    told: set[str] = set()
    lines = []
    for fault in faults:
        hits = [alert for alert in last_words.values() if _tells_of(fault, alert, detector)]
        told |= {alert["alert_id"] for alert in hits}
        lines.append(_line(fault, sorted(hits, key=lambda alert: _us(alert["detected_at"]))))
    accounting: Counter[str] = Counter()
    for partition in books.partitions:
        accounting.update(partition["accounting"])
    promised = risk_of(config, detector) * books.windows
    return Verdict(lines, promised, len(last_words) - len(told), dict(accounting))


def _tells_of(fault: Fault, alert: dict[str, Any], detector: Detector) -> bool:
    """An episode of the entity that began with a window that holds some of the fault."""
    detected_us = _us(alert["detected_at"])
    return alert["entity"] == fault.entity and fault.start_us < detected_us <= fault.end_us + detector.windows.length_us


def _line(fault: Fault, hits: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"fault": fault.kind, "entity": fault.entity, "sensor": fault.sensor}
    row["from"] = time_text(fault.start_us / 1000)
    if not hits:
        return row | {"found": "no"}
    alert = hits[0]
    delay_s = (_us(alert["detected_at"]) - fault.start_us) / 1e6
    named = [sensor["sensor"] for sensor in (alert.get("sensors") or [])[:1]]
    return row | {"found": "yes", "after_s": delay_s, "named": "".join(named), "reason": alert.get("reason")}


def _us(t: Any) -> int:
    if isinstance(t, int | float):
        return round(t * 1000)
    return round(datetime.fromisoformat(t).timestamp() * 1e6)
