"""records, continued: samples on their way from records to columns, and what single samples are refused for.

In: the parts of records, in order of arrival. Out: `Rows`. Remembers: what was added, until `rows` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.scenes import F64, I32, I64, Bool
from stream_app.records.names import NAME_MAX, REASONS
from stream_app.records.refusals import Reason
from stream_app.samples import EARLIEST_US, LATEST_US, DeadLetter

FAR_US = 4e18  # beyond any time that is accepted, and twice it still fits int64
EXACT = 2**53  # integers below it are floats without rounding
SAMPLE_REASONS = (*REASONS.values(), Reason.NOT_FINITE, Reason.OUTSIDE_TYPE, Reason.TIME_AHEAD, Reason.TIME_BEHIND)
_DETAIL = {
    Reason.UNKNOWN_SENSOR: "the detector does not know the sensor",
    Reason.NAME_TOO_LONG: f"a name of at most {NAME_MAX} characters is expected",
    Reason.TOO_MANY_SENSORS: "limits.sensors is reached",
    Reason.TOO_MANY_TOKENS: "limits.tokens is reached",
    Reason.NOT_FINITE: "a finite number is expected; null or NaN is a missing sample",
    Reason.OUTSIDE_TYPE: "an integer from 0 to the largest of its type is expected",
    Reason.TIME_AHEAD: "after the stream's clock by more than windows.max_ahead",
    Reason.TIME_BEHIND: "before the stream's clock by more than windows.max_behind",
}


@dataclass(frozen=True)
class Rows:
    """Samples as columns, in order of arrival. What the samples of a record share stands once per run. [r], [n]"""

    record: I64  # [r] index in the run of records
    count: I64  # [r] its samples
    sensor: I32  # [n] negative: a code of stream_app.records.names
    t_us: I64  # [n]
    value: F64  # [n]
    seq: I64  # [r] of the first
    end: Bool  # [r]
    largest: F64 | None = (
        None  # [n] of the type that the record gives; infinite, or no column, where any number will do
    )

    def __len__(self) -> int:
        return len(self.t_us)

    def spread(self, column: NDArray[Any]) -> NDArray[Any]:
        """A column of runs, by sample."""
        return column if len(self.count) == len(self) else np.repeat(column, self.count)

    def where(self, chosen: Bool) -> Rows:
        """Some of the samples, each as a run of its own."""
        seq, position = self.spread(self.seq), np.arange(len(self)) - self.spread(self.count.cumsum() - self.count)
        return Rows(
            record=self.spread(self.record)[chosen],
            count=np.ones(int(chosen.sum()), np.int64),
            sensor=self.sensor[chosen],
            t_us=self.t_us[chosen],
            value=self.value[chosen],
            seq=np.where(seq < 0, -1, seq + position)[chosen],
            end=self.spread(self.end)[chosen],
            largest=None if self.largest is None else self.largest[chosen],
        )


@dataclass(frozen=True)
class Parts:
    """The samples of n records: `count[i]` of record i, at `t_us[i]` and every `step_us[i]` from there."""

    t_us: F64
    count: I64
    sensor: I32  # one per sample, or one per record
    value: F64  # one per sample
    step_us: F64 | None = None
    largest: F64 | None = None
    seq: I64 | None = None  # of the first, -1 where not given
    end: Bool | None = None
    record: I64 | None = None  # where they are not all records of the run


@dataclass(frozen=True)
class Columns:
    """The samples of records that came as columns [n]."""

    count: I64  # samples of each record
    sensor: I32
    t_us: I64
    value: F64


def micros(t_us: F64) -> I64:
    """Whole microseconds; times beyond all acceptable ones stay so and can still be added to."""
    rounded: F64 = np.rint(t_us)
    return rounded.clip(-FAR_US, FAR_US).astype(np.int64)


def rows_of_parts(parts: Parts) -> Rows:
    """The samples of records, in order."""
    count, total = parts.count, int(parts.count.sum())
    several = total != len(count) or not (count == 1).all()

    def spread(column: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(column, count) if several and len(column) == len(count) else column

    t_us = micros(parts.t_us)
    t_us = _times(t_us, parts.step_us, count) if parts.step_us is not None and several else spread(t_us)
    return Rows(
        record=np.arange(len(count)) if parts.record is None else parts.record,
        count=count,
        sensor=spread(parts.sensor),
        t_us=t_us,
        value=parts.value,
        seq=np.full(len(count), -1) if parts.seq is None else parts.seq,
        end=np.zeros(len(count), bool) if parts.end is None else parts.end,
        largest=None if parts.largest is None else spread(parts.largest),
    )


def _times(first_us: I64, step_us: F64, count: I64) -> I64:
    """The time of each sample of records whose samples come at a constant rate."""
    before, total = count.cumsum() - count, int(count.sum())
    step = step_us[0]
    if (step_us == step).all() and step == np.rint(step) and step * total < EXACT:  # almost always
        times: I64 = np.arange(total) * int(step)
        times += np.repeat(first_us - before * int(step), count)
        return times
    position = np.arange(total) - np.repeat(before, count)
    return np.repeat(first_us, count) + micros(np.multiply(position, np.repeat(step_us, count), dtype=np.float64))


def rows_of_columns(records: Sequence[int], columns: Columns) -> Rows:
    """The samples of records that came as columns."""
    n, far = len(records), int(FAR_US)
    return Rows(
        record=np.array(records, np.int64),
        count=columns.count,
        sensor=columns.sensor,
        t_us=columns.t_us if _near(columns.t_us) else columns.t_us.clip(-far, far),
        value=columns.value,
        seq=np.full(n, -1),
        end=np.zeros(n, bool),
    )


def _near(t_us: I64) -> bool:
    return bool(t_us.min(initial=0) >= -FAR_US and t_us.max(initial=0) <= FAR_US)


def problems(rows: Rows, clock_us: I64, max_ahead_us: int, max_behind_us: int) -> I32 | None:
    """Why samples are refused: positions in SAMPLE_REASONS, -1 where not; None if no sample is.

    clock_us: by record of the run; it never falls, and is negative while unknown.
    """
    if _faultless(rows, clock_us, max_ahead_us, max_behind_us):
        return None
    clock = clock_us[rows.spread(rows.record)]
    found = [
        *(rows.sensor == code for code in REASONS),
        np.isinf(rows.value),
        np.zeros(len(rows), bool) if rows.largest is None else _outside(rows.value, rows.largest),
        rows.t_us > np.where(clock < 0, LATEST_US, np.minimum(clock + max_ahead_us, LATEST_US)),
        rows.t_us < np.where(clock < 0, 0, np.maximum(clock - max_behind_us, EARLIEST_US)),
    ]
    assert len(found) == len(SAMPLE_REASONS)
    reasons: I32 = np.select(found, range(len(found)), -1).astype(np.int32)
    reasons[rows.spread(rows.end)] = -1
    return reasons


def _faultless(rows: Rows, clock_us: I64, max_ahead_us: int, max_behind_us: int) -> bool:
    """Whether surely no sample is to be refused: a look at the extremes, since almost always none is."""
    if len(rows) == 0:
        return True
    if (
        clock_us[0] < 0
        or rows.t_us.max() > min(clock_us[0] + max_ahead_us, LATEST_US)
        or rows.t_us.min() < max(clock_us[-1] - max_behind_us, EARLIEST_US)
    ):
        return False
    return bool(rows.largest is None and rows.sensor.min() >= 0 and not _infinite(rows.value))


def _infinite(value: F64) -> bool:
    """Whether one is infinite. The sum of finite numbers is finite, mostly, and takes a third of the time to see."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not np.isfinite(value.sum()) and bool(np.isinf(value).any())


def _outside(value: F64, largest: F64) -> Bool:
    """Which values are not integers from 0 to the largest of their type. Any number will do where that is infinite."""
    wrong = (value < 0) | (value > largest) | (value != np.floor(value))
    refused: Bool = wrong & np.isfinite(largest) & ~np.isnan(value)
    return refused


def letters(rows: Rows, reasons: I32, clock_us: I64, first_record: int) -> list[DeadLetter]:
    """One dead letter for each record and reason among samples that are all refused, in order of records."""
    record = rows.spread(rows.record)
    group = record * len(SAMPLE_REASONS) + reasons
    _, index, count = np.unique(group, return_index=True, return_counts=True)
    found = []
    for row, n in zip(index.tolist(), count.tolist(), strict=True):
        reason = SAMPLE_REASONS[reasons[row]]
        detail = _DETAIL[reason]
        if reason in (Reason.TIME_AHEAD, Reason.TIME_BEHIND):
            detail = f"{detail}: {(rows.t_us[row] - clock_us[record[row]]) / 1e6:+.0f} s"
        found.append(DeadLetter(first_record + int(record[row]), reason, detail, n))
    return found
