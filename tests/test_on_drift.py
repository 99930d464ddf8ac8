"""A refit that begins by itself, on Apache Kafka; and how a shadow is compared with what is live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from live import Record, apart, produce
from sensor_worlds import trained
from test_refit import WORLD, Place, fill, records

from models.bundle import write
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, Gates
from stream_app.errors import ConfigurationError
from stream_app.live.comparison import Compared, compare, gate_of
from stream_app.live.topics import create_topics
from stream_app.model_store import verbs
from stream_app.model_store.refitting import Patience
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from training.on_drift import OnDrift, on_drift
from training.refit import Refit

SEEN = Compared(windows=1000, agreement=0.99, alarmed=0.001, episodes=1, promised=1.0)


@pytest.fixture
def place(kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path) -> Place:
    write(tmp_path / "live", trained("multirate").bundle)
    return Place(kafka, new_topic("drift"), tmp_path)


def following(place: Place) -> Config:
    return place.config.model_copy(update={"model": f"{place.name}@live"})


@pytest.mark.kafka
def test_drift_of_the_live_version_ends_in_another_that_is_live(place: Place) -> None:
    config = following(place)

    async def first() -> str:
        made = await verbs.publish(config, verbs.Publication(place.name, place.folder / "live"))
        return (await verbs.promote(config, Wish(place.name, made.version, forced="the first"))).digest

    digest = apart(first)
    samples = records(WORLD.data())
    fill(place, "samples", samples)
    event: dict[str, Any] = {"detector": place.name, "entity": "e1", "method": "adwin", "statistic": "level"}
    event |= {"before": 1.0, "after": 2.0, "bundle": digest}
    noise = {**event, "method": "kswin", "entity": ""}
    rubbish = [(b"", b"{", 1), (b"", None, 1), (b"", b'{"detector": 3}', 1)]
    fill(place, "drift", [*rubbish, (b"", orjson.dumps(noise), 1), (b"e1", orjson.dumps(event), samples[0][2])])
    wanted = OnDrift(Refit(fine_tune=True), Patience(settle=0, at_most=0, promote_after=0), once=True)
    said: list[str] = []
    on_drift(config, wanted, place.folder / "work", said.append)
    history = apart(lambda: read_pointers(config))
    live = history.live(place.name)
    assert live is not None
    assert live.version == 2, said
    assert live.gate is not None
    assert live.gate.passed
    assert live.lineage["parent"] == {"digest": digest, "version": 1}
    assert [version.state for version in history.versions(place.name).values()] == ["retired", "live"]
    # only what came since the event that counts was read
    ranges = live.lineage["topics"][f"{place.name}-samples"]
    assert ranges == {"0": [0, len(samples) - 1]}


def test_a_refit_on_drift_needs_something_live_to_follow(tmp_path: Path) -> None:
    config = Config(sources=[{"topic": "s"}], model=str(tmp_path))  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="follows what is live"):
        on_drift(config, OnDrift(Refit(), Patience(0, 0)), tmp_path, lambda _: None)


@pytest.mark.kafka
def test_shadow_and_live_are_compared_on_the_windows_that_both_judged(place: Place) -> None:
    scores, shadow, alerts = (f"{place.name}-{name}" for name in ("scores", "scores-shadow", "alerts-shadow"))
    create_topics(place.kafka.bootstrap, {scores: 1, shadow: 1, alerts: 1})

    def said(at: int, anomalous: bool, bundle: str, stamp: int = 2000) -> Record:
        body = {"entity": "e", "data_end_time": f"2026-01-01T00:00:{at:02}Z", "anomalous": anomalous, "bundle": bundle}
        return b"e", orjson.dumps(body), stamp

    #   window     0 (before)  1      2      3      4
    #   live       normal      normal normal alarm  -
    #   shadow     alarm       normal alarm  alarm  normal
    live = [said(0, False, "old", 10), said(1, False, "old"), said(2, False, "old"), said(3, True, "old")]
    mine = [said(0, True, "new", 10), said(1, False, "new"), said(2, True, "new"), said(3, True, "new")]
    opened = [
        {"alert_id": "a", "status": "open", "bundle": "new"},
        {"alert_id": "a", "status": "update", "bundle": "new"},
    ]
    opened += [{"alert_id": "b", "status": "open", "bundle": "other"}]
    produce(place.kafka.bootstrap, scores, live, 1)
    produce(place.kafka.bootstrap, shadow, [*mine, said(4, False, "new"), said(1, True, "other")], 1)
    produce(place.kafka.bootstrap, alerts, [(b"a", orjson.dumps(one), 2000) for one in opened], 1)
    topics = place.config.topics.model_copy(update={"scores": scores})
    config = place.config.model_copy(update={"topics": topics})
    seen = apart(lambda: compare(config, "new", 1000, 0.25))
    assert seen == Compared(windows=3, agreement=0.5, alarmed=0.5, episodes=1, promised=1.0)


@pytest.mark.parametrize(
    ("missed", "changes"),
    [
        ([], {}),
        ([], {"agreement": None}),
        (["shadow_windows"], {"windows": 3}),
        (["shadow_agreement"], {"agreement": 0.5}),
        (["shadow_alarm_rate"], {"episodes": 9}),
        (["shadow_time_in_alarm"], {"alarmed": 0.2}),
    ],
)
def test_a_shadow_goes_live_if_each_figure_is_within_its_limit(missed: list[str], changes: dict[str, Any]) -> None:
    made = gate_of(replace(SEEN, **changes), Gates())
    assert [check.name for check in made.checks if not check.passed] == missed
    assert made.passed == (not missed)


@pytest.mark.kafka
def test_windows_of_tokens_that_share_their_times_are_compared_one_by_one(place: Place) -> None:
    scores, shadow = (f"{place.name}-{name}" for name in ("scores", "scores-shadow"))
    create_topics(place.kafka.bootstrap, {scores: 1, shadow: 1})
    at = "2026-01-01T00:00:00Z"  # all of one record, which has one time for its tokens

    def said(position: int, anomalous: bool, bundle: str) -> Record:
        body = {"entity": "e", "data_start_time": at, "data_end_time": at, "position": position}
        return b"e", orjson.dumps(body | {"anomalous": anomalous, "bundle": bundle}), 2000

    produce(place.kafka.bootstrap, scores, [said(32 * i, False, "old") for i in range(4)], 1)
    produce(place.kafka.bootstrap, shadow, [said(32 * i, i == 1, "new") for i in range(4)], 1)
    topics = place.config.topics.model_copy(update={"scores": scores})
    config = place.config.model_copy(update={"topics": topics})
    seen = apart(lambda: compare(config, "new", 1000, 0.25))
    assert (seen.windows, seen.agreement, seen.alarmed) == (4, 0.75, 0.25)
