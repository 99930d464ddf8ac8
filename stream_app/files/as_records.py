"""Rows of a file as the records a producer would send: single samples, chunks, Arrow streams, tokens.

In: `Rows`. Out: `Message`s in order of arrival. Remembers: how many tokens each entity has sent.

A record is sent when its last sample is there, so it spans at most a second: a longer one would reach the topic behind
what faster sensors measured meanwhile, and its first samples would be late.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import orjson
import pyarrow as pa

from models.scenes import I64
from stream_app.errors import UsageError
from stream_app.files.reader import Layout, Reader, Rows

Form = Literal["json", "chunks", "arrow"]
FORMS: tuple[Form, ...] = ("json", "chunks", "arrow")
CHUNK_SAMPLES = 100
ARROW_ROWS = 1_000
SPAN_US = 1_000_000
ARROW_HEADERS = [("content-type", b"application/vnd.apache.arrow.stream")]


@dataclass(frozen=True, slots=True)
class Message:
    """One record to send. `t_us` is the time of its last sample, when it is sent; a value of None is a tombstone."""

    key: bytes
    value: bytes | None
    t_us: int
    n_samples: int = 1
    headers: Sequence[tuple[str, bytes]] = ()


class Recorder:
    """Turns the rows of one file into messages of one form. Raises UsageError for a form that the rows can't take."""

    def __init__(self, reader: Reader, form: str, numbered: bool) -> None:
        if form not in FORMS:
            raise UsageError(f"--format is one of {', '.join(FORMS)}, not {form}")
        self._reader, self._numbered = reader, numbered
        self._n_sent: dict[int, int] = defaultdict(int)
        self._messages = self._form(reader.layout, form)

    def messages(self, rows: Rows) -> Iterator[Message]:
        """The records of a batch of rows, sorted by the place of their last row."""
        return self._messages(rows)

    def end(self, entity: int, t_us: int) -> Message:
        """The tombstone: the end of an entity."""
        return Message(self._key(entity), None, t_us, 0)

    def _form(self, layout: Layout, form: str) -> Callable[[Rows], Iterator[Message]]:
        if layout.kind == "tokens":
            if form == "arrow":
                raise UsageError("--format arrow carries sensors' samples; for tokens there are json and chunks")
            return self._tokens if form == "json" else self._token_chunks
        if form == "json":
            return self._together if layout.wide else self._singles
        return self._chunks if form == "chunks" else self._arrow

    def _key(self, entity: int) -> bytes:
        return self._reader.entities[entity].encode()

    def _singles(self, rows: Rows) -> Iterator[Message]:
        columns = zip(rows.entity.tolist(), rows.sensor.tolist(), rows.t_us.tolist(), rows.value.tolist(), strict=True)
        for entity, sensor, t_us, value in columns:
            record = {"sensor": self._reader.sensors[sensor], "t": _ms(t_us), "value": value}
            yield Message(self._key(entity), orjson.dumps(record), t_us)

    def _together(self, rows: Rows) -> Iterator[Message]:
        """A row of a wide file is one record."""
        for a, b in _runs(_changes(rows.row), len(rows)):
            names, values = rows.sensor[a:b].tolist(), rows.value[a:b].tolist()
            sensors = {self._reader.sensors[s]: value for s, value in zip(names, values, strict=True)}
            t_us = int(rows.t_us[a])
            record = orjson.dumps({"t": _ms(t_us), "values": sensors})
            yield Message(self._key(int(rows.entity[a])), record, t_us, b - a)

    def _chunks(self, rows: Rows) -> Iterator[Message]:
        """Stretches of one sensor at one rate; what has no rate goes as single samples."""
        by_sensor = np.lexsort((rows.sensor, rows.entity))
        rows = rows.take(by_sensor)
        runs = _runs(_chunk_starts(rows), len(rows))
        for a, b in sorted(runs, key=lambda run: int(by_sensor[run[1] - 1])):
            t_us, sensor = int(rows.t_us[a]), self._reader.sensors[int(rows.sensor[a])]
            if b - a == 1:
                record = {"sensor": sensor, "t": _ms(t_us), "value": float(rows.value[a])}
            else:
                rate_hz = 1e6 / int(rows.t_us[a + 1] - rows.t_us[a])
                record = {"sensor": sensor, "t": _ms(t_us), "rate_hz": rate_hz, "values": rows.value[a:b].tolist()}
            yield Message(self._key(int(rows.entity[a])), orjson.dumps(record), int(rows.t_us[b - 1]), b - a)

    def _arrow(self, rows: Rows) -> Iterator[Message]:
        by_entity = np.argsort(rows.entity, kind="stable")
        rows = rows.take(by_entity)
        runs = _runs(_spans(rows, ARROW_ROWS), len(rows))
        names = pa.array(list(self._reader.sensors))
        for a, b in sorted(runs, key=lambda run: int(by_entity[run[1] - 1])):
            sensor = pa.DictionaryArray.from_arrays(pa.array(rows.sensor[a:b]), names)
            columns = [sensor, pa.array(rows.t_us[a:b]), pa.array(rows.value[a:b], from_pandas=True)]
            batch = pa.record_batch(columns, names=["sensor", "t_us", "value"])
            newest = int(rows.t_us[a:b].max())
            yield Message(self._key(int(rows.entity[a])), arrow_stream(batch), newest, b - a, ARROW_HEADERS)

    def _tokens(self, rows: Rows) -> Iterator[Message]:
        for entity, t_us, value in zip(rows.entity.tolist(), rows.t_us.tolist(), rows.value.tolist(), strict=True):
            record = {"t": _ms(t_us), "token": self._reader.tokens[int(value)]} | self._number(entity, 1)
            yield Message(self._key(entity), orjson.dumps(record), t_us)

    def _token_chunks(self, rows: Rows) -> Iterator[Message]:
        """Stretches of one entity's tokens; they share the time of the first, as their order is what counts."""
        by_entity = np.argsort(rows.entity, kind="stable")
        rows = rows.take(by_entity)
        runs = _runs(_spans(rows, CHUNK_SAMPLES), len(rows))
        for a, b in sorted(runs, key=lambda run: int(by_entity[run[1] - 1])):
            entity, tokens = int(rows.entity[a]), [self._reader.tokens[int(v)] for v in rows.value[a:b]]
            record = {"t": _ms(int(rows.t_us[a])), "tokens": tokens} | self._number(entity, b - a)
            yield Message(self._key(entity), orjson.dumps(record), int(rows.t_us[b - 1]), b - a)

    def _number(self, entity: int, n: int) -> dict[str, int]:
        """`seq` lets a resent record be known as such. It counts from the session's start, so only a file that holds
        whole sessions can give it."""
        if not self._numbered:
            return {}
        seq = self._n_sent[entity]
        self._n_sent[entity] += n
        return {"seq": seq}


