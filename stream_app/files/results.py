"""Files out: what the pipeline says of a file, as it says it: scores, frames, entities, alerts, accounting.

In: `Result`s. Out: a folder with scores.parquet, frames.parquet, entities.parquet, alerts.jsonl, accounting.json.
Remembers: per entity its windows' count and scores, until the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from models.detector import Detector
from models.scenes import F64, Bool
from stream_app.alerts.wire import encode_alert
from stream_app.pipeline import Result, ScoredWindows

_TIME = pa.timestamp("us", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())
_FRAMES = pa.schema(
    {"entity": _NAME, "frame_start_time": _TIME, "frame_end_time": _TIME, "anomaly_score": pa.float64()}
)
_ROWS_PER_GROUP = 65_536


@dataclass
class _Tally:
    """What one entity's windows scored so far."""

    windows: int = 0
    anomalous: int = 0
    total: float = 0.0
    highest: float = -np.inf


class ResultFolder:
    """Writes results as they come; use it as a context. Files of an earlier run are replaced."""

    def __init__(self, folder: Path, detector: Detector, name: str, part_names: Iterable[str] = ()) -> None:
        """part_names: of detectors that may take over, beside this one's."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._detector, self._name = folder, detector, name
        self._part_names = tuple(dict.fromkeys((*detector.part_names, *part_names)))
        self._tallies: dict[str, _Tally] = {}
        self._scores = _Growing(folder / "scores.parquet", _scores_schema(self._part_names))
        self._frames = _Growing(folder / "frames.parquet", _FRAMES)
        self._alerts = (folder / "alerts.jsonl").open("wb")
        self.n_alerts = 0

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._scores, self._frames, self._alerts):
            file.close()

    def turn_to(self, detector: Detector) -> None:
        """What is added from now on was said by another detector."""
        self._detector = detector

    def add(self, result: Result) -> None:
        """Writes what one batch gave."""
        for alert in result.alerts:
            self._alerts.write(encode_alert(alert) + b"\n")
        self.n_alerts += sum(alert.status == "open" for alert in result.alerts)
        if result.windows is None or not len(result.windows.scenes):
            return
        self._scores.add(self._score_columns(result.windows))
        self._frames.add(_frame_columns(result.windows))
        self._tally(result.windows)

    def finish(self, accounting: Mapping[str, int], refused: Mapping[str, int]) -> None:
        """The end: entities and accounting, which sum up the whole."""
        assert accounting["samples_read"] == sum(n for name, n in accounting.items() if name != "samples_read")
        pa.parquet.write_table(self._entities(), self.folder / "entities.parquet")
        text = json.dumps({**accounting, "refused": dict(refused)} if refused else dict(accounting), indent=1)
        (self.folder / "accounting.json").write_text(text + "\n")

    def _score_columns(self, windows: ScoredWindows) -> dict[str, Any]:
        scenes, scored, judged = windows.scenes, windows.scored, windows.judged
        labels = [self._detector.cluster_names.get(int(cluster)) for cluster in scored.cluster]
        return {
            "detector": [self._name] * len(scenes),
            "entity": windows.entities,
            "data_start_time": scenes.start_us,
            "data_end_time": scenes.end_us,
            "position": scenes.position,
            "anomaly_score": scored.score,
            "threshold": judged.threshold,
            "tail_probability": judged.tail_probability,
            "anomaly_grade": judged.grade,
            "anomalous": judged.alarm,
            "state": np.where(judged.warming, "warming", "live"),
            "cluster": [scored.cluster, scored.membership_probability, labels],
            "parts": self._parts(windows),
            "bundle": [self._detector.digest] * len(scenes),
            "first_offset": scenes.first_offset,
            "last_offset": scenes.last_offset,
        }

    def _parts(self, windows: ScoredWindows) -> list[Any]:
        """A column per name; null where the detector has no such part."""
        own = dict(zip(self._detector.part_names, windows.scored.parts.T, strict=True))
        return [own.get(name, [None] * len(windows.scenes)) for name in self._part_names]

    def _tally(self, windows: ScoredWindows) -> None:
        names, index = np.unique(np.array(windows.entities, object), return_inverse=True)
        for i, name in enumerate(names.tolist()):
            mine = index == i if len(names) > 1 else slice(None)
            _count(self._tallies.setdefault(name, _Tally()), windows.scored.score[mine], windows.judged.alarm[mine])

    def _entities(self) -> pa.Table:
        """A session is as strange as its tokens are on average; a machine as strange as it ever was."""
        tallies, average = self._tallies.values(), self._detector.kind == "tokens"
        columns = {
            "entity": pa.array(self._tallies.keys(), pa.string()),
            "anomaly_score": pa.array([t.total / t.windows if average else t.highest for t in tallies], pa.float64()),
            "windows": pa.array([t.windows for t in tallies], pa.int64()),
            "anomalous_windows": pa.array([t.anomalous for t in tallies], pa.int64()),
        }
        return pa.table(columns)


class _Growing:
    """A Parquet file that is written in groups of rows as they come."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._writer = schema, pa.parquet.ParquetWriter(path, schema, use_dictionary=repeating(schema))
        self._waiting: list[pa.Table] = []

    def add(self, columns: Mapping[str, Any]) -> None:
        arrays = [_column(columns[field.name], field.type) for field in self._schema]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        if sum(table.num_rows for table in self._waiting) >= _ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).unify_dictionaries())
            self._waiting.clear()


