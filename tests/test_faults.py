"""What must survive: workers killed, paused, joining and leaving, and brokers going away. On Apache Kafka.

Each test ends with the same question: are accounting and alerts, compacted by id, those of one undisturbed pipeline?
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import Live, produce, stream

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.topics import TopicShape, ensure_topics

pytestmark = pytest.mark.kafka

PARTITIONS = 3
# Small batches and a pause per batch: a run takes as long as the faults need to fall into it.
UNHURRIED = {"max_poll_records": 300}
SLOW = ("--slow", "0.1")


@pytest.fixture
def live(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Live]:
    yield from prepared(kafka, unique_name, tmp_path, replication=1)


@pytest.fixture
def live3(kafka3: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Live]:
    yield from prepared(kafka3, unique_name, tmp_path, replication=3)


def prepared(
    cluster: KafkaCluster, unique_name: Callable[[str], str], folder: Path, replication: int
) -> Iterator[Live]:
    topic = unique_name("samples")
    settings = {"min.insync.replicas": str(1 + replication // 3)}
    ensure_topics(cluster.bootstrap, {topic: TopicShape(PARTITIONS, replication, settings=settings)})
    live = Live(cluster.bootstrap, unique_name("fault"), topic, folder, UNHURRIED)
    produce(live.bootstrap, topic, stream(1300), PARTITIONS)
    yield live
    for worker in live.processes:
        worker.kill()


def test_killed_workers_lose_nothing_and_repeat_nothing_different(live: Live) -> None:
    kill_and_restart(live, times=3, seed=1)
    live.finish()
    live.check()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_lose_nothing_and_repeat_nothing_different(live: Live, seed: int) -> None:
    kill_and_restart(live, times=5, seed=seed)
    live.finish()
    live.check()


def kill_and_restart(live: Live, times: int, seed: int) -> None:
    """kill -9 of either of two workers at random moments; each has an identity, so none waits for the last."""
    rng = random.Random(seed)
    workers = {name: live.start(*SLOW, instance_id=name) for name in ("v", "w")}
    for _ in range(times):
        name = rng.choice(sorted(workers))
        live.wait_until(workers[name].is_reading)
        time.sleep(rng.uniform(0.1, 1.5))
        workers[name].kill()
        workers[name] = live.start(*SLOW, instance_id=name)
    for worker in workers.values():
        worker.kill()


def test_workers_that_join_and_leave_change_nothing(live: Live) -> None:
    join_and_leave(live, times=2, seed=2)
    live.finish()
    live.check()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_storm_of_rebalances_changes_nothing(live: Live) -> None:
    produce(live.bootstrap, live.topic, stream(4000, seed=3)[15_600:], PARTITIONS)
    join_and_leave(live, times=20, seed=3)
    live.finish()
    live.check()


def join_and_leave(live: Live, times: int, seed: int) -> None:
    rng = random.Random(seed)
    steady = live.start(*SLOW)
    live.wait_until(steady.is_reading)
    for _ in range(times):
        guest = live.start(*SLOW)
        live.wait_until(guest.is_reading)
        time.sleep(rng.uniform(0.1, 1.0))
        if rng.random() < 0.5:
            assert guest.terminate() == 0, guest.said()
        else:
            guest.kill()
    assert steady.terminate() == 0, steady.said()


def test_a_worker_paused_beyond_its_session_writes_nothing_when_it_wakes(live: Live) -> None:
    paused = live.start(*SLOW)
    live.wait_until(paused.is_reading)
    time.sleep(0.5)
    paused.process.send_signal(signal.SIGSTOP)
    successor = live.start()
    live.wait_until(successor.is_reading)
    live.wait_until(lambda: sum(p["lag"] for p in live.status()) == 0)
    paused.process.send_signal(signal.SIGCONT)
    live.wait_until(lambda: any(e.get("event") == "fenced" for e in paused.events()))
    for worker in (paused, successor):
        assert worker.terminate() == 0, worker.said()
    live.check()


def test_sigterm_under_load_ends_in_order_and_loses_nothing(live: Live) -> None:
    worker = live.start(*SLOW)
    live.wait_until(worker.is_reading)
    time.sleep(1.0)
    assert worker.terminate(within_s=25) == 0, worker.said()
    so_far = live.accounting()
    assert 0 < so_far["samples_read"] < 15_600
    live.finish()
    live.check()


def test_a_detector_slower_than_the_session_keeps_its_partitions(live: Live) -> None:
    worker = live.start("--slow", "1.5", "--until-end", session_timeout="1s", max_poll_records=4000)
    assert worker.wait(120) == 0, worker.said()
    assert not any(event.get("event") == "fenced" for event in worker.events())
    live.check()


def test_one_broker_of_three_can_be_killed_and_come_back(live3: Live, kafka3: KafkaCluster) -> None:
    worker = live3.start(*SLOW)
    live3.wait_until(worker.is_reading)
    node = random.Random(4).choice(kafka3.nodes)
    kafka3.kill(node)
    try:
        time.sleep(5)
        assert worker.process.poll() is None, worker.said()
    finally:
        kafka3.start(node)
    live3.wait_until(lambda: sum(p["lag"] for p in live3.status()) == 0, within_s=120)
    assert worker.terminate() == 0, worker.said()
    live3.check()


def test_kafka_may_be_silent_for_longer_than_the_session(live3: Live, kafka3: KafkaCluster) -> None:
    worker = live3.start(*SLOW)
    live3.wait_until(worker.is_reading)
    time.sleep(1)
    for node in kafka3.nodes:
        kafka3.pause(node)
    try:
        time.sleep(10)
        assert worker.process.poll() is None, worker.said()
    finally:
        for node in kafka3.nodes:
            kafka3.resume(node)
    live3.wait_until(lambda: sum(p["lag"] for p in live3.status()) == 0, within_s=120)
    assert worker.terminate() == 0, worker.said()
    live3.check()
