"""Files in: Parquet or CSV, long or wide, as columns of samples in the file's own order.

In: a path. Out: `Rows`, batch by batch, so that a file of any size fits in memory; names are indices into the reader's
lists. Remembers: the names met so far, and how many rows were refused and why.

Long: `entity, sensor, t, value` or `entity, t, token`. Wide: `t`, a column per sensor, `entity` if there are several.
`t` is a timestamp (UTC where it has no zone), a number of epoch milliseconds, or RFC 3339 text. An empty cell of a wide
table is no sample; a missing value of a long one is a sample whose value is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from models.scenes import F64, I32, I64, Bool
from stream_app.errors import ConfigurationError
from stream_app.files.times import times_us
from stream_app.records.names import NAME_MAX
from stream_app.records.refusals import Reason

BATCH_CELLS = 262_144  # rows times columns of one batch: a few MB, and large enough for numpy to be busy
DEFAULT_ENTITY = "default"  # of files that name none; the same for every file, since what is learnt is kept by name
_CSV_BLOCK_BYTES = 4 << 20
_RESERVED = ("entity", "sensor", "t", "value", "token")


@dataclass(frozen=True)
class Layout:
    """How a file is laid out. `columns` are those that are read; `ignored` are neither reserved nor numbers."""

    kind: Literal["sensors", "tokens"]
    wide: bool
    has_entity: bool
    columns: tuple[str, ...]
    values: tuple[str, ...]  # wide: the sensors' columns
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Samples in the file's order; a row of a wide file gives several. `row` counts the file's rows from 0."""

    entity: I32  # index in Reader.entities
    sensor: I32  # index in Reader.sensors; 0 for tokens
    t_us: I64
    value: F64  # NaN: missing; for tokens the index in Reader.tokens
    row: I64

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: Bool | I64 | slice) -> Rows:
        """The rows that a mask, an index or a slice names."""
        return Rows(self.entity[which], self.sensor[which], self.t_us[which], self.value[which], self.row[which])


class Reader:
    """One file. Raises ConfigurationError where it can't be read or is laid out in no known way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = _layout(path, _schema(path))
        self._entities, self._sensors, self._tokens = _Names(), _Names(), _Names()
        self.refused: Counter[str] = Counter()
        for name in self.layout.values:
            self._sensors.index([name])

    @property
    def entities(self) -> Sequence[str]:
        return self._entities.names

    @property
    def sensors(self) -> Sequence[str]:
        return self._sensors.names

    @property
    def tokens(self) -> Sequence[str]:
        return self._tokens.names

    def batches(self) -> Iterator[Rows]:
        """All rows that can be used, in the file's order. Those that can't are counted in `refused`, once per call."""
        self.refused.clear()
        at = 0
        for table in _tables(self.path, self.layout.columns):
            yield self._rows(table, at)
            at += table.num_rows

    def times(self) -> Iterator[tuple[I32, I64, I64]]:
        """Entity, time and number of every row of the file that has both, without values: what a first look needs."""
        columns = [name for name in ("entity", "t") if name in self.layout.columns]
        at = 0
        for table in _tables(self.path, columns):
            t_us, bad = times_us(table["t"])
            entity = self._entity(table)
            keep = np.flatnonzero(~bad & (entity >= 0))
            yield entity[keep], t_us[keep], keep + at
            at += table.num_rows

    def _rows(self, table: pa.Table, at: int) -> Rows:
        row = np.arange(at, at + table.num_rows, dtype=np.int64)
        t_us, bad_time = times_us(table["t"])
        entity = self._entity(table)
        if self.layout.wide:
            return self._melted(table, Rows(entity, entity, t_us, np.empty(len(row)), row), bad_time)
        if self.layout.kind == "tokens":
            value, wrong = self._token_ids(table["token"])
            sensor = np.zeros(len(row), np.int32)
        else:
            value, wrong = _numbers(table["value"])
            sensor = self._sensors.indices(table["sensor"])
        return self._usable(Rows(entity, sensor, t_us, value, row), bad_time, wrong)

    def _melted(self, table: pa.Table, keys: Rows, bad_time: Bool) -> Rows:
        """A wide batch as one sample per cell that is not empty, row by row."""
        n, width = table.num_rows, len(self.layout.values)
        values, wrong = np.empty((n, width)), np.empty((n, width), bool)
        for i, name in enumerate(self.layout.values):
            values[:, i], wrong[:, i] = _numbers(table[name])
        cells = np.flatnonzero(~np.isnan(values).ravel() | wrong.ravel())
        row, sensor = cells // width, (cells % width).astype(np.int32)
        melted = Rows(keys.entity[row], sensor, keys.t_us[row], values.ravel()[cells], keys.row[row])
        return self._usable(melted, bad_time[row], wrong.ravel()[cells])

    def _usable(self, rows: Rows, bad_time: Bool, wrong: Bool) -> Rows:
        """Without the rows that a live record would be refused for, each counted under its first reason."""
        keep = np.ones(len(rows), bool)
        infinite = np.isinf(rows.value)
        names = ((Reason.MISSING_KEY, rows.entity < 0), (Reason.MISSING_SENSOR, rows.sensor < 0))
        others = ((Reason.INVALID_TIME, bad_time), (Reason.WRONG_TYPE, wrong), (Reason.NOT_FINITE, infinite))
        for reason, refused in (*names, *others):
            if n := int((refused & keep).sum()):
                self.refused[reason.value] += n
            keep &= ~refused
        return rows if keep.all() else rows.take(keep)

    def _entity(self, table: pa.Table) -> I32:
        if not self.layout.has_entity:
            return np.full(table.num_rows, self._entities.index([DEFAULT_ENTITY])[0], np.int32)
        return self._entities.indices(table["entity"])

    def _token_ids(self, column: pa.ChunkedArray) -> tuple[F64, Bool]:
        ids = self._tokens.indices(column)
        return ids.astype(np.float64), ids < 0


class _Names:
    """Names in the order met, and their indices."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._index: dict[str, int] = {}

    def index(self, names: Sequence[str]) -> I32:
        for name in names:
            if name not in self._index:
                self._index[name] = len(self.names)
                self.names.append(name)
        return np.array([self._index[name] for name in names], np.int32)

    def indices(self, column: pa.ChunkedArray) -> I32:
        """The index of each value's text; -1 where it is missing or empty."""
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        encoded = column.unify_dictionaries().combine_chunks()
        texts = [_text(value) for value in encoded.dictionary.to_pylist()]
        known = self.index([text for text in texts if text])
        lookup = np.full(len(texts) + 1, -1, np.int32)
        lookup[np.flatnonzero([bool(text) for text in texts])] = known
        positions = encoded.indices.cast(pa.int64()).fill_null(len(texts)).to_numpy(zero_copy_only=False)
        found: I32 = lookup[positions]
        return found


