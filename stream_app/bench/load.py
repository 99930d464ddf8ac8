"""What the benchmarks read: topics filled as fast as one producer can, the same bytes on every run.

In: a topic and how many records. Out: a full topic, records of each entity in the order of their event time, which is
also their Kafka timestamp. Nothing is remembered.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import DefaultPartitioner

from stream_app.files.as_records import ARROW_HEADERS, arrow_stream
from stream_app.live.topics import create_topics

# A producer's own default of 16 kB makes 40 times as many requests; the broker accepts 1 MB.
_BATCH_BYTES = 512 * 1024
# A few thousand different values: enough that nothing can be cached by a peer, little to draw.
_N_VALUES = 4093
_SEED = 7


@dataclass(frozen=True)
class Load:
    """How the records are spread: `entities` take turns, so that consecutive records are of different ones.

    `period_ms` is the event time between two samples of one entity; a record of many samples covers as many periods.
    """

    records: int = 500_000
    samples_per_record: int = 1
    entities: int = 64
    partitions: int = 4
    period_ms: float = 100.0
    start_ms: int = 1_700_000_000_000
    sensor: str = "ps1"

    @property
    def samples(self) -> int:
        """Samples in all records."""
        return self.records * self.samples_per_record


@dataclass(frozen=True)
class Record:
    """One record to send."""

    key: bytes
    value: bytes
    timestamp_ms: int
    headers: list[tuple[str, bytes]] = field(default_factory=list)


SINGLES = Load()
CHUNKS = Load(records=150_000, samples_per_record=100, period_ms=10.0)
ARROWS = Load(records=15_000, samples_per_record=1_000, period_ms=1.0)


def load_samples(bootstrap: str, topic: str, load: Load = SINGLES) -> None:
    """Fills the topic with JSON records of one sample, 48 bytes each. Raises BrokerUnreachable."""
    fill(bootstrap, topic, load, records_of(load))


def load_chunks(bootstrap: str, topic: str, load: Load = CHUNKS) -> None:
    """Fills the topic with JSON records of `load.samples_per_record` samples. Raises BrokerUnreachable."""
    fill(bootstrap, topic, load, _chunks(load))


def load_arrow(bootstrap: str, topic: str, load: Load = ARROWS) -> None:
    """Fills the topic with Arrow streams of `load.samples_per_record` rows. Raises BrokerUnreachable."""
    fill(bootstrap, topic, load, _arrows(load))


def _turns(load: Load) -> Iterator[tuple[bytes, float]]:
    """Gives each record's entity and the event time of its first sample, milliseconds."""
    keys = [f"entity-{number:03d}".encode() for number in range(load.entities)]
    for index in range(load.records):
        turn, entity = divmod(index, load.entities)
        yield keys[entity], load.start_ms + turn * load.samples_per_record * load.period_ms


def _values() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Gives values between 100.0 and 199.9 with one decimal, so that every JSON record has the same length."""
    return np.random.default_rng(_SEED).integers(1000, 2000, _N_VALUES) / 10


def records_of(load: Load) -> Iterator[Record]:
    """The records of one sample, in order."""
    values = itertools.cycle([str(value) for value in _values()])
    for (key, t_ms), value in zip(_turns(load), values, strict=False):
        yield Record(key, f'{{"sensor":"{load.sensor}","t":{int(t_ms)},"value":{value}}}'.encode(), int(t_ms))


def _chunks(load: Load) -> Iterator[Record]:
    words = itertools.cycle([str(value) for value in _values()])
    rate_hz = 1000 / load.period_ms
    for key, t_ms in _turns(load):
        listed = ",".join(itertools.islice(words, load.samples_per_record))
        text = f'{{"sensor":"{load.sensor}","t":{int(t_ms)},"rate_hz":{rate_hz:g},"values":[{listed}]}}'
        yield Record(key, text.encode(), int(t_ms))


def _arrows(load: Load) -> Iterator[Record]:
    n_rows = load.samples_per_record
    doubled = np.resize(_values(), _N_VALUES + n_rows)
    codes = pa.array(np.zeros(n_rows, np.int32))
    sensor = pa.DictionaryArray.from_arrays(codes, pa.array([load.sensor]))
    steps_us = (np.arange(n_rows) * load.period_ms * 1000).astype(np.int64)
    for index, (key, t_ms) in enumerate(_turns(load)):
        first = index * n_rows % _N_VALUES
        t_us, value = pa.array(int(t_ms * 1000) + steps_us), pa.array(doubled[first : first + n_rows])
        batch = pa.record_batch([sensor, t_us, value], names=["sensor", "t_us", "value"])
        yield Record(key, arrow_stream(batch), int(t_ms), ARROW_HEADERS)


def fill(bootstrap: str, topic: str, load: Load, records: Iterator[Record]) -> None:
    """Makes the topic and sends the records. Raises BrokerUnreachable."""
    create_topics(bootstrap, {topic: load.partitions})
    asyncio.run(_send(bootstrap, topic, load, records))


async def _send(bootstrap: str, topic: str, load: Load, records: Iterator[Record]) -> None:
    """Sends whole batches, built here: one `send` per record would take a minute for what takes seconds so."""
    numbers = list(range(load.partitions))
    partition_of = DefaultPartitioner()
    chosen: dict[bytes, int] = {}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=_BATCH_BYTES) as producer:
        batches = [producer.create_batch() for _ in numbers]
        sent = []
        for record in records:
            if record.key not in chosen:
                chosen[record.key] = partition_of(record.key, numbers, numbers)
            partition = chosen[record.key]
            if not _append(batches[partition], record):
                sent.append(await producer.send_batch(batches[partition], topic, partition=partition))
                batches[partition] = producer.create_batch()
                _append(batches[partition], record)
        sent += [await producer.send_batch(batch, topic, partition=p) for p, batch in enumerate(batches)]
        await asyncio.gather(*sent)


def _append(batch: Any, record: Record) -> bool:
    """Whether the record still fitted into the batch."""
    added = batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=record.headers)
    return added is not None
