"""records, continued: a value that is an Arrow stream, read as columns.

In: the bytes of records. Out: `Columns`. Remembers: nothing. The bytes come from strangers, so every length and
offset is validated before it is used, and compressed bodies are refused, since one megabyte may hold many gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.scenes import F64, I32, I64
from stream_app.records.names import Sensors
from stream_app.records.refusals import Reason, Refused
from stream_app.records.rows import Columns

# Positions in the tables of Arrow's Message.fbs; a union takes two, its type and its value.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_BATCH_LENGTH, _BATCH_COMPRESSION = 0, 3
_DICTIONARY_DATA = 1
_IS_DICTIONARY, _IS_BATCH = 2, 3
_CONTINUED = 0xFFFFFFFF
_NEW = -9  # no index and no code of stream_app.records.names

_two_u32 = struct.Struct("<II").unpack_from
_u32 = struct.Struct("<I").unpack_from
_i32 = struct.Struct("<i").unpack_from
_u16 = struct.Struct("<H").unpack_from
_i64 = struct.Struct("<q").unpack_from


# `to_numpy`, and any number of Python's made one of Arrow's, import pandas, which takes seconds.
_NAN = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(struct.pack("<d", np.nan))])[0]

UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, IndexError, struct.error)


def read_arrow(data: bytes, sensors: Sensors, samples_max: int) -> Columns:
    """The columns `sensor` (string), `t_us` (integer or timestamp) and `value` (number) of an Arrow IPC stream.

    Raises Refused, naming the column.
    """
    try:
        n_samples = extent(data).n_rows
        if n_samples > samples_max:
            raise Refused(Reason.TOO_MANY_SAMPLES, f"{n_samples} rows, at most {samples_max} are allowed", n_samples)
        table = pa.ipc.open_stream(data).read_all()
        table.validate(full=True)
    except UNREADABLE as problem:
        raise Refused(Reason.INVALID_ARROW, f"not an Arrow IPC stream ({type(problem).__name__})") from None
    if len(table) == 0:
        raise Refused(Reason.NO_VALUES, "the Arrow stream has no rows")
    try:
        return _columns(table, sensors, np.array([len(table)]))
    except Refused as refusal:
        raise Refused(refusal.reason, str(refusal), len(table)) from None


def read_arrows(values: Sequence[bytes], sensors: Sensors, samples_max: int) -> Columns | None:
    """The same of many records at once; None where they differ in schema, a sensor is new, or one is to be refused.

    What follows each record's schema is put behind the first record's schema: to Arrow one stream of many batches.
    """
    try:
        extents = [extent(value) for value in values]
        count = np.array([extent.n_rows for extent in extents])
        schema = values[0][: extents[0].first]
        if count.min() <= 0 or count.max() > samples_max or not all(value.startswith(schema) for value in values):
            return None
        bodies = [memoryview(value)[e.first : e.last] for value, e in zip(values, extents, strict=True)]
        table = pa.ipc.open_stream(b"".join([schema, *bodies])).read_all()
        table.validate(full=True)
        return _columns(table, sensors, count, new_sensors=False) if len(table) == count.sum() else None
    except (Refused, *UNREADABLE):
        return None


@dataclass(frozen=True)
class Extent:
    """Where a stream's first message, its schema, and its last one end, and the rows that its messages announce."""

    first: int
    last: int
    n_rows: int


def extent(data: bytes) -> Extent:
    """Raises Refused where a body is compressed."""
    n_rows = at = first = 0
    while at + 8 <= len(data):
        continued, size = _two_u32(data, at)
        if continued != _CONTINUED:
            raise ValueError("a message begins with another word")
        if size == 0:
            break
        message = at + 8 + _u32(data, at + 8)[0]
        n_rows += _rows_of_message(data, message)
        length_at = _field(data, message, _BODY_LENGTH)
        body_length = _i64(data, length_at)[0] if length_at else 0
        if body_length < 0:
            raise ValueError("a body of negative length")
        at += 8 + size + body_length
        first = first or at
    return Extent(first, at, n_rows)


