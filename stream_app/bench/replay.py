"""`bench replay`: a replay's records per second beside a live worker's on the same records; two processes beside one.

In: nothing. Out: the benchmark's figures. Remembers: nothing; the broker and the bundle are its own.

Linear over the range: the time per record of the whole topic over that of its first half, both in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from stream_app.bench.detect import compiling_into
from stream_app.bench.load import Load, fill, records_of
from stream_app.bench.score import signals, train
from stream_app.bench.worker import Run, run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.errors import TailraceError
from stream_app.live.topics import create_topics

LOAD = Load(records=240_000, entities=32, partitions=4, period_ms=1000.0, sensor="s0")
N_TRAIN = 4_000
ROUNDS = 3


@dataclass(frozen=True)
class Replay:
    """One replay, by its own header. `fixed_s`: what it takes however long the range is: start, merging, report."""

    rate: float  # records per second from the first batch to the last, as the worker counts its own
    cpu_us: float  # per record
    fixed_s: float


def run() -> dict[str, Any]:
    """Trains a bundle of one sensor by the command line, fills a topic, reads it live and again."""
    live: list[Run] = []
    ours: dict[str, list[Replay]] = {"one": [], "two": [], "half": []}
    half_ms = LOAD.start_ms + int(LOAD.records / LOAD.entities * LOAD.period_ms / 2)
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        bundle = train(Path(folder), signals(N_TRAIN, 1, seed=1))
        fill(kafka.bootstrap, "bench", LOAD, records_of(LOAD))
        create_topics(kafka.bootstrap, dict.fromkeys(("bench-dlt", "alerts", "scores", "drift"), 4))
        for turn in range(ROUNDS):
            settings = {"detector": f"bench-{turn}", "brokers": kafka.bootstrap, "sources": [{"topic": "bench"}]}
            live.append(run_worker(settings | {"model": str(bundle)}))
            place = ["--brokers", kafka.bootstrap, "--model", str(bundle), "--out", f"{folder}/r{turn}"]
            ours["one"].append(_replay([*place, "--processes", "1"]))
            ours["two"].append(_replay([*place, "--processes", "2"]))
            ours["half"].append(_replay([*place, "--processes", "1", "--to", str(half_ms)]))
    rates = {"live": [run.rate for run in live]} | {name: [r.rate for r in done] for name, done in ours.items()}
    cpu_us = {"live": [1e6 * run.cpu_seconds / run.records for run in live]}
    cpu_us |= {name: [r.cpu_us for r in done] for name, done in ours.items()}
    return {
        "value": round(median(rates["one"])),
        "unit": "records/s",
        "ratios": {
            "live": _ratio(rates["one"], rates["live"]),
            "one_process": _ratio(rates["two"], rates["one"]),
            "cost_of_double_range": _ratio(rates["half"], rates["one"]),
        },
        "runs": {name: [round(rate) for rate in found] for name, found in rates.items()}
        | {"cpu_us_per_record": {name: [round(us, 1) for us in found] for name, found in cpu_us.items()}}
        | {"fixed_s": {name: [round(r.fixed_s, 1) for r in done] for name, done in ours.items()}},
    }


def _ratio(one: list[float], other: list[float]) -> float:
    return round(median(a / b for a, b in zip(one, other, strict=True)), 2)


def _replay(options: list[str]) -> Replay:
    command = [str(Path(sys.executable).with_name("tailrace")), "replay", "--topic", "bench", "--json", *options]
    env = compiling_into(Path(options[options.index("--out") + 1]).parent / "compiled")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise TailraceError(f"the replay ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    said = json.loads(done.stdout)
    clock, records = said["header"], float(said["records"])
    fixed_s = clock["seconds"] - clock["reading_seconds"]
    return Replay(records / clock["reading_seconds"], 1e6 * clock["cpu_seconds"] / records, fixed_s)
