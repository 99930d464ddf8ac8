"""What the topics of a detector say of times that nobody should learn from.

In: the configuration. Out: `Known`. Remembers: nothing; a topic that is not there says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_app.config import Config
from stream_app.intervals import Interval, Message, alerts, control, drifts, labels, without
from stream_app.live.security import security_settings
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.live.topics import partition_counts


@dataclass(frozen=True)
class Known:
    """All intervals, those called anomalous among them. Alerts that a person called normal are not in it."""

    intervals: tuple[Interval, ...]


async def read_intervals(config: Config, stride_us: int | None) -> Known:
    """stride_us: what is new in a window of time; None for tokens. Raises BrokerUnreachable."""
    topics, name = config.topics, config.detector
    drifted = drifts(await messages(config, topics.drift), name)
    raised = alerts(await messages(config, topics.alerts), name, stride_us, drifted)
    anomalous, normal = labels(await messages(config, topics.feedback), name)
    ordered = control(await messages(config, topics.control), name)
    return Known((*anomalous, *ordered, *without(raised, normal)))


async def messages(config: Config, topic: str) -> list[Message]:
    """All that a topic holds, by time."""
    if topic not in partition_counts(config.brokers, [topic], **security_settings(config.security)):
        return []
    found: list[Message] = []
    async with consumer_of(config) as consumer:
        async for batch in batches(consumer, partitions_of(config, topic)):
            found += map(Message, batch.values, batch.clock_us.tolist())
    return sorted(found, key=lambda message: message.t_us)
