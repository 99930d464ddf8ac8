"""Rehearsal: frames of what a bundle was trained on, kept in it, so that what follows it does not forget the old.

In: the training frames, or a bundle's arrays. Out: a bounded sample, or a table with the sample behind the new frames.
Remembers: nothing. Experience replay after Ratcliff 1990; Rolnick et al. 2019 (arXiv:1811.11682).

A run is `memory - 1` frames of context and at most RUN scored ones, as the detector saw them, in its own scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bins import Bins, Stretches
from models.scenes import F32, I32, I64
from models.sensors import Fitted, Scaling
from training.frames import Frames

RUN = 130  # scored frames: what one draw of the network's training takes
BYTES_MAX = 4 << 20  # of a bundle that has some megabytes anyway
RUNS_MAX = 8  # about 1,000 scored frames: as many as an hour of new ones, or the old outweigh the new
_COLUMNS = {"mean": "float32", "std": "float32", "slope": "float32", "age": "int32"}
_PREFIX = "sample."


@dataclass(frozen=True)
class Sample:
    """`r` runs end to end, [f, c] each column, in the scaling of the detector that they were taken for."""

    run: I64  # [r] frames of each
    mean: F32
    std: F32
    slope: F32
    age: I32

    def shape(self) -> dict[str, int]:
        """For the settings of a bundle."""
        return {"runs": len(self.run), "frames": len(self.mean)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores; `models.sensors_bundle` has the layout."""
        return {f"{_PREFIX}{name}": getattr(self, name) for name in ("run", *_COLUMNS)}


def sample_of(frames: Frames, table: Bins) -> Sample:
    """Runs spread evenly over the frames that were learned from."""
    context, c = frames.look.grid.memory - 1, table.mean.shape[1]
    fits = BYTES_MAX // (16 * c * (context + RUN))
    n = len(frames.at)
    starts = np.unique(np.linspace(0, max(0, n - RUN), max(1, min(RUNS_MAX, fits))).astype(int))
    pieces = [_unbroken(frames.at[a : a + RUN]) for a in starts]
    rows = [np.arange(at[0] - context, at[-1] + 1) for at in pieces]
    every = np.concatenate(rows)
    columns = {name: getattr(table, name)[every].astype(kind) for name, kind in _COLUMNS.items()}
    return Sample(np.array([len(run) for run in rows], np.int64), **columns)


def stored(arrays: Mapping[str, NDArray[Any]]) -> Sample | None:
    """The sample that a bundle carries; None for one that was made without."""
    if f"{_PREFIX}run" not in arrays:
        return None
    return Sample(**{name: arrays[f"{_PREFIX}{name}"] for name in ("run", *_COLUMNS)})


def rehearsed(table: Bins, sample: Sample, like: Fitted, scaling: Scaling) -> Bins:
    """The table with the sample behind it, in the table's scaling, as one more entity; `like`'s sensors come first."""
    c, known = table.mean.shape[1], sample.mean.shape[1]
    there = sample.age >= 0
    unit = like.scaling.scale / scaling.scale[:known]
    shift = (like.scaling.centre - scaling.centre[:known]) / scaling.scale[:known]
    columns = {
        "mean": np.where(there, sample.mean * unit + shift, 0),
        "std": sample.std * unit,
        "slope": sample.slope * unit,
    }
    wide = {name: _padded(column.astype(np.float32), c, 0) for name, column in columns.items()}
    wide["age"] = _padded(sample.age, c, -1)
    n, context = len(table.mean), like.grid.memory - 1
    ends = n + np.cumsum(sample.run)
    scored = [np.arange(b - r + context, b) for b, r in zip(ends.tolist(), sample.run.tolist(), strict=True)]
    both = {name: np.concatenate([getattr(table, name), column]) for name, column in wide.items()}
    stretches = _followed(table.stretches, ends)
    return Bins(stretches, **both, scored=np.concatenate([table.scored, *scored]).astype(np.int64))


def _followed(runs: Stretches, ends: I64) -> Stretches:
    """Stretches with more behind them, of an entity that is none of theirs and whose windows are not known."""
    more = len(ends)
    own = int(runs.entity.max(initial=-1)) + 1
    return Stretches(
        entity=np.append(runs.entity, np.full(more, own, np.int32)),
        window=np.append(runs.window, np.full(more, runs.window[-1])),
        frame=np.append(runs.frame, ends),
        start=np.append(runs.start, np.zeros(more, np.int64)),
        fresh=runs.fresh,
    )


def _unbroken(at: I64) -> I64:
    """The first of these frames that follow one another."""
    gaps = np.flatnonzero(np.diff(at) != 1)
    return at[: gaps[0] + 1] if len(gaps) else at


def _padded(column: NDArray[Any], c: int, value: int) -> NDArray[Any]:
    missing = np.full((len(column), c - column.shape[1]), value, column.dtype)
    return np.concatenate([column, missing], axis=1)
