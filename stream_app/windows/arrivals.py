"""A batch by entity: what came for each, in the order in which it came.

In: `Samples` in order of arrival. Out: `Arrivals`. Remembers: nothing.

Records of many samples make long runs of rows of one entity. Runs are put in order; a column is copied run by run, and
only if somebody wants it by entity. What is looked at row by row is whether times rise, where a record holds several.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.scenes import I32, I64
from stream_app.samples import Runs, Samples
from stream_app.windows.segments import Columns, Joints, bases_of, grouped, lengths_of, picked, starts_of


@dataclass(frozen=True)
class Arrivals:
    """`n` samples of `g` entities in `r` runs; rows are counted by entity, of an entity as they came."""

    slots: I32  # [g] ascending
    starts: I64  # [g] the first row of each
    lengths: I64  # [g]
    first_clock_us: I64  # [g] the partition's clock at its first and at its last sample
    last_clock_us: I64  # [g]
    columns: Columns  # [n] each, in order of arrival
    runs: tuple[I64, I64]  # [r] starts and lengths of ranges of the columns that give the rows, end to end
    offset: I64  # [r]
    clock_us: I64  # [r]
    _heads: I64  # [g] the first run of each
    _at: I64  # [r] the first row of each run
    _order: I64  # [r] which run in order of arrival

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def by_entity(self, *names: str) -> Columns:
        """Columns by entity, of an entity as they came."""
        return picked({name: self.columns[name] for name in names}, *self.runs)

    def by_row(self, column: NDArray[Any]) -> NDArray[Any]:
        """A column of runs, by row."""
        return column if self._single else np.repeat(column, self.runs[1])

    def at(self, name: str, rows: I64) -> NDArray[Any]:
        """A column at some rows."""
        return self.columns[name].take(self._place(rows))

    def pauses(self, least_us: int) -> I64:
        """The rows that came so long, by the partition's clock, after the row before them. Ascending."""
        return self._at[1:][np.diff(self.clock_us) >= least_us]

    def joints(self, stride_us: int) -> Joints:
        """Where a row does not follow the one before it as usual; the first rows of entities are not among them."""
        t_us, sensor, start, length = self.columns["t_us"], self.columns["sensor"], *self.runs
        row, here = self._at[1:], start[1:]
        before = (start + length)[:-1] - 1
        step = t_us.take(here) - t_us.take(before)
        odd = (step <= 0) | (step > stride_us)
        odd[self._heads[1:] - 1] = False
        row, here, before = row[odd], here[odd], before[odd]
        if not self._single:
            inside = self._inside(t_us, stride_us)
            run = np.searchsorted(self._arriving, inside, side="right") - 1
            run, inside = (column[inside != self._arriving[run]] for column in (run, inside))
            place = self._place_of_run[run]
            rows = self._at[place] + inside - start[place]
            order = np.argsort(row := np.append(row, rows), kind="stable")
            row, here, before = row[order], np.append(here, inside)[order], np.append(before, inside - 1)[order]
        step = t_us.take(here) - t_us.take(before)
        falls = (step < 0) | ((step == 0) & (sensor.take(before) >= sensor.take(here)))
        return Joints(row, step, falls)

    # --- private ------------------------------------------------------------------------------------------------------

    @property
    def _single(self) -> bool:
        """Whether each run is one row."""
        return len(self._at) == len(self.columns["t_us"])

    @property
    def _arriving(self) -> I64:
        """The start of each run in order of arrival."""
        starts = np.empty_like(self.runs[0])
        starts[self._order] = self.runs[0]
        return starts

    @property
    def _place_of_run(self) -> I64:
        """Where each run in order of arrival is among those by entity."""
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        return place

    def _inside(self, t_us: I64, stride_us: int) -> I64:
        """Places in order of arrival whose step from the place before is odd, whatever the runs."""
        step = t_us[1:] - t_us[:-1]
        step -= 1
        return np.flatnonzero(step.view(np.uint64) >= stride_us) + 1  # below zero is above any stride

    def _place(self, rows: I64) -> I64:
        if self._single:
            return self.runs[0].take(rows)
        run = np.searchsorted(self._at, rows, side="right") - 1
        place: I64 = self.runs[0][run] + rows - self._at[run]
        return place


def arrivals(samples: Samples) -> Arrivals:
    """The samples by entity."""
    runs = samples.runs
    arriving, order = bases_of(runs.length), grouped(runs.entity)
    slots, starts, lengths = runs.entity[order], arriving[order], runs.length[order]
    at, offset, clock_us = bases_of(lengths), runs.offset[order], runs.clock_us[order]
    first = starts_of(slots)
    last = first + lengths_of(first, len(slots)) - 1
    return Arrivals(
        slots=slots[first],
        starts=at[first],
        lengths=lengths_of(at[first], len(samples)),
        first_clock_us=clock_us[first],
        last_clock_us=clock_us[last],
        columns={"t_us": samples.t_us, "value": samples.value, "sensor": samples.sensor},
        runs=(starts, lengths),
        offset=offset,
        clock_us=clock_us,
        _heads=first,
        _at=at,
        _order=order,
    )


def without(samples: Samples, gone: I64) -> Samples:
    """The samples but for some runs of one."""
    if not len(gone):
        return samples
    runs, rows = samples.runs, bases_of(samples.runs.length)[gone]
    left = Runs(*(np.delete(getattr(runs, f.name), gone) for f in fields(Runs)))
    return Samples(left, *(np.delete(getattr(samples, name), rows) for name in ("sensor", "t_us", "value")))
