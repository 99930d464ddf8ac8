"""records, continued: which form JSON records have, and the samples they stand for.

In: records of one form, or of any. Out: `Parts`. Remembers: nothing but the names that it learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Literal

import numpy as np
from msgspec import UNSET, Struct

from models.scenes import F64, I32, I64
from stream_app.records.json_forms import (
    RATE_HZ_MAX,
    Chunk,
    Number,
    OneForm,
    OneSample,
    OneToken,
    Record,
    Several,
    Time,
    Token,
    Tokens,
)
from stream_app.records.names import Sensors, Vocabulary
from stream_app.records.refusals import Reason, Refused
from stream_app.records.rows import FAR_US, Parts

Kind = Literal["sensors", "tokens"]
LARGEST = {None: math.inf, "float": math.inf, "word16": 2.0**16 - 1, "word32": 2.0**32 - 1, "bits": 2.0**53 - 1}
_NOT_A_TIME = (math.inf, -math.inf)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Part(Struct, frozen=True, gc=False):
    """The samples of one record: `values[i]` of `sensors[i]`, or of its only one, at `t_us + i * step_us`."""

    record: int
    t_us: float
    sensors: Sequence[int]
    values: Sequence[Number]
    step_us: float = 0.0
    largest: float = math.inf
    seq: int = -1
    end: bool = False


@dataclass(frozen=True)
class Forms:
    """Reads the forms of a source whose sensors and tokens have these indices. `kind` of None takes both."""

    sensors: Sensors
    vocabulary: Vocabulary
    kind: Kind | None
    samples_max: int

    # Records of one form, as columns. None: at least one is to be refused, so they must be taken one by one.

    def parts_of_form(self, records: OneForm) -> Parts | None:
        form = type(records[0])
        wanted = "tokens" if form in (OneToken, Tokens) else "sensors"
        return _COLUMNS[form](self, records) if self.kind in (None, wanted) else None

    def _samples(self, records: list[OneSample]) -> Parts:
        return Parts(
            t_us=_times_us([r.t for r in records]),
            count=np.ones(len(records), np.int64),
            sensor=np.array([self.sensors[r.sensor] for r in records], np.int32),
            value=np.array([r.value for r in records], np.float64),
            largest=_largest(records),
        )

    def _chunks(self, records: list[Chunk]) -> Parts | None:
        count = np.array([len(r.values) for r in records], np.int64)
        if count.max() > self.samples_max:
            return None
        return Parts(
            t_us=_times_us([r.t for r in records]),
            count=count,
            sensor=np.array([self.sensors[r.sensor] for r in records], np.int32),
            value=_flat([r.values for r in records], int(count.sum())),
            step_us=_steps_us(np.array([r.rate_hz for r in records], np.float64)),
            largest=_largest(records),
        )

    def _several(self, records: list[Several]) -> Parts | None:
        count = np.array([len(r.values) for r in records], np.int64)
        if count.max() > self.samples_max:
            return None
        sensors = self.sensors
        return Parts(
            t_us=_times_us([r.t for r in records]),
            count=count,
            sensor=np.array([sensors[name] for r in records for name in r.values], np.int32),
            value=_flat([r.values.values() for r in records], int(count.sum())),
            largest=_largest(records),
        )

    def _one_tokens(self, records: list[OneToken]) -> Parts:
        ids = np.array([self.vocabulary[r.token] for r in records], np.int32)
        return _token_parts(records, np.ones(len(records), np.int64), ids)

    def _tokens(self, records: list[Tokens]) -> Parts | None:
        count = np.array([len(r.tokens) for r in records], np.int64)
        if count.max() > self.samples_max:
            return None
        vocabulary = self.vocabulary
        return _token_parts(records, count, np.array([vocabulary[t] for r in records for t in r.tokens], np.int32))

    # One record of any form.

    def part(self, index: int, record: Record) -> Part:
        """The samples of a record. Raises Refused, with their number where the form is plain."""
        value, values, token, tokens = record.value, record.values, record.token, record.tokens
        n_given = (value is not UNSET and value is not None) + (values is not None)
        n_given += (token is not None) + (tokens is not None)
        if n_given > 1:
            raise Refused(Reason.SEVERAL_VALUES, "only one of value, values, token and tokens is expected")
        if token is not None:
            return self._part_of_tokens(index, record, (token,))
        if tokens is not None:
            return self._part_of_tokens(index, record, tokens)
        if isinstance(values, dict):
            return self._part_of_several(index, record, values)
        if values is not None:
            return self._part_of_chunk(index, record, values)
        if value is not UNSET:
            t_us = self._time_us(record, "sensors", 1)
            return Part(index, t_us, (self._sensor(record, 1),), (value,), largest=LARGEST[record.type])
        raise Refused(Reason.NO_VALUES, "one of value, values, token and tokens is expected")

    def _part_of_chunk(self, index: int, record: Record, values: Sequence[Number]) -> Part:
        n, rate_hz = len(values), record.rate_hz
        t_us = self._time_us(record, "sensors", n)
        if rate_hz is None or not 0 < rate_hz <= RATE_HZ_MAX:
            raise Refused(Reason.INVALID_RATE, f"$.rate_hz: above 0 and at most {RATE_HZ_MAX:.0f} is expected", n)
        step_us = float(_steps_us(np.array([rate_hz]))[0])
        return Part(index, t_us, (self._sensor(record, n),), values, step_us, LARGEST[record.type])

    def _part_of_several(self, index: int, record: Record, values: dict[str, Number]) -> Part:
        t_us = self._time_us(record, "sensors", len(values))
        sensors = [self.sensors[name] for name in values]
        return Part(index, t_us, sensors, list(values.values()), largest=LARGEST[record.type])

    def _part_of_tokens(self, index: int, record: Record, tokens: Sequence[Token]) -> Part:
        t_us = self._time_us(record, "tokens", len(tokens))
        ids = [self.vocabulary[token] for token in tokens]
        seq = -1 if record.seq is None else record.seq
        return Part(index, t_us, [min(i, 0) for i in ids], ids, seq=seq)

    def _sensor(self, record: Record, n: int) -> int:
        if record.sensor is None:
            raise Refused(Reason.MISSING_SENSOR, "$.sensor: a name is expected", n)
        return self.sensors[record.sensor]

    def _time_us(self, record: Record, kind: Kind, n: int) -> float:
        """The time of the first sample, once kind and number are as they must be."""
        if n == 0:
            raise Refused(Reason.NO_VALUES, "the list of values is empty")
        if n > self.samples_max:
            raise Refused(Reason.TOO_MANY_SAMPLES, f"{n} samples, at most {self.samples_max} are allowed", n)
        if self.kind not in (None, kind):
            raise Refused(Reason.WRONG_KIND, f"{kind} came, the detector reads {self.kind}", n)
        if record.t is None:
            raise Refused(Reason.MISSING_TIME, "$.t: epoch milliseconds or RFC 3339 is expected", n)
        if record.t in _NOT_A_TIME or record.t != record.t:
            raise Refused(Reason.INVALID_TIME, "$.t: a finite number is expected", n)
        return _time_us(record.t)


def parts_of(parts: Sequence[Part]) -> Parts:
    """The parts of records, as columns."""
    n_sensors = np.array([len(part.sensors) for part in parts], np.int64)
    count = np.array([len(part.values) for part in parts], np.int64)
    sensors = np.array([sensor for part in parts for sensor in part.sensors], np.int32)
    return Parts(
        t_us=np.array([part.t_us for part in parts], np.float64),
        count=count,
        sensor=np.repeat(sensors, np.repeat(np.where(n_sensors == count, 1, count), n_sensors)),
        value=_flat([part.values for part in parts], int(count.sum())),
        step_us=np.array([part.step_us for part in parts], np.float64),
        largest=np.array([part.largest for part in parts], np.float64),
        seq=np.array([part.seq for part in parts], np.int64),
        end=np.array([part.end for part in parts], bool),
        record=np.array([part.record for part in parts], np.int64),
    )


_COLUMNS: dict[type[Struct], Callable[..., Parts | None]] = {
    OneSample: Forms._samples,
    Chunk: Forms._chunks,
    Several: Forms._several,
    OneToken: Forms._one_tokens,
    Tokens: Forms._tokens,
}


def _token_parts(records: Sequence[OneToken] | Sequence[Tokens], count: I64, ids: I32) -> Parts:
    return Parts(
        t_us=_times_us([r.t for r in records]),
        count=count,
        sensor=np.minimum(ids, 0),  # a token without an id carries its code as a sensor does
        value=ids.astype(np.float64),
        seq=np.array([-1 if r.seq is None else r.seq for r in records], np.int64),
    )


def _time_us(t: Time) -> float:
    return float((t - _EPOCH) // _MICROSECOND) if isinstance(t, datetime) else t * 1_000.0


def _times_us(times: Sequence[Time]) -> F64:
    try:
        with np.errstate(over="ignore"):  # beyond any time, and refused as such
            return np.array(times, np.float64) * 1_000.0
    except TypeError:  # some are RFC 3339
        return np.array([_time_us(t) for t in times])


def _steps_us(rate_hz: F64) -> F64:
    # A rate near zero puts every sample but the first beyond any time.
    with np.errstate(over="ignore"):
        return np.minimum(1e6 / rate_hz, FAR_US)


def _largest(records: Sequence[Any]) -> F64 | None:
    types = [r.type for r in records]
    return None if types.count(None) == len(types) else np.array([LARGEST[t] for t in types])


def _flat(values: Sequence[Any], n: int) -> F64:
    try:
        return np.fromiter(chain.from_iterable(values), np.float64, n)
    except TypeError:  # a null among them; numpy takes it for NaN, at twice the time
        return np.array([value for some in values for value in some], np.float64)
