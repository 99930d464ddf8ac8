"""Two classical detectors of scikit-learn, for comparison: principal components and nearest neighbours of windows.

In: `Dataset`s and a grid. Out: scores per grid point. Remembers: what was fitted.

They see what their users give them: samples carried forward on a regular grid, standardised, windows that end now.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from models.scenes import F64, I64
from training.dataset import Dataset

WINDOWS_MAX = 5_000  # fitted to; of more, evenly drawn
CELLS_MAX = 20_000_000  # numbers of windows looked at in one piece
NEIGHBOURS = 5
VARIANCE = 0.9


@dataclass(frozen=True)
class Gridded:
    """One entity: values carried forward. [n, c]; grid point i is at start_us + i * step_us."""

    start_us: int
    x: F64


@dataclass(frozen=True)
class Peer:
    """A fitted one."""

    name: str
    width: int  # grid points in a window
    centre: F64
    scale: F64
    known: Any

    def scores(self, data: Dataset, step_us: int, t_us: I64) -> F64:
        """Of one entity's times, those of the grid point before each. [len(t_us)]"""
        entity = gridded(data, step_us)[0]
        z = _standard(entity.x, self.centre, self.scale)
        rows = max(1, CELLS_MAX // (self.width * z.shape[1]))
        said = [_said(self.known, part) for part in _windows(z, self.width, rows)]
        score = np.concatenate(said) if said else np.zeros(1)
        score = np.concatenate([np.full(len(z) - len(score), score.min()), score])
        at = np.clip((t_us - entity.start_us) // step_us, 0, len(score) - 1)
        found: F64 = score[at]
        return found


def fit_peers(data: Dataset, step_us: int, widths: tuple[int, ...]) -> list[Peer]:
    """PCA and kNN for each width."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    entities = gridded(data, step_us)
    every = np.concatenate([entity.x for entity in entities])
    centre, scale = np.nanmean(every, 0), np.nanstd(every, 0)
    centre, scale = np.nan_to_num(centre), np.where(scale > 1e-9, scale, 1.0)
    found = []
    for width in widths:
        windows = _drawn([_standard(entity.x, centre, scale) for entity in entities], width)
        pca = PCA(VARIANCE, svd_solver="full").fit(windows)
        if pca.n_components_ == windows.shape[1] > 1:  # nothing would be left over
            pca = PCA(windows.shape[1] - 1, svd_solver="full").fit(windows)
        knn = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(windows))).fit(windows)
        found += [Peer(f"PCA, {width} wide", width, centre, scale, pca)]
        found += [Peer(f"kNN, {width} wide", width, centre, scale, knn)]
    return found


def gridded(data: Dataset, step_us: int) -> list[Gridded]:
    """Each entity on the grid: the last sample in each cell, else what was there before."""
    found = []
    for a, b in pairwise(data.bounds()):
        if a == b:
            continue
        t_us, value = data.t_us[a:b], data.value[a:b]
        known = np.isfinite(value)
        cell = (t_us - t_us[0]) // step_us
        x = np.full((int(cell[-1]) + 1, len(data.sensors)), np.nan)
        x[cell[known], data.sensor[a:b][known]] = value[known]
        latest = np.maximum.accumulate(np.where(np.isnan(x), 0, np.arange(len(x))[:, None]), axis=0)
        found.append(Gridded(int(t_us[0]), np.take_along_axis(x, latest, 0)))
    return found


def _standard(x: F64, centre: F64, scale: F64) -> F64:
    return np.nan_to_num((x - centre) / scale)


def _windows(z: F64, width: int, rows: int) -> list[F64]:
    """Windows of an entity, flat, in pieces of some rows; none where it is shorter than one."""
    if len(z) < width:
        return []
    view = sliding_window_view(z, width, axis=0)
    pieces = range(0, len(view), rows)
    return [view[i : i + rows].reshape(len(view[i : i + rows]), -1) for i in pieces]


def _drawn(parts: list[F64], width: int) -> F64:
    """At most WINDOWS_MAX windows of all entities."""
    total = sum(max(0, len(z) - width + 1) for z in parts)
    every = max(1, -(-total // WINDOWS_MAX))
    views = [sliding_window_view(z, width, axis=0)[::every] for z in parts if len(z) >= width]
    return np.concatenate([view.reshape(len(view), -1) for view in views])


def _said(known: Any, windows: F64) -> F64:
    """Mean squared residual, or mean distance to the neighbours. [n]"""
    if hasattr(known, "inverse_transform"):
        gap = windows - known.inverse_transform(known.transform(windows))
        return np.asarray((gap**2).mean(1))
    return np.asarray(known.kneighbors(windows)[0].mean(1))
