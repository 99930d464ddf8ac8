"""Orders and labels: what people say on the control and feedback topics, sent, listed, and followed by workers.

In: what is said. Out: records; `Interval`s. Remembers: nothing; the topics keep everything for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import structlog
from aiokafka import AIOKafkaProducer

from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.intervals import FOREVER_US, Interval, Message, control
from stream_app.live.interval_topics import messages
from stream_app.live.promoting import Promotions
from stream_app.live.security import client_settings, security_settings
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.live.topics import TopicShape, ensure_topics, partition_counts
from stream_app.model_store.topic import reaching
from stream_app.quiet import Quiet

log = structlog.get_logger("worker")

_POLL_MS = 500
_AGAIN_S = 5.0
# A pause that nobody ended must not be forgotten by retention.
_SHAPE = TopicShape(1, settings={"retention.ms": "-1"})


def send(config: Config, topic: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a message on the control or the feedback topic, which is made where it is missing, and gives it.

    What is None is left out. Raises BrokerUnreachable, ConfigurationError.
    """
    security = security_settings(config.security)
    if topic not in partition_counts(config.brokers, [topic], **security):
        ensure_topics(config.brokers, {topic: _SHAPE}, **security)
    said = {name: value for name, value in body.items() if value is not None}
    asyncio.run(_send(config, topic, key.encode(), orjson.dumps(said)))
    return said


def listed(config: Config, topic: str) -> list[dict[str, Any]]:
    """What was said on a topic about this detector or all, in order. What is no JSON object is left out."""
    found: list[dict[str, Any]] = []
    for message in asyncio.run(messages(config, topic)):
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(message.value or b"null")
            if isinstance(body, dict) and body.get("detector") in (None, config.detector):
                found.append(body)
    return found


async def in_effect(config: Config) -> list[Interval]:
    """All pauses and calendars that the control topic tells of now. Raises BrokerUnreachable."""
    return control(await messages(config, config.topics.control), config.detector)


@asynccontextmanager
async def heard(config: Config) -> AsyncIterator[Quiet]:
    """What the control topic says now, and while it is held what it says later. Raises BrokerUnreachable."""
    quiet, known = Quiet(), await messages(config, config.topics.control)
    _obey(config, quiet, known)
    following = asyncio.ensure_future(follow(config, quiet, Promotions(config, known)))
    try:
        yield quiet
    finally:
        following.cancel()


async def follow(config: Config, quiet: Quiet, promotions: Promotions) -> None:
    """Keeps the intervals as the topic says, for ever; what is known stays while it is away."""
    while True:
        try:
            await _follow(config, quiet, promotions)
        except ConfigurationError:
            await asyncio.sleep(_AGAIN_S)  # nobody gave an order yet
        except Exception as problem:  # nobody waits for this task: if it ended, no order would be heard any more
            log.warning("the control topic can't be followed", why=str(problem) or repr(problem), again_in_s=_AGAIN_S)
            await asyncio.sleep(_AGAIN_S)


async def _follow(config: Config, quiet: Quiet, promotions: Promotions) -> None:
    tps = await asyncio.to_thread(partitions_of, config, config.topics.control)
    heard: list[Message] = []
    async with consumer_of(config) as consumer:
        async for batch in batches(consumer, tps):
            heard += map(Message, batch.values, batch.clock_us.tolist())
        while True:
            heard.sort(key=lambda message: message.t_us)
            _obey(config, quiet, heard)
            await promotions.carry_out(heard)
            found: Mapping[Any, list[Any]] = {}
            while not found:
                found = await consumer.getmany(timeout_ms=_POLL_MS)
                if not consumer.partitions_for_topic(config.topics.control):
                    raise ConfigurationError(f"topic {config.topics.control} is no longer there")
            heard += [Message(r.value, 1000 * r.timestamp) for records in found.values() for r in records]


def _obey(config: Config, quiet: Quiet, heard: Iterable[Message]) -> None:
    told = tuple(control(heard, config.detector))
    if told != quiet.intervals:
        log.info("times in which nothing is learned", n=len(told), open=sum(i.end_us == FOREVER_US for i in told))
        quiet.intervals = told


async def _send(config: Config, topic: str, key: bytes, value: bytes) -> None:
    with reaching(config):
        async with AIOKafkaProducer(acks="all", **client_settings(config)) as producer:
            await producer.send_and_wait(topic, value, key)
