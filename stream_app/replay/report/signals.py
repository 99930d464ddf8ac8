"""The sensors' signals of a few entities over the range of a replay, for its report.

In: the plan, and the entities that the report shows. Out: lowest and highest values over time. Remembers: nothing.

The records are read a second time, those of other entities undecoded: which entities are worth showing is known only
when all have been judged, and to keep the signals of all of them meanwhile would take memory without a bound.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from aiokafka import TopicPartition

from models.detector import Detector
from models.scenes import F64, I64
from stream_app.config import Config
from stream_app.live.topic_batches import consumer_of
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.replay.finding import Plan
from stream_app.replay.reading import records
from stream_app.replay.report.findings import Span
from stream_app.report.decimate import Envelope
from stream_app.samples import RawBatch

BUCKETS = 700


@dataclass(frozen=True)
class Signal:
    """One sensor of one entity."""

    entity: str
    sensor: str
    t_us: I64
    low: F64
    high: F64


def signals(config: Config, detector: Detector, plan: Plan, wanted: dict[str, Span]) -> list[Signal]:
    """All sensors of the entities, each over its span of event time. Raises BrokerUnreachable."""
    if detector.kind != "sensors" or not wanted:
        return []
    return asyncio.run(_signals(config, detector, plan, wanted))


async def _signals(config: Config, detector: Detector, plan: Plan, wanted: dict[str, Span]) -> list[Signal]:
    n = len(detector.sensors)
    drawn = {entity: Envelope(n, span.start_us, span.end_us, BUCKETS) for entity, span in wanted.items()}
    keys = {entity.encode() for entity in wanted}
    if any(source.default_entity in wanted for source in config.sources):
        keys.add(b"")
    async with consumer_of(config) as consumer:
        for s in plan.slices:
            decoder = Pipeline(PipelineSpec(config, detector, plan.topic, s.partition))
            async for batch in records(consumer, TopicPartition(plan.topic, s.partition), s.warm_up, s.end):
                _draw(decoder, _of(batch, keys), drawn)
    found = [(entity, i, envelope.series(i)) for entity, envelope in drawn.items() for i in range(n)]
    return [Signal(entity, detector.sensors[i], *series) for entity, i, series in found if len(series[0])]


def _of(batch: RawBatch, keys: set[bytes]) -> RawBatch:
    """The records with one of the keys; a record without a key counts as an empty one."""
    at = [i for i, key in enumerate(batch.keys) if (key or b"") in keys]
    keys_of, values, headers = ([column[i] for i in at] for column in (batch.keys, batch.values, batch.headers))
    return RawBatch(batch.topic, batch.partition, keys_of, values, batch.offsets[at], batch.clock_us[at], headers)  # type: ignore[arg-type]


def _draw(pipeline: Pipeline, batch: RawBatch, drawn: dict[str, Envelope]) -> None:
    samples = pipeline.decoder.decode(batch).samples
    for slot in np.unique(samples.entity).tolist():
        envelope = drawn.get(pipeline.keys.name(slot))
        if envelope is not None:
            at = np.flatnonzero((samples.entity == slot) & ~samples.end)
            envelope.add(samples.sensor[at].astype(np.int64), samples.t_us[at], samples.value[at])