def _rows_of_message(data: bytes, message: int) -> int:
    kind_at = _field(data, message, _HEADER_TYPE)
    kind = data[kind_at] if kind_at else 0
    if kind not in (_IS_DICTIONARY, _IS_BATCH):
        return 0
    batch = _table(data, message, _HEADER)
    if kind == _IS_DICTIONARY:
        batch = _table(data, batch, _DICTIONARY_DATA)
    if _field(data, batch, _BATCH_COMPRESSION):
        raise Refused(Reason.COMPRESSED_ARROW, "the Arrow body is compressed; let the Kafka producer compress instead")
    length_at = _field(data, batch, _BATCH_LENGTH)
    n_rows: int = _i64(data, length_at)[0] if length_at else 0
    return n_rows if kind == _IS_BATCH else 0


def _field(data: bytes, table: int, position: int) -> int:
    """Where a field of a FlatBuffers table lies, 0 if it is absent."""
    vtable = table - _i32(data, table)[0]
    entry = 4 + 2 * position
    if entry >= _u16(data, vtable)[0]:
        return 0
    offset: int = _u16(data, vtable + entry)[0]
    return table + offset if offset else 0


def _table(data: bytes, table: int, position: int) -> int:
    at = _field(data, table, position)
    return at + int(_u32(data, at)[0])


def _columns(table: Any, sensors: Sensors, count: I64, new_sensors: bool = True) -> Columns:
    times, values = _times(table), _values(table)
    return Columns(count, _sensors(table, sensors, new_sensors), times, values)


def _column(table: Any, name: str, reason: Reason) -> Any:
    if table.schema.get_field_index(name) < 0:  # also where there are several of that name
        raise Refused(reason, f"one column `{name}` is expected")
    return table.column(name)


def _times(table: Any) -> I64:
    column = _column(table, "t_us", Reason.MISSING_TIME)
    if column.null_count:
        raise Refused(Reason.MISSING_TIME, "column `t_us` holds nulls")
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False)
    elif not pa.types.is_integer(column.type) or column.type == pa.uint64():
        raise Refused(Reason.INVALID_TIME, f"`t_us` is {column.type}, int64 or timestamp is expected")
    times: I64 = _numbers(column if column.type == pa.int64() else pc.cast(column, pa.int64()))
    return times


def _values(table: Any) -> F64:
    column = _column(table, "value", Reason.NO_VALUES)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise Refused(Reason.WRONG_TYPE, f"`value` is {column.type}, a number is expected")
    numbers = column if column.type == pa.float64() else pc.cast(column, pa.float64(), safe=False)
    values: F64 = _numbers(pc.fill_null(numbers, _NAN) if numbers.null_count else numbers)
    return values


def _numbers(column: Any) -> Any:
    """As numpy; there are no nulls."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])


def _sensors(table: Any, sensors: Sensors, new_sensors: bool) -> I32:
    column = _column(table, "sensor", Reason.MISSING_SENSOR)
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    column = column.unify_dictionaries().combine_chunks()
    if column.null_count or column.dictionary.null_count:
        raise Refused(Reason.MISSING_SENSOR, "`sensor` holds nulls")
    names = column.dictionary.to_pylist()
    codes = np.from_dlpack(column.indices).astype(np.intp, copy=False)
    known = [sensors.get(name, _NEW) for name in names]
    if _NEW in known:
        if not all(isinstance(name, str) for name in names):
            raise Refused(Reason.WRONG_TYPE, f"`sensor` is {column.dictionary.type}, a string is expected")
        if not new_sensors:
            raise Refused(Reason.UNKNOWN_SENSOR, "a name that is new, or not known")
        # A name that does not occur is not learnt.
        for i in np.flatnonzero(np.bincount(codes, minlength=len(names))).tolist():
            known[i] = sensors[names[i]]
    indices: I32 = np.array(known, np.int32).take(codes)
    return indices
