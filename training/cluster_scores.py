"""How good a clustering is: by labels, by itself, and by fitting it again to parts of the data.

In: clusters of points, -1 for noise. Out: figures. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.scenes import F64, I64

SILHOUETTE_POINTS = 5_000  # drawn; it takes a distance for every pair


@dataclass(frozen=True)
class PerClass:
    """Of one label, after each cluster was given the label it fits best, no label twice."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True)
class Against:
    """A clustering against labels. A point of the noise is one that was not found."""

    accuracy: float  # with the best one-to-one assignment of clusters to labels (Hungarian)
    nmi: float  # normalised mutual information, arithmetic mean
    ari: float  # adjusted Rand index
    macro_f1: float
    classes: dict[str, PerClass]


@dataclass(frozen=True)
class Stability:
    """The adjusted Rand index between the clusters and those of fits to parts of the data."""

    mean: float | None  # None: not tried
    lowest: float | None


def against(label: I64, truth: Sequence[str]) -> Against:
    """Clusters [n], -1 for noise, against labels [n]."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    classes, of_class = np.unique(np.asarray(truth, str), return_inverse=True)
    _, of_cluster = np.unique(label, return_inverse=True)
    counts = np.zeros((int(of_cluster.max()) + 1, len(classes)), np.int64)
    np.add.at(counts, (of_cluster, of_class), 1)
    if (label < 0).any():
        counts[0] = 0  # the noise comes first, and stands for no label
    clusters, named = linear_sum_assignment(-counts)
    hits = counts[clusters, named]
    found = {
        int(c): _per_class(int(h), int(counts[k].sum()), n) for k, c, h, n in _rows(clusters, named, hits, of_class)
    }
    sizes = np.bincount(of_class)
    each = {str(name): found.get(c, PerClass(0.0, 0.0, 0.0, int(sizes[c]))) for c, name in enumerate(classes)}
    return Against(
        accuracy=float(hits.sum() / len(label)),
        nmi=float(normalized_mutual_info_score(of_class, label)),
        ari=float(adjusted_rand_score(of_class, label)),
        macro_f1=float(np.mean([c.f1 for c in each.values()])),
        classes=each,
    )


def _rows(clusters: I64, named: I64, hits: I64, of_class: I64) -> list[tuple[int, int, int, int]]:
    sizes = np.bincount(of_class)
    return [(int(k), int(c), int(h), int(sizes[c])) for k, c, h in zip(clusters, named, hits, strict=True)]


def _per_class(hits: int, claimed: int, n: int) -> PerClass:
    return PerClass(hits / max(claimed, 1), hits / n, 2 * hits / (claimed + n), n)


def silhouette(x: F64, label: I64, seed: int) -> float | None:
    """Mean silhouette of the points [n, d] that are no noise; None where fewer than two clusters are left."""
    from sklearn.metrics import silhouette_score

    inside = np.flatnonzero(label >= 0)
    if len(inside) > SILHOUETTE_POINTS:
        inside = np.random.default_rng(seed).permutation(inside)[:SILHOUETTE_POINTS]
    if not 2 <= len(np.unique(label[inside])) < len(inside):
        return None
    return float(silhouette_score(x[inside], label[inside]))


def stability(label: I64, again: Sequence[I64]) -> Stability:
    """How far the clusters [n] are found again by other fits, each a labelling of the same points."""
    from sklearn.metrics import adjusted_rand_score

    agreement = [float(adjusted_rand_score(label, other)) for other in again]
    return Stability(float(np.mean(agreement)), min(agreement)) if agreement else Stability(None, None)
