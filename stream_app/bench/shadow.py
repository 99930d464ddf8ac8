"""`bench shadow`: windows scored live per second with a version in shadow on all entities, over that without.

In: nothing. Out: the benchmark's figures. Remembers: nothing. The topic is full when the worker starts, so the live
bundle is as busy as it can be: what the shadow takes from it is what its budget allows. `behind`: how many windows it
had not judged when a run ended.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from models.bundle import read, write
from stream_app.bench.load import Load, fill
from stream_app.bench.score import ENTITIES, N_TRAIN, RECORDS, SENSORS, START_MS, records, signals, train
from stream_app.bench.worker import run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import parse
from stream_app.live.preflight import agreement_topic
from stream_app.live.topic_batches import batches, consumer_of, partitions_of
from stream_app.model_store.pointers import Gate
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish, shadow, unshadow

ROUNDS = 3


def run() -> dict[str, Any]:
    """One worker over a full topic, in turn without a shadow and with one."""
    with tempfile.TemporaryDirectory() as home, KafkaCluster() as kafka:
        folder = Path(home)
        settings = _settings(kafka.bootstrap, folder)
        _publish_two(settings, train(folder, signals(N_TRAIN, SENSORS, seed=1)))
        load = Load(RECORDS, entities=ENTITIES, period_ms=1000.0, start_ms=START_MS)
        fill(kafka.bootstrap, "bench", load, records(load))
        rates: dict[str, list[float]] = {"without": [], "with": []}
        for turn in range(ROUNDS):
            for name, found in rates.items():
                _set_shadow(settings, on=name == "with")
                found.append(run_worker(settings | {"detector": f"bench-{name}-{turn}"}).rate)
        judged = _judged(settings)
    ratio = median(a / b for a, b in zip(rates["with"], rates["without"], strict=True))
    return {
        "value": round(ratio, 3),
        "unit": "live windows/s with a shadow over without",
        "ratios": {"without": round(ratio, 3)},
        "runs": {name: [round(rate) for rate in found] for name, found in rates.items()}
        | {"shadow": judged, "behind": RECORDS - sum(told["windows"] for told in judged) // ROUNDS},
    }


def _settings(bootstrap: str, folder: Path) -> dict[str, Any]:
    registry = {"allow_unsigned": True, "cache": str(folder / "cache")}
    base = {"brokers": bootstrap, "sources": [{"topic": "bench"}], "registry": registry, "model": "pump@live"}
    return base | {"windows": {"length": "60s", "stride": "1s"}}


def _publish_two(settings: dict[str, Any], bundle: Path) -> None:
    """The bundle, and the same under another digest."""
    other = bundle.parent / "candidate"
    write(other, replace(read(bundle), lineage={"candidate": True}))
    config = parse(settings)

    async def both() -> None:
        for path in (bundle, other):
            await publish(config, Publication("pump", path, gate=Gate(True)))
        await promote(config, Wish("pump", 1))

    asyncio.run(both())


def _set_shadow(settings: dict[str, Any], on: bool) -> None:
    config = parse(settings)
    asyncio.run(shadow(config, Wish("pump", 2)) if on else unshadow(config, Wish("pump")))


def _judged(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """How much of the stream the shadow kept up with, per run: from the records on how the two agree."""
    import orjson

    config = parse(settings)

    async def last() -> dict[bytes, dict[str, Any]]:
        found: dict[bytes, dict[str, Any]] = {}
        topic = agreement_topic(config)
        async with consumer_of(config) as consumer:
            async for batch in batches(consumer, await asyncio.to_thread(partitions_of, config, topic)):
                found |= {k or b"": orjson.loads(v or b"{}") for k, v in zip(batch.keys, batch.values, strict=True)}
        return found

    names = ("group", "partition", "windows", "alike", "skipped", "seconds")
    return [{name: told[name] for name in names} for told in asyncio.run(last()).values()]
