"""Peer: a random cut forest in Rust (krcf) that scores windows of some sensors and samples, one at a time, one thread.

Run as a script in the peers' environment: `random_cut_forest.py COUNT SENSORS SAMPLES [learn]`. It prints one JSON line
`{"records": n, "seconds": s}`: windows scored by a full forest, which does not learn from them unless asked to, since
that makes it slower. 50 trees of 256 points are the settings its authors and OpenSearch run with.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from krcf import RandomCutForest  # type: ignore[import-not-found, unused-ignore]

N_TREES = 50
TREE_POINTS = 256
# Twice the sample of a tree: every tree is full and has begun to replace points.
N_LEARNED = 2 * TREE_POINTS


def windows(count: int, shape: tuple[int, int], random: np.random.Generator) -> list[list[float]]:
    """Gives `count` windows flattened to `[sensor * sample]`: sines of the sensor's own period, with noise."""
    sensors, samples = shape
    phases = random.uniform(0, 2 * np.pi, (count, sensors, 1))
    periods = np.arange(5, 5 + sensors)[None, :, None]
    signal = np.sin(2 * np.pi * np.arange(samples) / periods + phases)
    noisy = signal + 0.1 * random.standard_normal(signal.shape)
    drawn: list[list[float]] = noisy.reshape(count, -1).tolist()
    return drawn


def score(count: int, shape: tuple[int, int], learns: bool) -> float:
    """Scores `count` windows by a forest that has learned; gives the seconds they took."""
    random = np.random.default_rng(7)
    forest = RandomCutForest(
        {
            "dimensions": shape[0] * shape[1],
            "shingle_size": 1,
            "num_trees": N_TREES,
            "sample_size": TREE_POINTS,
            "output_after": 1,
            "random_seed": 7,
            "parallel_execution_enabled": False,
        }
    )
    for window in windows(N_LEARNED, shape, random):
        forest.update(window)
    scored = windows(count, shape, random)
    started = time.perf_counter()
    for window in scored:
        forest.score(window)
        if learns:
            forest.update(window)
    return time.perf_counter() - started


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    took = score(wanted, (int(sys.argv[2]), int(sys.argv[3])), sys.argv[4:] == ["learn"])
    print(json.dumps({"records": wanted, "seconds": took}))
