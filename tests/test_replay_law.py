"""The replay law on Apache Kafka: what live workers said through kills, a replay of the range says again.

live    |------x kill  |----x kill |------|        windows and alerts, by id
replay  |---------------------------------|        the same, and Kafka is as it was
replay                 |----------|                those of the range, the state rebuilt before it
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from live import DETECTOR, START_MS, Live, apart, produce, stream

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.topics import create_topics
from stream_app.replay.bundles import Named
from stream_app.replay.merging import alerts_of
from stream_app.replay.ranges import ALL_MS, Range
from stream_app.replay.run import Order, Replayed, replay_here

pytestmark = pytest.mark.kafka
PARTITIONS, SECONDS = 3, 1300
BESIDE = Range(start_ms=START_MS + 100_000, end_ms=START_MS + 900_000)


@pytest.fixture(scope="module")
def live(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A topic that a worker has read, killed twice on its way; the second one had a replay beside it."""
    name = f"law-{START_MS % 997}-{id(kafka):x}"
    topic = f"{name}-samples"
    sinks = [f"{topic}-dlt", f"{name}-alerts", f"{name}-scores", f"{name}-drift"]
    create_topics(kafka.bootstrap, dict.fromkeys([topic, *sinks], PARTITIONS))
    found = Live(kafka.bootstrap, name, topic, tmp_path_factory.mktemp("law"), {"max_poll_records": 300})
    records = stream(SECONDS)
    produce(kafka.bootstrap, topic, records, PARTITIONS)
    try:
        for doing in (lambda: time.sleep(0.5), lambda: replayed(found, BESIDE, found.folder / "beside")):
            worker = found.start("--slow", "0.1")
            found.wait_until(worker.is_reading, 150)
            doing()
            assert worker.process.poll() is None, worker.said()
            worker.kill()
        found.finish()
        yield found
    finally:
        for worker in found.processes:
            worker.kill()


def replayed(live: Live, span: Range, out: Path, warm_up_ms: int = ALL_MS) -> Replayed:
    named = Named.of("a", "plain", Path("plain"), DETECTOR)
    return replay_here(Order(live.topic, ("plain",), out, span, warm_up_ms), live.config(), (named,))


def as_kafka_is(live: Live) -> dict[str, Any]:
    """Every topic's end offsets, and what every group has committed."""

    async def look() -> dict[str, Any]:
        admin = AIOKafkaAdminClient(bootstrap_servers=live.bootstrap)
        await admin.start()
        async with AIOKafkaConsumer(bootstrap_servers=live.bootstrap) as consumer:
            topics = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}
            tps = [TopicPartition(t, p) for t, n in topics.items() for p in range(n) if not t.startswith("__")]
            ends = await consumer.end_offsets(tps)
            groups = sorted(name for name, _ in await admin.list_consumer_groups())
            commits = {
                g: {str(tp): str(c) for tp, c in (await admin.list_consumer_group_offsets(g)).items()} for g in groups
            }
        await admin.close()
        return {"ends": {str(tp): end for tp, end in ends.items()}, "commits": commits}

    return dict(apart(look))


def same(one: Any, other: Any) -> bool:
    """Equal, numbers within 1e-6 relative."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == (pytest.approx(other, rel=1e-6) if isinstance(one, float) else other))


def timeless(alerts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the wall clock, without the command, which names the model, and without what only a replay adds."""
    left = ("published_at", "reproduce", "opened")
    return {i: {k: v for k, v in alert.items() if k not in left} for i, alert in alerts.items()}


def test_a_replay_says_what_live_said_through_kills_and_leaves_kafka_as_it_was(live: Live, tmp_path: Path) -> None:
    before = as_kafka_is(live)
    done = replayed(live, Range(), tmp_path / "out")
    assert as_kafka_is(live) == before
    assert before["commits"][live.config().group_id]
    found = alerts_of(tmp_path / "out")
    assert found
    assert same(timeless(found), timeless(live.alerts()))
    assert done.accounting[0].as_dict() == live.accounting()


def test_a_replay_beside_workers_that_read_writes_the_same_as_one_when_they_are_done(
    live: Live, tmp_path: Path
) -> None:
    replayed(live, BESIDE, tmp_path / "later")
    written = {path.relative_to(tmp_path / "later") for path in (tmp_path / "later").rglob("*") if path.is_file()}
    assert Path("alerts.jsonl") in written
    for name in written - {Path("replay.json")}:
        assert (live.folder / "beside" / name).read_bytes() == (tmp_path / "later" / name).read_bytes(), name


def test_a_part_of_the_range_with_its_state_rebuilt_says_what_live_said_there(live: Live, tmp_path: Path) -> None:
    half = START_MS + 1000 * SECONDS // 2
    done = replayed(live, Range(start_ms=half), tmp_path / "out")
    assert done.plan.warm_up_records > 0
    found, said = timeless(alerts_of(tmp_path / "out")), timeless(live.alerts())
    assert found
    assert same(found, {i: said[i] for i in found}), "an alert that began in the range, or went on in it"
    later = [i for i, alert in said.items() if alert["data_start_time"] > "2023-11-14T22:26"]
    assert set(later) <= set(found)


def test_without_a_warm_up_the_report_says_so(live: Live, tmp_path: Path) -> None:
    span = Range(start_ms=START_MS + 600_000, end_ms=START_MS + 700_000)
    done = replayed(live, span, tmp_path / "out", 0)
    assert done.plan.warm_up_records == 0
    assert "as if never seen" in (tmp_path / "out" / "report.html").read_text()
    assert "as if never seen" in json.loads((tmp_path / "out" / "replay.json").read_text())["warm_up"]
