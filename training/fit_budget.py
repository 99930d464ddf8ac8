"""A time budget for the fit of sensors: how many frames and steps fit into it on this machine, and what is left out.

In: `Frames` and seconds. Out: frames and steps that fit, and what is to be said of it. Remembers: nothing.

A pilot on few frames and few steps is timed. Frames and steps are whole multiples of a grid, so that small differences
in speed give the same bundle; the least of both is kept however short the time, and said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from training.fit_networks import STEPS_GRID, fit_networks, steps_of
from training.fit_parts import fit_parts
from training.frames import BLOCK, Frames, thinned

PILOT = 1_000  # frames that are timed
STEPS_TIMED = 6  # two of each phase
PARTS, NETWORKS = 0.3, 0.4  # of the time that is left; the rest is for the clusters and for verifying the bundle
PLACED_S = 12.0  # left, in which the clusters of the most windows are found; of fewer in less
PLACED_MIN, PLACED_MAX = 500, 3_000  # windows that clusters are found in; assignment costs by them


@dataclass(frozen=True)
class Extent:
    """How much is done. notes: what the budget left out."""

    frames: Frames
    n_placed: int = PLACED_MAX
    notes: tuple[str, ...] = ()


def within(frames: Frames, seconds: float | None, began: float) -> Extent:
    """As much as fits into so many seconds since time.monotonic() was `began`; None: as much as is of use."""
    if seconds is None:
        return Extent(frames)
    per_frame, per_step = _timed(frames)
    left = max(0.0, began + seconds - time.monotonic())
    n = min(len(frames.at), max(1, _whole(PARTS * left / per_frame, BLOCK)) * BLOCK)
    wanted = steps_of(frames)
    most = max(1, _whole(NETWORKS * left / per_step, STEPS_GRID)) * STEPS_GRID if per_step else max(wanted, default=0)
    n_placed = int(np.clip(PLACED_MAX * min(1.0, np.sqrt(left / PLACED_S)) // 100 * 100, PLACED_MIN, PLACED_MAX))
    cut = replace(thinned(frames, n), steps_max=most)
    left_out = [f"{len(cut.at):,} of {len(frames.at):,} frames"] if len(cut.at) < len(frames.at) else []
    left_out += [f"{most} of {steps} steps" for steps in wanted if most < steps]
    notes = (f"to stay within {seconds:.0f} s, only {', '.join(left_out)}",) if left_out else ()
    return Extent(cut, n_placed, notes)


def _whole(value: float, unit: int) -> int:
    return int(min(value, 1e12) // unit)


def _timed(frames: Frames) -> tuple[float, float]:
    """Seconds per frame of everything that is fitted to frames, and per step of all networks together."""
    few = thinned(frames, PILOT)
    fit_networks(replace(few, steps_max=1))  # pays for loading
    at = [time.perf_counter()]
    fit_networks(replace(few, steps_max=1))
    at.append(time.perf_counter())
    seen, trained = fit_networks(replace(few, steps_max=1 + STEPS_TIMED))
    at.append(time.perf_counter())
    fit_parts(seen, trained.networks)
    at.append(time.perf_counter())
    one, more, parts = np.diff(at).tolist()
    return (one + parts) / len(few.at), max(0.0, more - one) / STEPS_TIMED
