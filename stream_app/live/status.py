"""`tailrace status`: what became of every sample, per source partition, as the group's last commits say.

In: the configuration. Out: offsets, lag and accounting. Remembers: nothing; the workers need not be running.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaConnectionError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from stream_app.checkpoint import read_progress
from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, ConfigurationError
from stream_app.ledger import Accounting
from stream_app.live.security import client_settings

_GROUPS_S, _AGAIN_S = 10.0, 0.2


def status(config: Config) -> dict[str, Any]:
    """{"partitions": [{"topic", "partition", "offset", "lag", "accounting"}]}; an offset of None was never committed.

    It runs in a thread and loop of its own. Raises BrokerUnreachable, and ConfigurationError for a source that is not
    there.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_status(config))).result()


async def _status(config: Config) -> dict[str, Any]:
    settings = client_settings(config)
    admin, consumer = AIOKafkaAdminClient(**settings), AIOKafkaConsumer(**settings, isolation_level="read_committed")
    try:
        await admin.start()
        await consumer.start()
        commits = await _commits(admin, config.group_id)
        counts = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
        if missing := [source.topic for source in config.sources if source.topic not in counts]:
            raise ConfigurationError(f"{', '.join(missing)} not found on {config.brokers}: there is nothing to tell of")
        partitions = [TopicPartition(source.topic, i) for source in config.sources for i in range(counts[source.topic])]
        first, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    except (TimeoutError, KafkaConnectionError, OSError) as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers} does not answer: {problem}") from problem
    except KafkaError as problem:
        raise BrokerUnreachable(f"Kafka at {config.brokers} refused a request: {problem!r}") from problem
    finally:
        await consumer.stop()
        await admin.close()
    return {"partitions": [_one(tp, commits.get(tp), first[tp], ends[tp]) for tp in partitions]}


async def _commits(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """A broker that never had a group makes the topic for them when it is first asked, and is to be asked again."""
    give_up = time.monotonic() + _GROUPS_S
    while True:
        try:
            commits: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group)
            return commits
        except GroupCoordinatorNotAvailableError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(_AGAIN_S)


def _one(tp: TopicPartition, commit: OffsetAndMetadata | None, first: int, end: int) -> dict[str, Any]:
    """`offset` is where a restart reads from; samples from there on in windows still open are read, not lag."""
    offset = commit.offset if commit is not None and commit.offset >= 0 else None
    progress = read_progress(commit.metadata) if commit is not None and offset is not None else None
    books, read_to = progress or (Accounting(), first if offset is None else offset)
    return {
        "topic": tp.topic,
        "partition": tp.partition,
        "offset": offset,
        "lag": max(0, end - max(read_to, first)),  # what retention took is not read any more
        "accounting": books.as_dict(),
    }
