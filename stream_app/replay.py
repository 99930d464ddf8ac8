"""`tailrace replay`: a past range of a topic through the pipeline that runs live, into a folder of results.

In: a topic, a range and a bundle. Out: what `tailrace detect` writes. Remembers: nothing; it reads without a group, so
the live group, its offsets and its topics are never touched.

A range is given by the records' Kafka timestamps, or by offsets of one partition, as an alert's `inputs` name them.
Partitions follow one another, so two replays of a range write the same. Windows that are still open at the end of the
range stay open, as they would live.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from models.detector import Detector
from stream_app.cli.output import progress
from stream_app.config import Config
from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.results import ResultFolder
from stream_app.ledger import Accounting
from stream_app.live.topic_batches import consumer_of, partitions_of, raw_batch
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.samples import RawBatch

_POLL_MS = 500
BATCH = 10_000  # records; always the same, so that two replays write the same rows in the same order


@dataclass(frozen=True)
class Range:
    """Half-open in time or, within one partition, closed in offsets. None: from the first, to the end of now."""

    start_ms: int | None = None
    end_ms: int | None = None
    partition: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None

    def __post_init__(self) -> None:
        if self.partition is None and (self.first_offset is not None or self.last_offset is not None):
            raise UsageError("offsets count within a partition: give --partition as well")


@dataclass(frozen=True)
class Replayed:
    """What there is to say after the run."""

    accounting: Accounting
    n_alerts: int
    records: int


async def replay(config: Config, detector: Detector, span: Range, out: Path) -> Replayed:
    """Replays the range of the configuration's one source. Raises ConfigurationError, BrokerUnreachable."""
    topic = config.sources[0].topic
    tps = [tp for tp in partitions_of(config, topic) if span.partition in (None, tp.partition)]
    if not tps:
        raise ConfigurationError(f"{topic} has no partition {span.partition}")
    total, records = Accounting(), 0
    with ResultFolder(out, detector, config.detector) as results:
        async with consumer_of(config) as consumer:
            for tp in tps:
                pipeline = Pipeline(PipelineSpec(config, detector, topic, tp.partition))
                async for batch in _records(consumer, tp, span):
                    results.add(pipeline.step(batch))
                    pipeline.committed(pipeline.checkpoint())
                    records += len(batch)
                total = Accounting.of(total.counts() + pipeline.accounting().counts())
        results.finish(total.as_dict(), {})
        return Replayed(total, results.n_alerts, records)


async def _records(consumer: AIOKafkaConsumer, tp: TopicPartition, span: Range) -> AsyncIterator[RawBatch]:
    """The partition's records in the range, in batches that do not depend on how the broker hands them over."""
    consumer.assign([tp])
    begin, end = await _bounds(consumer, tp, span)
    waiting: list[ConsumerRecord] = []
    if begin < end:
        consumer.seek(tp, begin)
    with progress(f"{tp.topic}[{tp.partition}]", end - begin) as tell:
        while begin < end and (at := await consumer.position(tp)) < end:
            found = await consumer.getmany(tp, timeout_ms=_POLL_MS)
            waiting += [record for record in found.get(tp, ()) if record.offset < end]
            while len(waiting) >= BATCH:
                yield raw_batch(tp, waiting[:BATCH])
                waiting = waiting[BATCH:]
            tell(min(at, end) - begin)
    if waiting:
        yield raw_batch(tp, waiting)


async def _bounds(consumer: AIOKafkaConsumer, tp: TopicPartition, span: Range) -> tuple[int, int]:
    """Offsets of the range, half-open, within what the topic still holds."""
    first = (await consumer.beginning_offsets([tp]))[tp]
    end = (await consumer.end_offsets([tp]))[tp]
    begin = first if span.first_offset is None else max(first, span.first_offset)
    stop = end if span.last_offset is None else min(end, span.last_offset + 1)
    if span.start_ms is not None:
        begin = max(begin, await _offset_at(consumer, tp, span.start_ms, end))
    if span.end_ms is not None:
        stop = min(stop, await _offset_at(consumer, tp, span.end_ms, end))
    return begin, stop


async def _offset_at(consumer: AIOKafkaConsumer, tp: TopicPartition, time_ms: int, end: int) -> int:
    """The first record stamped at or after a time; the end where there is none."""
    found = (await consumer.offsets_for_times({tp: time_ms}))[tp]
    return end if found is None else int(found.offset)


def moment_ms(text: str | None) -> int | None:
    """Milliseconds since the epoch of "2026-01-01T00:00:00Z" or of a number. Raises UsageError.

    >>> moment_ms("2023-11-14T22:13:20Z")
    1700000000000
    """
    if text is None or text.lstrip("-").isdigit():
        return None if text is None else int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as problem:
        raise UsageError(f"{text!r} is no time; write 2026-01-01T00:00:00Z or epoch milliseconds") from problem
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
