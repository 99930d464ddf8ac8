"""The obvious way to read a file's rows, for comparison with the columns of `stream_app.files.reader`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stream_app.files.as_records import Message
from stream_app.files.reader import DEFAULT_ENTITY

Sample = tuple[str, str, int, float]  # entity, sensor, t_us, value


def long_samples(rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Rows of a long file as samples; a missing value is a sample without one."""
    return [
        (row.get("entity", DEFAULT_ENTITY), row["sensor"], row["t"] * 1000, _value(row["value"]))
        for row in rows
        if row["value"] is None or not math.isinf(row["value"])
    ]


def wide_samples(rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Rows of a wide file as samples; an empty cell is none."""
    return [
        (row.get("entity", DEFAULT_ENTITY), name, row["t"] * 1000, cell)
        for row in rows
        for name, cell in row.items()
        if name not in ("entity", "t") and cell is not None and math.isfinite(cell)
    ]


def sent_samples(messages: Sequence[Message], decode: Any) -> list[Sample]:
    """The samples of JSON messages, decoded without our own decoder."""
    found: list[Sample] = []
    for message in messages:
        entity, record = message.key.decode(), decode(message.value)
        if isinstance(record.get("values"), dict):
            found += [(entity, name, _us(record["t"]), _value(v)) for name, v in record["values"].items()]
        elif "values" in record:
            step_us = 1e6 / record["rate_hz"]
            for i, value in enumerate(record["values"]):
                found.append((entity, record["sensor"], _us(record["t"]) + round(i * step_us), _value(value)))
        else:
            found.append((entity, record["sensor"], _us(record["t"]), _value(record["value"])))
    return found


def late(times: Sequence[tuple[str, int]], lateness_us: int) -> int:
    """How many rows lie more than the lateness behind the newest that their entity had shown."""
    newest: dict[str, int] = {}
    n = 0
    for entity, t_us in times:
        n += t_us + lateness_us < newest.get(entity, t_us)
        newest[entity] = max(newest.get(entity, t_us), t_us)
    return n


def _us(t_ms: float) -> int:
    return round(t_ms * 1000)


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)
