"""What a worker measures, on the metrics themselves, fed by a real pipeline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_pipeline import CONFIG, NEXT, SHORT, batch, normal

from models.detector import WindowSpec
from stream_app.config import Alarms
from stream_app.judging import AlarmRate, rate_of
from stream_app.live.metrics import Metrics
from stream_app.pipeline import Pipeline, PipelineSpec, Result

DAILY = CONFIG.model_copy(update={"alarms": Alarms(at_most=400, per="day")})
A_DAY = 43_200  # windows of SHORT


def fed(metrics: Metrics, detector: object = SHORT, n: int = 2_000) -> list[Result]:
    """What a pipeline says of a stream with five spikes, told to the metrics as a worker does it."""
    records = normal(n)
    for at in range(1_200, n, 150):
        records[at] = ("x", records[at][1] | {"value": 50.0}, records[at][2])
    pipeline = Pipeline(PipelineSpec(DAILY, detector, "s"))  # type: ignore[arg-type]
    results = []
    for a in range(0, n, 100):
        before, part = pipeline.accounting(), batch(records[a : a + 100], a)
        results.append(pipeline.step(part))
        metrics.note(before, pipeline.accounting(), part, results[-1])
    return results


def shown(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    samples = [sample for family in families for sample in family.samples]
    assert not any("entity" in sample.labels for sample in samples)
    return {sample.name + "".join(sample.labels.values()): sample.value for sample in samples}


def test_the_promise_is_in_the_unit_of_the_settings() -> None:
    assert rate_of(DAILY, SHORT) == AlarmRate(pytest.approx(400), "day", A_DAY)  # type: ignore[arg-type]
    by_risk = CONFIG.model_copy(update={"alarms": Alarms(risk=1e-3)})
    assert rate_of(by_risk, SHORT).episodes == pytest.approx(1e-3 * 7 * A_DAY)
    counted = replace(SHORT, windows=WindowSpec(length_tokens=64, stride_tokens=32))
    assert rate_of(CONFIG, counted) == AlarmRate(counted.risk, "window", 1)


def test_promised_and_observed_stand_side_by_side_with_the_span_they_were_observed_over() -> None:
    metrics = Metrics()
    assert "tailrace_alarm_rate_promisedday" not in shown(metrics), "without a bundle nothing is promised"
    metrics.promise(SHORT.digest, rate_of(DAILY, SHORT))
    assert shown(metrics)["tailrace_alarm_rate_promisedday"] == pytest.approx(400)
    said = [result.windows for result in fed(metrics) if result.windows]
    windows, episodes = sum(len(w.entities) for w in said), sum(int(w.judged.episode_start.sum()) for w in said)
    assert episodes >= 2
    found = shown(metrics)
    assert found["alarm_episodes_total"] == episodes
    assert found["windows_scored_total"] == windows
    assert found["tailrace_alarm_rate_spanday"] == pytest.approx(windows / A_DAY)
    assert found["tailrace_alarm_rate_observedday"] == pytest.approx(episodes * A_DAY / windows)
    metrics.promise(SHORT.digest, rate_of(DAILY, SHORT))
    assert shown(metrics) == found, "the same bundle after a rebalance"


def test_what_is_observed_begins_anew_with_another_bundle() -> None:
    metrics = Metrics()
    metrics.promise(SHORT.digest, rate_of(DAILY, SHORT))
    fed(metrics)
    metrics.promise(NEXT.digest, rate_of(CONFIG, NEXT))
    found = shown(metrics)
    assert not {name for name in found if name.startswith("tailrace_alarm_rate_observed")}
    assert not {name for name in found if name.endswith("day")}
    assert found["tailrace_alarm_rate_promisedweek"] == pytest.approx(1e-2 * 7 * A_DAY)
    fed(metrics, NEXT, 200)
    assert shown(metrics)["tailrace_alarm_rate_observedweek"] == 0


def test_the_tails_shape_and_threshold_are_those_of_the_windows_scored_last() -> None:
    metrics = Metrics()
    last = [result.windows for result in fed(metrics) if result.windows][-1]
    found = shown(metrics)
    assert np.isfinite(last.judged.tail_shape).all()
    assert found["tail_shape"] == pytest.approx(float(np.median(last.judged.tail_shape)))
    assert found["threshold"] == pytest.approx(float(np.median(last.judged.threshold)))


def test_latencies_and_ages_are_measured_in_seconds() -> None:
    metrics = Metrics()
    metrics.use_models({(SHORT.digest, 3)})
    fed(metrics, n=200)
    found = shown(metrics)
    assert found["model_version_infoplain-13"] == 1
    assert 0 <= found["model_age_seconds"] < 60
    assert found["e2e_latency_seconds_count"] == 2, "one per batch"
    assert found["event_time_lag_seconds"] > 86_400, "the stream is of the past"
    assert math.isfinite(found["e2e_latency_seconds_sum"])
