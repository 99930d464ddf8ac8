"""Fits the known behaviours: HDBSCAN on the embeddings of training windows, frozen as a `Placement`.

In: embeddings. Out: `Placed`. Remembers: nothing.
Reference: Campello, Moulavi, Sander 2013; McInnes, Healy, Astels 2017 (hdbscan).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.placement import ARRAYS, Placement, assign, flatten, placement
from models.scenes import F32, F64, I64
from stream_app.alerts.others import FALSE_RATE, MEMBERSHIP
from training.cluster_labels import calibrate_membership

CLUSTER_SHARE = 0.01  # smallest cluster, of all points: 1 to 2 % gave few clusters that stay when resampled
CLUSTER_MIN = 5
MIN_SAMPLES = 5
AGREEMENT_MIN = 0.95


@dataclass(frozen=True)
class Quality:
    """Whether a clustering is good enough to be shown. `problems` is empty where it is."""

    clusters: int
    noise: float  # share of the points
    agreement: float  # share of the points that assignment puts where the fit put them
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A fitted placement, the label of every point (-1: noise), and what it is worth."""

    known: Placement
    label: I64
    quality: Quality

    def facts(self) -> dict[str, Any]:
        """For a report: the quality, and the size of each cluster by its number."""
        names, sizes = np.unique(self.label[self.label >= 0], return_counts=True)
        return asdict(self.quality) | {"sizes": dict(zip(names.tolist(), sizes.tolist(), strict=True))}


def fit_placement(points: F64 | F32) -> Placed:
    """Clusters of points [n, d], n >= 1, finite. Too few points, or points that are all the same, make no cluster."""
    from hdbscan import HDBSCAN

    points = np.asarray(points, np.float64)
    smallest = max(CLUSTER_MIN, round(CLUSTER_SHARE * len(points)))
    if len(points) < 2 * smallest or not points.std(0).any():
        return Placed(_without_clusters(points), np.full(len(points), -1), Quality(0, 1.0, 1.0, ("no clusters",)))
    clusterer = HDBSCAN(smallest, min_samples=MIN_SAMPLES, prediction_data=True, core_dist_n_jobs=1).fit(points)
    known = _finite(flatten(clusterer))
    label = clusterer.labels_.astype(np.int64)
    return Placed(known, label, _quality(known, points, label))


def fit_membership(points: F64 | F32, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """For a bundle's tail: the membership below which a window is noise, for `alarms.also`. Points [n, d] in order.
    `say` is told whether there is one.

    Cross-fitted: clusters of the first and third quarter place the others, and the other way round, since points that
    clusters were fitted to belong to them more firmly than new ones.
    """
    points = np.asarray(points, np.float64)
    quarter = np.arange(len(points)) * 4 // max(1, len(points)) % 2
    cluster, membership = np.full(len(points), -1, np.int32), np.zeros(len(points), np.float32)
    for held in (quarter == 0, quarter == 1):
        if held.any() and not held.all():
            cluster[held], membership[held] = assign(fit_placement(points[~held]).known, points[held])
    found = calibrate_membership(cluster, membership, FALSE_RATE)
    say(f"alarms.also: noise: {found.said(FALSE_RATE)}")
    return {MEMBERSHIP: np.array([found.tau, found.noise])}


def _quality(known: Placement, points: F64, label: I64) -> Quality:
    clusters, noise = int(label.max()) + 1, float(np.mean(label < 0))
    placed = label >= 0  # points of the noise lie at a border, where a new point may well fall on the other side
    agreement = float(np.mean(assign(known, points)[0][placed] == label[placed])) if placed.any() else 1.0
    problems = [] if clusters > 1 else [f"{clusters} clusters"]
    if agreement < AGREEMENT_MIN:
        problems.append(f"{agreement:.2f} of the points are placed as they were fitted, {AGREEMENT_MIN} are needed")
    return Quality(clusters, noise, agreement, tuple(problems))


def _finite(known: Placement) -> Placement:
    """Points that coincide leave at an infinite lambda; a bundle holds finite numbers, and the largest does as well."""
    return placement({name: np.nan_to_num(array) for name, array in known.arrays().items()}, known.min_samples)


def _without_clusters(points: F64) -> Placement:
    """A placement in which everything is noise: one point, and a tree that is only its root."""
    zero, none = np.zeros(1), np.zeros(1, np.int64)
    arrays = (points[:1].copy(), zero, none, zero, none - 1, zero, none - 1, zero)
    return placement(dict(zip(ARRAYS, arrays, strict=True)), MIN_SAMPLES)
