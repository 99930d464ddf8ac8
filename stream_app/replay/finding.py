"""Where the records of a range lie: offsets per partition, what is read before them, and what is missing.

In: a topic and a `Range`. Out: `Plan`. Remembers: nothing; Kafka is asked, without a group, and nothing is changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.config import Config
from stream_app.errors import ConfigurationError, UsageError
from stream_app.live.security import security_settings
from stream_app.live.topic_batches import consumer_of, partitions_of
from stream_app.live.topics import ask_cluster
from stream_app.replay.ranges import ALL_MS, Range, told

_RECORD_WAIT_MS = 5_000


@dataclass(frozen=True)
class History:
    """States that workers wrote to the changelog before the range. They know of no record from `reach` on; `clock_us`:
    the partition's, as of the slice's `warm_up`, from which they go on."""

    reach: int
    clock_us: int
    states: int


@dataclass(frozen=True)
class Slice:
    """Offsets of one partition: [warm_up, begin) only rebuilds the state, [begin, end) is reported."""

    partition: int
    warm_up: int
    begin: int
    end: int
    history: History | None = None  # None: nothing is known before the warm-up

    @property
    def records(self) -> int:
        """At most so many are reported; offsets without a record count as well."""
        return self.end - self.begin

    @classmethod
    def of(cls, data: dict[str, Any]) -> Slice:
        """From `asdict`."""
        history = data["history"]
        return cls(**data | {"history": History(**history) if history else None})


@dataclass(frozen=True)
class Plan:
    """What will be read. `exact`: the warm-up begins with the stream, or the state is what workers wrote."""

    topic: str
    slices: tuple[Slice, ...]
    exact: bool
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        return sum(s.records for s in self.slices)

    @property
    def warm_up_records(self) -> int:
        return sum(s.begin - s.warm_up for s in self.slices)

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Plan:
        """From `as_dict`."""
        slices = tuple(map(Slice.of, data["slices"]))
        return cls(data["topic"], slices, bool(data["exact"]), tuple(data["notes"]))


@dataclass(frozen=True)
class _Kept:
    """What a partition still holds: offsets, half-open."""

    first: int
    end: int


async def find(config: Config, topic: str, span: Range, warm_up_ms: int) -> Plan:
    """The plan of a replay. Raises UsageError, ConfigurationError where there is nothing to read, BrokerUnreachable."""
    now_ms = round(time.time() * 1000)
    span = span.at(now_ms)
    if span.start_ms is not None and span.start_ms > now_ms:
        raise UsageError(f"--from {told(span.start_ms)} lies in the future; now it is {told(now_ms)}")
    tps = [tp for tp in partitions_of(config, topic) if span.has(tp.partition)]
    if not tps or len(tps) < len(span.starts):
        named = ", ".join(str(p) for p, _ in span.starts) or str(span.partition)
        raise ConfigurationError(f"{topic} does not have all of the partitions asked for ({named})")
    async with consumer_of(config) as consumer:
        first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        kept = {tp: _Kept(first[tp], end[tp]) for tp in tps}
        slices = tuple([await _slice(consumer, tp, kept[tp], span, warm_up_ms) for tp in tps])
        notes = [*_lost(span, kept), *[note async for note in _gaps(consumer, span, kept)]]
    if not any(s.records for s in slices):
        raise ConfigurationError(await _nothing(config, kept))
    if "compact" in setting(config, topic, "cleanup.policy"):
        notes.append(
            f"{topic} is compacted: of each key older records may be gone, which the live worker had read; "
            "a replay sees only what is left"
        )
    exact = all(s.warm_up == 0 for s in slices)
    return Plan(topic, slices, exact, tuple(notes))


async def _slice(consumer: AIOKafkaConsumer, tp: TopicPartition, kept: _Kept, span: Range, warm_up_ms: int) -> Slice:
    """Offsets of the range within what the topic still holds, and of the warm-up before it."""
    wanted = span.first_of(tp.partition)
    begin = kept.first if wanted is None else min(max(kept.first, wanted), kept.end)
    stop = kept.end if span.last_offset is None else min(kept.end, span.last_offset + 1)
    if span.start_ms is not None:
        begin = max(begin, await _offset_at(consumer, tp, span.start_ms, kept.end))
    if span.end_ms is not None:
        stop = min(stop, await _offset_at(consumer, tp, span.end_ms, kept.end))
    stop = max(begin, stop)
    if warm_up_ms == ALL_MS:
        return Slice(tp.partition, kept.first, begin, stop)
    if warm_up_ms == 0 or begin in (kept.first, stop):
        return Slice(tp.partition, begin, begin, stop)
    stamp = await _stamp(consumer, tp, begin)
    warm = begin if stamp is None else await _offset_at(consumer, tp, max(0, stamp - warm_up_ms), kept.end)
    return Slice(tp.partition, min(max(kept.first, warm), begin), begin, stop)


async def _offset_at(consumer: AIOKafkaConsumer, tp: TopicPartition, time_ms: int, end: int) -> int:
    """The first record stamped at or after a time; the end where there is none."""
    found = (await consumer.offsets_for_times({tp: time_ms}))[tp]
    return end if found is None else min(int(found.offset), end)


async def _stamp(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> int | None:
    """The Kafka timestamp of the first record at or after an offset; None where none comes."""
    consumer.assign([tp])
    consumer.seek(tp, offset)
    found = await consumer.getmany(tp, timeout_ms=_RECORD_WAIT_MS, max_records=1)
    return int(found[tp][0].timestamp) if found.get(tp) else None


def _lost(span: Range, kept: dict[TopicPartition, _Kept]) -> Iterator[str]:
    """Offsets asked for by number that are gone, or not there yet."""
    for tp, held in kept.items():
        wanted = span.first_of(tp.partition)
        if wanted is not None and wanted < held.first:
            yield f"{_name(tp)}: retention has removed the offsets {wanted:,} to {held.first - 1:,} of the range"
        if span.last_offset is not None and span.last_offset >= held.end:
            yield f"{_name(tp)} ends at offset {held.end - 1:,}; the range was asked for to {span.last_offset:,}"


async def _gaps(consumer: AIOKafkaConsumer, span: Range, kept: dict[TopicPartition, _Kept]) -> Any:
    """Where the range begins in time before what retention has left."""
    for tp, held in kept.items():
        if span.first_of(tp.partition) is not None or not 0 < held.first < held.end:
            continue
        stamp = await _stamp(consumer, tp, held.first)
        if stamp is not None and (span.start_ms is None or span.start_ms < stamp):
            yield (
                f"{_name(tp)}: retention has removed what is earlier than {told(stamp)} ({held.first:,} offsets); "
                "the replay begins there"
            )


async def _nothing(config: Config, kept: dict[TopicPartition, _Kept]) -> str:
    """Why there is nothing to read: what the topic does hold."""
    async with consumer_of(config) as consumer:
        lines = []
        for tp, held in kept.items():
            stamp = await _stamp(consumer, tp, held.first) if held.first < held.end else None
            begins = f", the first of {told(stamp)}" if stamp is not None else ""
            lines.append(f"{_name(tp)} holds {held.end - held.first:,} records{begins}")
    return f"no record lies in the range: {'; '.join(lines)}"


def setting(config: Config, topic: str, name: str) -> str:
    """A setting of a topic; empty where the broker does not say."""

    async def ask(admin: Any) -> str:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        entries = [entry for answer in answers for resource in answer.resources for entry in resource[4]]
        return next((str(entry[1]) for entry in entries if entry[0] == name), "")

    try:
        return ask_cluster(config.brokers, ask, **security_settings(config.security))
    except Exception:  # no right to ask for it: a note less, not a replay less
        return ""


def _name(tp: TopicPartition) -> str:
    return f"{tp.topic}[{tp.partition}]"
