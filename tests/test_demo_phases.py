"""What the drift demo shows of the alarms, phase by phase."""

from __future__ import annotations

from typing import Any

import pytest

from stream_app.alerts.alert import rfc3339
from training.demo_phases import phases

CHANGED_US = 100_000_000


def score(at_s: float, bundle: str = "old", anomalous: bool = False, depth: float = 0.5) -> dict[str, Any]:
    end = rfc3339(int(at_s * 1e6))
    said = {"bundle": bundle, "data_end_time": end, "anomalous": anomalous}
    return said | {"anomaly_score": depth, "threshold": 1.0}


def alert(name: str, at_s: float, bundle: str = "old", status: str = "open") -> dict[str, Any]:
    return {"alert_id": name, "detected_at": rfc3339(int(at_s * 1e6)), "bundle": bundle, "status": status}


def test_each_window_and_alert_belongs_to_one_phase() -> None:
    scores = [score(90), score(100), score(110, anomalous=True), score(120), score(130, "new", depth=0.2)]
    alerts = [alert("a", 110), alert("a", 110, status="closed"), alert("b", 130, "new"), alert("c", 95)]
    before, after, promoted = phases(scores, alerts, CHANGED_US, 0.5)
    assert [p.windows for p in (before, after, promoted)] == [2, 2, 1]
    assert [p.episodes for p in (before, after, promoted)] == [1, 1, 1]
    assert [p.alarmed for p in (before, after, promoted)] == [0, 0.5, 0]
    assert promoted.depth == pytest.approx(0.2)
    assert before.promised == pytest.approx(1.0)


def test_the_contract_is_kept_up_to_what_chance_gives_and_not_without_a_window() -> None:
    new = [score(130 + i, "new") for i in range(100)]
    alerts = [alert(str(i), 130 + i, "new") for i in range(6)]
    _, _, kept = phases([score(0), *new], alerts[:5], CHANGED_US, 0.01)
    _, _, missed = phases([score(0), *new], alerts, CHANGED_US, 0.01)
    _, _, nothing = phases([score(0)], [], CHANGED_US, 0.01)
    assert [p.within_contract(2.0) for p in (kept, missed, nothing)] == [True, False, False]
    assert phases([], [], CHANGED_US, 0.01)[0].row()["windows"] == 0
