"""What tests of a running worker share: a stream with anomalies, worker processes, what they should have said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from plain_detector import PlainDetector
from prometheus_client.parser import text_string_to_metric_families

from models.detector import WindowSpec
from stream_app.config import Config, parse
from stream_app.live.status import status
from stream_app.pipeline import Pipeline, PipelineSpec
from stream_app.samples import RawBatch

ROOT = Path(__file__).parent.parent
START_MS = 1_700_000_000_000
DETECTOR = PlainDetector(windows=WindowSpec(length_us=6_000_000, stride_us=2_000_000))
Record = tuple[bytes | None, bytes | None, int]  # key, value, timestamp in ms


def apart(coroutine: Callable[[], Any]) -> Any:
    """Runs a coroutine in a thread and loop of its own, for tests that are not coroutines themselves."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(coroutine())).result()


def stream(n_seconds: int, entities: int = 6, seed: int = 0) -> list[Record]:
    """Two sensors per entity, once a second, a fault in each entity's second half; every 500th record is rubbish."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for second in range(n_seconds):
        for entity in range(entities):
            fault = 40.0 if n_seconds // 2 + 60 * entity <= second < n_seconds // 2 + 60 * entity + 45 else 0.0
            for sensor, level in (("a", 10.0), ("b", 20.0)):
                value = level + rng.normal() + fault
                body = {"sensor": sensor, "t": START_MS + 1000 * second, "value": round(value, 6)}
                text = b"rubbish" if len(records) % 500 == 499 else orjson.dumps(body)
                records.append((f"e{entity}".encode(), text, START_MS + 1000 * second))
    return records


def trace(i: int) -> list[tuple[str, bytes]]:
    """A record's trace context."""
    return [("traceparent", b"00-%032x-%016x-01" % (i + 1, i + 1)), ("tracestate", b"test=%d" % i)]


def partition_of(key: bytes | None, n: int) -> int:
    """Where the test puts a key; any function of the key would do."""
    return (key or b"\0")[-1] % n


def produce(
    bootstrap: str, topic: str, records: list[Record], partitions: int, traced: bool = False, **security: Any
) -> None:
    """Sends the records in order, by `partition_of`. `traced`: each in a trace of its own."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, max_batch_size=16_384, **security) as p:
            for i, (key, value, stamp) in enumerate(records):
                place = {"partition": partition_of(key, partitions), "timestamp_ms": stamp}
                await p.send(topic, value, key, **place, headers=trace(i) if traced else [])
            await p.flush()

    apart(send)


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Everything that lies on a topic, partition by partition."""

    async def read() -> list[Any]:
        found: list[Any] = []
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
            await consumer._client.force_metadata_update()
            count = len(await _partitions(consumer, topic))
            for tp in (TopicPartition(topic, i) for i in range(count)):
                consumer.assign([tp])
                end = (await consumer.end_offsets([tp]))[tp]
                while await consumer.position(tp) < end:
                    for part in (await consumer.getmany(timeout_ms=500)).values():
                        found += part
        return found

    return list(apart(read))


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    consumer._client.add_topic(topic)
    for _ in range(50):
        if found := consumer._client.cluster.partitions_for_topic(topic):
            return set(found)
        await consumer._client.force_metadata_update()
        await asyncio.sleep(0.1)
    return set()


