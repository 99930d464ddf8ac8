"""The models topic: read from its beginning, followed, and changed by one writer at a time.

In: the configuration. Out: `History`; pointers appended. Remembers: nothing.

Who changes the topic opens a transaction under an id that all writers share. Opening one ends any other that is under
way, and its writer is told (it is *fenced*) and begins again. So between the reading and the writing of one writer
there is nobody else: no two publishers take one version, and of two promotions the second sees the first. A writer that
is killed leaves nothing that anybody can read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, ProducerFenced

from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, ConfigurationError, TailraceError
from stream_app.live.security import client_settings, security_settings
from stream_app.live.topics import ensure_topics, partition_counts
from stream_app.model_store.history import History
from stream_app.model_store.places import topic_shapes
from stream_app.model_store.pointers import BYTES_MAX, Pointer, encode, key_of

log = structlog.get_logger("worker")

_POLL_MS = 500
_AGAIN_S = 1.0
_READ_WITHIN_S = 60.0
_SHOWN_TRIES, _SHOWN_EVERY_S = 100, 0.02
# A writer that was killed holds readers up for so long at most, and the next writer not at all.
_TRANSACTION_MS = 10_000
_ATTEMPTS = 30
_BATCH_BYTES = 3 * BYTES_MAX  # a change is of two pointers at most


class _Contended(Exception):
    """Somebody else began to write."""


@dataclass(frozen=True)
class _Appended:
    offset: int
    key: bytes
    value: bytes


def create_topics(config: Config) -> None:
    """Creates those of the three topics that are missing. Raises BrokerUnreachable, ConfigurationError."""
    security = security_settings(config.security)
    shapes = topic_shapes(config)
    there = partition_counts(config.brokers, list(shapes), **security)
    missing = {name: shape for name, shape in shapes.items() if name not in there}
    if missing:
        ensure_topics(config.brokers, missing, **security)


async def read_pointers(config: Config) -> History:
    """All that the topic says now. Raises ConfigurationError where there is no such topic, BrokerUnreachable."""
    async with reading(config, config.topics.models) as (consumer, tp):
        return History().extended(await _to_end(consumer, tp))


async def follow(config: Config, detector: str) -> AsyncGenerator[History, None]:
    """The history at once, and again within a second of each change that concerns the detector; it never ends.

    While the brokers are away or the topic is missing, what is known stays; nothing is known at first.
    """
    known: History | None = None
    while True:
        try:
            async with aclosing(_watch(config)) as watched:
                async for found in watched:
                    if known is None or found.versions(detector) != known.versions(detector):
                        yield found
                    known = found
        except (BrokerUnreachable, ConfigurationError) as problem:
            log.warning("the models topic can't be read", why=str(problem), again_in_s=_AGAIN_S)
            if known is None:
                known = History()
                yield known
            await asyncio.sleep(_AGAIN_S)


async def change(config: Config, work: Callable[[History], Sequence[Pointer]]) -> History:
    """Appends the pointers that `work` gives for the history as it is, with nobody writing in between: all or none.

    `work` is called again where it is not known whether its pointers were written, and gives none then for a history
    that has them. Gives the history thereafter. Raises what `read_pointers` and `work` raise, and
    TailraceError if others keep writing.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return await _changed(config, work)
        except _Contended as problem:
            log.info("another writer was faster", attempt=attempt, how=str(problem))
            await asyncio.sleep(random.uniform(0.05, 0.1 * (attempt + 1)))
    raise TailraceError(f"others keep writing on {config.topics.models}; nothing was changed, try again")


async def _changed(config: Config, work: Callable[[History], Sequence[Pointer]]) -> History:
    async with _only_writer(config) as producer:
        history = await read_pointers(config)
        pointers = work(history)
        if not pointers:
            return history
        try:
            async with producer.transaction():
                appended = await _send(producer, config.topics.models, pointers)
        except KafkaError as problem:  # fenced as a rule; a broker may find other words for it
            _hush(producer)
            raise _Contended(repr(problem)) from problem
    await _shown(config, appended[-1].offset)
    return history.extended(appended)


