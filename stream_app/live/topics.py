"""Topics of a cluster: asked for, created when missing, never changed.

In: a bootstrap address and what each topic should be. Out: topics that exist. Nothing is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from stream_app.errors import BrokerUnreachable, ConfigurationError

T = TypeVar("T")

# A new topic is usable once its leaders are elected and every broker has heard of it: well under a second, as a rule.
_VISIBLE_WITHIN_S = 15.0
_POLL_S = 0.1

# With one broker of three down, six askings at random all meet it once in 729 times.
_ATTEMPTS = 6

# Two may fail before data do; more copies cost more than they save.
_COPIES_MAX = 3


@dataclass(frozen=True)
class TopicShape:
    """One topic. `replication` of None is three copies, or as many as the cluster has brokers."""

    partitions: int = 1
    replication: int | None = None
    compacted: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    def as_request(self, name: str, n_brokers: int) -> NewTopic:
        """Gives aiokafka's form of it, which has no word for the broker's own default replication."""
        replication = self.replication or min(_COPIES_MAX, n_brokers)
        settings = {**({"cleanup.policy": "compact"} if self.compacted else {}), **self.settings}
        return NewTopic(name, self.partitions, replication, topic_configs=settings)


def create_topics(
    bootstrap: str,
    partitions: Mapping[str, int],
    *,
    compacted: Collection[str] = (),
    replication: int | None = None,
    **security: Any,
) -> None:
    """Creates the topics that are missing and waits until each has its leaders; existing ones stay as they are.

    `partitions` maps a topic's name to its number of partitions; `compacted` names those kept by key for ever;
    `security` goes to aiokafka. Raises BrokerUnreachable, or ConfigurationError when a topic exists with another
    number of partitions or is refused.
    """
    shapes = {name: TopicShape(count, replication, name in compacted) for name, count in partitions.items()}
    ensure_topics(bootstrap, shapes, **security)


def ensure_topics(bootstrap: str, shapes: Mapping[str, TopicShape], **security: Any) -> None:
    """As `create_topics`, with the shape of each topic spelt out."""
    ask_cluster(bootstrap, lambda admin: _ensure(admin, shapes), **security)


def partition_counts(bootstrap: str, topics: Collection[str], **security: Any) -> dict[str, int]:
    """Gives the number of partitions of each of the topics that exists. Raises BrokerUnreachable."""
    return ask_cluster(bootstrap, lambda admin: _partition_counts(admin, topics), **security)


def ask_cluster(bootstrap: str, question: Callable[[AIOKafkaAdminClient], Awaitable[T]], **security: Any) -> T:
    """Gives the answer to one question put to the cluster's admin API; it blocks until then.

    The question may be put several times, since aiokafka asks a random broker, which may be the one that is down. It
    runs in a thread and loop of its own, so it may be called with or without a running loop. Raises
    BrokerUnreachable if the cluster does not answer or refuses the credentials.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_ask(bootstrap, question, security))).result()


async def _ask(bootstrap: str, question: Callable[[AIOKafkaAdminClient], Awaitable[T]], security: dict[str, Any]) -> T:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **security)
    try:
        await admin.start()
        return await _ask_until_answered(admin, question)
    except (TimeoutError, KafkaConnectionError, OSError) as error:
        raise BrokerUnreachable(f"Kafka at {bootstrap} does not answer: {error}") from error
    except KafkaError as error:
        raise BrokerUnreachable(f"Kafka at {bootstrap} refused a request: {error}") from error
    finally:
        with suppress(KafkaError, OSError):
            await admin.close()


async def _ask_until_answered(admin: AIOKafkaAdminClient, question: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    for _ in range(_ATTEMPTS - 1):
        try:
            return await question(admin)
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(_POLL_S)
    return await question(admin)


async def _ensure(admin: AIOKafkaAdminClient, shapes: Mapping[str, TopicShape]) -> None:
    existing = await _partition_counts(admin, shapes)
    for name, count in existing.items():
        if count != shapes[name].partitions:
            raise ConfigurationError(f"topic {name!r} has {count} partitions, {shapes[name].partitions} were asked for")
    missing = [name for name in shapes if name not in existing]
    if missing:
        n_brokers = len((await admin.describe_cluster())["brokers"])
        answer = await admin.create_topics([shapes[name].as_request(name, n_brokers) for name in missing])
        _check_created(answer.topic_errors)
    await _wait_until_visible(admin, shapes)


async def _wait_until_visible(admin: AIOKafkaAdminClient, topics: Collection[str]) -> None:
    """Waits until every broker knows the leaders; a client may ask any of them next."""
    deadline = asyncio.get_running_loop().time() + _VISIBLE_WITHIN_S
    for broker in (await admin.describe_cluster())["brokers"]:
        while len(await _partition_counts(admin, topics, broker["node_id"])) < len(topics):
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerUnreachable(f"topics {sorted(topics)} have no leaders after {_VISIBLE_WITHIN_S:.0f} s")
            await asyncio.sleep(_POLL_S)


def _check_created(topic_errors: Collection[tuple[Any, ...]]) -> None:
    for name, code, *message in topic_errors:
        error = for_code(code)
        # Another process may have been faster by a moment.
        if code and error is not TopicAlreadyExistsError:
            raise ConfigurationError(f"Kafka refused topic {name!r}: {error.__name__} {' '.join(map(str, message))}")


async def _partition_counts(
    admin: AIOKafkaAdminClient, topics: Collection[str], broker: int | None = None
) -> dict[str, int]:
    """Counts the partitions that have a leader, of the topics all of whose partitions have one."""
    counts = {}
    # All topics are asked for: asking for a missing one by name creates it on a broker that creates topics by itself.
    question = MetadataRequest(None)
    # aiokafka's public call asks a random broker, and brokers learn of a topic one after the other.
    answer = await admin._send_request(question, broker)
    for topic in answer.to_object()["topics"]:
        leaders = [partition["leader"] for partition in topic["partitions"]]
        if topic["topic"] in topics and topic["error_code"] == 0 and leaders and min(leaders) >= 0:
            counts[topic["topic"]] = len(leaders)
    return counts
