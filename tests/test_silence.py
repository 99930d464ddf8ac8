"""Alerts for silence: on request, on the stream's clock, once per silence. The laws of test_pipeline hold with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plain_detector import PlainDetector
from test_pipeline import CONFIG, LAW, SHORT, START_MS, batch, normal, spec

from models.detector import WindowSpec
from stream_app.alerts.alert import Alert, rfc3339
from stream_app.config import parse
from stream_app.pipeline import Pipeline, PipelineSpec

IDLE_S = 40  # of CONFIG


def record(key: str, at_s: float, t_s: float | None = None) -> tuple[str, object, float]:
    """A sample of time `t_s` that comes when the partition's clock is `at_s`."""
    t_ms = START_MS + int(1000 * (at_s if t_s is None else t_s))
    return key, {"sensor": "a", "t": t_ms, "value": 0.1}, at_s


def said(*batches: list, of: PipelineSpec | None = None) -> list[tuple[str, str, float, float]]:
    """Status, entity, start and end of each message, in seconds."""
    pipeline, first, found = Pipeline(of or spec()), 0, []
    for records in batches:
        found += pipeline.step(batch(records, first)).alerts
        first += len(records)
    return [(a.status, a.entity, seconds(a.data_start_time), seconds(a.data_end_time)) for a in found]


def seconds(text: str) -> float:
    return next(s / 2 for s in range(2000) if rfc3339(START_MS * 1000 + s * 500_000) == text)


#   x  |x x . . . . . . . . . . . . . x
#   y  |y y y y y y y y y y y y y y y y y
#      0                40          60
PAIR = [record(k, s) for s in range(0, 62) for k in "xy" if k == "y" or s in (0, 1, 60)]


@pytest.mark.parametrize("cut", [1, 5, 40, 50, len(PAIR)])
def test_an_entity_that_falls_silent_is_told_and_told_again_when_it_is_back(cut: int) -> None:
    assert said(PAIR[:cut], PAIR[cut:]) == [("open", "x", 1, 41), ("closed", "x", 1, 60)]


def test_it_is_told_when_the_clock_says_so_and_not_when_it_is_back() -> None:
    assert said(PAIR[:40]) == []
    assert said(PAIR[:50]) == [("open", "x", 1, 41)]


def test_a_tombstone_ends_a_silence() -> None:
    ended = [*PAIR[:50], ("x", None, 55.0), *[record("y", s) for s in range(56, 200)]]
    assert said(ended) == [("open", "x", 1, 41), ("closed", "x", 1, 55)], "and who has ended is not silent"


def test_nothing_is_told_unless_it_is_asked_for() -> None:
    assert said(PAIR, of=replace(spec(), config=CONFIG)) == []


def test_late_samples_are_signs_of_life() -> None:
    late = [record("x", s, -100.0) for s in (20, 40, 55)]
    assert said(sorted(PAIR + late, key=lambda r: r[2])) == []


def test_a_sequence_of_tokens_falls_silent_as_sensors_do() -> None:
    detector = PlainDetector(windows=WindowSpec(length_tokens=4, stride_tokens=4), sensors=("token",), kind="tokens")
    tokens = [(k, {"t": v["t"], "token": 0}, at) for k, v, at in PAIR]
    of = PipelineSpec(LAW, replace(detector, vocabulary={"0": 0}), "s")
    assert said(tokens, of=of) == [("open", "x", 1, 41), ("closed", "x", 1, 60)]


def test_who_never_returns_holds_no_memory() -> None:
    store: dict[bytes, bytes] = {}
    pipeline = Pipeline(spec(store))
    records = PAIR[:50] + [record("y", s) for s in range(62, 90)]
    (opened,) = pipeline.step(batch(records[:50], 0)).alerts
    pipeline.committed(pipeline.checkpoint())
    for at in range(50, len(records)):
        assert not pipeline.step(batch(records[at : at + 1], at)).alerts
        pipeline.committed(pipeline.checkpoint())
    assert b"x" not in pipeline.keys
    assert len(store) == 2, "what it has learnt waits in the changelog, as ever"
    later = pipeline.step(batch([record("x", 100)], len(records))).alerts
    assert [(a.status, a.alert_id) for a in later if a.entity == "x"] == [("closed", opened.alert_id)]


def test_silence_comes_on_top_and_leaves_other_alerts_as_they_are() -> None:
    records = normal(1_500) + [record("y", 750 + s) for s in range(60)]
    for k in range(1_000, 1_020):
        records[k] = ("x", records[k][1] | {"value": 6.0}, records[k][2])
    both = Pipeline(spec()).step(batch(records, 0)).alerts
    alone = Pipeline(replace(spec(), config=CONFIG)).step(batch(records, 0)).alerts
    (silent,) = [alert for alert in both if alert.reason == "silence"]
    assert timeless(*[a for a in both if a.reason != "silence"]) == timeless(*alone) != []
    assert silent.alert_id not in {alert.alert_id for alert in alone}
    assert (silent.anomaly_score, silent.threshold, silent.inputs[0].last_offset) == (1.0, 1.0, 1_499)
    assert silent.bundle == SHORT.digest


def timeless(*alerts: Alert) -> list[Alert]:
    return [replace(alert, published_at="") for alert in alerts]


def test_a_configuration_can_ask_for_it() -> None:
    assert parse({"sources": [{"topic": "t"}], "alarms": {"also": "silence,noise"}}).alarms.also == ("silence", "noise")
