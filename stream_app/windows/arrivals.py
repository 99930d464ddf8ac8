"""A batch by entity: what came for each, in the order in which it came.

In: `Samples` in order of arrival. Out: `Arrivals`. Remembers: nothing.

Records of many samples make long runs of rows of one entity. Runs are put in order; a column is copied run by run, and
only if somebody wants it by entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from models.scenes import I32, I64
from stream_app.samples import Samples
from stream_app.windows.segments import Columns, bases_of, grouped, lengths_of, picked, starts_of


@dataclass(frozen=True)
class Arrivals:
    """`n` samples of `g` entities."""

    slots: I32  # [g] ascending
    starts: I64  # [g] the first row of each
    lengths: I64  # [g]
    first_clock_us: I64  # [g] the partition's clock at its first and at its last sample
    last_clock_us: I64  # [g]
    columns: Columns  # [n] each, in order of arrival
    runs: tuple[I64, I64]  # starts and lengths of ranges of rows that give the rows by entity, end to end

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def by_entity(self, *names: str) -> Columns:
        """Columns by entity, of an entity as they came."""
        return picked({name: self.columns[name] for name in names}, *self.runs)


def arrivals(samples: Samples, names: Sequence[str]) -> Arrivals:
    """The samples by entity, with the columns of these names."""
    starts = starts_of(samples.entity)
    slots, lengths = samples.entity[starts], lengths_of(starts, len(samples))
    order = grouped(slots)
    slots, starts, lengths = slots[order], starts[order], lengths[order]
    first = starts_of(slots)
    last = first + lengths_of(first, len(slots)) - 1
    counts = np.add.reduceat(lengths, first) if len(first) else lengths
    return Arrivals(
        slots=slots[first],
        starts=bases_of(counts),
        lengths=counts,
        first_clock_us=samples.clock_us[starts[first]],
        last_clock_us=samples.clock_us[starts[last] + lengths[last] - 1],
        columns={name: getattr(samples, name) for name in names},
        runs=(starts, lengths),
    )


def without(samples: Samples, rows: I64) -> Samples:
    """The samples but for some rows."""
    if not len(rows):
        return samples
    return Samples(*(np.delete(getattr(samples, f.name), rows) for f in fields(Samples)))
