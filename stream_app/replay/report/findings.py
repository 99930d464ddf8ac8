"""What a replay's results say, gathered for its report: per model rates, tail, drift; per entity scores and alerts.

In: folders of results. Out: `ModelFindings`, `EntityScores`. Remembers: nothing; files are read a row group at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.scenes import F64, I64, Bool
from stream_app.report.decimate import highest
from stream_app.report.statistics import cluster_peaks

TAIL_FROM = 0.05  # windows with a tail probability above it are not kept for the tail's picture
TAIL_ROWS_MAX = 1_000_000
PERIODS = 120  # in which the quantiles of the scores are taken
PERIOD_ROWS = 4_096  # scores kept per period, on average; every n-th of them all
QUANTILES = (0.5, 0.95, 0.999)
POINTS = 1_500  # of a series that is drawn


@dataclass(frozen=True)
class Span:
    """Event time of everything that was scored, microseconds."""

    start_us: int
    end_us: int


@dataclass
class Periods:
    """Scores by stretches of time, every n-th of them kept."""

    span: Span
    every: int = 1
    scores: list[list[F64]] = field(default_factory=lambda: [[] for _ in range(PERIODS)])
    seen: I64 = field(default_factory=lambda: np.zeros(PERIODS, np.int64))
    alarms: I64 = field(default_factory=lambda: np.zeros(PERIODS, np.int64))

    def add(self, end_us: I64, score: F64, alarm: Bool) -> None:
        at = (end_us - self.span.start_us) * PERIODS // (self.span.end_us - self.span.start_us + 1)
        self.seen += np.bincount(at, minlength=PERIODS)
        self.alarms += np.bincount(at[alarm], minlength=PERIODS)
        some = np.arange(0, len(at), self.every)
        for period in np.unique(at[some]):
            self.scores[period].append(score[some][at[some] == period])

    def quantiles(self) -> tuple[I64, F64]:
        """Middles of the periods that have scores [p], and the quantiles there [p, 3]."""
        some = [i for i, parts in enumerate(self.scores) if parts]
        width = (self.span.end_us - self.span.start_us + 1) / PERIODS
        middle = (self.span.start_us + (np.array(some) + 0.5) * width).astype(np.int64)
        found = [np.quantile(np.concatenate(self.scores[i]), QUANTILES) for i in some]
        return middle, np.array(found).reshape(-1, len(QUANTILES))


@dataclass(frozen=True)
class EntityScores:
    """One entity's windows, decimated: the highest score of each stretch, with its threshold."""

    end_us: I64
    score: F64
    threshold: F64


@dataclass(frozen=True)
class Scored:
    """Of one model: what all its windows say."""

    windows: dict[str, int]  # per entity
    anomalous: int
    warming: int
    peaks: F64  # depths of the clusters of exceedances, -ln of the tail probability
    periods: Periods


def span_of(folders: list[Path]) -> Span | None:
    """The time that the windows of all models cover; None where there is no window."""
    starts, ends = [], []
    for folder in folders:
        for columns in _columns(folder, ["data_start_time", "data_end_time"]):
            starts.append(int(_us(columns["data_start_time"]).min()))
            ends.append(int(_us(columns["data_end_time"]).max()))
    return Span(min(starts), max(ends)) if starts else None


def scored(folder: Path, span: Span, gap: int = 16) -> Scored:
    """Reads scores.parquet once."""
    windows: dict[str, int] = {}
    n_rows = pq.read_metadata(folder / "scores.parquet").num_rows
    periods, totals = Periods(span, 1 + n_rows // (PERIODS * PERIOD_ROWS)), np.zeros(2, np.int64)
    tail: list[tuple[F64, I64, I64]] = []
    index: dict[str, int] = {}
    wanted = ["entity", "data_end_time", "anomaly_score", "anomalous", "tail_probability", "state"]
    for columns in _columns(folder, wanted):
        names, codes = _entities(columns["entity"])
        place = _places(names, codes, windows)
        alarm = columns["anomalous"].to_numpy(zero_copy_only=False)
        periods.add(_us(columns["data_end_time"]), columns["anomaly_score"].to_numpy(), alarm)
        totals += [int(alarm.sum()), int(pa.compute.sum(pa.compute.equal(columns["state"], "warming")).as_py() or 0)]
        probability = columns["tail_probability"].to_numpy(zero_copy_only=False)
        few = np.flatnonzero(probability < TAIL_FROM)
        numbers = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
        depth = -np.log(np.maximum(probability[few], 1e-300))
        if sum(len(part[0]) for part in tail) < TAIL_ROWS_MAX:
            tail.append((depth, numbers[codes[few]], place[few]))
    return Scored(windows, int(totals[0]), int(totals[1]), _peaks(tail, gap), periods)


def _places(names: list[str], codes: I64, windows: dict[str, int]) -> I64:
    """The number of each row among its entity's; counts them."""
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], np.arange(len(names)))
    counts = np.bincount(codes, minlength=len(names))
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - first[codes[order]]
    before = np.array([windows.get(name, 0) for name in names], np.int64)
    for name, n in zip(names, counts.tolist(), strict=True):
        windows[name] = windows.get(name, 0) + n
    found: I64 = place + before[codes]
    return found


