"""What a worker on Apache Kafka must come through by itself: windows that can't be scored, sources that grow or fall
silent, many states to restore; and nothing committed but what a checkpoint says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.new_partitions import NewPartitions
from live import DETECTOR, START_MS, Live, Record, WorkerProcess, apart, produce, read_all, stream

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.checkpoint import session_key
from stream_app.config import Config
from stream_app.live.preflight import changelog_topic
from stream_app.live.topics import TopicShape, create_topics, ensure_topics
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.records.letters import SCORE_STAGE
from tests.test_pipeline import batch

pytestmark = pytest.mark.kafka

PARTITIONS = 2
RECORDS = stream(700, entities=4)


@pytest.fixture
def live(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Live]:
    topic = unique_name("samples")
    create_topics(kafka.bootstrap, {topic: PARTITIONS})
    with Live(kafka.bootstrap, unique_name("worker"), topic, tmp_path) as live:
        yield live


def letters(live: Live) -> list[dict[str, str]]:
    """The headers of what lies on the dead-letter topic."""
    found = read_all(live.bootstrap, f"{live.topic}-dlt")
    return [{name: text.decode() for name, text in letter.headers} for letter in found]


def test_nothing_is_committed_before_a_checkpoint_whatever_was_read(live: Live) -> None:
    """Faust commits by what its agents have acknowledged, every 2.8 s and when it is asked to; here it must not."""
    produce(live.bootstrap, live.topic, RECORDS, PARTITIONS)
    rubbish = sum(value == b"rubbish" for _, value, _ in RECORDS)
    worker = live.start(checkpoint="1h", http_port=0)
    live.wait_until(worker.is_reading)
    live.wait_until(lambda: worker.metrics().get("samples_totaldead_lettered") == rubbish)
    time.sleep(4)
    worker.kill()
    assert [partition["accounting"]["samples_read"] for partition in live.status()] == [0] * PARTITIONS
    assert [partition["lag"] for partition in live.status()] == [len(RECORDS) // PARTITIONS] * PARTITIONS
    live.finish()
    live.check()


def test_windows_that_can_not_be_scored_are_dead_letters_and_the_others_are_scored(live: Live) -> None:
    """In its fault an entity's windows have means of about 55: most give no number, and some make the detector fail."""
    produce(live.bootstrap, live.topic, RECORDS, PARTITIONS)
    live.detector = replace(DETECTOR, fail_above=55.2, nan_above=50.0)
    worker = live.start("--fail-above", "55.2", "--nan-above", "50", http_port=0)
    live.wait_until(worker.is_reading)
    live.wait_until_read(len(RECORDS))
    found = worker.metrics()
    assert worker.terminate() == 0, worker.said()
    live.check()
    refused = [headers for headers in letters(live) if headers["tailrace.stage"] == SCORE_STAGE]
    reasons = [headers["tailrace.reason"] for headers in refused]
    assert set(reasons) == {"score_failed", "nonfinite_score"}
    assert found["score_nonfinite_total"] == reasons.count("nonfinite_score")
    scored = [orjson.loads(record.value) for record in read_all(live.bootstrap, f"{live.name}-scores")]
    assert found["windows_scored_total"] == len(scored)
    windows = {(row["entity"], row["data_start_time"]) for row in scored}
    assert len(windows) == len(scored)
    assert len(windows) + len(refused) == 4 * 348, "of every entity those that end by 700 s less the lateness"


def test_a_source_that_grows_ends_the_worker_with_what_that_means(live: Live) -> None:
    produce(live.bootstrap, live.topic, RECORDS, PARTITIONS)
    worker = live.start(session_timeout="2s")
    live.wait_until(worker.is_reading)
    live.wait_until_read(len(RECORDS))

    async def grow() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=live.bootstrap)
        await admin.start()
        await admin.create_partitions({live.topic: NewPartitions(2 * PARTITIONS)})
        await admin.close()

    apart(grow)
    assert worker.wait() == 3, worker.said()
    again = live.start()
    assert again.wait() == 3, "and so does every other"
    for said in (worker.said(), again.said()):
        assert f"{live.topic!r} has {2 * PARTITIONS} partitions" in said
        assert "of 50% of the keys" in said
        assert "another `group`" in said
        assert "Traceback" not in said
    live.check()


def silences() -> list[Record]:
    """Of one partition: e0 ends after 100 s; e2 goes on for 300 s, its sensor b ends after 150 s."""
    records: list[Record] = []
    for second in range(300):
        for entity, sensor, last in (("e0", "a", 100), ("e2", "a", 300), ("e2", "b", 150)):
            if second < last:
                value = 10.0 + second % 3 + 40.0 * (200 <= second < 220)
                body = {"sensor": sensor, "t": START_MS + 1000 * second, "value": value}
                records.append((entity.encode(), orjson.dumps(body), START_MS + 1000 * second))
    return records


