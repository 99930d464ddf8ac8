"""`bench promote`: from `tailrace models promote`, typed, to the first score of that version from the last of three
workers, each with a partition and a cache of its own.

In: nothing. Out: the benchmark's figures. Remembers: nothing. Raises where a window was scored twice or not at all, or
by the version before once a partition has gone on.

`without_start`: all of it less what a command that does nothing takes to start.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from models.bundle import read, write
from stream_app.bench.detect import compiling_into
from stream_app.bench.latency import await_reading
from stream_app.bench.score import N_TRAIN, START_MS, signals, train
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import parse
from stream_app.errors import TailraceError
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.live.topics import create_topics
from stream_app.model_store.places import swaps_topic
from stream_app.model_store.pointers import Gate
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish

WORKERS, ENTITIES = 3, 12
PACE_S = 0.1  # from one record of an entity to the next; each closes a window, so 120 windows/s in all
BETWEEN_S, WITHIN_S = 5.0, 60.0
VERSIONS = 5  # the first is live when the workers start
WANTED_S = 5.0
Settings = dict[str, Any]


@dataclass(frozen=True)
class Promotion:
    """Seconds: of a command that does nothing; then one after the other until the version is live on the topic, until
    the last worker has handed over, until its first score was read."""

    start: float
    live: float
    handed_over: float
    scored: float

    @property
    def all(self) -> float:
        """From the command to the last worker's first score."""
        return self.live + self.handed_over + self.scored


@dataclass
class _Told:
    """What the scores topic tells: when a bundle first scored each partition, and which one scored each window."""

    first_s: dict[tuple[str, int], float] = field(default_factory=dict)
    rows: list[tuple[int, str, int, str]] = field(default_factory=list)  # partition, entity, window's start us, bundle
    promotions: list[Promotion] = field(default_factory=list)

    def note(self, value: bytes, now_s: float) -> None:
        row = orjson.loads(value)
        partition, bundle = row["inputs"][0]["partition"], row["bundle"]
        self.first_s.setdefault((bundle, partition), now_s)
        start_us = int(np.datetime64(row["data_start_time"].rstrip("Z"), "us").astype(np.int64))
        self.rows.append((partition, row["entity"], start_us, bundle))

    def last_first_s(self, bundle: str) -> float | None:
        """When the last of the partitions was first scored by the bundle; None while one was not."""
        found = [self.first_s.get((bundle, p)) for p in range(WORKERS)]
        return None if None in found else max(s for s in found if s is not None)

    def check(self, order: list[str]) -> None:
        """Each entity's windows without a gap and once each, and in each partition the bundles in their order."""
        starts, turns = defaultdict(list), defaultdict(list)
        for partition, entity, start_us, bundle in self.rows:
            starts[entity].append(start_us)
            turns[partition].append(order.index(bundle))
        for entity, found in starts.items():
            if len(steps := set(np.diff(found).tolist())) != 1 or min(steps) <= 0:
                raise TailraceError(f"{entity}: windows were scored twice, or not at all: {sorted(steps)} us apart")
        for partition, found in turns.items():
            told = [version for version, _ in itertools.groupby(found)]
            if told != list(range(len(order))):
                raise TailraceError(f"partition {partition} was scored by the versions in another order: {told}")


def run() -> dict[str, Any]:
    """Publishes and promotes version after version while records come."""
    with tempfile.TemporaryDirectory() as name, KafkaCluster() as kafka, ExitStack() as workers:
        folder = Path(name)
        settings = _settings(kafka.bootstrap, folder)
        create_topics(kafka.bootstrap, {"bench": WORKERS, "bench-dlt": WORKERS, "alerts": 1, "scores": 1, "drift": 1})
        digests = [asyncio.run(_first(settings, train(folder, signals(N_TRAIN, 1, seed=1))))]
        for i in range(WORKERS):
            workers.enter_context(_worker(folder, settings, i))
        told = asyncio.run(_measure(settings, folder, digests))
    told.check(digests)
    made = told.promotions
    value = round(median(p.all for p in made), 2)
    return {
        "value": value,
        "unit": "s from the command to the last worker's first score",
        "ratios": {f"of {WANTED_S:.0f} s": round(value / WANTED_S, 2)},
        "runs": {"seconds": [round(p.all, 2) for p in made], "without_start": [round(p.all - p.start, 2) for p in made]}
        | {"phases": [{name: round(s, 2) for name, s in asdict(p).items()} for p in made]}
        | {"windows": len(told.rows)},
    }


def _settings(bootstrap: str, folder: Path) -> Settings:
    registry = {"allow_unsigned": True, "cache": str(folder / "cache")}
    base = {"detector": "pump", "brokers": bootstrap, "sources": [{"topic": "bench"}], "model": "pump@live"}
    return base | {
        "registry": registry,
        "windows": {"lateness": "0s"},
        "worker": {"http_port": None},
        "guard": {"level": 1e-300},
    }


