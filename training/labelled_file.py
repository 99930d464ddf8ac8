"""A user's own labelled file, for measuring: what to train on, and series whose anomalies are known.

In: Parquet or CSV as `tailrace train` reads it, with one more column: `label` or `anomaly`, 1 where something is wrong.
Out: a `Case`. Remembers: nothing. Without a file of its own, training takes of each entity what lies before its first
anomaly, at most the first half of its time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from models.scenes import I64, Bool
from stream_app.errors import ConfigurationError
from stream_app.files.times import times_us
from training.labelled import Case, Judged

LABELS = ("label", "anomaly", "is_anomaly")
ONE = "default"  # the entity of a file that names none


def labelled_case(path: Path, train: Path | None = None) -> Case:
    """The case of a file. Raises ConfigurationError where it has no label, or labels that are all alike."""
    table = _read(path)
    name = next((name for name in LABELS if name in table.column_names), None)
    if name is None:
        raise ConfigurationError(
            f"{path} has no labels; a column {' or '.join(LABELS)} must be 1 where something is wrong"
        )
    label, table = _flags(table[name], path), table.drop_columns([name])
    t_us, bad = times_us(table["t"])
    entity = table["entity"].cast(pa.string()) if "entity" in table.column_names else None
    owner = np.asarray(entity.fill_null(ONE)) if entity is not None else np.full(len(t_us), ONE)
    until = {who: _normal_until(t_us[owner == who], label[owner == who]) for who in np.unique(owner).tolist()}
    early = t_us < np.array([until[who] for who in owner.tolist()]) if train is None else np.zeros(len(t_us), bool)
    normal = _read(train) if train is not None else table.filter(pa.array(early & ~bad))
    normal = normal.drop_columns([name for name in LABELS if name in normal.column_names])
    judged = [_judged(who, table, (t_us, label), ~early & ~bad & (owner == who)) for who in until]
    kept = tuple(series for series in judged if series.label.any() and not series.label.all())
    if not kept:
        raise ConfigurationError(f"{path}: what is left to judge is all normal or all wrong; give --train a file")
    sensors = len(table.column_names) - 1 - (entity is not None)
    return Case(path.stem, "sensor" not in table.column_names and sensors == 1, normal, kept)


def _read(path: Path) -> pa.Table:
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table = pyarrow.parquet.read_table(path) if parquet else pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowInvalid) as problem:
        raise ConfigurationError(f"{path} can't be read: {str(problem).splitlines()[0]}") from problem
    if "t" not in table.column_names:
        raise ConfigurationError(f"{path} has no column `t` (time)")
    if "token" in table.column_names:
        raise ConfigurationError(f"{path} holds tokens; this measures sensors")
    return table


def _flags(column: pa.ChunkedArray, path: Path) -> Bool:
    """True where the label is neither zero nor missing."""
    try:
        found: Bool = np.asarray(pc.fill_null(column.cast(pa.float64()), 0.0)) != 0
    except pa.ArrowInvalid as problem:
        raise ConfigurationError(f"{path}: labels must be 0 or 1: {str(problem).splitlines()[0]}") from problem
    return found


def _normal_until(t_us: I64, label: Bool) -> int:
    middle = (int(t_us.min()) + int(t_us.max())) // 2
    return min(middle, int(t_us[label].min())) if label.any() else middle


def _judged(name: str, table: pa.Table, columns: tuple[I64, Bool], rows: Bool) -> Judged:
    t_us, first = np.unique(columns[0][rows], return_inverse=True)
    label = np.zeros(len(t_us), np.int64)
    np.maximum.at(label, first, columns[1][rows].astype(np.int64))
    return Judged(name, table.filter(pa.array(rows)), t_us, label)
