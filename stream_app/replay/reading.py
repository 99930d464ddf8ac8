"""The records of a slice, as columns, in batches that do not depend on how the broker hands them over.

In: offsets of one partition. Out: `RawBatch`es, in order. Remembers: the records fetched and not yet given.

Records come as the live worker reads them, without an object each; what an aborted transaction wrote is left out there
and here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult

from stream_app.errors import BrokerUnreachable
from stream_app.live.fetching import read_batch
from stream_app.samples import RawBatch

BATCH = 10_000  # records; always the same, so that two replays write the same rows in the same order
_WAIT_S = 30.0  # for the next fetch; brokers that answer at all answer sooner


async def records(consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int) -> AsyncIterator[RawBatch]:
    """All records at offsets [begin, end), BATCH at a time; the last batch has what is left."""
    if begin >= end:
        return
    consumer.assign([tp])
    consumer.seek(tp, begin)
    waiting: list[RawBatch] = []
    n, position = 0, begin
    while position < end:
        fetched = await _next(consumer, tp)
        if fetched is None:
            continue
        position = fetched.next_position
        if position >= end:
            consumer.pause(tp)  # or the broker is asked for what comes after, and who reads next waits for its answer
        part = _below(fetched.records, end)
        waiting, n = [*waiting, part], n + len(part)
        if n >= BATCH:
            joined, at = _joined(waiting), 0
            while n - at >= BATCH:
                yield cut(joined, at, at + BATCH)
                at += BATCH
            waiting, n = [cut(joined, at, n)], n - at
    if n:
        yield _joined(waiting)


async def ahead(batches: AsyncIterator[RawBatch]) -> AsyncIterator[RawBatch]:
    """The same; the next one is read while somebody works on the one before."""
    waiting = asyncio.ensure_future(anext(batches, None))
    try:
        while (batch := await waiting) is not None:
            waiting = asyncio.ensure_future(anext(batches, None))
            yield batch
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _next(consumer: AIOKafkaConsumer, tp: TopicPartition) -> Any:
    """What the fetcher has of the partition, waiting for it. Raises what the broker answered, BrokerUnreachable."""
    fetcher = consumer._fetcher
    try:
        async with asyncio.timeout(_WAIT_S):
            while tp not in fetcher._records:
                await fetcher._create_fetch_waiter()
    except TimeoutError:
        raise BrokerUnreachable(f"no record of {tp.topic}[{tp.partition}] came within {_WAIT_S:.0f} s") from None
    result = fetcher._records[tp]
    if not isinstance(result, FetchResult):
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
        result.check_raise()
        return None
    fetched = read_batch(result, BATCH)
    if not result.has_more():
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)
    return fetched


def cut(batch: RawBatch, start: int, stop: int) -> RawBatch:
    """Records start to stop of a batch."""
    part = slice(start, stop)
    columns = (batch.keys[part], batch.values[part], batch.offsets[part], batch.clock_us[part], batch.headers[part])
    return RawBatch(batch.topic, batch.partition, *columns)


def _below(batch: RawBatch, end: int) -> RawBatch:
    n = int(np.searchsorted(batch.offsets, end))
    return batch if n == len(batch) else cut(batch, 0, n)


def _joined(parts: list[RawBatch]) -> RawBatch:
    """Neighbouring batches end to end; at least one."""
    if len(parts) == 1:
        return parts[0]
    keys = [key for part in parts for key in part.keys]
    values = [value for part in parts for value in part.values]
    headers = [h for part in parts for h in part.headers]
    offsets, clock_us = (np.concatenate([getattr(part, n) for part in parts]) for n in ("offsets", "clock_us"))
    return RawBatch(parts[0].topic, parts[0].partition, keys, values, offsets, clock_us, headers)
