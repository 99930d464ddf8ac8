"""Alerts for other reasons than the tail: on request alone, beside those that are promised, the same in any batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_detector import CARRY, PlainDetector
from test_pipeline import CONFIG, SHORT, batch, normal

from models.detector import Scored
from models.scenes import Scenes
from models.stuck import STILL
from stream_app.alerts.alert import Alert
from stream_app.alerts.others import MEMBERSHIP
from stream_app.config import Alarms, Config
from stream_app.errors import ConfigurationError
from stream_app.intervals import Message, alerts
from stream_app.pipeline import Pipeline, PipelineSpec
from training.fit_placement import fit_membership

N = 1_500
RECORDS = normal(N)
for _at in range(900, N, 200):
    for _k in range(_at, _at + 20):  # ten seconds at a level that no window of the training had
        RECORDS[_k] = ("x", RECORDS[_k][1] | {"value": 3.0}, RECORDS[_k][2])
LONG = normal(9_000)


class Behaviour(PlainDetector):
    """Knows one behaviour: membership falls with the score; far from it is noise."""

    def score(self, scenes: Scenes, carry: np.ndarray) -> Scored:
        scored = super().score(scenes, carry)
        membership = np.exp(-scored.score).astype(np.float32)
        return replace(scored, membership_probability=membership, cluster=np.where(scored.score > 2, -1, 0))


class Sticking(Behaviour):
    """Leaves out sensors of windows with a large mean: one, or both where it is larger still."""

    carry_initial = np.zeros(1, [(name, CARRY.dtype[name]) for name in CARRY.dtype.names or ()] + [(STILL, np.int32)])

    def score(self, scenes: Scenes, carry: np.ndarray) -> Scored:
        mean = np.array([scenes.value[a:b].mean() for a, b in zip(scenes.first, scenes.last, strict=True)])
        return replace(super().score(scenes, carry), left_out=mean.reshape(-1, 1) > np.array([1.0, 2.5]))


KNOWING = Behaviour(windows=SHORT.windows, tail={MEMBERSHIP: np.array([0.5, 0.01])})


def config(*also: Any) -> Config:
    return CONFIG.model_copy(update={"alarms": Alarms(risk=1e-2, also=also)})


def said(records: list, settings: Config, cuts: list[int], detector: PlainDetector = KNOWING) -> list[Alert]:
    """What a pipeline says; at each cut it is restarted from its checkpoint."""
    store: dict[bytes, bytes] = {}
    found: list[Alert] = []
    point, a = None, 0
    for b in [*cuts, len(records)]:
        pipeline = Pipeline(PipelineSpec(settings, detector, "s", store=store))
        pipeline.restore(point.offset if point else 0, point.metadata if point else "")
        a = point.offset if point else 0
        found += pipeline.step(batch(records[a:b], a)).alerts
        point = pipeline.checkpoint()
    return [replace(alert, published_at="") for alert in found]


def test_nothing_but_the_tail_alerts_unless_that_is_asked_for() -> None:
    assert {alert.reason for alert in said(RECORDS, config(), [])} == {"tail"}


def test_windows_of_no_known_behaviour_open_and_close_alerts_of_their_own() -> None:
    both, tail = said(RECORDS, config("noise"), []), said(RECORDS, config(), [])
    assert [alert for alert in both if alert.reason == "tail"] == tail, "what is promised stays as it is"
    noise = [alert for alert in both if alert.reason == "noise"]
    by_id: dict[str, list[str]] = {}
    for alert in noise:
        by_id.setdefault(alert.alert_id, []).append(alert.status)
    assert len(by_id) == 2, "the first spell comes before there is a threshold"
    assert all(statuses[0] == "open" and statuses[-1] == "closed" for statuses in by_id.values())
    assert max(map(len, by_id.values())) < 6
    assert not {alert.alert_id for alert in tail} & set(by_id)
    assert all(alert.cluster.id == -1 or alert.cluster.membership_probability < 0.5 for alert in noise)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, N - 1), max_size=5, unique=True))
def test_they_do_not_depend_on_batches_or_restarts(cuts: list[int]) -> None:
    whole = said(RECORDS, config("noise"), [])
    parts = said(RECORDS, config("noise"), sorted(cuts))
    assert set(map(str, parts)) == set(map(str, whole))


class Sparse(Behaviour):
    """Takes windows of few samples for noise, as embeddings of what is only held over may be."""

    def score(self, scenes: Scenes, carry: np.ndarray) -> Scored:
        return replace(super().score(scenes, carry), cluster=np.where(scenes.last - scenes.first < 10, -1, 0))


STUCK = Sticking(windows=SHORT.windows, tail=KNOWING.tail)


def test_sensors_that_are_left_out_open_one_alert_that_names_them_until_they_are_back() -> None:
    found = [a for a in said(RECORDS, config("stuck"), [], STUCK) if a.reason == "stuck"]
    by_id: dict[str, list[Alert]] = {}
    for alert in found:
        by_id.setdefault(alert.alert_id, []).append(alert)
    assert len(by_id) == 3, "one for each spell, the first too: no threshold is needed"
    for messages in by_id.values():
        assert [a.status for a in messages] == ["open", "update", "closed"]
        assert [[s.sensor for s in a.sensors] for a in messages] == [["a"], ["a", "b"], ["a", "b"]]
        assert [a.anomaly_score for a in messages] == [1.0, 2.0, 2.0]
        assert [s.contribution for s in messages[1].sensors] == [0.5, 0.5]
    alone = said(RECORDS, config(), [], STUCK)
    assert [a for a in said(RECORDS, config("stuck"), [], STUCK) if a.reason == "tail"] == alone


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, N - 1), max_size=5, unique=True))
def test_stuck_sensors_are_told_alike_whatever_batches_and_restarts(cuts: list[int]) -> None:
    every = config("noise", "silence", "stuck")
    assert set(map(str, said(RECORDS, every, sorted(cuts), STUCK))) == set(map(str, said(RECORDS, every, [], STUCK)))


def test_what_is_open_stays_open_where_another_reason_is_asked_for_as_well() -> None:
    store: dict[bytes, bytes] = {}
    first = Pipeline(PipelineSpec(config("stuck"), STUCK, "s", store=store))
    said = list(first.step(batch(RECORDS[:915], 0)).alerts)
    assert said[-1].status in ("open", "update")
    point = first.checkpoint()
    then = Pipeline(PipelineSpec(config("silence", "noise", "stuck"), STUCK, "s", store=store))
    then.restore(point.offset, point.metadata)
    said = list(then.step(batch(RECORDS[point.offset : 1_000], point.offset)).alerts)
    assert [alert.status for alert in said if alert.reason == "stuck"] == ["update", "closed"]


def test_who_can_not_tell_what_is_stuck_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"stuck needs a detector of several sensors .* train it again"):
        said(RECORDS, config("stuck"), [])


def test_an_entity_that_fell_silent_is_no_noise() -> None:
    detector = Sparse(windows=SHORT.windows, tail={MEMBERSHIP: np.array([0.0, 0.01])})
    pipeline = Pipeline(PipelineSpec(config("noise"), detector, "s"))
    said = pipeline.step(batch(normal(1_200), 0)).alerts + pipeline.finish().alerts
    assert "noise" not in {alert.reason for alert in said}
    gap = [r for i, r in enumerate(normal(1_400)) if not 1_200 <= i < 1_210 or i % 3 == 0]
    said = Pipeline(PipelineSpec(config("noise"), detector, "s")).step(batch(gap, 0)).alerts
    assert "noise" in {alert.reason for alert in said}, "samples that come thinly are new all the same"


def test_a_drift_opens_and_closes_an_alert_with_the_window_that_showed_it() -> None:
    drifting = list(LONG)
    for k in range(6_000, len(LONG)):  # the noise doubles for good
        body: Any = LONG[k][1]
        drifting[k] = ("x", body | {"value": 4 * body["value"]}, LONG[k][2])
    spec = PipelineSpec(config("drift"), SHORT, "s")
    result = Pipeline(spec).step(batch(drifting, 0))
    assert any(event.entity for event in result.drift)
    found = [alert for alert in result.alerts if alert.reason == "drift"]
    assert [alert.status for alert in found] == ["open", "closed"] * (len(found) // 2)
    assert {alert.data_end_time for alert in found} == {event.at for event in result.drift if event.entity}
    assert all(np.isfinite([alert.anomaly_score, alert.threshold, alert.tail_probability]).all() for alert in found)
    silent = Pipeline(PipelineSpec(config(), SHORT, "s")).step(batch(drifting, 0))
    assert "drift" not in {alert.reason for alert in silent.alerts}


@pytest.mark.parametrize(
    ("tail", "words"),
    [({}, "needs a bundle that was trained with it"), ({MEMBERSHIP: np.array([0.0, 0.37])}, "37% of normal windows")],
)
def test_a_bundle_that_can_not_tell_noise_is_refused_in_a_sentence(tail: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Pipeline(PipelineSpec(config("noise"), replace(KNOWING, tail=tail), "s"))


def test_membership_is_calibrated_on_points_that_the_clusters_have_not_seen() -> None:
    rng = np.random.default_rng(0)
    tight = rng.normal(0, 0.1, (800, 2)) + 5 * rng.integers(0, 3, (800, 1))
    told: list[str] = []
    tau, noise = fit_membership(tight, told.append)[MEMBERSHIP]
    assert told[0].startswith("alarms.also: noise: ")
    assert 0 <= tau < 1
    assert noise < 0.5
    moved = np.concatenate([tight[:400], tight[400:] + np.linspace(0, 50, 400)[:, None]])
    assert fit_membership(moved)[MEMBERSHIP][1] > 0.2, "what was never there before is noise"


def test_a_refit_learns_from_windows_under_alerts_that_are_not_of_the_tail() -> None:
    span = b'"entity":"x","data_start_time":"2023-11-14T22:13:20Z","data_end_time":"2023-11-14T22:14:20Z"'
    told = [Message(b'{"alert_id":"%d","reason":"%s",%s}' % (i, r, span), 0) for i, r in enumerate((b"noise", b"tail"))]
    assert len(alerts(told, "pump")) == 1
