"""A worker as its users and its supervisor meet it, on Apache Kafka: what it says, and what it ends with."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata
from live import Live, WorkerProcess, apart, produce, read_all, stream

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.brokers.kafka.properties import free_port
from stream_app.live.preflight import changelog_topic
from stream_app.live.topics import TopicShape, create_topics, ensure_topics

pytestmark = pytest.mark.kafka

PARTITIONS = 2
RECORDS = stream(700, entities=4)


@pytest.fixture
def live(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Live]:
    topic = unique_name("samples")
    create_topics(kafka.bootstrap, {topic: PARTITIONS})
    with Live(kafka.bootstrap, unique_name("worker"), topic, tmp_path) as live:
        produce(live.bootstrap, topic, RECORDS, PARTITIONS)
        yield live


def test_a_busy_partition_does_not_hold_up_a_quiet_one(live: Live) -> None:
    produce(live.bootstrap, live.topic, [(b"e0", v, stamp) for _, v, stamp in stream(6000, entities=1)], PARTITIONS)
    assert live.start("--until-end", max_poll_records=200).wait(90) == 0
    said = [(r.timestamp, orjson.loads(r.value)["inputs"][0]) for r in read_all(live.bootstrap, f"{live.name}-scores")]
    quiet_done = max(at for at, source in said if source["partition"] == 1)
    busy_then = max(source["last_offset"] for at, source in said if source["partition"] == 0 and at <= quiet_done)
    quiet, busy = 2_800, 14_800
    assert busy_then < quiet + (busy - quiet) / 2, "they take turns"


def test_a_missing_source_topic_is_named_with_the_command_that_makes_it(kafka: KafkaCluster, tmp_path: Path) -> None:
    worker = Live(kafka.bootstrap, "nobody", "no-such-topic", tmp_path).start()
    assert worker.wait() == 3
    assert "'no-such-topic' does not exist" in worker.said()
    assert "--create --topic no-such-topic" in worker.said()
    assert "Traceback" not in worker.said()


def test_a_broker_that_does_not_answer_is_waited_for_and_then_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    worker = Live(address, "nobody", "t", tmp_path).start(stuck_after="4s", http_port=0)
    assert worker.get("/livez")[0] == 200, "a broker that is down is no reason to be restarted"
    assert worker.get("/readyz")[0] == 503
    assert worker.wait() == 4
    assert address in worker.said()
    assert any(event.get("event") == "waiting for Kafka" for event in worker.events())
    assert "Traceback" not in worker.said()


def test_a_source_with_more_partitions_than_its_changelog_is_refused_in_plain_words(live: Live) -> None:
    changelog = changelog_topic(live.config(), live.topic)
    create_topics(live.bootstrap, {changelog: PARTITIONS + 1}, compacted=[changelog])
    worker = live.start()
    assert worker.wait() == 3
    assert f"has {PARTITIONS} partitions" in worker.said()
    assert changelog in worker.said()


def test_an_offset_beyond_the_end_is_told_as_a_topic_made_anew(live: Live) -> None:
    async def commit_far() -> None:
        tp = TopicPartition(live.topic, 0)
        async with AIOKafkaConsumer(
            bootstrap_servers=live.bootstrap, group_id=live.name, enable_auto_commit=False
        ) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: OffsetAndMetadata(10**6, "")})

    apart(commit_far)
    worker = live.start()
    assert worker.wait() == 3
    assert "made anew" in worker.said()


def test_records_that_retention_took_before_they_were_read_are_told_and_the_rest_is_accounted_for(live: Live) -> None:
    """offset  0 ---- committed ---- read ---- first kept ---- end: from committed to first kept nothing is left."""
    assert live.start("--until-end", max_poll_records=300).wait(90) == 0
    before, other = live.status()
    committed, read = before["offset"], before["accounting"]["samples_read"]
    assert 0 < committed < read
    later = [(b"e0", value, stamp) for _, value, stamp in stream(1500, entities=1, seed=5)[1400:]]
    produce(live.bootstrap, live.topic, later, PARTITIONS)
    tp, first, end = TopicPartition(live.topic, 0), read + 100, read + len(later)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=live.bootstrap)
        await admin.start()
        await admin.delete_records({tp: RecordsToDelete(before_offset=first)})
        await admin.close()

    apart(delete)
    assert live.status()[0]["lag"] == end - first
    live.finish()
    after, same = live.status()
    (told,) = [event for event in live.processes[-1].events() if "lost to retention" in event["event"]]
    assert (told["topic"], told["partition"], told["n"]) == (live.topic, 0, first - committed)
    assert after["accounting"]["samples_read"] == committed + end - first
    assert live.accounting()["samples_read"] == len(RECORDS) + len(later) - told["n"]
    assert after["lag"] == 0
    assert same == other, "the other partition has lost nothing"


def test_a_dead_letter_that_can_not_be_written_stops_the_worker_before_it_commits(live: Live) -> None:
    letters = f"{live.topic}-dlt"
    ensure_topics(live.bootstrap, {letters: TopicShape(PARTITIONS, settings={"max.message.bytes": "80"})})
    worker = live.start("--until-end")
    assert worker.wait() == 4, worker.said()
    assert "could not be published" in worker.said()
    assert "Traceback" not in worker.said()
    with_rubbish = {r.partition for r in read_all(live.bootstrap, live.topic) if r.value == b"rubbish"}
    assert with_rubbish
    for partition in live.status():
        assert partition["partition"] not in with_rubbish or partition["accounting"]["samples_read"] == 0
    apart(partial(set_max_bytes, live.bootstrap, letters, "1000000"))
    live.processes.clear()
    live.finish()
    live.check()


async def set_max_bytes(bootstrap: str, topic: str, size: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": size})])
    await admin.close()


def test_probes_and_metrics_say_how_a_worker_is(live: Live) -> None:
    worker = live.start(http_port=0)
    live.wait_until(worker.is_reading)
    live.wait_until_read(len(RECORDS))
    assert worker.get("/livez")[0] == 200
    status, body = worker.get("/readyz")
    assert (status, json.loads(body)["partitions"]["ok"]) == (200, True)
    found, total = worker.metrics(), live.accounting()
    assert found["samples_totalscored"] == total["scored"]
    assert found["samples_totaldead_lettered"] == total["dead_lettered"]
    assert found["windows_scored_total"] > 0
    assert found["score_nonfinite_total"] == 0
    assert found["model_version_infoplain-1"] == 1
    assert found["tailrace_alarm_rate_promisedweek"] == pytest.approx(0.01 * 604_800 / 2), "by the detector's risk"
    assert found["tailrace_alarm_rate_observedweek"] == pytest.approx(
        found["alarm_episodes_total"] / found["tailrace_alarm_rate_spanweek"]
    )
    for name in ("threshold", "tail_shape", "model_age_seconds", "event_time_lag_seconds", "e2e_latency_seconds_count"):
        assert math.isfinite(found[name]), name
    assert found["records_lost_total"] == 0
    live.wait_until(lambda: lags(live, worker) == [0] * PARTITIONS)
    assert worker.terminate() == 0


def lags(live: Live, worker: WorkerProcess) -> list[float | None]:
    """By partition; it is looked at every second."""
    found = worker.metrics()
    return [found.get(f"consumer_lag_records{partition}{live.topic}") for partition in range(PARTITIONS)]


def test_a_worker_that_makes_no_progress_ends_itself(live: Live) -> None:
    worker = live.start("--slow", "1000", stuck_after="4s")
    assert worker.wait() == 1
    assert "no progress" in worker.said()
    live.finish()
    live.check()


def test_a_step_that_outlasts_the_grace_is_not_waited_for(live: Live) -> None:
    worker = live.start("--slow", "1000", grace="9s")
    live.wait_until(worker.is_reading)
    time.sleep(1)
    assert worker.terminate(within_s=15) == 1
    assert "without a checkpoint" in worker.said()


def test_a_signal_while_kafka_is_awaited_ends_at_once(tmp_path: Path) -> None:
    worker = Live(f"127.0.0.1:{free_port()}", "nobody", "t", tmp_path).start()
    while not any(event.get("event") == "waiting for Kafka" for event in worker.events()):
        time.sleep(0.1)
    assert worker.terminate(within_s=5) == 0


def test_a_second_signal_ends_the_worker_at_once(live: Live) -> None:
    worker = live.start("--slow", "30", http_port=0)
    live.wait_until(worker.is_reading)
    live.wait_until(lambda: lags(live, worker) == [len(RECORDS) / PARTITIONS] * PARTITIONS)
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert worker.process.poll() is None, "the first waits for the batch"
    assert worker.terminate(within_s=5) == 1
    live.finish()
    live.check()


def test_sasl_over_tls_reaches_every_client_of_a_worker(live: Live, kafka: KafkaCluster) -> None:
    security = {
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": kafka.user.name, "password": kafka.user.password},
        "tls": {"ca": str(kafka.certificates.authority)},
    }
    secured = Live(kafka.secure_bootstrap, live.name, live.topic, live.folder, security=security)
    secured.finish()
    live.check()


def test_a_wrong_password_is_told_without_showing_it(live: Live, kafka: KafkaCluster) -> None:
    security = {
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": kafka.user.name, "password": "hunter2-and-wrong"},
        "tls": {"ca": str(kafka.certificates.authority)},
    }
    secured = Live(kafka.secure_bootstrap, live.name, live.topic, live.folder, security=security)
    worker = secured.start(stuck_after="3s")
    assert worker.wait() == 4
    assert "hunter2" not in worker.said()
    assert "Traceback" not in worker.said()
