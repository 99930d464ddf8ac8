"""Episodes become alerts: one per episode, with ids and bodies that do not depend on batches or repeats."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import Frames, Scored, SensorPart
from models.scenes import Scenes
from stream_app.alerts.alert import Alert, rfc3339
from stream_app.alerts.episodes import INITIAL, STAGE, Episodes, Origin
from stream_app.keys import Keys
from stream_app.threshold import stage as threshold
from stream_app.threshold.judgement import Judged
from stream_app.threshold.stage import Threshold

ORIGIN = Origin("pump", "b3c4", "bundles/pump", "pump samples", 2, ("ps1", "fs1"), {0: "idle", 3: "running"})
SECOND = 1_000_000
WINDOW = 60 * SECOND


def windows(entity: np.ndarray, at: np.ndarray) -> Scenes:
    """Windows of a minute, ten seconds apart; window k of an entity starts at 10 k seconds."""
    n, start = len(at), at.astype(np.int64) * 10 * SECOND
    nothing, none = np.zeros(n, np.int64), np.empty(0, np.int64)
    return Scenes(
        entity.astype(np.int32),
        start,
        start + WINDOW,
        nothing,
        nothing,
        nothing,
        100 + 10 * at,
        109 + 10 * at,
        np.zeros(n, bool),
        none.astype(np.int32),
        none,
        np.empty(0),
    )


def scored(score: np.ndarray) -> Scored:
    n = len(score)
    parts = lambda i: (  # noqa: E731
        SensorPart("fs1", 0.75, float(score[i]), 1.0, ((int(1000 * abs(score[i])), 1.0),)),
        SensorPart("ps1", 0.25, None, None),
    )
    none = np.empty(0, np.int64)
    frames = Frames(none.astype(np.int32), none, none, np.empty(0))
    return Scored(
        score,
        np.zeros((n, 1), np.float32),
        np.full(n, 3, np.int32),
        np.full(n, 0.5, np.float32),
        np.zeros((n, 1), np.float32),
        frames,
        np.zeros(0, [("x", "f8")]),
        parts,
    )


class Run:
    """Threshold and alerts over entities' scores."""

    def __init__(self, n_entities: int = 1, now: float = 0.0) -> None:
        self.keys = Keys({threshold.STAGE: threshold.initial({}, 1e-2), STAGE: INITIAL})
        self.slots = self.keys.slots([f"e{i}".encode() for i in range(n_entities)])
        self.threshold = Threshold(1e-2, self.keys)
        self.episodes = Episodes(ORIGIN, self.keys, lambda: now)
        self.judged: list[Judged] = []

    def step(self, score: np.ndarray, at: np.ndarray, entity: int | np.ndarray = 0) -> list[Alert]:
        slots = self.slots[np.broadcast_to(entity, len(at))]
        judged = self.threshold.update(slots, score, np.ones(len(at), bool))
        self.judged.append(judged)
        return self.episodes.update(windows(slots, at), scored(score), judged)


def stream(n: int = 1500, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=n)
    for at in range(400, n - 20, 200):
        x[at : at + 12] += 12
    return x


def test_an_episode_is_opened_once_and_closed_once() -> None:
    run, x = Run(), stream()
    messages = run.step(x, np.arange(len(x))) + run.episodes.end(run.slots)
    starts = sum(j.episode_start.sum() for j in run.judged)
    by_id: dict[str, list[str]] = {}
    for message in messages:
        by_id.setdefault(message.alert_id, []).append(message.status)
    assert len(by_id) == starts
    for statuses in by_id.values():
        assert statuses[0] == "open"
        assert statuses[-1] == "closed"
        assert set(statuses[1:-1]) <= {"update"}


def test_an_alert_says_what_happened() -> None:
    run, x = Run(), stream()
    messages = run.step(x, np.arange(len(x)))
    at = rfc3339(400 * 10 * SECOND)
    opened = next(m for m in messages if m.status == "open" and m.data_start_time == at)
    closed = next(m for m in messages if m.status == "closed" and m.alert_id == opened.alert_id)
    assert opened.detected_at == opened.data_end_time == rfc3339(400 * 10 * SECOND + WINDOW)
    assert closed.detected_at == opened.detected_at
    assert closed.data_end_time == rfc3339(411 * 10 * SECOND + WINDOW)
    assert closed.anomaly_score == x[400:412].max()
    assert closed.anomaly_score > closed.threshold
    assert closed.tail_probability < 1e-2
    assert 0 < closed.anomaly_grade <= 1
    assert 0 < closed.confidence < 1
    assert closed.inputs[0].first_offset == 4100
    assert closed.inputs[0].last_offset == 4219
    assert (closed.cluster.id, closed.cluster.label, closed.cluster.membership_probability) == (3, "running", 0.5)
    assert [(s.sensor, s.contribution) for s in closed.sensors] == [("fs1", 0.75), ("ps1", 0.25)]
    assert opened.sensors[0].bins == ((rfc3339(int(1000 * x[400])), 1.0),)
    assert closed.sensors[0].expected == 1.0
    assert closed.sensors[1].actual is None
    assert (closed.entity, closed.detector, closed.bundle, closed.reason) == ("e0", "pump", "b3c4", "tail")
    assert closed.reproduce.startswith(
        "tailrace replay --topic 'pump samples' --partition 2 --from-offset 4100 --to-offset 4219 --model "
    )


