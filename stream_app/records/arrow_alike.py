"""records, continued: Arrow streams that differ in nothing but their numbers, as those of one producer mostly do.

In: the bytes of records. Out: `Columns`, or None where they are not alike. Remembers: nothing.

The first record is read and validated as any other. Where every other byte of the rest is the same, their numbers lie
at the same places, so they are copied from there, once, and nothing is parsed. What is not the same by design (the
numbers) is checked as it is for every record: codes against the dictionary here, times and values where all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from models.scenes import I32
from stream_app.records.arrow_forms import UNREADABLE, extent
from stream_app.records.names import Sensors
from stream_app.records.refusals import Refused
from stream_app.records.rows import Columns

_TYPES = {"t_us": pa.int64(), "value": pa.float64(), "sensor": pa.dictionary(pa.int32(), pa.string())}
_DTYPES: dict[str, Any] = {"t_us": np.dtype("<i8"), "value": np.dtype("<f8"), "sensor": np.dtype("<i4")}


@dataclass(frozen=True)
class _Layout:
    """Where the numbers of a record lie, and all else that its bytes say."""

    n_rows: int
    size: int
    at: dict[str, int]  # column: its first byte
    rest: tuple[tuple[int, bytes], ...]  # place and bytes of what lies between them
    names: list[Any]


def read_alike(values: Sequence[bytes], sensors: Sensors, samples_max: int) -> Columns | None:
    """The columns of records that are laid out as the first is; None where one is not, or is to be refused."""
    try:
        layout = _layout(values[0], samples_max)
    except (Refused, *UNREADABLE):
        return None
    if layout is None or not all(_fits(value, layout) for value in values):
        return None
    known = [sensors.get(name, -1) for name in layout.names]
    if min(known) < 0:
        return None
    columns = {name: _column(values, layout, name) for name in layout.at}
    if len(known) == 1:
        sensor = np.full(len(columns["t_us"]), known[0], np.int32)
    else:
        codes: I32 = columns["sensor"]
        if codes.view(np.uint32).max() >= len(known):
            return None
        sensor = np.array(known, np.int32).take(codes)
    return Columns(np.full(len(values), layout.n_rows), sensor, columns["t_us"], columns["value"])


def _layout(data: bytes, samples_max: int) -> _Layout | None:
    """The layout of a plain record: one batch, no nulls, the usual types. Raises what reading it raises."""
    n_rows = extent(data).n_rows
    buffer = pa.py_buffer(data)
    table = pa.ipc.open_stream(buffer).read_all()
    table.validate(full=True)
    batches = table.to_batches()
    if len(batches) != 1 or not 0 < n_rows == len(table) <= samples_max or len(table.schema) != len(_TYPES):
        return None
    if any(not _plain(table, name) for name in _TYPES):
        return None
    columns = {name: batches[0].column(name) for name in _TYPES}
    sensor = columns["sensor"]
    held = columns | {"sensor": sensor.indices}
    at = {name: column.buffers()[1].address - buffer.address for name, column in held.items()}
    ends = {name: at[name] + n_rows * _DTYPES[name].itemsize for name in at}
    if sensor.dictionary.null_count or min(at.values()) < 0 or max(ends.values()) > len(data):
        return None  # Arrow copied what did not lie well
    if len(sensor.dictionary) == 1:
        del at["sensor"]  # all codes are 0, so that they too have to be the same
    edges = [0, *(edge for name in sorted(at, key=at.__getitem__) for edge in (at[name], ends[name])), len(data)]
    rest = tuple((a, data[a:b]) for a, b in list(pairwise(edges))[::2])
    return _Layout(n_rows, len(data), at, rest, sensor.dictionary.to_pylist())


def _plain(table: Any, name: str) -> bool:
    schema = table.schema
    return schema.get_field_index(name) >= 0 and schema.field(name).type == _TYPES[name] and not table[name].null_count


def _fits(value: bytes, layout: _Layout) -> bool:
    return len(value) == layout.size and all(value.startswith(part, at) for at, part in layout.rest)


def _column(values: Sequence[bytes], layout: _Layout, name: str) -> Any:
    parts = [np.frombuffer(value, _DTYPES[name], layout.n_rows, layout.at[name]) for value in values]
    return np.concatenate(parts)
