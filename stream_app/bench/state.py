"""`bench state`: what 100,000 entities cost, in memory, at a start, and per sample.

In: nothing. Out: the benchmark's figures. Remembers: nothing. The same number of records is read from 100 entities and
from 100,000; windows are short, so that the windows of an entity with few samples close as those of the others do. Ten
samples each: that an entity is met for the first time, and its state written, is among the costs. Without scoring they
are most of it; with it, hardly seen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from stream_app.bench.load import Load, load_samples
from stream_app.bench.score import signals, train
from stream_app.bench.worker import Run, run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.live.topics import create_topics

MANY, FEW = 100_000, 100
RECORDS = 1_000_000
EACH = 2  # samples per entity when states are counted
ROUNDS = 3
# No lateness: an entity with ten samples closes windows, as one with thousands does.
WINDOWS = {"length": "4s", "stride": "2s", "lateness": "0s"}
PERIOD_MS = 1_000.0
N_TRAIN = 4_000


def run() -> dict[str, Any]:
    """The cost per sample with the detector and without; the states' size and the time to restore them with it."""
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        bundle = str(train(Path(folder), signals(N_TRAIN, 1, seed=1)))
        for name, load in _loads().items():
            load_samples(kafka.bootstrap, name, load)
            create_topics(kafka.bootstrap, dict.fromkeys((f"{name}-dlt", "alerts", "scores", "drift"), 1))
        unscored = _costs(kafka, "unscored", {"windows": WINDOWS})
        scored = _costs(kafka, "scored", {"windows": WINDOWS, "model": bundle})
        small = _run(kafka, "few-states", "small", {"model": bundle})
        large = _run(kafka, "many-states", "large", {"model": bundle})
        again = _run(kafka, "many-states", "large", {"model": bundle})
    return {
        "value": round((large.peak_mb - small.peak_mb) * 1024 / MANY, 2),
        "unit": "kB per entity in memory",
        "ratios": {
            "cost per sample with 100,000 entities over that with 100": _ratio(scored),
            "the same without scoring": _ratio(unscored),
        },
        "runs": {
            "restored_s": again.restored_s,
            "peak_mb": [small.peak_mb, large.peak_mb, again.peak_mb],
            "records_per_s": {"scored": _rates(scored), "unscored": _rates(unscored)},
        },
    }


def _costs(kafka: KafkaCluster, kind: str, settings: dict[str, Any]) -> dict[str, list[Run]]:
    """Runs over the same number of records of many entities and of few, alternately."""
    runs: dict[str, list[Run]] = {"many": [], "few": []}
    for turn in range(ROUNDS):
        for name, done in runs.items():
            done.append(_run(kafka, name, f"{kind}-{name}-{turn}", settings))
    return runs


def _ratio(runs: dict[str, list[Run]]) -> float:
    return round(median(few.rate / many.rate for many, few in zip(runs["many"], runs["few"], strict=True)), 2)


def _rates(runs: dict[str, list[Run]]) -> dict[str, list[int]]:
    return {name: [round(run.rate) for run in done] for name, done in runs.items()}


def _loads() -> dict[str, Load]:
    return {
        name: Load(records, entities=entities, period_ms=PERIOD_MS, sensor="s0")
        for name, records, entities in (
            ("many", RECORDS, MANY),
            ("few", RECORDS, FEW),
            ("many-states", MANY * EACH, MANY),
            ("few-states", FEW * EACH, FEW),
        )
    }


def _run(kafka: KafkaCluster, topic: str, detector: str, settings: dict[str, Any]) -> Run:
    return run_worker({"detector": detector, "brokers": kafka.bootstrap, "sources": [{"topic": topic}]} | settings)
