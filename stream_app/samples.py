"""What flows between the first stages, as columns: records as fetched, and the samples decoded from them.

In: Kafka or a file. Out: `RawBatch` from the transport, `Samples` from `stream_app.records`. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.scenes import F64, I32, I64, Bool

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class RawBatch:
    """One partition's run of records in order of offset, undecoded. All columns have the same length."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    offsets: I64
    clock_us: I64  # the Kafka timestamps: the stream's own clock
    headers: Sequence[Headers]

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class Samples:
    """Samples in order of arrival, one row each.

    A tombstone is the row with `end` set; it holds no value and is not counted as a sample. For tokens `value` is the
    id in the vocabulary and `seq` the index of the token in its session, or -1 where the producer gives none.
    """

    entity: I32  # slot in stream_app.keys.Keys
    sensor: I32  # index in the detector's sensors
    t_us: I64
    value: F64  # NaN: missing
    offset: I64  # of the record it came in
    clock_us: I64  # the partition's clock when it came: the largest Kafka timestamp so far; never falls
    seq: I64
    end: Bool

    def __len__(self) -> int:
        return len(self.entity)


def no_samples() -> Samples:
    """Zero samples."""
    i32, i64 = np.empty(0, np.int32), np.empty(0, np.int64)
    return Samples(i32, i32, i64, np.empty(0), i64, i64, i64, np.empty(0, bool))


@dataclass(frozen=True)
class DeadLetter:
    """A record, or a part of it, that can't be used; travels to `<source>-dlt` with the record unchanged."""

    index: int  # of the record in its RawBatch
    reason: str  # one of stream_app.records.decoder.Reason
    detail: str  # what was expected and what came, without the payload
    n_samples: int = 1  # how many samples it counts as


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of a RawBatch. Read: rows without `end`, and the dead letters' n_samples."""

    samples: Samples
    dead_letters: tuple[DeadLetter, ...] = field(default=())
