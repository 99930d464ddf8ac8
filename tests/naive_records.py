"""The records stage once more, slow and obvious: one record at a time, plain `json`, no numpy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stream_app.records.decoder import DecoderSettings, Reason
from stream_app.samples import RawBatch

US_OF_TYPE = {"word16": 2**16 - 1, "word32": 2**32 - 1, "bits": 2**53 - 1}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")


class No(Exception):
    def __init__(self, reason: Reason, n: int = 1) -> None:
        self.reason, self.n = reason, max(n, 1)


@dataclass
class NaiveDecoder:
    """Samples as (entity, session, sensor, t_us, value, offset, clock_us, seq, end), letters as (index, reason, n)."""

    settings: DecoderSettings
    clock_us: int = -1
    sensors: dict[str, int] = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)

    def decode(self, batch: RawBatch) -> tuple[list[tuple[Any, ...]], list[tuple[int, str, int]]]:
        samples: list[tuple[Any, ...]] = []
        letters: list[tuple[int, str, int]] = []
        for i in range(len(batch)):
            self.clock_us = max(self.clock_us, int(batch.clock_us[i]))
            where = (int(batch.offsets[i]), self.clock_us)
            try:
                entity = self.entity(batch.keys[i])
                value = batch.values[i]
                if value is None:
                    samples.append((entity, self.session(entity), 0, self.clock_us, None, *where, -1, True))
                    self.sessions[entity] += 1
                    continue
                found = self.record(value)
            except No as no:
                letters.append((i, no.reason, no.n))
                continue
            refused: dict[Reason, int] = {}
            for sensor, t_us, number, largest, seq in found:
                problem = self.problem(sensor, t_us, number, largest)
                if problem:
                    refused[problem] = refused.get(problem, 0) + 1
                else:
                    shown = None if math.isnan(number) else number
                    samples.append((entity, self.session(entity), sensor, t_us, shown, *where, seq, False))
            letters += [(i, reason, n) for reason, n in refused.items()]
        return samples, letters

    def session(self, entity: str) -> int:
        return self.sessions.setdefault(entity, 0)

    def entity(self, key: bytes | None) -> str:
        key = key or (self.settings.default_entity or "").encode()
        if not key:
            raise No(Reason.MISSING_KEY)
        if len(key) > 1000:
            raise No(Reason.KEY_TOO_LONG)
        if 0 in key:
            raise No(Reason.KEY_WITH_NUL)
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise No(Reason.KEY_NOT_UTF8) from None

    def record(self, value: bytes) -> list[tuple[Any, int, float, float, int]]:
        fields = self.fields(value)
        given = [name for name in ("value", "values", "token", "tokens") if fields.get(name) is not None]
        if len(given) > 1:
            raise No(Reason.SEVERAL_VALUES)
        if not given and "value" not in fields:
            raise No(Reason.NO_VALUES)
        form = given[0] if given else "value"
        numbers: Any = fields[form]
        if form in ("value", "token"):
            numbers = [numbers]
        n = len(numbers)
        if n == 0:
            raise No(Reason.NO_VALUES)
        if n > self.settings.limits.samples_per_record:
            raise No(Reason.TOO_MANY_SAMPLES, n)
        kind = "tokens" if form in ("token", "tokens") else "sensors"
        if self.settings.kind not in (None, kind):
            raise No(Reason.WRONG_KIND, n)
        t_us = self.time(fields.get("t"), n)
        largest = US_OF_TYPE.get(fields.get("type") or "float", math.inf)
        if kind == "tokens":
            seq = fields.get("seq")
            return [self.token(token, t_us, -1 if seq is None else seq + i) for i, token in enumerate(numbers)]
        if isinstance(numbers, dict):
            return [(self.sensor(name), t_us, nan(v), largest, -1) for name, v in numbers.items()]
        step = 0.0
        if form == "values":
            rate = fields.get("rate_hz")
            if rate is None or not 0 < rate <= 1e6:
                raise No(Reason.INVALID_RATE, n)
            step = 1e6 / rate
        if fields.get("sensor") is None:
            raise No(Reason.MISSING_SENSOR, n)
        sensor = self.sensor(fields["sensor"])
        return [(sensor, t_us + whole(i * min(step, 4e18)), nan(v), largest, -1) for i, v in enumerate(numbers)]

    def fields(self, value: bytes) -> dict[str, Any]:
        if len(value) > self.settings.limits.record_bytes:
            raise No(Reason.TOO_LARGE)
        if not value.strip(b" \t\r\n\x0b\x0c"):
            raise No(Reason.EMPTY_VALUE)
        if value[:1] == b"\0":
            raise No(Reason.SCHEMA_REGISTRY_NOT_CONFIGURED)
        try:
            fields = json.loads(value.decode())
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeDecodeError:
            raise No(Reason.NOT_UTF8) from None
        except UnicodeEncodeError:
            raise No(Reason.LONE_SURROGATE) from None
        except json.JSONDecodeError:
            raise No(Reason.NOT_JSON) from None
        except RecursionError:
            raise No(Reason.TOO_DEEP) from None
        if depth(fields) > 64:
            raise No(Reason.TOO_DEEP)
        if not isinstance(fields, dict):
            raise No(Reason.NOT_AN_OBJECT)
        self.check_types(fields)
        return fields

    def check_types(self, fields: Mapping[str, Any]) -> None:
        """In the order of the fields in the record, since the first wrong one names the reason."""
        for name, v in fields.items():
            if v is None:
                continue
            if name == "t" and not (number(v) or (isinstance(v, str) and rfc3339(v) is not None)):
                raise No(Reason.INVALID_TIME)
            if name == "rate_hz" and not number(v):
                raise No(Reason.INVALID_RATE)
            if name == "schema_version" and not (type(v) is int and v == 1):
                raise No(Reason.SCHEMA_VERSION)
            if name in CHECKS and not CHECKS[name](v):
                raise No(Reason.WRONG_TYPE)

    def time(self, t: Any, n: int) -> int:
        if t is None:
            raise No(Reason.MISSING_TIME, n)
        if isinstance(t, str):
            moment = rfc3339(t)
            assert moment is not None
            elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
            return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
        if not math.isfinite(t):
            raise No(Reason.INVALID_TIME, n)
        return whole(float(t) * 1000)

    def sensor(self, name: str) -> int | Reason:
        if self.settings.sensors is not None:
            return self.settings.sensors.get(name, Reason.UNKNOWN_SENSOR)
        if name not in self.sensors:
            if len(self.sensors) >= self.settings.limits.sensors:
                return Reason.TOO_MANY_SENSORS
            if len(name) > 1000:
                return Reason.NAME_TOO_LONG
            self.sensors[name] = len(self.sensors)
        return self.sensors[name]

    def token(self, token: int | str, t_us: int, seq: int) -> tuple[Any, int, float, float, int]:
        word = str(token)
        if self.settings.vocabulary is not None:
            return 0, t_us, float(self.settings.vocabulary.get(word, 2)), math.inf, seq
        if word not in self.vocabulary:
            if len(word) > 1000:
                return Reason.NAME_TOO_LONG, t_us, 0.0, math.inf, seq
            if len(self.vocabulary) >= self.settings.limits.tokens:
                return Reason.TOO_MANY_TOKENS, t_us, 0.0, math.inf, seq
            self.vocabulary[word] = 3 + len(self.vocabulary)
        return 0, t_us, float(self.vocabulary[word]), math.inf, seq

    def problem(self, sensor: Any, t_us: int, value: float, largest: float) -> Reason | None:
        if isinstance(sensor, Reason):
            return sensor
        if math.isinf(value):
            return Reason.NOT_FINITE
        if largest < math.inf and not math.isnan(value) and not (0 <= value <= largest and value == int(value)):
            return Reason.OUTSIDE_TYPE
        known = self.clock_us >= 0
        if t_us > 253_370_764_800_000_000 or (known and t_us > self.clock_us + self.settings.max_ahead_us):
            return Reason.TIME_AHEAD
        if t_us < -62_104_060_800_000_000 or t_us < (self.clock_us - self.settings.max_behind_us if known else 0):
            return Reason.TIME_BEHIND
        return None


def whole(us: float) -> int:
    return round(max(-4e18, min(4e18, us)))


def nan(value: float | None) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def optional_number(value: Any) -> bool:
    return value is None or number(value)


def is_token(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def rfc3339(text: str) -> datetime | None:
    if not RFC3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        return None


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def is_values(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(optional_number, value.values()))
    return isinstance(value, list) and all(map(optional_number, value))


CHECKS = {
    "sensor": lambda v: isinstance(v, str),
    "value": number,
    "values": is_values,
    "token": is_token,
    "tokens": lambda v: isinstance(v, list) and all(map(is_token, v)),
    "seq": lambda v: type(v) is int and 0 <= v <= 2**53,
    "type": lambda v: v in ("float", "word16", "word32", "bits"),
}