def repeating(schema: pa.Schema) -> list[str]:
    """The columns that are worth a dictionary in Parquet: names. One of numbers, which hardly repeat, makes the file
    larger and takes twice as long to write."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    fields = [(field.name, field.type) for field in schema]
    fields += [(f"{struct.name}.{field.name}", field.type) for struct in structs for field in struct.type]
    return [name for name, kind in fields if pa.types.is_dictionary(kind) or pa.types.is_string(kind)]


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_struct(kind):
        arrays = [pa.array(column, field.type) for column, field in zip(values, kind, strict=True)]
        return pa.StructArray.from_arrays(arrays, fields=list(kind))
    return pa.array(values, kind)


def _scores_schema(part_names: tuple[str, ...]) -> pa.Schema:
    """The names of the `scores` topic; of `inputs` there is one, the file, so it has two columns of row numbers."""
    cluster = {"id": pa.int32(), "membership_probability": pa.float32(), "label": pa.string()}
    return pa.schema(
        {
            "detector": _NAME,
            "entity": _NAME,
            "data_start_time": _TIME,
            "data_end_time": _TIME,
            "position": pa.int64(),
            "anomaly_score": pa.float64(),
            "threshold": pa.float64(),
            "tail_probability": pa.float64(),
            "anomaly_grade": pa.float64(),
            "anomalous": pa.bool_(),
            "state": _NAME,
            "cluster": pa.struct(cluster),
            "parts": pa.struct({name: pa.float32() for name in part_names}),
            "bundle": _NAME,
            "first_offset": pa.int64(),
            "last_offset": pa.int64(),
        }
    )


def _frame_columns(windows: ScoredWindows) -> dict[str, Any]:
    frames = windows.scored.frames
    slots, first = np.unique(windows.scenes.entity, return_index=True)
    names = np.array([windows.entities[i] for i in first], object)
    return {
        "entity": names[np.searchsorted(slots, frames.entity)],
        "frame_start_time": frames.start_us,
        "frame_end_time": frames.end_us,
        "anomaly_score": frames.score,
    }


def _count(tally: _Tally, scores: F64, alarms: Bool) -> None:
    tally.windows += len(scores)
    tally.anomalous += int(alarms.sum())
    tally.total += float(scores.sum())
    tally.highest = max(tally.highest, float(scores.max()))
