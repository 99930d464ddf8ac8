"""records, continued: samples on their way from records to columns, and what single samples are refused for.

In: the parts of records, in order of arrival. Out: `Rows`. Remembers: what was added, until `rows` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.scenes import F64, I32, I64, Bool
from stream_app.names import NAME_MAX, REASONS
from stream_app.refusals import Reason
from stream_app.samples import DeadLetter

FAR_US = 4e18  # beyond any time that is accepted, and twice it still fits int64
_YEAR_10000_US = 253_402_300_800_000_000
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
    """Samples as columns, all [n], in order of arrival."""

    record: I64  # index in the run
    sensor: I32  # negative: a code of stream_app.names
    t_us: I64
    value: F64
    largest: F64  # of the type that the record gives; infinite where any number will do
    seq: I64
    end: Bool

    def __len__(self) -> int:
        return len(self.record)

    def where(self, chosen: Bool | NDArray[np.intp]) -> Rows:
        return Rows(*(getattr(self, f.name)[chosen] for f in fields(Rows)))


class Part(Struct, frozen=True, gc=False):
    """The samples of one record: `values[i]` of `sensors[i]`, or of its only one, at `t_us + i * step_us`."""

    record: int
    t_us: float
    sensors: Sequence[int]
    values: Sequence[float | None]
    step_us: float = 0.0
    largest: float = np.inf
    seq: int = -1  # of the first; they rise by one, or are all -1
    end: bool = False


def micros(t_us: Sequence[float] | F64) -> I64:
    """Whole microseconds; times beyond all acceptable ones stay so and can still be added to."""
    rounded: F64 = np.rint(np.array(t_us, np.float64))
    return rounded.clip(-FAR_US, FAR_US).astype(np.int64)


def rows_of_singles(
    t_ms: Sequence[float],
    sensor: Sequence[int] | I32,
    value: Sequence[float | None],
    seq: Sequence[int] | None = None,
) -> Rows:
    """One sample from each of n records. Columns [n]."""
    n = len(t_ms)
    return Rows(
        record=np.arange(n),
        sensor=np.array(sensor, np.int32),
        t_us=micros(np.array(t_ms, np.float64) * 1_000.0),
        value=np.array(value, np.float64),
        largest=np.full(n, np.inf),
        seq=np.full(n, -1) if seq is None else np.array(seq, np.int64),
        end=np.zeros(n, bool),
    )


def rows_of_columns(record: int, sensor: I32, t_us: I64, value: F64) -> Rows:
    """The samples of one record that came as columns [n]."""
    n = len(sensor)
    t_us = t_us.clip(-int(FAR_US), int(FAR_US))
    return Rows(np.full(n, record), sensor, t_us, value, np.full(n, np.inf), np.full(n, -1), np.zeros(n, bool))


def rows_of_parts(parts: Sequence[Part]) -> Rows:
    """The samples of records of any form. One pass over records; over samples it is numpy's."""
    count = np.array([len(part.values) for part in parts], np.int64)
    position = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    step_us = np.array([part.step_us for part in parts], np.float64)
    seq = np.repeat(np.array([part.seq for part in parts], np.int64), count)
    return Rows(
        record=np.repeat(np.array([part.record for part in parts], np.int64), count),
        sensor=_sensors(parts, count),
        t_us=np.repeat(micros([part.t_us for part in parts]), count) + micros(position * np.repeat(step_us, count)),
        value=_values(parts, len(position)),
        largest=np.repeat(np.array([part.largest for part in parts], np.float64), count),
        seq=np.where(seq < 0, -1, seq + position),
        end=np.repeat(np.array([part.end for part in parts], bool), count),
    )


def _sensors(parts: Sequence[Part], count: I64) -> I32:
    given = np.array([len(part.sensors) for part in parts], np.int64)
    sensors = np.array([sensor for part in parts for sensor in part.sensors], np.int32)
    return np.repeat(sensors, np.repeat(np.where(given == count, 1, count), given))


def _values(parts: Sequence[Part], n: int) -> F64:
    try:
        return np.fromiter(chain.from_iterable([part.values for part in parts]), np.float64, n)
    except TypeError:  # a null among them; numpy takes it for NaN, at twice the time
        return np.array([value for part in parts for value in part.values], np.float64)


def problems(rows: Rows, clock_us: I64, max_ahead_us: int, max_behind_us: int) -> I32 | None:
    """Why samples are refused: positions in SAMPLE_REASONS, -1 where not; None if no sample is.

    clock_us: [n], negative while unknown.
    """
    unclocked = clock_us < 0
    first = np.where(unclocked, 0, clock_us - max_behind_us)
    last = np.where(unclocked, _YEAR_10000_US, clock_us + max_ahead_us)
    known, infinite, early, late = rows.sensor >= 0, np.isinf(rows.value), rows.t_us < first, rows.t_us > last
    typed = np.isfinite(rows.largest)
    if known.all() and not (infinite.any() or early.any() or late.any() or typed.any()):
        return None
    value = np.where(typed, rows.value, 0.0)
    outside = (value < 0) | (value > rows.largest) | (value != np.floor(value)) & ~np.isnan(value)
    found = [*(rows.sensor == code for code in REASONS), infinite, outside, late, early]
    assert len(found) == len(SAMPLE_REASONS)
    reasons: I32 = np.select(found, range(len(found)), -1).astype(np.int32)
    reasons[rows.end] = -1
    return reasons


def letters(rows: Rows, reasons: I32, clock_us: I64, first_record: int) -> list[DeadLetter]:
    """One dead letter for each record and reason among samples that are all refused, in order of records."""
    group = rows.record * len(SAMPLE_REASONS) + reasons
    _, index, count = np.unique(group, return_index=True, return_counts=True)
    found = []
    for row, n in zip(index.tolist(), count.tolist(), strict=True):
        reason = SAMPLE_REASONS[reasons[row]]
        detail = _DETAIL[reason]
        if reason in (Reason.TIME_AHEAD, Reason.TIME_BEHIND):
            detail = f"{detail}: {(rows.t_us[row] - clock_us[row]) / 1e6:+.0f} s"
        found.append(DeadLetter(first_record + int(rows.record[row]), reason, detail, n))
    return found
