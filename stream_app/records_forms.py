"""records, continued: which form a JSON record has, and the samples it stands for.

In: `Record`. Out: `Part`. Remembers: nothing but the names that it learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import UNSET

from stream_app.names import Sensors, Vocabulary
from stream_app.records_json import Number, Record, Token
from stream_app.records_rows import FAR_US, Part
from stream_app.refusals import Reason, Refused

Kind = Literal["sensors", "tokens"]
RATE_HZ_MAX = 1e6  # above it neighbours would fall on the same microsecond
LARGEST = {None: math.inf, "float": math.inf, "word16": 2.0**16 - 1, "word32": 2.0**32 - 1, "bits": 2.0**53 - 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Forms:
    """Reads the forms of a source whose sensors and tokens have these indices. `kind` of None takes both."""

    sensors: Sensors
    vocabulary: Vocabulary
    kind: Kind | None
    samples_max: int

    def part(self, index: int, record: Record) -> Part:
        """The samples of a record. Raises Refused, with their number where the form is plain."""
        value, values, token, tokens = record.value, record.values, record.token, record.tokens
        absent = (value is UNSET or value is None, values is None, token is None, tokens is None)
        if sum(absent) < 3:
            raise Refused(Reason.SEVERAL_VALUES, "only one of value, values, token and tokens is expected")
        if token is not None:
            return self._tokens(index, record, (token,))
        if tokens is not None:
            return self._tokens(index, record, tokens)
        if isinstance(values, dict):
            return self._several(index, record, values)
        if values is not None:
            return self._chunk(index, record, values)
        if value is not UNSET:
            return self._one(index, record, value)
        raise Refused(Reason.NO_VALUES, "one of value, values, token and tokens is expected")

    def _one(self, index: int, record: Record, value: Number) -> Part:
        t_us = self._time_us(record, "sensors", 1)
        return Part(index, t_us, (self._sensor(record, 1),), (value,), largest=LARGEST[record.type])

    def _chunk(self, index: int, record: Record, values: Sequence[Number]) -> Part:
        n, rate_hz = len(values), record.rate_hz
        t_us = self._time_us(record, "sensors", n)
        if rate_hz is None or not 0 < rate_hz <= RATE_HZ_MAX:
            raise Refused(Reason.INVALID_RATE, f"$.rate_hz: above 0 and at most {RATE_HZ_MAX:.0f} is expected", n)
        # A rate near zero puts every sample but the first beyond any time.
        step_us = min(1e6 / rate_hz, FAR_US)
        return Part(index, t_us, (self._sensor(record, n),), values, step_us, LARGEST[record.type])

    def _several(self, index: int, record: Record, values: dict[str, Number]) -> Part:
        t_us = self._time_us(record, "sensors", len(values))
        sensors = [self.sensors[name] for name in values]
        return Part(index, t_us, sensors, list(values.values()), largest=LARGEST[record.type])

    def _tokens(self, index: int, record: Record, tokens: Sequence[Token]) -> Part:
        t_us = self._time_us(record, "tokens", len(tokens))
        ids = [self.vocabulary[token] for token in tokens]
        # A token that can't be numbered carries its code as a sensor does.
        sensors = (0,) if min(ids) >= 0 else [min(i, 0) for i in ids]
        return Part(index, t_us, sensors, ids, seq=-1 if record.seq is None else record.seq)

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
        if isinstance(record.t, datetime):
            return float((record.t - _EPOCH) // _MICROSECOND)
        if not math.isfinite(record.t):
            raise Refused(Reason.INVALID_TIME, "$.t: a finite number is expected", n)
        return record.t * 1_000.0