@dataclass
class Live:
    """One detector on one source topic, its topics, and the workers that were started for it."""

    bootstrap: str
    name: str
    topic: str
    folder: Path
    worker: Mapping[str, Any] = field(default_factory=dict)
    security: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)  # sections of the configuration
    processes: list[WorkerProcess] = field(default_factory=list)
    detector: PlainDetector = DETECTOR  # what `expected` scores with
    program: str = "plain_worker.py"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.processes:
            worker.kill()

    def data(self, **worker: Any) -> dict[str, Any]:
        swift = {"checkpoint": "400ms", "session_timeout": "6s", "http_port": None, "stuck_after": "60s"}
        return {
            "detector": self.name,
            "brokers": self.bootstrap,
            "sources": [{"topic": self.topic}],
            "windows": {"lateness": "2s", "idle": "1h"},
            "topics": {name: f"{self.name}-{name}" for name in ("alerts", "scores", "drift", "models")},
            "security": dict(self.security),
            "worker": {**swift, **self.worker, **worker},
            **self.more,
        }

    def config(self) -> Config:
        return parse(self.data())

    def start(self, *options: str, **worker: Any) -> WorkerProcess:
        """A worker in a process of its own."""
        n = len(self.processes)
        path = self.folder / f"worker-{n}.yaml"
        path.write_text(yaml.safe_dump(self.data(**worker)))
        self.processes.append(WorkerProcess.start(path, self.folder / f"worker-{n}.log", (self.program, *options)))
        return self.processes[-1]

    def finish(self) -> None:
        """Reads what is left, and ends."""
        worker = self.start("--until-end")
        assert worker.wait(90) == 0, worker.said()

    def status(self) -> list[dict[str, Any]]:
        return list(status(self.config())["partitions"])

    def accounting(self) -> dict[str, int]:
        """Summed over the partitions; each partition's books must balance."""
        total: dict[str, int] = {}
        for partition in self.status():
            books = partition["accounting"]
            assert books["samples_read"] == sum(n for name, n in books.items() if name != "samples_read"), books
            total = {name: total.get(name, 0) + n for name, n in books.items()}
        return total

    def wait_until(self, holds: Callable[[], bool], within_s: float = 60.0) -> None:
        give_up = time.monotonic() + within_s
        while not holds():
            failed = any((worker.process.poll() or 0) > 0 for worker in self.processes)
            if failed or time.monotonic() > give_up:
                pytest.fail("\n".join(worker.said() for worker in self.processes))
            time.sleep(0.2)

    def wait_until_read(self, n: int) -> None:
        self.wait_until(lambda: sum(p["accounting"]["samples_read"] for p in self.status()) >= n)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """By id, the last message each, without the wall clock: what is left after compaction."""
        return {
            r.key.decode(): timeless(orjson.loads(r.value)) for r in read_all(self.bootstrap, f"{self.name}-alerts")
        }

    def expected(self) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
        """What one pipeline says that reads each partition from end to end: alerts by id, and the accounting."""
        partitions: dict[int, list[Any]] = {}
        for record in read_all(self.bootstrap, self.topic):
            partitions.setdefault(record.partition, []).append(record)
        alerts: dict[str, dict[str, Any]] = {}
        total: dict[str, int] = {}
        for partition, records in partitions.items():
            pipeline = Pipeline(PipelineSpec(self.config(), self.detector, self.topic, partition))
            pipeline.restore(0, "")
            for alert in pipeline.step(batch_of(self.topic, partition, records)).alerts:
                alerts[alert.alert_id] = timeless(orjson.loads(orjson.dumps(alert)))
            total = {name: total.get(name, 0) + n for name, n in pipeline.accounting().as_dict().items()}
        return alerts, total

    def check(self) -> None:
        """Nothing lost, nothing doubled, nothing different: after everything was read."""
        alerts, total = self.expected()
        assert self.accounting() == total
        assert alerts, "the stream is meant to give alerts"
        assert self.alerts() == alerts


@dataclass
class WorkerProcess:
    """A worker as its supervisor sees it."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, config: Path, log: Path, program: tuple[str, ...]) -> WorkerProcess:
        """program: a file of this folder, and options."""
        name, *options = program
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, str(ROOT / "tests" / name), str(config), *options]
        with log.open("wb") as output:
            return cls(subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=log.parent), log)

    def wait(self, within_s: float = 60.0) -> int:
        return self.process.wait(within_s)

    def terminate(self, within_s: float = 60.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait(within_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its log that are its own."""
        for line in self.said().splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def get(self, path: str) -> tuple[int, str]:
        """Asks its own server, once it says where that is."""
        while not any(event.get("event") == "probes" for event in self.events()):
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        address = next(event["livez"] for event in self.events() if event.get("event") == "probes")
        try:
            with urllib.request.urlopen(address.replace("/livez", path), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def metrics(self) -> dict[str, float]:
        """By name and the values of the labels, end to end; no label is an entity."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                assert "entity" not in sample.labels
                found[sample.name + "".join(sample.labels.values())] = sample.value
        return found

    def is_reading(self) -> bool:
        return any(event.get("event") == "partitions" for event in self.events())


def batch_of(topic: str, partition: int, records: list[Any]) -> RawBatch:
    return RawBatch(
        topic,
        partition,
        [r.key for r in records],
        [r.value for r in records],
        np.array([r.offset for r in records], np.int64),
        np.array([r.timestamp for r in records], np.int64) * 1000,
        [r.headers for r in records],
    )


def timeless(alert: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in alert.items() if name != "published_at"}