def _text(value: object) -> str:
    """Names are text; a whole number is written as one, so that token 5 is "5" whether a file says 5 or 5.0. What no
    name can be is empty, and refused like an empty one."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = "" if value is None or value != value else str(value)
    return "" if len(text) > NAME_MAX or "\0" in text else text


def _numbers(column: pa.ChunkedArray) -> tuple[F64, Bool]:
    """float64 values (NaN: missing), and which cells hold something that is no number."""
    wrong = np.zeros(len(column), bool)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        number = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|nan|NaN)$")
        wrong = pc.and_(pc.invert(number), pc.not_equal(text, "")).fill_null(False).to_numpy()
        column = pc.if_else(number, text, pa.scalar(None, text.type))
    elif not _is_number(column.type):
        return np.full(len(column), np.nan), pc.is_valid(column).to_numpy()
    return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64), wrong


def _is_number(kind: pa.DataType) -> bool:
    """An empty column is one too: a sensor that said nothing."""
    t = pa.types
    return any(f(kind) for f in (t.is_integer, t.is_floating, t.is_boolean, t.is_decimal, t.is_null))


def _layout(path: Path, schema: pa.Schema) -> Layout:
    names = schema.names
    if repeated := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ConfigurationError(f"{path}: several columns are named {', '.join(repeated)}")
    has_entity = "entity" in names
    keys = (("entity",) if has_entity else ()) + ("t",)
    if "t" not in names:
        raise ConfigurationError(f"{path} has no column `t` (time); it has {_listed(names)}")
    if "token" in names:
        return Layout("tokens", False, has_entity, (*keys, "token"), ())
    if "sensor" in names and "value" in names:
        return Layout("sensors", False, has_entity, (*keys, "sensor", "value"), ())
    rest = [name for name in names if name not in keys]
    values = tuple(name for name in rest if _is_number(schema.field(name).type))
    if not values:
        known = "entity, sensor, t, value; entity, t, token; or t and a column of numbers per sensor"
        raise ConfigurationError(f"{path} is laid out in no known way ({known}); it has {_listed(names)}")
    ignored = tuple(name for name in rest if name not in values)
    return Layout("sensors", True, has_entity, keys + values, values, ignored)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown or "none"


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _schema(path: Path) -> pa.Schema:
    try:
        if path.stat().st_size == 0:
            raise ConfigurationError(f"{path} is empty")
        if _is_parquet(path):
            return pa.parquet.read_schema(path)
        with pa.csv.open_csv(path, **_csv_options(None)) as reader:
            return reader.schema
    except OSError as problem:
        raise ConfigurationError(f"{path} can't be read: {problem.strerror or problem}") from problem
    except (pa.ArrowInvalid, UnicodeDecodeError) as problem:
        raise ConfigurationError(f"{path} is neither Parquet nor CSV: {_first_line(problem)}") from problem


def _tables(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The file in tables of some rows."""
    try:
        if _is_parquet(path):
            rows = max(1024, BATCH_CELLS // len(columns))
            with pa.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield pa.Table.from_batches([batch])
        else:
            with pa.csv.open_csv(path, **_csv_options(_schema(path), columns)) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as problem:
        raise ConfigurationError(f"{path} can't be read further: {_first_line(problem)}") from problem


def _csv_options(schema: pa.Schema | None, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Names, times and tokens as text: a type guessed from the first rows need not fit the rest. Numbers as numbers."""
    kinds = {name: pa.string() for name in ("entity", "sensor", "t", "token")}
    if schema is not None:
        rest = [name for name in columns if name not in kinds]
        kinds |= {name: pa.float64() if _is_number(schema.field(name).type) else pa.string() for name in rest}
    convert = pa.csv.ConvertOptions(
        column_types=kinds,
        include_columns=list(columns),
        null_values=["", "NaN", "nan", "NA", "null", "None"],
        strings_can_be_null=True,
    )
    return {"convert_options": convert, "read_options": pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)}


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0][:300]
