"""Durations as people write them: "250ms", "60s", "5m", "1h", "7d"; a plain number is seconds.

In: text or a number. Out: whole microseconds, and the text again. Remembers: nothing. What is written out can be read
in again, and means the same.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_UNITS_US["w"] = 7 * _UNITS_US["d"]
_PATTERN = r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)\s*$"
_DURATION = re.compile(_PATTERN)
_COUNT = re.compile(r"^\s*(\d+)\s*tokens?\s*$")
_MAX_US = 2**62  # 146,000 years: what is kept is int64, and may be added to a time


def duration_us(text: str | int | float) -> int:
    """Microseconds of "250ms", "60s", "5m", "1h", "7d"; a plain number is seconds. Raises ValueError.

    >>> duration_us("1.5s"), duration_us(2), duration_us(0.29)
    (1500000, 2000000, 290000)
    """
    # Decimals, so that 1.001 s are 1,001,000 us and not one less.
    if isinstance(text, int | float) and not isinstance(text, bool):
        amount, unit = Decimal(str(text)), "s"
    elif match := _DURATION.match(str(text)):
        amount, unit = Decimal(match[1]), match[2]
    else:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 60s, 5m, 1h or 7d")
    if not (amount.is_finite() and 0 <= amount * _UNITS_US[unit] <= _MAX_US):
        raise ValueError(f"{text!r} is not a duration: it must be zero or more, and finite")
    return int(amount * _UNITS_US[unit])


def duration_text(us: int) -> str:
    """The shortest text that means so many microseconds.

    >>> duration_text(90_000_000), duration_text(3_600_000_000), duration_text(0)
    ('90s', '1h', '0s')
    """
    unit = max((unit for unit in _UNITS_US if us % _UNITS_US[unit] == 0), key=_UNITS_US.__getitem__) if us else "s"
    return f"{us // _UNITS_US[unit]}{unit}"


def _extent_of(text: str | int | float) -> str | int:
    """A window's extent: microseconds, or the text of a count of tokens."""
    return str(text) if isinstance(text, str) and _COUNT.match(text) else duration_us(text)


def _extent_text(extent: str | int) -> str:
    return extent if isinstance(extent, str) else duration_text(extent)


def defaults_as_text(schema: dict[str, Any]) -> None:
    """In the JSON Schema of a model a duration's default is written as in a file, not in microseconds."""
    for shown in schema["properties"].values():
        if _SECONDS in shown.get("anyOf", ()) and isinstance(shown.get("default"), int):
            shown["default"] = duration_text(shown["default"])


_SECONDS = {"type": "number", "minimum": 0, "description": "seconds"}
Duration = Annotated[
    int,
    BeforeValidator(duration_us),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _PATTERN}, _SECONDS]}),
]
Extent = Annotated[
    int | str,
    BeforeValidator(_extent_of),
    PlainSerializer(_extent_text, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"{_PATTERN}|{_COUNT.pattern}"}, _SECONDS]}),
]
