"""`bench latency`: from the record that closes an alarmed window, produced, to its alert, readable.

In: nothing. Out: the benchmark's figures, and a histogram. Remembers: nothing.

Event time is the time of production, so a window's end is a moment of this machine's clock. A window closes with the
entity's first sample at or after its end; the wait for that sample (up to a sample's interval) is what is excluded.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_app.bench.score import signals, train
from stream_app.bench.worker import alone
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.errors import TailraceError
from stream_app.live.topics import create_topics

ENTITIES, INTERVAL_MS, PARTITIONS = 200, 10, 4  # 20,000 records a second
WARM_UP_S, SECONDS = 15, 45
FAULT_EVERY_S, FAULT_S, FAULT_SIZE = 15, 1.0, 8.0  # of each entity, in turn
N_TRAIN = 6_000
AWAIT_S = 5.0
EDGES_MS = (10, 25, 50, 75, 100, 150, 200, 250, 500, 1_000, 5_000)


def run() -> dict[str, Any]:
    """The 99th percentile over the alerts opened after the warm-up."""
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        bundle = train(Path(folder), signals(N_TRAIN, 1, seed=1), period_us=INTERVAL_MS * 1000)
        create_topics(kafka.bootstrap, {"bench": PARTITIONS})
        create_topics(kafka.bootstrap, dict.fromkeys(("bench-dlt", "alerts", "drift"), 1))
        with _worker(Path(folder), kafka.bootstrap, bundle):
            latency_ms = np.array(asyncio.run(_measure(kafka.bootstrap)))
    if not len(latency_ms):
        raise TailraceError("no alert came: there is nothing to measure")
    p50, p99 = (round(float(np.percentile(latency_ms, q)), 1) for q in (50, 99))
    counts = np.histogram(latency_ms, bins=(0, *EDGES_MS, np.inf))[0]
    named = dict(zip([*(f"<{edge} ms" for edge in EDGES_MS), "more"], counts.tolist(), strict=True))
    runs = {"p50_ms": p50, "alerts": len(latency_ms), "histogram": named}
    return {"value": p99, "unit": "ms, 99th percentile", "ratios": {"of 250 ms": round(p99 / 250, 2)}, "runs": runs}


@contextmanager
def _worker(folder: Path, bootstrap: str, bundle: Path) -> Iterator[None]:
    settings = {
        "detector": "latency",
        "brokers": bootstrap,
        "sources": [{"topic": "bench"}],
        "model": str(bundle),
        "windows": {"lateness": "0s"},
        "topics": {"scores": None},
        "worker": {"http_port": None},
    }
    (folder / "detector.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "stream_app.bench.worker", str(folder / "detector.yaml"), "--follow"]
    with (folder / "worker.log").open("wb") as log, subprocess.Popen(command, stderr=log, env=alone()) as process:
        try:
            await_reading(folder / "worker.log", process)
            yield
        finally:
            process.terminate()


def await_reading(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a worker's log says that it has its partitions. Raises TailraceError with its last words."""
    while '"restored_s"' not in log.read_text():
        if process.poll() is not None:
            raise TailraceError(f"the worker ended with {process.returncode}: {log.read_text().strip()[-200:]}")
        time.sleep(0.1)


async def _measure(bootstrap: str) -> list[float]:
    """Produces at the stated rate and reads alerts; gives the latency of each, milliseconds."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=2, acks=1)
    consumer = AIOKafkaConsumer(
        "alerts", bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=5
    )
    await asyncio.gather(producer.start(), consumer.start())
    sent: dict[int, float] = {}  # event time of a tick, ms: when its records had been handed over
    found: list[float] = []
    begin_ms = int(time.time() * 1000) // INTERVAL_MS * INTERVAL_MS + INTERVAL_MS
    reader = asyncio.ensure_future(_read(consumer, begin_ms + WARM_UP_S * 1000, sent, found))
    try:
        await _produce(producer, begin_ms, sent)
        await asyncio.sleep(AWAIT_S)
    finally:
        reader.cancel()
        await asyncio.gather(producer.stop(), consumer.stop())
    return found


async def _produce(producer: AIOKafkaProducer, begin_ms: int, sent: dict[int, float]) -> None:
    rng = np.random.default_rng(3)
    values = signals(N_TRAIN, 1, seed=2)[:, 0]
    keys = [f"entity-{i:03d}".encode() for i in range(ENTITIES)]
    phase = rng.uniform(0, FAULT_EVERY_S, ENTITIES)
    for tick in range((WARM_UP_S + SECONDS) * 1000 // INTERVAL_MS):
        t_ms = begin_ms + tick * INTERVAL_MS
        await asyncio.sleep(max(0.0, t_ms / 1000 - time.time()))
        second = tick * INTERVAL_MS / 1000
        faulty = (second > WARM_UP_S) & ((second + phase) % FAULT_EVERY_S < FAULT_S)
        now = values[tick % N_TRAIN] + FAULT_SIZE * faulty
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for i, key in enumerate(keys):
            text = orjson.dumps({"sensor": "s0", "t": t_ms, "value": float(now[i])})
            batches[i % PARTITIONS].append(key=key, value=text, timestamp=t_ms)
        for partition, batch in enumerate(batches):
            await producer.send_batch(batch, "bench", partition=partition)
        sent[t_ms] = time.time()


async def _read(consumer: AIOKafkaConsumer, warm_ms: int, sent: dict[int, float], found: list[float]) -> None:
    """An alert of a window that ended before `warm_ms` does not count: a worker's first seconds say nothing of it."""
    async for record in consumer:
        now = time.time()
        alert = orjson.loads(record.value)
        if alert["status"] == "open":
            end_ms = int(np.datetime64(alert["detected_at"].rstrip("Z"), "us").astype(np.int64)) / 1000
            ticks = range(-int(-end_ms // INTERVAL_MS) * INTERVAL_MS, int(end_ms) + 1_000, INTERVAL_MS)
            closing = next((t_ms for t_ms in ticks if t_ms in sent), None)
            if closing is not None and closing >= warm_ms:
                found.append((now - sent[closing]) * 1000)
