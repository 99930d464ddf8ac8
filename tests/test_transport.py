"""The transport: batches as columns equal aiokafka's own records, partitions take turns, stale commits are refused."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.fetching import BATCHES_AHEAD, Fetched, Gates, read_batch
from stream_app.live.leases import Fenced, Lease, ask_about, commit_under
from stream_app.live.transport import Consumer
from stream_app.samples import RawBatch

ONE, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


def test_a_partition_is_read_only_while_it_is_open() -> None:
    gates = Gates()
    assert not gates.is_open(ONE)
    gates.open([ONE])
    assert gates.is_open(ONE)
    gates.close()
    assert not gates.is_open(ONE)


def test_a_partition_is_read_at_most_so_many_batches_ahead_and_holds_up_no_other() -> None:
    gates = Gates()
    gates.open([ONE, OTHER])
    for _ in range(BATCHES_AHEAD):
        gates.enter(ONE)
    assert not gates.is_open(ONE)
    assert gates.is_open(OTHER)
    gates.leave(ONE)
    assert gates.is_open(ONE)


def test_batches_of_an_earlier_assignment_that_end_late_open_nothing_twice() -> None:
    gates = Gates()
    gates.open([ONE])
    gates.leave(ONE)
    for _ in range(BATCHES_AHEAD):
        assert gates.is_open(ONE)
        gates.enter(ONE)
    assert not gates.is_open(ONE)


class BetweenRebalances(Consumer):
    """Waits for records while its partitions are given anew, and then takes some under the membership given here."""

    should_stop, flow_active = False, True

    def __init__(self, fetched: Fetched, under: Lease, now: Lease | None) -> None:
        self._fetched, self._memberships = fetched, (under, now)
        self._thread = SimpleNamespace(lease=Lease(1, "before"), fetched_under=None)

    async def _wait_next_records(self, timeout: float) -> Any:
        self._thread.fetched_under, self._thread.lease = self._memberships
        return {TP("changelog", 0): self._fetched}, None


@pytest.mark.asyncio
async def test_what_is_fetched_after_a_rebalance_is_kept_though_the_wait_for_it_began_before() -> None:
    empty = RawBatch("changelog", 0, [], [], np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    fetched, before, after = Fetched(empty, 0, 7), Lease(1, "before"), Lease(2, "after")

    async def given(under: Lease, now: Lease | None) -> list[Any]:
        return [message.generation_id async for _, message in BetweenRebalances(fetched, under, now).getmany(1.0)]

    assert await given(under=after, now=after) == [2]
    assert await given(under=before, now=after) == [], "it is fetched again"
    assert await given(under=before, now=None) == []


async def fetched_as_columns(bootstrap: str, topic: str, start: int, bound: int) -> list[Fetched]:
    """Reads the topic's only partition to its end by `read_batch`, as the worker's consumer does."""
    tp = TopicPartition(topic, 0)
    found: list[Fetched] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        consumer.seek(tp, start)
        fetcher = consumer._fetcher
        while await consumer.position(tp) < end:
            while tp not in fetcher._records:
                await asyncio.sleep(0.01)
            result = fetcher._records[tp]
            batch = read_batch(result, bound)
            assert batch is not None
            found.append(batch)
            if not result.has_more():
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
    return found


async def fetched_as_records(bootstrap: str, topic: str, start: int) -> list[Any]:
    tp = TopicPartition(topic, 0)
    found: list[Any] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed") as consumer:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        consumer.seek(tp, start)
        while await consumer.position(tp) < end:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    return found


async def fill(bootstrap: str, topic: str, transaction: str) -> None:
    """Records of every kind: compressed or not, with and without key, value and headers, committed and aborted."""
    for compression in (None, "gzip"):
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=compression, linger_ms=5, max_batch_size=2000
        ) as producer:
            for i in range(300):
                key = None if i % 7 == 1 else b"k%d" % i
                value = None if i % 7 == 2 else b"v" * (i % 50)
                headers = [("h", b"1"), ("empty", b"")] if i % 3 == 0 else []
                await producer.send(topic, value, key, partition=0, timestamp_ms=1_700_000_000_000 + i, headers=headers)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=transaction) as producer:
        for commit in (True, False, True):
            await producer.begin_transaction()
            for i in range(50):
                await producer.send(topic, b"kept" if commit else b"aborted", b"t%d" % i, partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())


@pytest.mark.asyncio(loop_scope="function")
async def test_the_bytes_of_a_fetch_that_was_read_are_freed_without_the_collector() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    for i in range(3):
        builder.append(i, timestamp=i, key=b"k", value=b"v", headers=[])
    records = PartitionRecords(ONE, MemoryRecords(bytes(builder.build())), [], 0, None, None, True, 0)
    freed, assignment = weakref.ref(records), Assignment([ONE])
    assignment.state_value(ONE).reset_to(0)
    result = FetchResult(ONE, assignment=assignment, partition_records=records, backoff=0)
    del records
    gc.disable()
    try:
        batch = read_batch(result, 10)
        assert batch is not None
        assert batch.records.values == [b"v"] * 3
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.kafka
@pytest.mark.asyncio(loop_scope="function")
async def test_columns_equal_the_records_of_aiokafka_from_any_offset_and_in_any_size(
    kafka: KafkaCluster, new_topic: Callable[..., str], unique_name: Callable[[str], str]
) -> None:
    topic = await asyncio.to_thread(new_topic)
    await fill(kafka.bootstrap, topic, unique_name("transaction"))
    for start, bound in ((0, 10_000), (0, 1), (137, 64), (599, 64), (610, 7)):
        batches = await fetched_as_columns(kafka.bootstrap, topic, start, bound)
        records = await fetched_as_records(kafka.bootstrap, topic, start)
        assert [k for b in batches for k in b.records.keys] == [r.key for r in records]
        assert [v for b in batches for v in b.records.values] == [r.value for r in records]
        assert [o for b in batches for o in b.records.offsets.tolist()] == [r.offset for r in records]
        assert [t for b in batches for t in b.records.clock_us.tolist()] == [r.timestamp * 1000 for r in records]
        assert [tuple(h) for b in batches for h in b.records.headers] == [tuple(r.headers) for r in records]
        assert b"aborted" not in {v for b in batches for v in b.records.values}
        assert batches[0].position == start
        assert all(b.position == a.next_position for a, b in pairwise(batches)), "no gap between"


@pytest.mark.kafka
@pytest.mark.asyncio(loop_scope="function")
async def test_a_membership_that_is_over_is_told_and_its_commits_are_refused_even_when_the_group_is_empty(
    kafka: KafkaCluster, new_topic: Callable[..., str], unique_name: Callable[[str], str]
) -> None:
    topic, group = await asyncio.to_thread(new_topic), unique_name("group")
    tp = TopicPartition(topic, 0)
    options: dict[str, Any] = {"group_id": group, "bootstrap_servers": kafka.bootstrap, "enable_auto_commit": False}

    async def commit(consumer: AIOKafkaConsumer, lease: Lease, offset: int) -> None:
        await commit_under(lease, consumer._coordinator, {tp: OffsetAndMetadata(offset, "books")})

    async with AIOKafkaConsumer(topic, **options) as first:
        await first.getmany(timeout_ms=3000)
        over = Lease(first._coordinator.generation, first._coordinator.member_id)
        await commit(first, over, 7)
        await ask_about(over, first._coordinator)  # in force: nothing is raised
    async with AIOKafkaConsumer(**options) as late:
        late.assign([tp])
        with pytest.raises(Fenced):
            await ask_about(over, late._coordinator)
        with pytest.raises(Fenced):
            await commit(late, over, 3)
        kept = await late._coordinator.fetch_committed_offsets([tp])
    assert kept[tp] == OffsetAndMetadata(7, "books")
