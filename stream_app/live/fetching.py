"""What a fetch becomes: columns of one partition's records, read from the wire format's own batches; and how far ahead.

In: aiokafka's fetch results. Out: `Fetched`. Remembers (`Gates`): which partitions may be read, and how many of their
batches are being worked on.

aiokafka makes an object per record, which costs as much as decoding its JSON. Here its compiled reader of record
batches is asked for keys, values, offsets and times, which go straight into columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import OffsetAndMetadata

from stream_app.live.leases import Lease
from stream_app.samples import Headers, RawBatch, clock_of_ms

# One being worked on, one waiting: more would add memory and age, not speed.
BATCHES_AHEAD = 2
_NO_HEADERS: Headers = ()


@dataclass(frozen=True)
class Fetched:
    """Records of one partition, and where its reader stood before and after them. Records may be missing in between:
    compaction and transactions leave holes in the offsets."""

    records: RawBatch
    position: int
    next_position: int


class PartitionReader(Protocol):
    """Who works on the partitions; the application gives it to the consumer as `partition_reader`."""

    source_topics: frozenset[str]

    async def open(self, commits: Mapping[Any, OffsetAndMetadata | None], lease: Lease) -> dict[Any, int]:
        """The partitions now held, their tables recovered, and what the group has committed; gives where to read."""
        ...

    async def read(self, fetched: Fetched) -> None:
        """The next batch of a partition. It is over when this returns."""
        ...

    def settled(self) -> None:
        """A rebalance is over."""
        ...

    def fail(self, problem: BaseException) -> None:
        """Something broke that can't be dead-lettered: the process must end."""
        ...


class Gates:
    """Which partitions may be read, and how far ahead. Used by both of Faust's threads: each call is one step."""

    def __init__(self) -> None:
        self._ahead: dict[TopicPartition, int] = {}
        self.changed: Callable[[], None] = lambda: None

    def open(self, tps: Iterable[TopicPartition]) -> None:
        self._ahead = dict.fromkeys(tps, 0)
        self.changed()

    def close(self) -> None:
        self._ahead = {}

    def is_open(self, tp: TopicPartition) -> bool:
        return self._ahead.get(tp, BATCHES_AHEAD) < BATCHES_AHEAD

    def enter(self, tp: TopicPartition) -> None:
        if tp in self._ahead:
            self._ahead[tp] += 1

    def leave(self, tp: TopicPartition) -> None:
        """A batch of the partition is done with."""
        if tp in self._ahead:
            self._ahead[tp] = max(0, self._ahead[tp] - 1)
            self.changed()


def read_batch(result: Any, n_max: int) -> Fetched | None:
    """Takes whole record batches from a fetch until there are `n_max` records, as columns.

    None where the fetch is of another assignment or position. Raises CorruptRecordException.
    """
    if not result.has_more() or not result.check_assignment(result._topic_partition):
        return None
    source, tp = result._partition_records, result._topic_partition
    # aiokafka's own way of reading, which we don't go: while it is there it holds, in a cycle, the bytes of the fetch,
    # and Python's collector would come for them every few hundred megabytes.
    source._records_iterator = None
    position = source.next_fetch_offset
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    offsets: list[int] = []
    stamps: list[int] = []
    headers: list[Any] = []
    # The one loop over records in Python: each step is a call of aiokafka's compiled reader.
    add_key, add_value, add_offset = keys.append, values.append, offsets.append
    add_stamp, add_headers = stamps.append, headers.append
    while source._records.has_next() and len(offsets) < n_max:
        for record in _next_batch(source):
            if record.offset >= position:  # the first batch may begin before the offset asked for
                add_key(record.key)
                add_value(record.value)
                add_offset(record.offset)
                add_stamp(record.timestamp)
                add_headers(record.headers or _NO_HEADERS)
    result._update_position()
    if not source._records.has_next():
        result._partition_records = None
    columns = np.array(offsets, np.int64), clock_of_ms(stamps)
    batch = RawBatch(tp.topic, tp.partition, keys, values, *columns, headers)
    return Fetched(batch, position, source.next_fetch_offset)


def _next_batch(source: Any) -> Iterable[Any]:
    """The next record batch, empty where it is a transaction's marker or was aborted; moves the position behind it."""
    batch = source._records.next_batch()
    if not batch.validate_crc():
        raise CorruptRecordException(f"{source._tp.topic}[{source._tp.partition}] at {source.next_fetch_offset}")
    aborted = False
    if batch.producer_id is not None:
        source._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and source._contains_abort_marker(batch):
            source._aborted_producers.discard(batch.producer_id)
        aborted = batch.is_transactional and batch.producer_id in source._aborted_producers
    source.next_fetch_offset = batch.next_offset
    return () if aborted or batch.is_control_batch else batch
