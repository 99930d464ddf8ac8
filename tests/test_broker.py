"""Local brokers start, answer, say how they are, survive a killed node, and stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.helpers import create_ssl_context

from stream_app.brokers.broker import broker_status, start_broker, stop_broker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.brokers.kafka.jars import ToolMissing, fetch_jars
from stream_app.config import parse
from stream_app.errors import BrokerUnreachable, ConfigurationError
from stream_app.live.status import status
from stream_app.live.topics import ask_cluster, create_topics, partition_counts


def _send_and_read(bootstrap: str, topic: str, values: list[bytes], **security: object) -> list[bytes]:
    async def work() -> list[bytes]:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **security) as producer:
            for value in values:
                await producer.send_and_wait(topic, value)
        reader = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", **security)
        async with reader:
            return [(await asyncio.wait_for(reader.getone(), 20)).value for _ in values]

    return asyncio.run(work())


def _living_nodes(bootstrap: str) -> set[int]:
    # A short limit: a paused node takes connections and never answers.
    cluster = ask_cluster(bootstrap, lambda admin: admin.describe_cluster(), request_timeout_ms=2000)
    return {broker["node_id"] for broker in cluster["brokers"]}


@pytest.mark.kafka
def test_what_is_sent_can_be_read(kafka: KafkaCluster, new_topic: Callable[..., str]) -> None:
    assert _send_and_read(kafka.bootstrap, new_topic(), [b"1", b"2"]) == [b"1", b"2"]


@pytest.mark.kafka
def test_creating_topics_again_changes_nothing(kafka: KafkaCluster, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("again")
    create_topics(kafka.bootstrap, {topic: 3}, compacted=[topic])
    create_topics(kafka.bootstrap, {topic: 3}, compacted=[topic])
    assert partition_counts(kafka.bootstrap, [topic, unique_name("missing")]) == {topic: 3}


@pytest.mark.kafka
def test_topic_with_another_number_of_partitions_is_refused(kafka: KafkaCluster, new_topic: Callable[..., str]) -> None:
    topic = new_topic(partitions=2)
    with pytest.raises(ConfigurationError, match="2 partitions, 4 were asked for"):
        create_topics(kafka.bootstrap, {topic: 4})


@pytest.mark.kafka
def test_missing_topic_is_not_created_by_asking_for_it(kafka: KafkaCluster, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("missing")
    assert partition_counts(kafka.bootstrap, [topic]) == {}
    assert partition_counts(kafka.bootstrap, [topic]) == {}


@pytest.mark.kafka
def test_secure_listener_takes_the_right_password(kafka: KafkaCluster, new_topic: Callable[..., str]) -> None:
    topic = new_topic()
    assert _send_and_read(kafka.secure_bootstrap, topic, [b"secret"], **kafka.security()) == [b"secret"]


@pytest.mark.kafka
def test_secure_listener_refuses_a_wrong_password(kafka: KafkaCluster) -> None:
    with pytest.raises(BrokerUnreachable):
        partition_counts(kafka.secure_bootstrap, [], **kafka.security("wrong"))


@pytest.mark.kafka
def test_secure_listener_refuses_a_client_that_trusts_another_authority(kafka: KafkaCluster) -> None:
    strangers = {**kafka.security(), "ssl_context": create_ssl_context()}
    with pytest.raises(BrokerUnreachable):
        partition_counts(kafka.secure_bootstrap, [], **strangers)


@pytest.mark.kafka
def test_one_of_three_nodes_is_killed_and_comes_back(kafka3: KafkaCluster, unique_name: Callable[[str], str]) -> None:
    topic = unique_name("replicated")
    create_topics(kafka3.bootstrap, {topic: 3})
    kafka3.kill(2)
    assert kafka3.processes()[2].crashed
    assert sorted(_send_and_read(kafka3.bootstrap, topic, [b"a", b"b", b"c"])) == [b"a", b"b", b"c"]
    kafka3.start(2)
    assert not kafka3.processes()[2].crashed


@pytest.mark.kafka
def test_paused_node_is_given_up_by_the_others_and_comes_back(
    kafka3: KafkaCluster, unique_name: Callable[[str], str]
) -> None:
    topic = unique_name("paused")
    create_topics(kafka3.bootstrap, {topic: 3})
    awake = kafka3.bootstrap.rpartition(",")[0]
    kafka3.pause(3)
    try:
        assert kafka3.processes()[3].pid is not None
        while 3 in _living_nodes(awake):
            time.sleep(0.2)
        assert sorted(_send_and_read(awake, topic, [b"a", b"b", b"c"])) == [b"a", b"b", b"c"]
    finally:
        kafka3.resume(3)
    while 3 not in _living_nodes(awake):
        time.sleep(0.2)


@pytest.mark.kafka
def test_status_follows_start_crash_restart_and_stop_of_apache_kafka(tmp_path: Path) -> None:
    assert broker_status(directory=tmp_path).state == "absent"
    started = start_broker("kafka", directory=tmp_path)
    create_topics(started.bootstrap, {"kept": 2})
    config = parse({"detector": "pump", "brokers": started.bootstrap, "sources": [{"topic": "kept"}]})
    assert [told["offset"] for told in status(config)["partitions"]] == [None, None]  # of a broker without any group
    os.kill(started.pids[1], signal.SIGKILL)
    while (crashed := broker_status(directory=tmp_path)).state == "running":
        time.sleep(0.01)
    assert (crashed.state, set(crashed.crashed)) == ("crashed", {1})
    again = start_broker("kafka", directory=tmp_path)
    assert again.bootstrap == started.bootstrap
    assert partition_counts(again.bootstrap, ["kept"]) == {"kept": 2}
    assert stop_broker(directory=tmp_path).state == "stopped"
    assert stop_broker(directory=tmp_path, erase=True).state == "absent"


def test_embedded_broker_starts_answers_and_keeps_its_topics_over_a_stop(tmp_path: Path) -> None:
    pytest.importorskip("noida_db", reason="the embedded broker is an extra")
    started = start_broker(directory=tmp_path)
    try:
        create_topics(started.bootstrap, {"kept": 2})
        # In either order: they may lie on two partitions.
        assert sorted(_send_and_read(started.bootstrap, "kept", [b"1", b"2"])) == [b"1", b"2"]
        assert stop_broker(directory=tmp_path).state == "stopped"
        assert partition_counts(start_broker(directory=tmp_path).bootstrap, ["kept"]) == {"kept": 2}
        with pytest.raises(ConfigurationError, match="tailrace broker stop"):
            start_broker("kafka", directory=tmp_path)
    finally:
        stop_broker(directory=tmp_path)


def test_broker_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    pytest.importorskip("noida_db", reason="the embedded broker is an extra")
    starting = (
        "import pathlib, sys, stream_app.brokers.broker as b; b.start_broker(directory=pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", starting, str(tmp_path)], check=True)
    running = broker_status(directory=tmp_path)
    assert running.state == "running"
    assert partition_counts(running.bootstrap, []) == {}
    assert stop_broker(directory=tmp_path).state == "stopped"


def test_two_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 or 3"):
        start_broker("kafka", nodes=2, directory=tmp_path)


def test_missing_java_and_maven_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ToolMissing, match="Maven"):
        fetch_jars()
    with pytest.raises(ToolMissing, match="Java"):
        start_broker("kafka", directory=tmp_path / "state")
    assert broker_status(directory=tmp_path / "state").state == "absent"


def test_nobody_answering_is_a_plain_error() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 does not answer"):
        partition_counts("127.0.0.1:1", [])
