"""What flows between the first stages, as columns: records as fetched, and the samples decoded from them.

In: Kafka or a file. Out: `RawBatch` from the transport, `Samples` from `stream_app.records`. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.scenes import F64, I32, I64, Bool

Headers = Sequence[tuple[str, bytes]]

# The years 2 to 9998: of other times RFC 3339 has none for the edges of windows a year long.
EARLIEST_US, LATEST_US = -62_104_060_800_000_000, 253_370_764_800_000_000
_MS_MAX = 2**63 // 1_000 - 1


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

    @cached_property
    def has_headers(self) -> bool:
        """Whether any record has some: most streams have none, and who looks for one need not look at each."""
        return any(self.headers)


@dataclass(frozen=True)
class Runs:
    """Neighbouring samples that came in one record: what they have in common. [r] each; no run is empty.

    A tombstone is a run of one with `end` set; it holds no value and is not counted as a sample.
    """

    length: I64  # samples
    entity: I32  # slot in stream_app.keys.Keys
    offset: I64  # of the record
    clock_us: I64  # the partition's clock when it came: the largest Kafka timestamp so far; never falls
    seq: I64  # of tokens: index of the run's first in its session, or -1 where the producer gives none
    end: Bool

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class Samples:
    """Samples in order of arrival. What a record's samples share is kept once per run; by sample it can be asked for.

    For tokens `value` is the id in the vocabulary.
    """

    runs: Runs
    sensor: I32  # [n] index in the detector's sensors
    t_us: I64  # [n]
    value: F64  # [n] NaN: missing

    @classmethod
    def of_rows(cls, *, sensor: I32, t_us: I64, value: F64, **shared: NDArray[Any]) -> Samples:
        """Of columns that all have a row per sample: each sample is a run. `shared`: the columns of `Runs`."""
        return cls(Runs(length=np.ones(len(t_us), np.int64), **shared), sensor, t_us, value)

    def __len__(self) -> int:
        return len(self.t_us)

    @cached_property
    def entity(self) -> I32:
        return self._by_sample(self.runs.entity)

    @cached_property
    def offset(self) -> I64:
        return self._by_sample(self.runs.offset)

    @cached_property
    def clock_us(self) -> I64:
        return self._by_sample(self.runs.clock_us)

    @cached_property
    def end(self) -> Bool:
        return self._by_sample(self.runs.end)

    @cached_property
    def seq(self) -> I64:
        first, length = self._by_sample(self.runs.seq), self.runs.length
        place = np.arange(len(self)) - self._by_sample(length.cumsum() - length)
        return np.where(first < 0, -1, first + place)

    def _by_sample(self, column: NDArray[Any]) -> NDArray[Any]:
        return column if len(self.runs) == len(self) else np.repeat(column, self.runs.length)


def joined(parts: Sequence[Samples]) -> Samples:
    """Several end to end."""
    if len(parts) == 1:
        return parts[0]
    parts = [no_samples(), *parts]
    runs = Runs(*(np.concatenate([getattr(p.runs, f.name) for p in parts]) for f in fields(Runs)))
    return Samples(runs, *(np.concatenate([getattr(p, name) for p in parts]) for name in ("sensor", "t_us", "value")))


def clock_of_ms(stamps: Sequence[int]) -> I64:
    """Kafka timestamps as microseconds. A producer may write any number there; too large ones stay as large as fits."""
    return np.minimum(np.array(stamps, np.int64), _MS_MAX) * 1_000


def no_samples() -> Samples:
    """Zero samples."""
    i32, i64 = np.empty(0, np.int32), np.empty(0, np.int64)
    return Samples(Runs(i64, i32, i64, i64, i64, np.empty(0, bool)), i32, i64, np.empty(0))


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
