"""`tailrace bench placement`: points placed among known behaviours per second, beside the library they came from.

In: nothing. Out: the benchmark's figures, or a refusal where one point is placed otherwise. Remembers: nothing.
The clock is that of the processor, all threads together, so that what else the machine does counts for neither.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from models.placement import assign, flatten
from models.scenes import F64
from stream_app.errors import TailraceError

ROUNDS = 5
FITTED, BATCH, BATCHES, THEIRS = 20_000, 1_000, 10, 1  # points; of the batches the library takes the first
WIDTHS = (16, 128)
BEHAVIOURS, CAUSES = 20, 6  # what behaviours differ in has few dimensions, whatever the width of an embedding
SMALLEST, MIN_SAMPLES = 200, 5
Placing = Callable[[F64], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def run() -> dict[str, Any]:
    """Points per second of processor time, in batches of 1,000, and the ratio to `hdbscan.approximate_predict`'s."""
    ratios, runs, ours = {}, dict[str, Any](), 0.0
    for width in WIDTHS:
        found = _measure(width)
        ours = ours or median(found["tailrace"])
        ratios[f"hdbscan, {width} wide"] = round(
            median(a / b for a, b in zip(found["tailrace"], found["hdbscan"], strict=True)), 1
        )
        runs |= {f"{name}, {width} wide": [round(rate) for rate in rates] for name, rates in found.items()}
    return {"name": "placement", "value": round(ours), "unit": "points/s, 16 wide", "ratios": ratios, "runs": runs}


def _measure(width: int) -> dict[str, list[float]]:
    from hdbscan import HDBSCAN, approximate_predict

    points, queries = _points(width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn's deprecations, which are not ours to mend
        clusterer = HDBSCAN(SMALLEST, min_samples=MIN_SAMPLES, prediction_data=True, core_dist_n_jobs=1).fit(points)
        known = flatten(clusterer)
        rates: dict[str, list[float]] = {"tailrace": [], "hdbscan": []}
        for _ in range(ROUNDS):
            rate, ours = _timed(lambda x: assign(known, x), queries)
            rates["tailrace"].append(rate)
            rate, theirs = _timed(lambda x: approximate_predict(clusterer, x), queries[:THEIRS])
            rates["hdbscan"].append(rate)
            _must_be_equal(ours[: len(theirs)], theirs)
    return rates


def _points(width: int) -> tuple[F64, F64]:
    """Points to fit, and others of the same behaviours in batches [batch, point, width]; one in seven is of none."""
    rng = np.random.default_rng(0)
    n = FITTED + BATCH * BATCHES
    mixing = rng.normal(size=(CAUSES, width)) / CAUSES**0.5
    centres, spread = rng.normal(0, 3, (BEHAVIOURS, CAUSES)), rng.uniform(0.3, 1.5, BEHAVIOURS)
    which = rng.integers(0, BEHAVIOURS, n)
    causes = centres[which] + rng.normal(0, 1, (n, CAUSES)) * spread[which][:, None]
    causes[::7] = rng.normal(0, 3, causes[::7].shape)
    points = causes @ mixing + rng.normal(0, 0.1, (n, width))
    return points[:FITTED], points[FITTED:].reshape(BATCHES, BATCH, width)


def _timed(placing: Placing, batches: F64) -> tuple[float, F64]:
    """Points per second of processor time, and labels and probabilities [point, 2]."""
    began = time.process_time()
    said = [placing(batch) for batch in batches]
    took = time.process_time() - began
    return BATCH * len(batches) / took, np.concatenate([np.column_stack(part) for part in said]).astype(np.float64)


def _must_be_equal(ours: F64, theirs: F64) -> None:
    worst = float(np.abs(ours - theirs).max())
    if worst > 1e-6:  # float32 probabilities of ours beside float64 ones
        raise TailraceError(f"placement differs from hdbscan's by {worst:.1e}: there is nothing to compare")
