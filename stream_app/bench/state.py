"""`bench state`: what 100,000 entities cost, in memory, at a start, and per sample.

In: nothing. Out: the benchmark's figures. Remembers: nothing. The same number of records is read from 100 entities and
from 100,000; windows are short, so that the windows of an entity with few samples close as those of the others do. Ten
samples each: that an entity is met for the first time, and its state written, is among the costs.
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
    """Without a detector for the cost per sample; with one for the states' size and the time to restore them."""
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        bundle = str(train(Path(folder), signals(N_TRAIN, 1, seed=1)))
        for name, load in _loads().items():
            load_samples(kafka.bootstrap, name, load)
            create_topics(kafka.bootstrap, dict.fromkeys((f"{name}-dlt", "alerts", "scores", "drift"), 1))
        many, few = ([_run(kafka, name, f"{name}-{i}") for i in range(ROUNDS)] for name in ("many", "few"))
        small = _run(kafka, "few-states", "small", bundle)
        large = _run(kafka, "many-states", "large", bundle)
        again = _run(kafka, "many-states", "large", bundle)
    cost = median(b.rate / a.rate for a, b in zip(many, few, strict=True))
    return {
        "value": round((large.peak_mb - small.peak_mb) * 1024 / MANY, 2),
        "unit": "kB per entity in memory",
        "ratios": {"cost per sample with 100,000 entities over that with 100": round(cost, 2)},
        "runs": {
            "restored_s": again.restored_s,
            "peak_mb": [small.peak_mb, large.peak_mb, again.peak_mb],
            "records_per_s": {"many": [round(r.rate) for r in many], "few": [round(r.rate) for r in few]},
        },
    }


def _loads() -> dict[str, Load]:
    return {
        "many": Load(RECORDS, entities=MANY, period_ms=PERIOD_MS),
        "few": Load(RECORDS, entities=FEW, period_ms=PERIOD_MS),
        "many-states": Load(MANY * EACH, entities=MANY, period_ms=PERIOD_MS, sensor="s0"),
        "few-states": Load(FEW * EACH, entities=FEW, period_ms=PERIOD_MS, sensor="s0"),
    }


def _run(kafka: KafkaCluster, topic: str, detector: str, model: str | None = None) -> Run:
    settings = {"detector": detector, "brokers": kafka.bootstrap, "sources": [{"topic": topic}], "windows": WINDOWS}
    return run_worker(settings | ({"model": model, "windows": {}} if model else {}))
