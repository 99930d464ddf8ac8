"""The rolling threshold alone, over a file of scores: `tailrace tail`.

In: a Parquet or CSV file with columns `t`, `score` and, where there are several, `entity`. Out: a Parquet file with
what the threshold says of each row. Remembers: nothing. Each entity starts without a past: its first 256 scores are
judged by nothing.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from models.scenes import F64, I32, I64
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys
from stream_app.threshold.judgement import Judged
from stream_app.threshold.stage import STAGE, Threshold, initial

VALUES_AT_ONCE = 1_000_000  # some hundred MB of columns


def run(input: Path, risk: float, out: Path) -> dict[str, Any]:
    """Judges the scores of `input` and writes `entity, t, score, threshold, tail_probability, alarm, episode`.

    Rows stay in the order of the file; each entity's are judged in order of `t`. `episode` marks the first alarm of
    one. A score that is missing or not finite gets no verdict. Gives a summary. Raises ConfigurationError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not 0 < risk < 0.5:
        raise ConfigurationError(f"a risk of {risk:g} was asked for; it must lie between 0 and 0.5")
    table = _read(input)
    score = np.asarray(table["score"].cast(pa.float64()).to_numpy(), np.float64)
    entity = table["entity"].cast(pa.string()).combine_chunks().dictionary_encode()
    code = entity.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    judged = judge(code, _order(table["t"], code), score, risk)
    columns = {"entity": table["entity"], "t": table["t"], "score": score}
    columns |= {"threshold": judged.threshold, "tail_probability": judged.tail_probability}
    pq.write_table(pa.table(columns | {"alarm": judged.alarm, "episode": judged.episode_start}), out)
    return {
        "rows": len(score),
        "entities": len(entity.dictionary),
        "alarms": int(judged.alarm.sum()),
        "episodes": int(judged.episode_start.sum()),
        "promised": risk * float(np.isfinite(judged.threshold).sum()),
        "not_finite": int((~np.isfinite(score)).sum()),
    }


def judge(entity: I32, order: I64, score: F64, risk: float) -> Judged:
    """What the threshold says of each score [n], every entity (0, 1, ...) starting without a past.

    order [n]: rows by (entity, time).
    """
    n_entities = int(entity.max()) + 1
    keys = Keys({STAGE: initial({}, risk)})
    slots = keys.slots([str(i).encode() for i in range(n_entities)])
    stage = Threshold(risk, keys)
    owner = entity[order]
    rank = np.arange(len(order)) - np.searchsorted(owner, owner)
    step = max(1, VALUES_AT_ONCE // n_entities)
    part = rank // step
    pieces = np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1])
    rows = [order[at] for at in pieces]
    said = [stage.update(slots[entity[at]], score[at], np.ones(len(at), bool)) for at in rows]
    back = np.argsort(np.concatenate(rows))
    return Judged(*(np.concatenate([getattr(part, f.name) for part in said])[back] for f in fields(Judged)))


def _read(path: Path) -> Any:
    """The file's table with columns entity, t, score, at least one row."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        table = pyarrow.csv.read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except OSError as problem:
        raise ConfigurationError(f"{path} can't be read: {problem.strerror or problem}") from None
    except pa.ArrowException as problem:
        raise ConfigurationError(f"{path} is neither Parquet nor CSV as its name says: {problem}") from None
    missing = [name for name in ("t", "score") if name not in table.column_names]
    if missing:
        raise ConfigurationError(f"{path} has no column {' and '.join(missing)}; its columns: {table.column_names}")
    if not table.num_rows:
        raise ConfigurationError(f"{path} has no rows; at least one score is needed")
    if not (pa.types.is_floating(table["score"].type) or pa.types.is_integer(table["score"].type)):
        raise ConfigurationError(f"{path}: column score holds {table['score'].type}; numbers are needed")
    if "entity" not in table.column_names:
        table = table.append_column("entity", pa.array([path.stem] * table.num_rows))
    for name in ("t", "entity"):
        if table[name].null_count:
            raise ConfigurationError(f"{path}: {table[name].null_count} rows have no {name}; each needs one")
    return table


def _order(t: Any, entity: I32) -> I64:
    """Rows by (entity, time), rows of the same time as they come."""
    import pyarrow as pa

    times = t.cast(pa.int64()) if pa.types.is_temporal(t.type) else t
    if not (pa.types.is_integer(times.type) or pa.types.is_floating(times.type)):
        raise ConfigurationError(f"column t holds {t.type}; timestamps or numbers are needed")
    return np.lexsort((times.to_numpy(), entity))
