"""Training data from a file or a topic, as the `Dataset` that the fits take.

In: a path, or kafka://TOPIC. Out: `Dataset`, and what is to be said of the reading. Remembers: nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models.scenes import F64, I32, I64
from stream_app.cli.connection import connection
from stream_app.config import Config
from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.reader import Reader, Rows
from stream_app.records.names import FIRST_TOKEN
from training.dataset import Dataset, from_indices
from training.limits import of_entities, spoken

TOPIC = "kafka://"
MAX_SAMPLES = 200_000_000  # 6 GB of columns; more is for shards


@dataclass(frozen=True)
class Period:
    """Half-open [start_us, end_us) of event time."""

    start_us: int = np.iinfo(np.int64).min
    end_us: int = np.iinfo(np.int64).max

    @classmethod
    def of(cls, start: str | None, end: str | None) -> Period:
        """From texts: RFC 3339, or epoch milliseconds. Raises UsageError."""
        period = cls()
        first = time_us(start, "--from") if start else period.start_us
        last = time_us(end, "--to") if end else period.end_us
        if first >= last:
            raise UsageError(f"--from {start} is not earlier than --to {end}")
        return cls(first, last)


@dataclass(frozen=True)
class Reading:
    """The data, and the notes on what was left out."""

    data: Dataset
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """What was read, unsorted: samples with the lists that their indices refer to."""

    kind: str
    entities: Sequence[str]
    sensors: Sequence[str]
    tokens: Sequence[str]
    rows: Rows


def read(source: str, period: Period, config: Config | None) -> Reading:
    """The samples of a period. Raises ConfigurationError where there are none, or more than memory should take."""
    if source.startswith(TOPIC):
        from training.topic_reading import read_topic

        named, notes = read_topic(source.removeprefix(TOPIC), config or connection(None, None))
    else:
        named, notes = _read_file(Path(source), period)
    inside = (named.rows.t_us >= period.start_us) & (named.rows.t_us < period.end_us)
    rows = named.rows if inside.all() else named.rows.take(inside)
    if not len(rows):
        raise ConfigurationError(f"{source} holds no samples to train on" + (f": {'; '.join(notes)}" if notes else ""))
    data = dataset(named, rows)
    if again := len(rows) - len(data):
        notes.append(f"{again:,} samples left out: their sensor has another one of the same time, which came first")
    return Reading(data, tuple(notes))


def time_us(text: str, option: str) -> int:
    """Microseconds of RFC 3339 text or epoch milliseconds. Raises UsageError."""
    with suppress(ValueError, OverflowError):  # NaN, infinite, or no number: no date either
        return round(float(text) * 1000)
    try:
        t = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text} is no time; write 2026-01-31T08:00:00Z or epoch milliseconds") from None
    t = t if t.tzinfo else t.replace(tzinfo=UTC)
    return round(t.timestamp() * 1e6)


def _read_file(path: Path, period: Period) -> tuple[Named, list[str]]:
    reader = Reader(path)
    batches: list[Rows] = []
    n = 0
    for rows in reader.batches():
        inside = (rows.t_us >= period.start_us) & (rows.t_us < period.end_us)
        batches.append(rows.take(inside))
        n += len(batches[-1])
        if n > MAX_SAMPLES:
            raise ConfigurationError(
                f"{path} has more than {MAX_SAMPLES:,} samples; train on a part, by --from and --to"
            )
    named = Named(reader.layout.kind, reader.entities, reader.sensors, reader.tokens, joined(batches))
    return named, list(_notes(reader))


def joined(batches: Sequence[Rows]) -> Rows:
    """All batches end to end."""
    empty32, empty64 = np.empty(0, np.int32), np.empty(0, np.int64)
    parts = [Rows(empty32, empty32, empty64, np.empty(0), empty64), *batches]
    names = ("entity", "sensor", "t_us", "value", "row")
    return Rows(*(np.concatenate([getattr(rows, name) for rows in parts]) for name in names))


def _notes(reader: Reader) -> Iterator[str]:
    for reason, n in reader.refused.items():
        yield f"{n:,} rows left out: {reason}"
    if ignored := reader.layout.ignored:
        yield f"columns that hold no numbers were left out: {', '.join(ignored)}"


def dataset(named: Named, rows: Rows) -> Dataset:
    """Entities, sensors and tokens sorted by name, so that a bundle does not depend on the order of a file."""
    entities, entity = _sorted(named.entities, rows.entity)
    if named.kind == "sensors":
        sensors, sensor = _sorted(named.sensors, rows.sensor)
        return from_indices(
            entities, sensors, (entity.astype(np.int64), sensor.astype(np.int64), rows.t_us, rows.value)
        )
    tokens, token = _sorted(named.tokens, rows.value.astype(np.int32))
    order = np.argsort(entity, kind="stable")
    vocabulary = {name: FIRST_TOKEN + i for i, name in enumerate(tokens)}
    values: F64 = (token[order] + FIRST_TOKEN).astype(np.float64)
    nothing: I32 = np.zeros(len(order), np.int32)
    return Dataset("tokens", entities, ("token",), vocabulary, entity[order], nothing, rows.t_us[order], values)


def _sorted(names: Sequence[str], index: I32 | I64) -> tuple[tuple[str, ...], I32]:
    """The names that occur, sorted, and the indices of the rows among them."""
    used = np.unique(index)
    by_name = sorted(used.tolist(), key=lambda i: names[i])
    place = np.zeros(len(names), np.int32)
    place[by_name] = np.arange(len(by_name))
    return tuple(names[i] for i in by_name), place[index]


def summary(data: Dataset) -> str:
    """One line on what was read."""
    span_s = (int(data.t_us.max()) - int(data.t_us.min())) / 1e6
    what = f"{len(data.sensors)} sensors" if data.kind == "sensors" else f"{len(data.vocabulary)} distinct tokens"
    sizes = Counter(data.entity.tolist())
    longest = max(sizes.values())
    each = f" (at most {longest:,} each)" if len(data.entities) > 1 else ""
    size = f"{len(data):,} samples of {of_entities(len(data.entities))}{each}"
    return f"{size}, {what}, over {spoken(span_s)}"
