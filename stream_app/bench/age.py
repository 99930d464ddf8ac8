"""`bench age`: what a sample costs when the stream is ten times as old.

In: nothing. Out: the benchmark's figures. Remembers: nothing. One pipeline, in process and without Kafka, so that
nothing but its own age differs between the first tenth and the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from stream_app.bench.load import Load, Record, records_of
from stream_app.config import parse
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.samples import RawBatch

YOUNG = 100_000  # samples; several windows of each entity
AGE = 10
BATCH = 2_000
EVERY = 20  # batches between two checkpoints, whose cost counts


def run() -> dict[str, Any]:
    """The cost of a sample in the last tenth of the stream over that in the first; the first is measured warm."""
    pipeline = Pipeline(PipelineSpec(parse({"sources": [{"topic": "bench"}]}), topic="bench"))
    stream = batches(Load(records=(AGE + 1) * YOUNG))
    costs = [_cost_us(pipeline, stream) for _ in range(AGE + 1)][1:]  # the first fills caches and windows
    ratio = costs[-1] / costs[0]
    return {
        "value": round(ratio, 3),
        "unit": "cost per sample at ten times the age over that at one",
        "ratios": {"young": round(ratio, 3)},
        "runs": {"us_per_sample": [round(cost, 3) for cost in costs]},
    }


def batches(load: Load) -> Iterator[RawBatch]:
    """The load as a worker would fetch it from one partition."""
    records: list[Record] = []
    offset = 0
    for record in records_of(load):
        records.append(record)
        if len(records) == BATCH:
            yield as_batch(records, offset)
            offset, records = offset + BATCH, []


def as_batch(records: list[Record], first_offset: int) -> RawBatch:
    """Neighbouring records of a partition."""
    return RawBatch(
        topic="bench",
        partition=0,
        keys=[record.key for record in records],
        values=[record.value for record in records],
        offsets=np.arange(first_offset, first_offset + len(records), dtype=np.int64),
        clock_us=np.array([record.timestamp_ms * 1000 for record in records], np.int64),
        headers=[record.headers for record in records],
    )


def _cost_us(pipeline: Pipeline, stream: Iterator[RawBatch]) -> float:
    """Process time per sample over the next tenth, checkpoints included."""
    fetched = [next(stream) for _ in range(YOUNG // BATCH)]
    began = time.process_time()
    for i, batch in enumerate(fetched, 1):
        pipeline.step(batch)
        if i % EVERY == 0:
            pipeline.committed(pipeline.checkpoint())
    return (time.process_time() - began) / YOUNG * 1e6
