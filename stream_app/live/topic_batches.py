"""Topics read from an offset to another, or to the end that they have now, without a group.

In: a topic. Out: `RawBatch`es, each partition's in order. Remembers: nothing; nothing is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, ConfigurationError
from stream_app.live.security import client_settings, security_settings
from stream_app.live.topics import partition_counts
from stream_app.samples import RawBatch, clock_of_ms

Bounds = Mapping[TopicPartition, tuple[int, int]]  # half-open ranges of offsets
MAX_RECORDS = 20_000
_POLL_MS = 500


@asynccontextmanager
async def consumer_of(config: Config) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, started. Raises BrokerUnreachable."""
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",  # as the worker reads: what an aborted transaction wrote was never said
        max_poll_records=MAX_RECORDS,
        **client_settings(config),
    )
    try:
        await consumer.start()
        await asyncio.sleep(0)  # its tasks begin, or a stop at once would raise that they were cancelled
        yield consumer
    except KafkaConnectionError as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers} does not answer: {problem}") from problem
    except KafkaError as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers}: {problem}") from problem
    finally:
        await consumer.stop()


def partitions_of(config: Config, topic: str) -> list[TopicPartition]:
    """All partitions. Raises ConfigurationError where there is no such topic, BrokerUnreachable."""
    found = partition_counts(config.brokers, [topic], **security_settings(config.security))
    if topic not in found:
        raise ConfigurationError(f"there is no topic {topic}; create it: tailrace topics create --topic {topic}")
    return [TopicPartition(topic, p) for p in range(found[topic])]


async def bounds(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> Bounds:
    """Everything that the partitions hold now."""
    first, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    return {tp: (first[tp], ends[tp]) for tp in tps}


async def batches(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> AsyncIterator[RawBatch]:
    """From the first offset that is there to the end offsets of now."""
    async for batch in batches_between(consumer, await bounds(consumer, tps)):
        yield batch


async def batches_between(consumer: AIOKafkaConsumer, wanted: Bounds) -> AsyncGenerator[RawBatch, None]:
    """The records of ranges of offsets, each partition's in order. What retention has taken meanwhile is not there.

    The consumer is left at the ends, those of empty ranges too: who polls it further hears what comes after.
    """
    wanted = {tp: (begin, end) for tp, (begin, end) in wanted.items() if begin <= end}
    consumer.assign(list(wanted))
    for tp, (begin, _) in wanted.items():
        consumer.seek(tp, begin)
    left = {tp for tp, (begin, end) in wanted.items() if begin < end}
    while left:
        found = await consumer.getmany(*left, timeout_ms=_POLL_MS)
        for tp, records in found.items():
            yield raw_batch(tp, [record for record in records if record.offset < wanted[tp][1]])
        left = {tp for tp in left if await consumer.position(tp) < wanted[tp][1]}
    for tp, (_, end) in wanted.items():
        consumer.seek(tp, end)


async def n_records(config: Config, topic: str) -> int:
    """How many records have been written to a topic that nothing was removed from."""
    async with consumer_of(config) as consumer:
        ends = await consumer.end_offsets(partitions_of(config, topic))
        return sum(ends.values())


def raw_batch(tp: TopicPartition, records: Sequence[Any]) -> RawBatch:
    """A partition's records as columns."""
    return RawBatch(
        topic=tp.topic,
        partition=tp.partition,
        keys=[record.key for record in records],
        values=[record.value for record in records],
        offsets=np.array([record.offset for record in records], np.int64),
        clock_us=clock_of_ms([record.timestamp for record in records]),
        headers=[record.headers for record in records],
    )
