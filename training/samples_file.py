"""A `Dataset` in a Parquet file: what was read from topics, kept between the steps of a refit.

In: `Dataset`, or a file. Out: a file, or `Dataset`. Remembers: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from training.dataset import Dataset

_NAMES = b"tailrace.names"
_COLUMNS = ("entity", "sensor", "t_us", "value")


def write(data: Dataset, path: Path) -> None:
    """All of it, names in the file's metadata."""
    table = pa.table({name: getattr(data, name) for name in _COLUMNS})
    names = {
        "kind": data.kind,
        "entities": data.entities,
        "sensors": data.sensors,
        "vocabulary": list(data.vocabulary.items()),
    }
    pa.parquet.write_table(table.replace_schema_metadata({_NAMES: json.dumps(names).encode()}), path)


def read(path: Path) -> Dataset:
    """What `write` wrote."""
    table = pa.parquet.read_table(path)
    names = json.loads(table.schema.metadata[_NAMES])
    entity, sensor, t_us, value = (np.asarray(table[name].to_numpy()) for name in _COLUMNS)
    who = (names["kind"], tuple(names["entities"]), tuple(names["sensors"]), dict(names["vocabulary"]))
    return Dataset(*who, entity, sensor, t_us, value)
