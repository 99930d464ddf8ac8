"""records, continued: a value that is an Arrow stream, read as columns.

In: the bytes of one record. Out: `ArrowColumns`. Remembers: nothing. The bytes come from strangers, so every length and
offset is validated before it is used, and compressed bodies are refused, since one megabyte may hold many gigabytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.scenes import F64, I32, I64
from stream_app.refusals import Reason, Refused

# Positions in the tables of Arrow's Message.fbs; a union takes two, its type and its value.
_HEADER_TYPE, _HEADER = 1, 2
_RECORD_BATCH_LENGTH, _RECORD_BATCH_COMPRESSION = 0, 3
_DICTIONARY_DATA = 1
_IS_DICTIONARY, _IS_RECORD_BATCH = 2, 3


@dataclass(frozen=True)
class ArrowColumns:
    """The samples of one record. `names[sensor[i]]` is the sensor of sample i; every name occurs. All columns [n]."""

    names: list[str]
    sensor: I32
    t_us: I64
    value: F64  # NaN: missing


def read_arrow(data: bytes, samples_max: int) -> ArrowColumns:
    """The columns `sensor` (string), `t_us` (integer or timestamp) and `value` (number) of an Arrow IPC stream.

    Raises Refused, naming the column.
    """
    try:
        batches = list(_batches(data, samples_max))
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, struct.error, IndexError) as problem:
        raise Refused(Reason.INVALID_ARROW, f"not an Arrow IPC stream ({type(problem).__name__})") from None
    n_samples = sum(len(batch) for batch in batches)
    if n_samples == 0:
        raise Refused(Reason.NO_VALUES, "the Arrow stream has no rows")
    table = pa.Table.from_batches(batches)
    names, sensor = _sensors(table, n_samples)
    return ArrowColumns(names, sensor, _times(table, n_samples), _values(table, n_samples))


def _batches(data: bytes, samples_max: int) -> Any:
    _check_messages(data, samples_max)
    with pa.ipc.open_stream(data) as stream:
        for batch in stream:
            batch.validate(full=True)
            yield batch


def _check_messages(data: bytes, samples_max: int) -> None:
    n_samples = 0
    for message in pa.ipc.MessageReader.open_stream(data):
        n_samples += _rows_if_plain(message.metadata.to_pybytes())
    if n_samples > samples_max:
        raise Refused(Reason.TOO_MANY_SAMPLES, f"{n_samples} rows, at most {samples_max} are allowed", n_samples)


def _rows_if_plain(metadata: bytes) -> int:
    """The rows that a message announces. Raises Refused when its body is compressed."""
    (root,) = struct.unpack_from("<I", metadata, 0)
    at = _field(metadata, root, _HEADER_TYPE)
    kind = metadata[at] if at else 0
    if kind not in (_IS_DICTIONARY, _IS_RECORD_BATCH):
        return 0
    batch = _table(metadata, root, _HEADER)
    if kind == _IS_DICTIONARY:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if _field(metadata, batch, _RECORD_BATCH_COMPRESSION):
        raise Refused(Reason.COMPRESSED_ARROW, "the Arrow body is compressed; let the Kafka producer compress instead")
    at = _field(metadata, batch, _RECORD_BATCH_LENGTH)
    length = struct.unpack_from("<q", metadata, at)[0] if at else 0
    return length if kind == _IS_RECORD_BATCH else 0


def _field(buffer: bytes, table: int, position: int) -> int:
    """Where a field of a FlatBuffers table lies, 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    entry = 4 + 2 * position
    if entry >= struct.unpack_from("<H", buffer, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", buffer, vtable + entry)[0]
    return table + offset if offset else 0


def _table(buffer: bytes, table: int, position: int) -> int:
    at = _field(buffer, table, position)
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _column(table: Any, name: str, reason: Reason, n_samples: int) -> Any:
    if table.schema.get_field_index(name) < 0:
        raise Refused(reason, f"one column `{name}` is expected", n_samples)
    return table.column(name).combine_chunks()


def _sensors(table: Any, n_samples: int) -> tuple[list[str], I32]:
    column = _column(table, "sensor", Reason.MISSING_SENSOR, n_samples)
    if isinstance(column, pa.ChunkedArray):  # of dictionaries that differ between batches
        column = column.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(column.type):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise Refused(Reason.WRONG_TYPE, f"column `sensor` is {column.type}, a string is expected", n_samples)
        column = pc.dictionary_encode(column)
    names = column.dictionary.to_pylist()
    if column.null_count or not all(type(name) is str for name in names):
        raise Refused(Reason.MISSING_SENSOR, "column `sensor` holds nulls, or is not of strings", n_samples)
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    renumbered = np.zeros(len(names), np.int32)
    renumbered[used] = np.arange(len(used), dtype=np.int32)
    return [names[i] for i in used], renumbered[codes]


def _times(table: Any, n_samples: int) -> I64:
    column = _column(table, "t_us", Reason.MISSING_TIME, n_samples)
    if column.null_count:
        raise Refused(Reason.MISSING_TIME, "column `t_us` holds nulls", n_samples)
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False)
    elif not pa.types.is_integer(column.type) or column.type == pa.uint64():
        raise Refused(Reason.INVALID_TIME, f"column `t_us` is {column.type}, int64 or timestamp is expected", n_samples)
    times: I64 = pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False)
    return times


def _values(table: Any, n_samples: int) -> F64:
    column = _column(table, "value", Reason.NO_VALUES, n_samples)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise Refused(Reason.WRONG_TYPE, f"column `value` is {column.type}, a number is expected", n_samples)
    values: F64 = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values
