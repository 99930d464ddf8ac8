"""Times in files: any of a file's ways to write a time, as microseconds.

In: an Arrow column. Out: int64 microseconds since 1970 UTC, and which cells are no time. Remembers: nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.scenes import F64, I64, Bool
from stream_app.samples import EARLIEST_US, LATEST_US

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_MS = 253_402_300_800_000  # the year 10000; beyond it a number is no date
_NUMBER = r"^\s*[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\s*$"
_ZONED = r"[T ].*(Z|[+-]\d\d:?\d\d)$"


def times_us(column: pa.ChunkedArray) -> tuple[I64, Bool]:
    """Microseconds since 1970 UTC (0 where there is none), and where there is none. What a live record is refused for
    whatever the clock is none either."""
    t_us, bad = _times_us(column)
    bad = bad | (t_us < EARLIEST_US) | (t_us > LATEST_US)
    return np.where(bad, 0, t_us), bad


def _times_us(column: pa.ChunkedArray) -> tuple[I64, Bool]:
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("us")), pa.timestamp("us")
    if pa.types.is_timestamp(kind):
        ticks = column.cast(pa.int64())
        t, bad, us = ticks.fill_null(0).to_numpy(), pc.is_null(ticks).to_numpy(), 1_000_000 // _PER_SECOND[kind.unit]
        # Too far is still too far in microseconds, and does not overflow.
        return (t.clip(EARLIEST_US // us - 1, LATEST_US // us + 1) * us if us else t // 1_000), bad
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _from_text(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_ms(column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64))
    return np.zeros(len(column), np.int64), np.ones(len(column), bool)


def _from_ms(ms: F64) -> tuple[I64, Bool]:
    """float64 holds a microsecond of today with two bits to spare."""
    bad = ~(np.abs(ms) < _MAX_MS)
    return np.rint(np.where(bad, 0.0, ms) * 1000).astype(np.int64), bad


def _from_text(column: pa.ChunkedArray) -> tuple[I64, Bool]:
    text = pc.utf8_trim_whitespace(column)
    number = pc.match_substring_regex(text, _NUMBER).fill_null(False)
    ms = pc.if_else(number, text, pa.scalar(None, text.type)).cast(pa.float64()).to_numpy()
    t_us, bad = _from_ms(ms.astype(np.float64))
    dates = np.flatnonzero(~number.to_numpy() & pc.is_valid(text).to_numpy())
    if len(dates):
        t_us[dates], bad[dates] = _from_dates(text.take(pa.array(dates)).combine_chunks())
    return t_us, bad


def _from_dates(text: pa.StringArray) -> tuple[I64, Bool]:
    """RFC 3339; without a zone it is UTC."""
    text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(text, _ZONED).to_numpy(zero_copy_only=False)
    if zoned.all() or not zoned.any():
        try:
            parsed = text.cast(pa.timestamp("us", tz="UTC" if zoned.all() else None)).cast(pa.int64())
            return parsed.to_numpy(), np.zeros(len(text), bool)
        except pa.ArrowInvalid:
            pass  # at least one is no date, or written in a way that only Python knows: one by one
    found = [_one_date(value) for value in text.to_pylist()]
    return np.array([t or 0 for t in found], np.int64), np.array([t is None for t in found])


def _one_date(value: str) -> int | None:
    try:
        t = datetime.fromisoformat(value)
    except ValueError:
        return None
    t = t if t.tzinfo else t.replace(tzinfo=UTC)
    delta = t - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
