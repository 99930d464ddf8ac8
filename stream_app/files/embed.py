"""`tailrace embed`: the embedding of every window of a file, in shards of Parquet that may be made one by one.

In: a file and a bundle. Out: `part-I-of-N.parquet`: entity, times, embedding, cluster, membership probability, score.
Remembers: nothing. A shard that is there is done: it gets its name when it is whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from models.detector import Detector
from stream_app.cli.output import progress
from stream_app.config import parse
from stream_app.errors import ConfigurationError, UsageError
from stream_app.files.detect import must_fit
from stream_app.files.order import arriving, order_of
from stream_app.files.reader import Reader, Rows
from stream_app.files.run import FileRun
from stream_app.judging import Result, ScoredWindows
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Job:
    """What to embed, and which shards: `shard` "2/8" is the second of eight, None is all of one."""

    file: Path
    model: Path
    out: Path
    shard: str | None = None


def embed(job: Job) -> dict[str, Any]:
    """Writes a shard and says how many windows it has. Raises UsageError, ConfigurationError, BundleRefused."""
    i, n = shard_of(job.shard)
    path = job.out / f"part-{i}-of-{n}.parquet"
    if path.exists():
        return {"path": str(path), "windows": pa.parquet.read_metadata(path).num_rows, "done_before": True}
    return {"path": str(path), "windows": embed_with(open_bundle(job.model), job, path), "done_before": False}


def embed_with(detector: Detector, job: Job, path: Path) -> int:
    """Writes the shard with a detector that is open already, and gives the number of its windows."""
    reader = Reader(job.file)
    must_fit(reader, detector)
    job.out.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making")
    windows = 0
    with pa.parquet.ParquetWriter(making, _schema(detector)) as writer:
        for found in _windows(reader, detector, shard_of(job.shard)):
            writer.write_table(_table(found, detector))
            windows += len(found.scenes)
    making.rename(path)
    return windows


def shard_of(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n".

    >>> shard_of("2/8")
    (2, 8)
    """
    first, _, last = (text or "1/1").partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--shard {text}: write 2/8 for the second of eight")
    return int(first), int(last)


def read_embeddings(folder: Path) -> pa.Table:
    """All shards of a folder, or one file. Raises ConfigurationError where they are none, or not all there."""
    files = sorted(folder.glob("part-*-of-*.parquet")) if folder.is_dir() else [folder]
    counts = {path.stem.rpartition("-")[2] for path in files} if folder.is_dir() else set()
    if not files or not all(path.exists() for path in files):
        raise ConfigurationError(f"there are no embeddings in {folder}; tailrace embed writes them")
    if folder.is_dir() and counts != {str(len(files))}:
        raise ConfigurationError(
            f"{folder} has {len(files)} shards of {' and '.join(sorted(counts))}; make the others first"
        )
    try:
        table = pa.concat_tables([pa.parquet.read_table(path) for path in files])
    except pa.ArrowInvalid as problem:
        raise ConfigurationError(f"{folder} can't be read as embeddings: {problem}") from problem
    if not {"entity", "embedding"} <= set(table.column_names):
        raise ConfigurationError(f"{folder} has no columns entity and embedding; tailrace embed writes them")
    return table


def vectors(table: pa.Table) -> np.ndarray:
    """The embeddings of a table. [w, width]"""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(column), -1)


def _windows(reader: Reader, detector: Detector, shard: tuple[int, int]) -> Iterator[ScoredWindows]:
    """The windows of a shard's entities. An entity belongs to a shard by its name."""
    config = parse({"sources": [{"topic": reader.path.name}]})
    order = order_of(reader, config.windows.lateness)
    spec = PipelineSpec(config, detector, topic=reader.path.name, watches_drift=False)
    run = FileRun(Pipeline(spec), reader, detector)
    with progress(reader.path.name, order.n_rows) as tell:
        for rows in arriving(reader, order):
            mine = _mine(rows, reader, shard)
            yield from _scored(run.pipeline.step_samples(run.samples(mine, order, ends=True)))
            if run.holds_much:
                run.release()
            tell(float(rows.row[-1]) if len(rows) else 0.0)
        yield from _scored(run.pipeline.finish())


def _mine(rows: Rows, reader: Reader, shard: tuple[int, int]) -> Rows:
    i, n = shard
    if n == 1:
        return rows
    belongs = np.array([zlib.crc32(name.encode()) % n == i - 1 for name in reader.entities], bool)
    return rows.take(belongs[rows.entity])


def _scored(result: Result) -> Iterator[ScoredWindows]:
    if result.windows is not None and len(result.windows.scenes):
        yield result.windows


def _schema(detector: Detector) -> pa.Schema:
    return pa.schema(
        {
            "entity": pa.string(),
            "data_start_time": _TIME,
            "data_end_time": _TIME,
            "embedding": pa.list_(pa.float32()),
            "cluster": pa.int32(),
            "membership_probability": pa.float32(),
            "anomaly_score": pa.float64(),
        },
        metadata={"bundle": detector.digest},
    )


def _table(windows: ScoredWindows, detector: Detector) -> pa.Table:
    scored, w = windows.scored, len(windows.scenes)
    flat = pa.array(np.ascontiguousarray(scored.embedding, np.float32).ravel())
    offsets = pa.array(np.arange(w + 1, dtype=np.int32) * scored.embedding.shape[1])
    columns = [
        pa.array(windows.entities, pa.string()),
        pa.array(windows.scenes.start_us, _TIME),
        pa.array(windows.scenes.end_us, _TIME),
        pa.ListArray.from_arrays(offsets, flat),
        pa.array(scored.cluster),
        pa.array(scored.membership_probability),
        pa.array(scored.score),
    ]
    return pa.Table.from_arrays(columns, schema=_schema(detector))
