"""The benchmarks' topics hold what they promise, and every peer reads them to the end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer

from stream_app.bench.load import Load, load_arrow, load_chunks, load_samples
from stream_app.bench.peers import PEERS, run_peer
from stream_app.brokers.kafka.cluster import KafkaCluster

pytestmark = pytest.mark.kafka


def _read(bootstrap: str, topic: str, count: int) -> list[Any]:
    async def work() -> list[Any]:
        async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
            return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]

    return asyncio.run(work())


def _times_by_entity(records: list[Any]) -> dict[bytes, list[int]]:
    times = defaultdict(list)
    for record in records:
        times[record.key].append(record.timestamp)
    return times


def test_single_samples_have_48_bytes_and_each_entity_is_in_order(
    kafka: KafkaCluster, unique_name: Callable[[str], str]
) -> None:
    topic, load = unique_name("singles"), Load(records=640)
    load_samples(kafka.bootstrap, topic, load)
    records = _read(kafka.bootstrap, topic, 640)
    assert {len(record.value) for record in records} == {48}
    assert {record.partition for record in records} == set(range(4))
    assert all(orjson.loads(record.value)["t"] == record.timestamp for record in records)
    times = _times_by_entity(records)
    assert len(times) == 64
    assert all(seen == [load.start_ms + 100 * turn for turn in range(10)] for seen in times.values())


def test_chunks_of_one_entity_follow_each_other_without_a_gap(
    kafka: KafkaCluster, unique_name: Callable[[str], str]
) -> None:
    topic, load = unique_name("chunks"), Load(records=128, samples_per_record=100, period_ms=10.0)
    load_chunks(kafka.bootstrap, topic, load)
    records = _read(kafka.bootstrap, topic, 128)
    body = orjson.loads(records[0].value)
    assert (len(body["values"]), body["rate_hz"]) == (100, 100)
    assert all(late - early == 1000 for early, late in _times_by_entity(records).values())


def test_arrow_records_carry_sensor_time_and_value(kafka: KafkaCluster, unique_name: Callable[[str], str]) -> None:
    topic, load = unique_name("arrow"), Load(records=8, samples_per_record=1000, period_ms=1.0)
    load_arrow(kafka.bootstrap, topic, load)
    record = _read(kafka.bootstrap, topic, 8)[0]
    assert dict(record.headers) == {"content-type": b"application/vnd.apache.arrow.stream"}
    rows = pa.ipc.open_stream(record.value).read_all()
    assert rows.column_names == ["sensor", "t_us", "value"]
    assert (rows.num_rows, rows["t_us"][0].as_py()) == (1000, record.timestamp * 1000)


@pytest.mark.soak
@pytest.mark.parametrize("peer", PEERS)
def test_peer_reads_its_topic_to_the_end(kafka: KafkaCluster, unique_name: Callable[[str], str], peer: str) -> None:
    topic = unique_name("read")
    fill = {"aiokafka_chunks": load_chunks, "aiokafka_arrow": load_arrow}.get(peer, load_samples)
    fill(kafka.bootstrap, topic, Load(records=500, samples_per_record=1 if fill is load_samples else 10))
    assert run_peer(peer, kafka.bootstrap, topic, 500) > 0
