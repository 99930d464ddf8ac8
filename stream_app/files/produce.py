"""`tailrace produce`: a file's rows on a topic, as a producer would send them, at a multiple of real time or at once.

In: a file. Out: records, keyed by entity, with the partitioner that Java's producer has. Remembers: nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from stream_app.cli.output import progress
from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, ConfigurationError
from stream_app.files.as_records import Message, Recorder
from stream_app.files.order import Order, arriving, order_of
from stream_app.files.reader import Reader
from stream_app.live.security import client_settings
from stream_app.live.topic_batches import partitions_of

BATCH_BYTES = 512 * 1024  # the producer's own default of 16 kB makes many times as many requests
LATENESS_US = 5_000_000  # the default of a worker: rows later than that are out of order
_AHEAD_S = 0.02  # a record may be sent so much too early; less would be a sleep per record


@dataclass(frozen=True)
class Job:
    """What to send. `speed` of None is as fast as it goes; `end` of None ends tokens' entities and not sensors'."""

    file: Path
    topic: str
    form: str = "json"
    speed: float | None = None
    end: bool | None = None


@dataclass
class Sent:
    """What was sent so far."""

    records: int = 0
    samples: int = 0
    ends: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def add(self, message: Message) -> None:
        """Counts one record."""
        self.records += message.value is not None
        self.ends += message.value is None
        self.samples += message.n_samples
        self.bytes += len(message.value or b"")


def produce(job: Job, to: Config) -> dict[str, Any]:
    """Sends the file and gives what was sent. Raises ConfigurationError without the topic, BrokerUnreachable."""
    reader = Reader(job.file)
    ends = reader.layout.kind == "tokens" if job.end is None else job.end
    recorder = Recorder(reader, job.form, numbered=ends)
    order = order_of(reader, LATENESS_US)
    messages = _messages(reader, order, recorder, ends)
    with progress(f"{job.file.name} to {job.topic}", order.n_rows) as tell:
        sent = asyncio.run(_send(job, to, messages, tell))
    return {**vars(sent), "refused": dict(reader.refused)}


def _messages(reader: Reader, order: Order, recorder: Recorder, ends: bool) -> Iterator[Message]:
    """All records of the file, and where an entity's rows end its tombstone."""
    newest, ended = 0, np.zeros(len(order.last_row), bool)
    for rows in arriving(reader, order):
        yield from recorder.messages(rows)
        if not ends or not len(rows):
            continue
        newest = max(newest, int(rows.t_us.max()))
        over = np.flatnonzero((order.last_row <= rows.row[-1]) & ~ended) if order.of_arrival else ()
        yield from (recorder.end(int(entity), newest) for entity in over)
        ended[over] = True
    if ends:
        yield from (recorder.end(int(entity), newest) for entity in np.flatnonzero(~ended))


async def _send(job: Job, to: Config, messages: Iterator[Message], tell: Any) -> Sent:
    partitions = [tp.partition for tp in partitions_of(to, job.topic)]
    producer = AIOKafkaProducer(acks="all", max_batch_size=BATCH_BYTES, **client_settings(to))
    try:
        await producer.start()
        return await _Sender(producer, job, partitions).send(messages, tell)
    except KafkaConnectionError as problem:
        raise BrokerUnreachable(f"Kafka at {to.brokers} does not answer: {problem}") from problem
    except KafkaError as problem:
        raise BrokerUnreachable(f"Kafka at {to.brokers} refused a record: {problem}") from problem
    finally:
        await producer.stop()


class _Sender:
    """Batches per partition, sent in order; a batch per partition under way at most, so that order is kept."""

    def __init__(self, producer: AIOKafkaProducer, job: Job, partitions: list[int]) -> None:
        self._producer, self._job, self._all = producer, job, partitions
        self._open: dict[int, BatchBuilder] = {}
        self._partition_of: dict[bytes, int] = {}
        self._choose = DefaultPartitioner()

    async def send(self, messages: Iterator[Message], tell: Any) -> Sent:
        sent, first_us, began = Sent(), None, time.monotonic()
        for message in messages:
            first_us = message.t_us if first_us is None else first_us
            if self._job.speed is not None:
                await self._wait(began + (message.t_us - first_us) / 1e6 / self._job.speed)
            await self._append(message)
            sent.add(message)
            if sent.records % 1024 == 0:
                tell(sent.samples)
        await self._flush()
        return sent

    async def _wait(self, due: float) -> None:
        if due - time.monotonic() > _AHEAD_S:
            await self._flush()
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _append(self, message: Message) -> None:
        partition = self._partition(message.key)
        while True:
            batch = self._open.get(partition) or self._producer.create_batch()
            self._open[partition] = batch
            parts = {"key": message.key, "value": message.value, "headers": list(message.headers)}
            if batch.append(timestamp=None, **parts) is not None:
                return
            if not batch.record_count():
                raise ConfigurationError(f"a record of {len(message.value or b'')} bytes is larger than a batch may be")
            await self._send_one(partition)

    def _partition(self, key: bytes) -> int:
        if key not in self._partition_of:
            self._partition_of[key] = self._choose(key, self._all, self._all)
        return self._partition_of[key]

    async def _send_one(self, partition: int) -> None:
        batch = self._open.pop(partition)
        await (await self._producer.send_batch(batch, self._job.topic, partition=partition))

    async def _flush(self) -> None:
        await asyncio.gather(*(self._send_one(partition) for partition in list(self._open)))
