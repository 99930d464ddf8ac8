"""The demo: its verdict, and the whole of it on the embedded broker."""

from __future__ import annotations

from typing import Any

import pytest
from plain_detector import PlainDetector

from models.detector import WindowSpec
from stream_app.alerts.alert import rfc3339
from stream_app.config import parse
from stream_app.fleet import Fault
from training.demo import run_demo
from training.demo_verdict import Books, judge

MINUTE_US = 60_000_000
FAULT = Fault("stuck", "pump-1", "pressure", 10 * MINUTE_US, 12 * MINUTE_US)
DETECTOR = PlainDetector(windows=WindowSpec(length_us=MINUTE_US, stride_us=MINUTE_US // 6))
CONFIG = parse({"sources": [{"topic": "s"}], "alarms": {"risk": 0.001}})
BALANCED = {"samples_read": 10, "scored": 7, "late": 1, "duplicate": 1, "dead_lettered": 1, "open": 0}


def alert(name: str, minute: float, entity: str = "pump-1", status: str = "open") -> dict[str, Any]:
    at = rfc3339(int(minute * MINUTE_US))
    return {"alert_id": name, "status": status, "entity": entity, "detected_at": at, "reason": "tail", "sensors": []}


def verdict(*alerts: dict[str, Any], books: dict[str, int] | None = None) -> Any:
    partitions = [{"accounting": books or BALANCED}]
    return judge((FAULT,), alerts, Books(partitions, 2000), CONFIG, DETECTOR)


def test_an_alert_in_a_faults_time_finds_it() -> None:
    found = verdict(alert("a", 10.5))
    assert [fault["found"] for fault in found.faults] == ["yes"]
    assert found.false_alarms == 0
    assert found.faults[0]["after_s"] == 30


def test_a_window_that_holds_the_faults_end_still_tells_of_it() -> None:
    assert verdict(alert("a", 12.9)).faults[0]["found"] == "yes"
    assert verdict(alert("a", 13.1)).faults[0]["found"] == "no"


@pytest.mark.parametrize("false", [alert("a", 9.9), alert("a", 11, entity="pump-2")])
def test_an_alert_before_the_fault_or_of_another_entity_is_false(false: dict[str, Any]) -> None:
    found = verdict(false)
    assert found.faults[0]["found"] == "no"
    assert found.false_alarms == 1


def test_the_messages_of_one_alert_are_one_alert_and_a_retracted_one_is_none() -> None:
    messages = [alert("a", 9), alert("a", 9, status="closed"), alert("b", 5), alert("b", 5, status="retracted")]
    assert verdict(*messages).false_alarms == 1


def test_false_alarms_are_promised_per_window() -> None:
    assert verdict().promised == pytest.approx(2.0)


def test_books_that_do_not_add_up_are_seen() -> None:
    assert verdict().adds_up
    assert not verdict(books=BALANCED | {"scored": 6}).adds_up
    assert not verdict(books=dict.fromkeys(BALANCED, 0)).adds_up


def test_the_demo_on_a_measured_series_ends_with_its_books_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(real=True)
    said = capsys.readouterr()
    assert "761 samples read = 761 scored + 0 late + 0 duplicate + 0 dead-lettered + 0 open" in said.out
    assert "tailrace worker --config water.yaml" in said.err


@pytest.mark.soak
def test_the_demo_of_the_fleet_finds_what_was_injected(capsys: pytest.CaptureFixture[str]) -> None:
    run_demo()
    said = capsys.readouterr().out
    assert "faults: 4 injected, 4 found" in said
    assert "faults: 1 injected, 1 found" in said
