"""`bench replay`: a replay's records per second beside a live worker's on the same records; two processes beside one.

In: nothing. Out: the benchmark's figures. Remembers: nothing; the broker and the bundles are its own.

Two loads, each under a bundle trained on samples of its rate: at 1 Hz every record closes a window, and scoring is
nearly all there is to do; at 100 Hz it takes 20. The value is of the first.

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
from stream_app.bench.worker import run_worker
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.errors import TailraceError
from stream_app.live.topics import create_topics

LOADS = {
    "1 Hz": Load(records=240_000, entities=32, partitions=4, period_ms=1000.0, sensor="s0"),
    "100 Hz": Load(records=1_200_000, entities=32, partitions=4, period_ms=10.0, sensor="s0"),
}
N_TRAIN = 4_000
ROUNDS = 3


@dataclass(frozen=True)
class Reading:
    """One pass over the records. `fixed_s`: what a replay takes however long its range is: start, merging, report."""

    rate: float  # records per second from the first batch to the last, live and replayed
    cpu_us: float  # per record
    fixed_s: float = 0.0


def run() -> dict[str, Any]:
    """Trains bundles of one sensor by the command line, fills topics, reads them live and again."""
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        create_topics(kafka.bootstrap, dict.fromkeys(("alerts", "scores", "drift"), 4))
        places = {name: Path(folder) / f"{load.period_ms:g}-ms" for name, load in LOADS.items()}
        runs = {name: _measure(kafka.bootstrap, places[name], load) for name, load in LOADS.items()}
    ratios = {f"{what}, {name}": ratio for name, found in runs.items() for what, ratio in _ratios(found).items()}
    shown = {name: {what: list(map(_shown, all_of)) for what, all_of in found.items()} for name, found in runs.items()}
    value = round(median(reading.rate for reading in runs["1 Hz"]["one"]))
    return {"value": value, "unit": "records/s", "ratios": ratios, "runs": shown}


def _measure(bootstrap: str, folder: Path, load: Load) -> dict[str, list[Reading]]:
    """Of a topic named as the folder, which is made: live, and replayed by one process, by two, and half of it."""
    folder.mkdir()
    topic, half_ms = folder.name, load.start_ms + int(load.records / load.entities * load.period_ms / 2)
    bundle = train(folder, signals(N_TRAIN, 1, seed=1), int(load.period_ms * 1000))
    fill(bootstrap, topic, load, records_of(load))
    create_topics(bootstrap, {f"{topic}-dlt": 4})
    found: dict[str, list[Reading]] = {"live": [], "one": [], "two": [], "half": []}
    for turn in range(ROUNDS):
        settings = {"detector": f"{topic}-{turn}", "brokers": bootstrap, "sources": [{"topic": topic}]}
        live = run_worker(settings | {"model": str(bundle)})
        found["live"].append(Reading(live.rate, 1e6 * live.cpu_seconds / live.records))
        place = ["--topic", topic, "--brokers", bootstrap, "--model", str(bundle), "--out", str(folder / f"r{turn}")]
        found["one"].append(_replay([*place, "--processes", "1"]))
        found["two"].append(_replay([*place, "--processes", "2"]))
        found["half"].append(_replay([*place, "--processes", "1", "--to", str(half_ms)]))
    return found


def _ratios(found: dict[str, list[Reading]]) -> dict[str, float]:
    rates = {name: [reading.rate for reading in readings] for name, readings in found.items()}
    return {
        "live": _ratio(rates["one"], rates["live"]),
        "one_process": _ratio(rates["two"], rates["one"]),
        "cost_of_double_range": _ratio(rates["half"], rates["one"]),
    }


def _shown(reading: Reading) -> dict[str, float]:
    return {"rate": round(reading.rate), "cpu_us": round(reading.cpu_us, 1), "fixed_s": round(reading.fixed_s, 1)}


def _ratio(one: list[float], other: list[float]) -> float:
    return round(median(a / b for a, b in zip(one, other, strict=True)), 2)


def _replay(options: list[str]) -> Reading:
    command = [str(Path(sys.executable).with_name("tailrace")), "replay", "--json", *options]
    env = compiling_into(Path(options[options.index("--out") + 1]).parent / "compiled")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise TailraceError(f"the replay ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    said = json.loads(done.stdout)
    clock, records = said["header"], float(said["records"])
    fixed_s = clock["seconds"] - clock["reading_seconds"]
    return Reading(records / clock["reading_seconds"], 1e6 * clock["cpu_seconds"] / records, fixed_s)