async def _publish(settings: Settings, bundle: Path, version: int) -> str:
    """A version that holds the same as the bundle under another digest, which is given."""
    path = bundle.parent / f"version-{version}"
    write(path, replace(read(bundle), lineage={"version": version}))
    return (await publish(parse(settings), Publication("pump", path, gate=Gate(True)))).digest


async def _first(settings: Settings, bundle: Path) -> str:
    digest = await _publish(settings, bundle, 1)
    await promote(parse(settings), Wish("pump", 1))
    return digest


@contextmanager
def _worker(folder: Path, settings: Settings, i: int) -> Iterator[None]:
    registry = settings["registry"] | {"cache": str(folder / f"cache-{i}")}  # as on a machine of its own
    file, log = folder / f"worker-{i}.yaml", folder / f"worker-{i}.log"
    file.write_text(yaml.safe_dump(settings | {"registry": registry}))
    command = [sys.executable, "-m", "stream_app.bench.worker", str(file), "--follow"]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            await_reading(log, process)
            yield
        finally:
            process.terminate()


async def _measure(settings: Settings, folder: Path, digests: list[str]) -> _Told:
    told, file = _Told(), folder / "detector.yaml"
    file.write_text(yaml.safe_dump(settings))
    consumer = AIOKafkaConsumer("scores", bootstrap_servers=settings["brokers"], auto_offset_reset="earliest")
    async with consumer, AIOKafkaProducer(bootstrap_servers=settings["brokers"], acks=1) as producer:
        busy = [asyncio.ensure_future(_read(consumer, told)), asyncio.ensure_future(_produce(producer))]
        try:
            await _until_scored(told, digests[0], busy)
            await _command(folder, "models", "verify", "pump@1", "--config", str(file))  # Python compiles its modules
            for version in range(2, VERSIONS + 1):
                digests.append(await _publish(settings, folder / "bundle", version))
                await asyncio.sleep(BETWEEN_S)
                start_s = await _command(folder, "--version")
                began_s = time.time()
                await _command(folder, "models", "promote", f"pump@{version}", "--config", str(file))
                last_s = await _until_scored(told, digests[-1], busy)
                told.promotions.append(Promotion(start_s, *await _phases(settings, version, began_s, last_s)))
            await asyncio.sleep(BETWEEN_S)
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
    return told


async def _read(consumer: AIOKafkaConsumer, told: _Told) -> None:
    async for record in consumer:
        told.note(record.value, time.time())


async def _produce(producer: AIOKafkaProducer) -> None:
    """A record of each entity every PACE_S, whose times are a second apart, as those were that the bundle has seen."""
    values, tick, began_s = signals(N_TRAIN, 1, seed=2)[:, 0], 0, time.time()
    while True:
        t_ms = START_MS + 1000 * tick
        for i in range(ENTITIES):
            text = orjson.dumps({"sensor": "s0", "t": t_ms, "value": float(values[tick % N_TRAIN])})
            key = f"entity-{i:02d}".encode()
            await producer.send("bench", text, key, partition=i % WORKERS, timestamp_ms=t_ms)
        tick += 1
        await asyncio.sleep(max(0.0, began_s + tick * PACE_S - time.time()))


async def _until_scored(told: _Told, bundle: str, busy: list[asyncio.Task[None]]) -> float:
    """When the last partition was first scored by the bundle. Raises TailraceError where that does not come."""
    give_up = time.time() + WITHIN_S
    while (last_s := told.last_first_s(bundle)) is None:
        for task in busy:
            if task.done():
                task.result()
        if time.time() > give_up:
            raise TailraceError(f"not every worker scores with {bundle} after {WITHIN_S:.0f} s")
        await asyncio.sleep(0.02)
    return last_s


async def _command(folder: Path, *arguments: str) -> float:
    """Seconds that the command took."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("tailrace")),
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=compiling_into(folder / "compiled"),
    )
    _, said = await process.communicate()
    if process.returncode:
        raise TailraceError(f"tailrace {arguments[0]} ended with {process.returncode}: {said.decode()[-200:]}")
    return time.perf_counter() - began


async def _phases(settings: Settings, version: int, began_s: float, last_s: float) -> tuple[float, float, float]:
    """Seconds until it was live on the topic, from then until the last hand-over, and from then to the last score."""
    config = parse(settings)
    live_ms = (await read_pointers(config)).versions("pump")[version].history[-1].at_ms
    swaps: list[dict[str, Any]] = []
    async with consumer_of(config) as consumer:
        topic = swaps_topic(config)
        async for batch in batches(consumer, await asyncio.to_thread(partitions_of, config, topic)):
            swaps += [orjson.loads(value) for value in batch.values if value]
    swapped_ms = max(told["at_ms"] for told in swaps if told.get("version") == version and "to" in told)
    return live_ms / 1000 - began_s, (swapped_ms - live_ms) / 1000, last_s - swapped_ms / 1000
