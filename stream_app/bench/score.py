"""`bench score`: windows scored per second through the whole worker, 19 sensors of 60 samples, beside a random forest.

In: nothing. Out: the benchmark's figures. Remembers: nothing. The forest is the peer that users of stream detectors
know: random cut, 50 trees of 256 points, in Rust, on points of the same 19 x 60 numbers, one thread each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stream_app.bench.load import Load, Record, fill
from stream_app.bench.peers import prepare_peers, run_peer
from stream_app.bench.worker import run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.errors import TailraceError
from stream_app.live.topics import create_topics

SENSORS, SAMPLES = 19, 60
N_TRAIN = 4_000
ENTITIES = 16
RECORDS = 32_000  # one window each: the stride is one sample
FOREST_WINDOWS = 2_000
ROUNDS = 3
START_MS = 1_700_000_000_000


def run() -> dict[str, Any]:
    """Trains a bundle by the command line, then scores a full topic with one worker."""
    prepare_peers()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        bundle = train(Path(folder), signals(N_TRAIN, SENSORS, seed=1))
        load = Load(RECORDS, entities=ENTITIES, period_ms=1000.0, start_ms=START_MS)
        fill(kafka.bootstrap, "bench", load, records(load))
        create_topics(kafka.bootstrap, dict.fromkeys(("bench-dlt", "alerts", "scores", "drift"), 1))
        for turn in range(ROUNDS):
            theirs.append(run_peer("forest", kafka.bootstrap, "bench", FOREST_WINDOWS))
            settings = {"detector": f"bench-{turn}", "brokers": kafka.bootstrap, "sources": [{"topic": "bench"}]}
            extent = {"windows": {"length": f"{SAMPLES}s", "stride": "1s"}}
            ours.append(run_worker(settings | extent | {"model": str(bundle)}).rate)
    return {
        "value": round(median(ours)),
        "unit": "windows/s",
        "ratios": {"forest": round(median(a / b for a, b in zip(ours, theirs, strict=True)), 2)},
        "runs": {"tailrace": [round(r) for r in ours], "forest": [round(r) for r in theirs]},
    }


def signals(n: int, sensors: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Slow common causes with a noise of their own for each sensor. [sample, sensor]"""
    rng = np.random.default_rng(seed)
    causes = np.cumsum(rng.normal(0, 0.05, (n, 3)), axis=0) % 6.3
    return np.sin(causes) @ rng.normal(size=(3, sensors)) + rng.normal(0, 0.1, (n, sensors))


def train(folder: Path, values: np.ndarray[Any, np.dtype[np.float64]], period_us: int = 1_000_000) -> Path:
    """A bundle for sensors s0, s1, ... by the command that a user would take. Raises TailraceError."""
    return train_on(folder, sensor_table(values, period_us))


def train_on(folder: Path, table: pa.Table, *options: str) -> Path:
    """As `train`, on any table, with options of the command."""
    pq.write_table(table, folder / "train.parquet")
    command = [str(Path(sys.executable).with_name("tailrace")), "train", "--input", str(folder / "train.parquet")]
    command += ["--out", str(folder / "bundle"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TailraceError(f"the bundle for the benchmark could not be trained: {done.stderr.strip()[-200:]}")
    return folder / "bundle"


def sensor_table(values: np.ndarray[Any, np.dtype[np.float64]], period_us: int) -> pa.Table:
    """Samples [sample, sensor] as a wide file has them."""
    times = pa.array(START_MS * 1000 + np.arange(len(values)) * period_us, pa.timestamp("us", tz="UTC"))
    return pa.table({"t": times} | {f"s{i}": values[:, i] for i in range(values.shape[1])})


def records(load: Load) -> Iterator[Record]:
    """One sample of every sensor each, entities in turn."""
    values = signals(load.records // load.entities + 1, SENSORS, seed=2).round(4).tolist()
    for i in range(load.records):
        turn, entity = divmod(i, load.entities)
        t_ms = load.start_ms + int(turn * load.period_ms)
        sample = {"t": t_ms, "values": {f"s{k}": v for k, v in enumerate(values[turn])}}
        yield Record(f"entity-{entity:03d}".encode(), orjson.dumps(sample), t_ms)
