"""Which records a replay is asked for: by time, by offsets, by a duration back from now, or by a file of offsets.

In: texts as given on the command line; the forms are those of Kafka's own tools. Out: `Range`. Remembers: nothing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stream_app.durations import duration_us
from stream_app.errors import ConfigurationError, UsageError

ALL_MS = -1  # a warm-up from the first record that the topic still holds
_ISO_DURATION = re.compile(r"^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$")
_ISO_UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000)


@dataclass(frozen=True)
class Range:
    """Half-open in time; within one partition closed in offsets; or from an offset of each partition that is named.

    None: from the first, to the end of now. `last_ms`: from so long before now on, whenever that is asked.
    """

    start_ms: int | None = None
    end_ms: int | None = None
    partition: int | None = None
    first_offset: int | None = None
    last_offset: int | None = None
    starts: tuple[tuple[int, int], ...] = ()  # partition, first offset; other partitions are left out
    last_ms: int | None = None

    def __post_init__(self) -> None:
        by_offset = self.first_offset is not None or self.last_offset is not None
        if self.partition is None and by_offset:
            raise UsageError("offsets count within a partition: give --partition as well")
        if by_offset and self.starts:
            raise UsageError("--from-file names the offsets: leave out --from-offset and --to-offset")
        if self.start_ms is not None and self.end_ms is not None and self.start_ms >= self.end_ms:
            raise UsageError(f"the range is empty: from {told(self.start_ms)} to {told(self.end_ms)}")
        if self.first_offset is not None and self.last_offset is not None and self.first_offset > self.last_offset:
            raise UsageError(f"the range is empty: from offset {self.first_offset} to {self.last_offset}")

    def has(self, partition: int) -> bool:
        """Whether the partition is asked for."""
        if self.starts:
            return any(partition == p for p, _ in self.starts)
        return self.partition in (None, partition)

    def first_of(self, partition: int) -> int | None:
        """The first offset asked for by number."""
        return dict(self.starts).get(partition, self.first_offset)

    def at(self, now_ms: int) -> Range:
        """The range as it is at a moment."""
        return self if self.last_ms is None else replace(self, start_ms=now_ms - self.last_ms, last_ms=None)

    def as_dict(self) -> dict[str, Any]:
        """What was given, without what was not."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}


def moment_ms(text: str | None) -> int | None:
    """Milliseconds since the epoch of "2026-01-01T00:00:00Z" or of a number. Raises UsageError.

    >>> moment_ms("2023-11-14T22:13:20Z")
    1700000000000
    """
    if text is None or text.lstrip("-").isdigit():
        return None if text is None else int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as problem:
        raise UsageError(f"{text!r} is no time; write 2026-01-01T00:00:00Z or epoch milliseconds") from problem
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def duration_ms(text: str) -> int:
    """Milliseconds of "1h" or, as Kafka's tools write it, "PT1H". Raises UsageError.

    >>> duration_ms("PT1H30M"), duration_ms("P1D"), duration_ms("90s")
    (5400000, 86400000, 90000)
    """
    match = _ISO_DURATION.match(text)
    if match and any(match.groups()):
        return round(sum(float(n) * unit for n, unit in zip(match.groups(), _ISO_UNITS_MS, strict=True) if n))
    try:
        return duration_us(text) // 1000
    except ValueError:
        raise UsageError(f"{text!r} is no duration; write 1h, 30m, 7d, or PT1H") from None


def starts_of(file: Path, topic: str) -> tuple[tuple[int, int], ...]:
    """Where the partitions of a topic begin, from lines `topic,partition,offset`; lines of other topics are passed by.

    Raises ConfigurationError that names the line.
    """
    found = {}
    for number, (name, partition, offset) in _lines(file):
        if not (partition.isdigit() and offset.isdigit()):
            raise ConfigurationError(f"{file}, line {number}: partition and offset are whole numbers")
        if name == topic:
            found[int(partition)] = int(offset)
    if not found:
        raise ConfigurationError(f"{file} has no line of the topic {topic}")
    return tuple(sorted(found.items()))


def _lines(file: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    try:
        with file.open(newline="") as text:
            rows = [(number, row) for number, row in enumerate(csv.reader(text), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise ConfigurationError(f"{file} can't be read: {problem}") from problem
    for number, row in rows:
        if len(row) != 3:
            raise ConfigurationError(
                f"{file}, line {number}: {len(row)} fields where topic,partition,offset are needed"
            )
        topic, partition, offset = (field.strip().strip('"') for field in row)
        yield number, (topic, partition, offset)


def told(time_ms: int) -> str:
    """A time for a reader.

    >>> told(1_700_000_000_000)
    '2023-11-14T22:13:20Z'
    """
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")