def test_neither_an_entity_nor_a_sensor_nor_a_partition_that_falls_silent_holds_up_the_rest(live: Live) -> None:
    """Windows of 6 s every 2 s, two of lateness. e0 is closed to its last sample once it was silent for `idle`."""
    live.more = {"windows": {"lateness": "2s", "idle": "30s"}}
    produce(live.bootstrap, live.topic, silences(), PARTITIONS)
    assert {record.partition for record in read_all(live.bootstrap, live.topic)} == {0}
    live.finish()
    starts: dict[str, list[int]] = {}
    for record in read_all(live.bootstrap, f"{live.name}-scores"):
        row = orjson.loads(record.value)
        starts.setdefault(row["entity"], []).append(seconds_of(row["data_start_time"]))
    assert starts == {"e0": list(range(-4, 100, 2)), "e2": list(range(-4, 292, 2))}
    assert live.accounting()["open"] == 4, "of e2, what came after the last window that closed"


def seconds_of(time_utc: str) -> int:
    """Since the stream began."""
    return round(datetime.fromisoformat(time_utc).timestamp() - START_MS / 1000)


def remembered(config: Config, topic: str) -> bytes:
    """The packed state of an entity of which one sample came."""
    pipeline = Pipeline(PipelineSpec(config, None, topic, 0))
    pipeline.restore(0, "")
    body = {"sensor": "a", "t": START_MS, "value": 1.0}
    pipeline.step(batch([("x", body, 0.0)], 0))
    (state,) = pipeline.checkpoint().states.values()
    return state


def fill_changelog(live: Live, n: int) -> None:
    """As after a long life: states of entities that were seen once, on every partition alike; together n records."""
    changelog = changelog_topic(live.config(), live.topic)
    ensure_topics(live.bootstrap, {changelog: TopicShape(PARTITIONS, compacted=True)})
    state = remembered(live.config(), live.topic)

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=live.bootstrap, max_batch_size=1 << 14) as producer:
            for partition in range(PARTITIONS):
                made = producer.create_batch()
                for i in range(n // PARTITIONS):
                    row = {"timestamp": None, "key": session_key(b"seen-%d" % i, 0), "value": state}
                    if made.append(**row) is None:
                        await producer.send_batch(made, changelog, partition=partition)
                        made = producer.create_batch()
                        made.append(**row)
                await producer.send_batch(made, changelog, partition=partition)
            await producer.flush()

    apart(send)


def amid_its_restore(live: Live, **settings: str) -> WorkerProcess:
    """A worker that has restored some of its states and takes a while for the others."""
    fill_changelog(live, 30_000)
    produce(live.bootstrap, live.topic, RECORDS, PARTITIONS)
    worker = live.start("--slow-restore", "0.1", http_port=0, max_poll_records=50, **settings)
    live.wait_until(lambda: "restoring states" in worker.get("/readyz")[1])
    live.wait_until(lambda: 0 < worker.metrics()["states_restored"] < 30_000)
    assert worker.get("/readyz")[0] == 503
    return worker


def reads_with(live: Live, states: int, within_s: float) -> None:
    """A worker is ready once it has restored so many states, and not before; then it reads what there is."""
    worker = live.start(http_port=0)
    live.wait_until(lambda: worker.get("/readyz")[0] == 200, within_s)
    live.wait_until(lambda: worker.metrics()["states_restored"] == states)
    assert worker.metrics()["state_restore_seconds"] > 0
    live.wait_until(worker.is_reading)
    live.wait_until_read(len(RECORDS))
    assert worker.terminate() == 0, worker.said()
    live.check()


def test_a_signal_while_states_are_restored_ends_the_worker_and_the_next_restores_them_all(live: Live) -> None:
    worker = amid_its_restore(live)
    assert worker.terminate(within_s=20) == 0, worker.said()
    assert not worker.is_reading()
    reads_with(live, 30_000, within_s=60)


def test_a_restore_that_gets_stuck_ends_the_worker(live: Live, kafka: KafkaCluster) -> None:
    worker = amid_its_restore(live, stuck_after="8s")
    kafka.pause(1)
    try:
        assert worker.wait() == 1, worker.said()
    finally:
        kafka.resume(1)
    assert "its states are not restored" in worker.said()
    live.processes.clear()
    live.finish()
    live.check()


@pytest.mark.soak
def test_a_worker_is_ready_once_a_million_states_are_restored(live: Live) -> None:
    fill_changelog(live, 1_000_000)
    produce(live.bootstrap, live.topic, RECORDS, PARTITIONS)
    reads_with(live, 1_000_000, within_s=240)
