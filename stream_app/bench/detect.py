"""`bench detect` and `bench tokens`: what the command `tailrace detect` gets through in a second, all cores used.

In: nothing. Out: the benchmark's figures. Remembers: nothing. The clock is that of whoever waits for the command; what
it takes to start, and to load what it needs, is measured over a file of a few rows and shown apart.

The forest (random cut, 50 trees of 256 points, in Rust, one thread) sees the same 38 sensors, one frame at a time or
the last eight (OpenSearch's default), so 38 numbers or 304: scored only, and scored and learned, as a detector of
streams does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_app.bench.peers import prepare_peers, run_peer
from stream_app.bench.score import sensor_table, signals, train_on
from stream_app.errors import TailraceError

ROUNDS = 3
SENSORS, PERIOD_US = 38, 60_000_000
N_TRAIN, N_FRAMES = 4_000, 24_000
FAULT_EVERY, FAULT, FAULTY = 4_000, 60, 3  # frames, frames, sensors
FOREST_FRAMES = 4_000
FORESTS = {
    "forest": "forest_frames",
    "forest that learns": "forest_learning",
    "forest of 8 frames": "forest_shingles",
    "forest of 8 frames that learns": "forest_shingles_learning",
}
TOKENS, FOLLOWERS, SESSION = 150, 6, 400  # distinct; that may come after each; tokens in a session
TRAIN_SESSIONS, SESSIONS = 100, 2_500
WANTED = 100_000  # tokens per second


def run() -> dict[str, Any]:
    """A series as servers give: 38 sensors, a sample a minute, one entity, with faults."""
    prepare_peers()
    series = signals(N_TRAIN + N_FRAMES, SENSORS, seed=1)
    for at in range(N_TRAIN + FAULT_EVERY // 2, len(series), FAULT_EVERY):
        series[at : at + FAULT, :FAULTY] += 2.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_on(folder, sensor_table(series[:N_TRAIN], PERIOD_US))
        runs = _measure(folder, sensor_table(series[N_TRAIN:], PERIOD_US), N_FRAMES, FORESTS)
    return _figures(runs, "frames/s, start included", list(FORESTS))


def run_tokens() -> dict[str, Any]:
    """Sessions of a random grammar."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Fewer steps of training change what the networks say, and nothing of what they cost.
        train_on(folder, _sessions(TRAIN_SESSIONS, seed=1), "--budget", "30s")
        runs = _measure(folder, _sessions(SESSIONS, seed=2), SESSIONS * SESSION, {})
    return _figures(runs | {"wanted": [WANTED] * ROUNDS}, "tokens/s, start included", ["wanted"])


def _measure(folder: Path, table: pa.Table, n: int, peers: dict[str, str]) -> dict[str, list[float]]:
    """Rows per second of the command, with and without its start, and of each peer, in turn."""
    pq.write_table(table, folder / "whole.parquet")
    pq.write_table(table.slice(0, SESSION), folder / "few.parquet")
    _detect(folder, "few")  # fills the machine's caches
    found: dict[str, list[float]] = {key: [] for key in ("tailrace", "without start", "start_s", *peers)}
    for _ in range(ROUNDS):
        start, whole = _detect(folder, "few"), _detect(folder, "whole")
        found["start_s"].append(start)
        found["tailrace"].append(n / whole)
        found["without start"].append(n / (whole - start))
        for name, program in peers.items():
            found[name].append(run_peer(program, "", "", FOREST_FRAMES))
    return found


def _detect(folder: Path, name: str) -> float:
    """Seconds that the command takes over a file. Python finds its modules compiled, as where they were installed."""
    command = [str(Path(sys.executable).with_name("tailrace")), "detect", "--input", str(folder / f"{name}.parquet")]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--model", str(folder / "bundle"), "--out", str(folder / name)],
        capture_output=True,
        text=True,
        check=False,
        env=compiling_into(folder / "compiled"),
    )
    if done.returncode:
        raise TailraceError(f"detect ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return time.perf_counter() - began


def compiling_into(folder: Path) -> dict[str, str]:
    """The environment, in which Python keeps what it has compiled, whatever it was told elsewhere."""
    rest = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return rest | {"PYTHONPYCACHEPREFIX": str(folder)}


def _figures(runs: dict[str, list[float]], unit: str, peers: list[str]) -> dict[str, Any]:
    """Each ratio is taken within a round, with our start and without."""
    ratios = {}
    for peer in peers:
        for ours, words in (("tailrace", peer), ("without start", f"{peer}, without start")):
            ratios[words] = round(median(a / b for a, b in zip(runs[ours], runs[peer], strict=True)), 2)
    rounded = {name: [round(rate, 2 if name == "start_s" else None) for rate in rates] for name, rates in runs.items()}
    return {"value": round(median(runs["tailrace"])), "unit": unit, "ratios": ratios, "runs": rounded}


def _sessions(n: int, seed: int) -> pa.Table:
    """Sessions in which a token is followed by one of a few, mostly the first of them. All of one grammar."""
    grammar = np.random.default_rng(0).integers(0, TOKENS, (TOKENS, FOLLOWERS))
    rng = np.random.default_rng(seed)
    which = np.minimum(rng.geometric(0.6, (n, SESSION)) - 1, FOLLOWERS - 1)
    token = np.empty((n, SESSION), np.int64)
    token[:, 0] = rng.integers(0, TOKENS, n)
    for i in range(1, SESSION):
        token[:, i] = grammar[token[:, i - 1], which[:, i]]
    names = pa.array([f"session-{i:04d}" for i in range(n)])
    times = pa.array(np.tile(np.arange(SESSION) * 1000, n), pa.timestamp("us", tz="UTC"))
    entity = names.take(pa.array(np.repeat(np.arange(n), SESSION)))
    return pa.table({"entity": entity, "t": times, "token": token.ravel()})