async def _shown(config: Config, offset: int) -> None:
    """Waits until readers see what was committed: a moment after the broker said so, or a little more."""
    async with reading(config, config.topics.models) as (consumer, tp):
        for _ in range(_SHOWN_TRIES):
            if (await consumer.end_offsets([tp]))[tp] > offset:
                return
            await asyncio.sleep(_SHOWN_EVERY_S)


@asynccontextmanager
async def reading(config: Config, topic: str, **options: Any) -> AsyncIterator[tuple[AIOKafkaConsumer, TopicPartition]]:
    """A consumer at the beginning of a topic of one partition, without a group; committed records only.

    Raises ConfigurationError where there is no such topic, BrokerUnreachable.
    """
    found = await asyncio.to_thread(partition_counts, config.brokers, [topic], **security_settings(config.security))
    if found.get(topic) != 1:
        words = f"has {found[topic]} partitions and must have one" if topic in found else "does not exist"
        hint = "tailrace models publish and tailrace topics create --config make it"
        raise ConfigurationError(f"topic {topic!r} {words} on {config.brokers}; {hint}")
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **client_settings(config) | options,
    )
    tp = TopicPartition(topic, 0)
    with reaching(config):
        try:
            await consumer.start()
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            yield consumer, tp
        finally:
            await consumer.stop()


@contextmanager
def reaching(config: Config) -> Iterator[None]:
    """Makes BrokerUnreachable of what aiokafka raises."""
    try:
        yield
    except KafkaConnectionError as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers} does not answer: {problem}") from problem
    except (KafkaError, TimeoutError) as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers} refused a request: {problem!r}") from problem


async def _watch(config: Config) -> AsyncGenerator[History, None]:
    async with reading(config, config.topics.models) as (consumer, tp):
        history = History().extended(await _to_end(consumer, tp))
        while True:
            yield history
            records: list[Any] = []
            while not records:
                records = (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
                if not consumer.partitions_for_topic(tp.topic):  # aiokafka would ask for it without a pause
                    raise ConfigurationError(f"topic {tp.topic!r} is no longer there")
            # Offsets that begin anew are those of a topic that was deleted and made again.
            history = (history if records[0].offset >= history.end else History()).extended(records)


async def _to_end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> list[Any]:
    records: list[Any] = []
    end = (await consumer.end_offsets([tp]))[tp]
    async with asyncio.timeout(_READ_WITHIN_S):
        while await consumer.position(tp) < end:
            records += (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
    return records


async def _send(producer: AIOKafkaProducer, topic: str, pointers: Sequence[Pointer]) -> list[_Appended]:
    batch, rows = producer.create_batch(), [(key_of(pointer), encode(pointer)) for pointer in pointers]
    for key, value in rows:
        if batch.append(key=key, value=value, timestamp=None) is None:
            raise ConfigurationError(f"the pointer {key.decode()} has {len(value)} bytes, more than a pointer may have")
    sent = await (await producer.send_batch(batch, topic, partition=0))
    return [_Appended(sent.offset + i, key, value) for i, (key, value) in enumerate(rows)]


@asynccontextmanager
async def _only_writer(config: Config) -> AsyncIterator[AIOKafkaProducer]:
    """A producer whose start ended all other writers."""
    producer = AIOKafkaProducer(
        transactional_id=f"tailrace-{config.topics.models}",
        transaction_timeout_ms=_TRANSACTION_MS,
        max_batch_size=_BATCH_BYTES,
        **client_settings(config),
    )
    with reaching(config):
        try:
            await producer.start()
            yield producer
        except ProducerFenced as problem:
            raise _Contended(repr(problem)) from problem
        finally:
            with suppress(KafkaError):
                await producer.stop()
            await producer.client.close()  # which stop leaves open where the sender failed


def _hush(producer: AIOKafkaProducer) -> None:
    """Looks at the exceptions of a fenced producer's futures, which aiokafka leaves for asyncio to complain of."""
    batches = [batch for queue in producer._message_accumulator._batches.values() for batch in queue]
    futures = [
        producer._txn_manager._transaction_waiter,
        *(future for b in batches for future in (b.future, b._drain_waiter)),
    ]
    for future in futures:
        if future is not None and future.done() and not future.cancelled():
            future.exception()
