"""Pauses, calendars and labels: what people say is heard by workers, and what lies under it is not learned from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from live import DETECTOR, START_MS, Live, WorkerProcess, apart, read_all, stream
from structlog.testing import capture_logs

from stream_app import schemas
from stream_app.alerts.alert import rfc3339
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import parse
from stream_app.intervals import FOREVER_US, Interval
from stream_app.live import orders
from stream_app.live.topics import create_topics
from stream_app.model_store.pointers import Gate
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish
from stream_app.pipeline import Pipeline, PipelineSpec, Result
from stream_app.quiet import Quiet
from stream_app.samples import RawBatch
from tests.models_rig import bundle, configuration, finished
from tests.test_cli import NOWHERE, refused, tailrace

S = 1_000_000
START_US = START_MS * 1_000
CONFIG = parse({"detector": "pump", "sources": [{"topic": "t"}], "windows": {"lateness": "0s", "idle": "1h"}})


def batch(records: list[tuple[bytes | None, bytes | None, int]], first: int = 0) -> RawBatch:
    keys, values, stamps = zip(*records, strict=True)
    n = len(records)
    clock_us = np.array(stamps, np.int64) * 1000
    return RawBatch("t", 0, list(keys), list(values), np.arange(first, first + n), clock_us, [()] * n)


def judged(quiet: Quiet, records: list[Any], cut: int | None = None) -> tuple[Pipeline, list[Result]]:
    pipeline = Pipeline(PipelineSpec(CONFIG, DETECTOR, "t", quiet=quiet))
    pipeline.restore(0, "")
    cut = len(records) if cut is None else cut
    parts = [(0, records[:cut]), (cut, records[cut:])]
    return pipeline, [pipeline.step(batch(part, first)) for first, part in parts if part]


def thresholds(results: list[Result], entity: str) -> np.ndarray:
    found = [r.windows for r in results if r.windows is not None]
    return np.concatenate([w.judged.threshold[[e == entity for e in w.entities]] for w in found])


def tail(pipeline: Pipeline, entity: str) -> bytes:
    slot = pipeline.keys.slots([entity.encode()])[0]
    return bytes(pipeline.keys["threshold"][slot].tobytes())


def test_windows_under_a_pause_are_scored_and_teach_nothing() -> None:
    records = stream(400, entities=2)
    free, told = judged(Quiet(), records)
    still, heard = judged(Quiet([Interval("e1", START_US, FOREVER_US, "pause")]), records)
    assert [w.windows.scored.score.tolist() for w in told if w.windows] == [  # the score knows nothing of it
        w.windows.scored.score.tolist() for w in heard if w.windows
    ]
    np.testing.assert_array_equal(thresholds(told, "e0"), thresholds(heard, "e0"))
    assert tail(still, "e0") == tail(free, "e0")
    assert tail(still, "e1") != tail(free, "e1")


def test_a_window_that_touches_the_interval_is_under_it_and_one_that_ends_there_is_not() -> None:
    """windows   [0,6) [2,8) [4,10) [6,12) ...   a calendar [8 s, 10 s) holds the second in [4,10), [6,12), [8,14)."""
    _, results = judged(Quiet(), stream(60, entities=1))
    windows = results[0].windows
    assert windows is not None
    calendar = Quiet([Interval("", START_US + 8 * S, START_US + 10 * S, "calendar")])
    feeds = calendar.feeds(windows.scenes, windows.entities)
    starts = (windows.scenes.start_us - START_US) / S
    assert starts[~feeds].tolist() == [4.0, 6.0, 8.0]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 390), st.integers(0, 90), st.integers(1, 100))
def test_what_is_learned_depends_on_event_time_and_not_on_batches(cut: int, start: int, length: int) -> None:
    quiet = Quiet([Interval("e0", START_US + start * S, START_US + (start + length) * S, "calendar")])
    records = stream(100, entities=2)
    (whole, _), (parts, _) = judged(quiet, records), judged(quiet, records, min(cut, len(records) - 1))
    for entity in ("e0", "e1"):
        assert tail(whole, entity) == tail(parts, entity)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "is not after", ("control", "calendar", "--from", "2000", "--to", "1000")),
        (2, "is no time", ("control", "pause", "--from", "yesterday")),
        (2, "no calendar has", ("control", "pause", "--from", "9" * 30)),
        (2, "is not after", ("label", "add", "--entity", "e", "--from", "5", "--to", "5", "--label", "normal")),
        (2, "--label is", ("label", "add", "--entity", "e", "--from", "1", "--to", "5", "--label", " ")),
        (4, "does not answer", ("control", "pause")),
        (4, "does not answer", ("label", "list")),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path: Path, code: int, words: str, arguments: tuple[str, ...]) -> None:
    config = tmp_path / "pump.yaml"
    config.write_text(f"detector: pump\nbrokers: {NOWHERE}\nsources: [{{topic: s}}]\n")
    refused(code, words, *arguments, "--config", config)


@pytest.mark.kafka
def test_orders_and_labels_are_sent_listed_and_heard(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    name, source = unique_name("o"), unique_name("s")
    create_topics(kafka.bootstrap, {source: 1})
    live = Live(kafka.bootstrap, name, source, tmp_path)
    data = live.data()
    data["topics"] |= {"control": f"{name}-control", "feedback": f"{name}-feedback"}
    live.data = lambda **worker: {**data, "worker": {**data["worker"], **worker}}  # type: ignore[method-assign]
    config = tmp_path / "pump.yaml"
    config.write_text(yaml.safe_dump(data))

    def run(*arguments: str) -> Any:
        done = tailrace(*arguments, "--config", config, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    start, end = str(START_MS), str(START_MS + 100_000)
    assert run("control", "list") == run("label", "list") == []
    run("control", "pause", "--entity", "e1", "--from", start, "--by", "ann", "--comment", "overhaul")
    run("control", "calendar", "--from", start, "--to", end, "--by", "ann")
    run("label", "add", "--entity", "e0", "--from", start, "--to", end, "--label", "anomalous", "--by", "ann")
    for topic in ("control", "feedback"):
        validator = Draft202012Validator(schemas.schema_of(topic))
        for record in read_all(kafka.bootstrap, f"{name}-{topic}"):
            validator.validate(orjson.loads(record.value))
    assert sorted((i["why"], i["entity"], i["end"] is None) for i in run("control", "list")) == [
        ("calendar", None, False),
        ("pause", "e1", True),
    ]
    assert [said["label"] for said in run("label", "list")] == ["anomalous"]
    worker = live.start()
    live.wait_until(lambda: (2, 1) in heard(worker))
    run("control", "resume", "--entity", "e1", "--at", end, "--by", "ann")
    live.wait_until(lambda: heard(worker) == [(2, 1), (2, 0)])
    assert worker.terminate() == 0


@pytest.mark.kafka
def test_orders_given_on_a_topic_that_was_empty_or_not_there_yet_are_heard(
    kafka: KafkaCluster, unique_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "_AGAIN_S", 0.5)
    empty, missing = (unique_name(name) for name in ("empty", "missing"))
    create_topics(kafka.bootstrap, {empty: 3})
    start_us, end_us = START_US, START_US + S
    pause = {"command": "pause_learning", "entity": "e1", "start": rfc3339(start_us)}
    resume = {"command": "resume_learning", "entity": "e1", "start": rfc3339(end_us)}

    async def listen(topic: str) -> None:
        data = {"detector": "pump", "sources": [{"topic": "t"}], "brokers": kafka.bootstrap}
        config = parse({**data, "topics": {"control": topic}})
        async with orders.heard(config) as quiet:
            for body, until_us in ((pause, FOREVER_US), (resume, end_us)):
                await asyncio.sleep(1)  # it waits by now
                await asyncio.to_thread(orders.send, config, topic, "pump", body)
                async with asyncio.timeout(20):
                    while quiet.intervals != (Interval("e1", start_us, until_us, "pause"),):
                        await asyncio.sleep(0.05)

    for topic in (empty, missing):
        apart(lambda topic=topic: listen(topic))


@pytest.mark.kafka
def test_a_promotion_and_a_rollback_that_are_ordered_are_carried_out_once_by_all_who_hear_them(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    config = configuration(kafka.bootstrap, unique_name("ordered"), tmp_path).model_copy(update={"model": "pump@live"})
    digests = [
        finished(publish(config, Publication("pump", bundle(tmp_path, n), gate=Gate(n != 2)))).digest for n in range(3)
    ]
    finished(promote(config, Wish("pump", 1)))

    def say(**order: str) -> None:
        body = {"detector": "pump", "by": "ann", **order}
        Draft202012Validator(schemas.schema_of("control")).validate(body)
        orders.send(config, config.topics.control, "pump", body)

    async def given(said: list[Any]) -> None:
        async with orders.heard(config), orders.heard(config):
            for n, (order, version) in enumerate(
                (
                    ({"command": "promote", "bundle": digests[1], "comment": "it is better"}, 2),
                    ({"command": "promote", "bundle": digests[2]}, 2),  # no gate has passed it
                    ({"command": "promote", "bundle": "sha256:unknown"}, 2),
                    ({"command": "rollback"}, 1),
                ),
                start=1,
            ):
                await asyncio.to_thread(say, **order)
                async with asyncio.timeout(30):
                    while len([event for event in said if "order" in event["event"]]) < 2 * n:
                        await asyncio.sleep(0.1)
                live = (await read_pointers(config)).live("pump")
                assert live is not None
                assert live.version == version

    say(command="promote", bundle=digests[1])  # before anybody listens: it is nobody's
    with capture_logs() as said:
        finished(given(said))
    refusals = [event["why"] for event in said if event["event"] == "an order can't be carried out"]
    assert ["may not go live" in why for why in refusals] == [True, True, False, False]
    history = finished(read_pointers(config))
    told = {
        n: [(t.state, t.reason) for t in p.history if t.state == "live"] for n, p in history.versions("pump").items()
    }
    better, none = "ordered by ann: it is better", "ordered by ann: no comment"
    assert told == {1: [("live", None), ("live", none)], 2: [("live", better)], 3: []}


def heard(worker: WorkerProcess) -> list[tuple[int, int]]:
    """How many intervals a worker knew of, and how many of them had no end, each time they changed."""
    told = [event for event in worker.events() if event.get("event") == "times in which nothing is learned"]
    return [(event["n"], event["open"]) for event in told]