def _changes(column: I64) -> I64:
    """Where a value differs from the one before. The first row is a change."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(column)), bool), np.diff(column) != 0]))


def _runs(starts: I64, n: int) -> list[tuple[int, int]]:
    """The half-open stretches of `n` rows that begin at `starts`."""
    return list(zip(starts.tolist(), [*starts[1:].tolist(), n], strict=True)) if n else []


def _spans(rows: Rows, n_max: int) -> I64:
    """Starts of the stretches of rows sorted by entity: at most `n_max` rows, within one second of event time."""
    first = _changes(rows.entity.astype(np.int64))
    of = np.repeat(first, np.diff(np.append(first, len(rows))))
    second = rows.t_us // SPAN_US
    block = (np.arange(len(rows)) - of) // n_max
    changed = (np.diff(rows.entity) != 0) | (np.diff(second) != 0) | (np.diff(block) != 0)
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(rows)), bool), changed]))


def _chunk_starts(rows: Rows) -> I64:
    """Starts of the stretches of rows sorted by entity and sensor that have one rate, and are short enough."""
    n = len(rows)
    other = (np.diff(rows.entity) != 0) | (np.diff(rows.sensor) != 0)
    step = np.diff(rows.t_us)
    uneven = np.zeros(n, bool)
    uneven[2:] = (np.diff(step) != 0) & ~other[:-1]
    start = np.ones(n, bool)
    start[1:] = other | uneven[1:] | (step <= 0)
    run = np.flatnonzero(start)
    place = np.arange(n) - np.repeat(run, np.diff(np.append(run, n)))
    longest = np.clip(SPAN_US // np.maximum(np.append(step, 1), 1), 1, CHUNK_SAMPLES)  # as the first step has it
    of_run = np.repeat(longest[run], np.diff(np.append(run, n)))
    return np.flatnonzero(start | (place % of_run == 0))


def arrow_stream(batch: pa.RecordBatch) -> bytes:
    """A batch as a stream of its own, the value of a record."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _ms(t_us: int) -> int | float:
    """Epoch milliseconds; whole ones as an integer."""
    return t_us // 1000 if t_us % 1000 == 0 else t_us / 1000