def test_an_update_names_the_sensors_of_the_worst_window_that_was_told() -> None:
    run, x = Run(), np.random.default_rng(0).normal(size=440)
    x[400:] = [60.0, *np.full(39, 40.0)]
    messages = run.step(x, np.arange(len(x)))
    updates = [m for m in messages if m.status == "update"]
    assert updates, "a long episode gives updates"
    assert {(m.anomaly_score, m.sensors[0].actual) for m in updates} == {(60.0, 60.0)}


def test_the_names_are_those_of_the_contract() -> None:
    contract = """alert_id status detector entity data_start_time data_end_time detected_at published_at anomaly_score
    threshold tail_probability anomaly_grade confidence state reason cluster sensors bundle inputs reproduce"""
    assert [f.name for f in fields(Alert)] == contract.split()


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 800), max_size=10), ends=st.booleans())
def test_messages_do_not_depend_on_how_windows_fall_into_batches(cuts: list[int], ends: bool) -> None:
    x, y, at = stream(800), stream(800, seed=1), np.arange(800)
    whole, parts = Run(2), Run(2)
    expected = whole.step(np.concatenate([x, y]), np.concatenate([at, at]), np.repeat([0, 1], 800))
    got: list[Alert] = []
    for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 800], strict=True):
        got += parts.step(np.concatenate([x[a:b], y[a:b]]), np.concatenate([at[a:b]] * 2), np.repeat([0, 1], b - a))
    if ends:
        expected, got = expected + whole.episodes.end(whole.slots), got + parts.episodes.end(parts.slots)
    for entity in ("e0", "e1"):
        assert [m for m in got if m.entity == entity] == [m for m in expected if m.entity == entity]


def test_windows_told_again_from_the_same_state_give_the_same_messages_but_for_the_time_of_publishing() -> None:
    x, at = stream(), np.arange(1500)
    first = Run(now=1000.0)
    first.step(x[:700], at[:700])
    state = first.keys.pack(0 if first.slots[0] == 0 else int(first.slots[0]), [threshold.STAGE, STAGE])
    again = Run(now=2000.0)
    again.keys.unpack(int(again.slots[0]), [threshold.STAGE, STAGE], state)
    a, b = first.step(x[700:], at[700:]), again.step(x[700:], at[700:])
    assert a
    assert [replace(m, published_at="") for m in a] == [replace(m, published_at="") for m in b]
    assert {m.published_at for m in a} == {"1970-01-01T00:16:40.000000Z"}
    assert {m.published_at for m in b} == {"1970-01-01T00:33:20.000000Z"}


def test_an_endless_episode_gives_few_messages() -> None:
    run, x = Run(), stream(400)
    run.step(x, np.arange(400))
    messages = []
    for k in range(400, 1400):  # ever worse, so that accepting it takes long
        messages += run.step(np.array([1.05 ** (k - 400) + 20.0]), np.array([k]))
    assert sum(j.alarm.sum() for j in run.judged) > 200
    assert 2 < len(messages) < 50


def test_the_end_of_an_entity_closes_its_open_alert_and_only_that() -> None:
    run = Run(2)
    x = np.random.default_rng(3).normal(size=500)
    run.step(np.concatenate([x, x]), np.tile(np.arange(500), 2), np.repeat([0, 1], 500))
    opened = run.step(np.array([50.0]), np.array([500]), 1)
    assert [m.status for m in opened] == ["open"]
    closed = run.episodes.end(run.slots)
    assert [(m.status, m.entity) for m in closed if m.alert_id == opened[0].alert_id] == [("closed", "e1")]
    assert run.episodes.end(run.slots) == []


def test_the_id_names_detector_entity_and_first_window_but_not_the_bundle() -> None:
    x, at = stream(), np.arange(1500)
    one, other = Run(), Run()
    other.episodes = Episodes(replace(ORIGIN, bundle="other", model="other"), other.keys, lambda: 0.0)
    third = Run()
    third.episodes = Episodes(replace(ORIGIN, detector="fan"), third.keys, lambda: 0.0)
    ids, same, different = ({m.alert_id for m in run.step(x, at)} for run in (one, other, third))
    assert ids == same
    assert not ids & different
    assert all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)


def test_nothing_in_gives_nothing_out() -> None:
    run = Run()
    assert run.step(np.empty(0), np.empty(0, int)) == []
    assert run.episodes.end(np.empty(0, np.int32)) == []


def test_an_alert_is_plain_data_and_its_row_plain_bytes() -> None:
    orjson = pytest.importorskip("orjson")
    run, x = Run(), stream()
    alert = run.step(x, np.arange(len(x)))[0]
    assert orjson.loads(orjson.dumps(alert))["sensors"][0]["sensor"] == "fs1"
    assert asdict(alert)["status"] == "open"
    assert not INITIAL.dtype.hasobject
    assert INITIAL.dtype.itemsize < 300
