"""Intervals: what topics say of times that nobody should learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from stream_app.alerts.alert import rfc3339
from stream_app.intervals import FOREVER_US, Interval, Message, alerts, control, drifts, labels, overlapping, without

S = 1_000_000


def message(t_s: int = 0, /, **body: Any) -> Message:
    times = ("start", "end", "data_start_time", "data_end_time")
    body = {name: rfc3339(value * S) if name in times else value for name, value in body.items()}
    return Message(orjson.dumps({"detector": "pump", "entity": "p1", **body}), t_s * S)


def alert(name: str, start: int, end: int, status: str = "closed", **more: Any) -> Message:
    return message(0, alert_id=name, data_start_time=start, data_end_time=end, status=status, **more)


def test_the_last_message_of_an_alert_gives_its_bounds() -> None:
    got = alerts([alert("a", 10, 20, "open"), alert("a", 10, 50), alert("b", 5, 6)], "pump")
    assert got == [Interval("p1", 10 * S, 50 * S, "alert"), Interval("p1", 5 * S, 6 * S, "alert")]


def test_of_an_alert_on_overlapping_windows_the_time_that_was_new_counts() -> None:
    #   first anomalous window [10, 70), found at its end; windows every 5 s
    given = [alert("a", 10, 90, detected_at=rfc3339(70 * S))]
    assert alerts(given, "pump", 5 * S) == [Interval("p1", 65 * S, 90 * S, "alert")]


def test_alerts_of_a_bundle_that_was_found_to_drift_are_not_believed_from_then_on() -> None:
    said = [message(0, at=rfc3339(50 * S), bundle="old"), message(0, at=rfc3339(40 * S), bundle="older", entity="")]
    drifted = drifts(said, "pump")
    given = [alert("a", 10, 20, bundle="old"), alert("b", 45, 60, bundle="old"), alert("c", 45, 60, bundle="new")]
    given += [alert("d", 45, 60, bundle="older")]
    assert alerts(given, "pump", None, drifted) == [
        Interval("p1", 10 * S, 20 * S, "alert"),
        Interval("p1", 45 * S, 60 * S, "alert"),
    ]


def test_retracted_alerts_and_those_of_other_detectors_say_nothing() -> None:
    given = [alert("a", 1, 2), alert("a", 1, 2, "retracted"), alert("b", 1, 2, detector="other")]
    assert alerts(given, "pump") == []


def test_what_cannot_be_read_is_passed_over() -> None:
    rubbish = [Message(b"{", 0), Message(None, 0), Message(b"[1]", 0), Message(b'{"entity": 3, "start": "x"}', 0)]
    assert alerts(rubbish, "pump") == control(rubbish, "pump") == []
    assert labels(rubbish, "pump") == ([], [])


def test_a_pause_lasts_until_learning_is_resumed() -> None:
    got = control([message(100, command="pause_learning"), message(200, command="resume_learning")], "pump")
    assert got == [Interval("p1", 100 * S, 200 * S, "pause")]


def test_a_pause_that_gives_its_end_is_over_when_learning_is_resumed_before() -> None:
    def paused(start: int, end: int) -> Message:
        return message(0, command="pause_learning", start=start, end=end)

    resumed = message(200, command="resume_learning")
    assert control([paused(100, 300), resumed], "pump") == [Interval("p1", 100 * S, 200 * S, "pause")]
    for start, end in ((100, 150), (250, 300)):  # it was over already, or had not begun
        assert control([paused(start, end), resumed], "pump") == [Interval("p1", start * S, end * S, "pause")]


def test_an_order_that_is_no_text_says_nothing_and_silences_none() -> None:
    """It would have kept every worker from starting, and those that run from hearing what comes after."""
    odd = [message(5, command=["pause_learning"]), message(6, command={"a": 1}), message(7, command=None)]
    given = message(8, command="open_calendar")
    assert control([*odd, given], "pump") == [Interval("p1", 8 * S, FOREVER_US, "calendar")]


def test_a_calendar_that_gives_no_end_is_open_still() -> None:
    got = control([message(100, command="open_calendar", entity=None, start=50)], "pump")
    assert got == [Interval("", 50 * S, FOREVER_US, "calendar")]


def test_a_calendar_that_gives_both_bounds_needs_no_second_message() -> None:
    got = control([message(0, command="open_calendar", start=50, end=60)], "pump")
    assert got == [Interval("p1", 50 * S, 60 * S, "calendar")]


def test_closing_what_was_never_opened_changes_nothing() -> None:
    assert control([message(5, command="close_calendar"), message(6, command="resume_learning")], "pump") == []


def test_of_labels_on_the_same_interval_the_last_one_stands() -> None:
    def said(label: str) -> Message:
        return message(0, start=1, end=2, label=label)

    assert labels([said("anomalous")], "pump") == ([Interval("p1", S, 2 * S, "label")], [])
    assert labels([said("anomalous"), said("normal")], "pump") == ([], [Interval("p1", S, 2 * S, "label")])
    assert labels([said("cavitation")], "pump") == ([], [])


def test_an_alert_that_a_person_called_normal_is_cleared() -> None:
    false, true = Interval("p1", 10, 20, "alert"), Interval("p2", 10, 20, "alert")
    assert without([false, true], [Interval("p1", 19, 30, "label")]) == [true]


def test_windows_count_for_the_first_reason_and_touching_is_not_overlapping() -> None:
    #   windows of p1   [0 10) [10 20) [20 30)     p2: [10 20)
    #   alert of p1           [10       25)        label of p1: [10 11)
    entity, start = np.array([0, 0, 0, 1]), np.array([0, 10, 20, 10])
    given = [Interval("p1", 10, 25, "alert"), Interval("p1", 10, 11, "label"), Interval("ghost", 0, 99, "alert")]
    found = overlapping(given, entity, ["p1", "p2"], (start, start + 10))
    assert {why: rows.tolist() for why, rows in found.items()} == {"label": [1], "alert": [2]}
    everyone = overlapping([Interval("", 15, 16, "pause")], entity, ["p1", "p2"], (start, start + 10))
    assert everyone["pause"].tolist() == [1, 3]
