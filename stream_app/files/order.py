"""The order of a file's rows: whether it is that of arrival, or must be made so; and where an entity's rows end.

In: a `Reader`. Out: `Order`, and the rows in order of arrival. Remembers: nothing.

A recording keeps the order in which samples came, and what came too late in it is late. A table that was written sensor
by sensor, or shuffled, has no such order: taken literally nearly all of it would be late, so it is sorted by time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.scenes import I32, I64, Bool
from stream_app.files.reader import Reader, Rows

SORTED_ABOVE = 0.05  # share of late rows: a recording with more would be of no use, a table by sensor has 1 - 1/sensors
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Order:
    """What one pass over entities and times shows."""

    n_rows: int
    n_late: int  # rows later than allowed, were the file's order that of arrival
    last_row: I64  # [entity] number of the entity's last row

    @property
    def of_arrival(self) -> bool:
        return self.n_late <= SORTED_ABOVE * self.n_rows


def order_of(reader: Reader, lateness_us: int) -> Order:
    """Reads the file once. For tokens the order in the file is the sequence, whatever the times say."""
    newest, last_row = np.empty(0, np.int64), np.empty(0, np.int64)
    n_rows = n_late = 0
    for entity, t_us, row in reader.times():
        newest, last_row = _grown(newest, len(reader.entities)), _grown(last_row, len(reader.entities))
        if reader.layout.kind == "sensors":
            n_late += int(_late(entity, t_us, newest, lateness_us).sum())
        np.maximum.at(newest, entity, t_us)
        last_row[entity] = row
        n_rows += len(entity)
    return Order(n_rows, n_late, last_row)


def arriving(reader: Reader, order: Order) -> Iterator[Rows]:
    """The rows in order of arrival: as the file has them, or by time, which takes all of it and numbers it anew."""
    if order.of_arrival:
        yield from reader.batches()
        return
    batches = list(reader.batches())
    by_time = np.argsort(np.concatenate([rows.t_us for rows in batches]), kind="stable")
    names = ("entity", "sensor", "t_us", "value")
    entity, sensor, t_us, value = (np.concatenate([getattr(rows, name) for rows in batches])[by_time] for name in names)
    everything = Rows(entity, sensor, t_us, value, np.arange(len(by_time)))
    for start in range(0, len(everything), 65_536):
        yield everything.take(slice(start, start + 65_536))


def _late(entity: I32, t_us: I64, newest: I64, lateness_us: int) -> Bool:
    """Which rows lie more than the lateness behind what the entity had shown before them."""
    order = np.argsort(entity, kind="stable")
    sorted_entity, t = entity[order], np.maximum(t_us, newest[entity])[order]
    # The running maximum within each entity, in one go: of ranks, which the entity's own offset keeps apart.
    times, rank = np.unique(t, return_inverse=True)
    running = np.maximum.accumulate(rank + sorted_entity.astype(np.int64) * len(times)) % max(1, len(times))
    late = np.empty(len(t), bool)
    late[order] = t_us[order] + lateness_us < times[running]
    return late


def _grown(array: I64, n: int) -> I64:
    return np.concatenate([array, np.full(n - len(array), _NEVER)]) if n > len(array) else array