def _peaks(tail: list[tuple[F64, I64, I64]], gap: int) -> F64:
    if not tail:
        return np.empty(0)
    depth, entity, place = (np.concatenate([part[i] for part in tail]) for i in range(3))
    order = np.lexsort((place, entity))
    return cluster_peaks(depth[order], entity[order], place[order], gap)


def entity_scores(folder: Path, entities: list[str]) -> dict[str, EntityScores]:
    """The windows of some entities, as they are drawn."""
    found: dict[str, list[tuple[I64, F64, F64]]] = {entity: [] for entity in entities}
    for columns in _columns(folder, ["entity", "data_end_time", "anomaly_score", "threshold"]):
        names, codes = _entities(columns["entity"])
        end_us = _us(columns["data_end_time"])
        score, threshold = (columns[n].to_numpy(zero_copy_only=False) for n in ("anomaly_score", "threshold"))
        for i, name in enumerate(names):
            if name in found:
                at = np.flatnonzero(codes == i)
                found[name].append((end_us[at], score[at], threshold[at]))
    return {entity: _drawn(parts) for entity, parts in found.items() if parts}


def _drawn(parts: list[tuple[I64, F64, F64]]) -> EntityScores:
    end_us, score, threshold = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(end_us, kind="stable")
    end_us, score, threshold = end_us[order], score[order], threshold[order]
    at = highest(end_us, score, POINTS)
    return EntityScores(end_us[at], score[at], threshold[at])


def frames(folder: Path, entity: str, span: Span) -> tuple[I64, F64]:
    """The frames' scores of one entity, the highest of each stretch: ends and scores."""
    ends, scores = [], []
    for columns in _columns(folder, ["entity", "frame_end_time", "anomaly_score"], "frames.parquet"):
        names, codes = _entities(columns["entity"])
        if entity in names:
            at = np.flatnonzero(codes == names.index(entity))
            ends.append(_us(columns["frame_end_time"])[at])
            scores.append(columns["anomaly_score"].to_numpy()[at])
    if not ends:
        return np.empty(0, np.int64), np.empty(0)
    end_us, score = np.concatenate(ends), np.concatenate(scores)
    order = np.argsort(end_us, kind="stable")
    kept = highest(end_us[order], score[order], POINTS)
    return end_us[order][kept], score[order][kept]


def drift_events(folder: Path) -> list[dict[str, Any]]:
    """As the drift topic has them."""
    return [json.loads(line) for line in (folder / "drift.jsonl").read_text().splitlines()]


def strangest(folder: Path, n: int) -> list[str]:
    """The entities with the highest scores."""
    table = pq.read_table(folder / "entities.parquet", columns=["entity", "anomaly_score"])
    rows = sorted(zip(*(column.to_pylist() for column in table.columns), strict=True), key=lambda r: (-r[1], r[0]))
    return [name for name, _ in rows[:n]]


def _columns(folder: Path, names: list[str], file: str = "scores.parquet") -> Iterator[dict[str, Any]]:
    """Row groups that are not empty, as columns."""
    import pyarrow.compute  # noqa: F401  # registers pa.compute

    with pq.ParquetFile(folder / file) as opened:
        for i in range(opened.num_row_groups):
            table = opened.read_row_group(i, columns=names)
            if table.num_rows:
                yield {name: table[name].combine_chunks() for name in names}


def _entities(column: Any) -> tuple[list[str], I64]:
    """Distinct names and each row's index into them."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return column.dictionary.to_pylist(), codes


def _us(column: Any) -> I64:
    found: I64 = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return found
