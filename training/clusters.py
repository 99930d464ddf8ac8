"""Fits clusters by any of five methods, and compares the methods on the same points.

In: embeddings, and labels where there are some. Out: `Clusters`; a `Comparison` per method. Remembers: nothing.
References: HDBSCAN, Campello, Moulavi, Sander 2013; Dirichlet process mixtures, Blei and Jordan 2006; k-means in small
batches, Sculley 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from models.clusters import METHODS, Centres, Clusters, Mixture, Preparation, place, prepare
from models.scenes import F32, F64, I64
from training.cluster_scores import Against, Stability, against, silhouette, stability
from training.fit_placement import fit_placement

CLUSTERS_WITHOUT_A_HINT = 8
RESAMPLES = 5
RESAMPLE_SHARE = 0.8
SHARE_OF_COMPONENTS = 0.01  # a component of the Bayesian mixture with less weight was not needed


@dataclass(frozen=True)
class Wish:
    """What to fit. `n_clusters` of None: as many as HDBSCAN finds; the Bayesian mixture may find twice as many."""

    method: str = "hdbscan"
    n_clusters: int | None = None
    unit: bool = True
    width: int = 16  # main directions; 0: all
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """How one method did. `truth` is None without labels."""

    method: str
    clusters: int
    noise: float
    silhouette: float | None  # of the points that are no noise; None where there is one cluster
    stability: Stability
    truth: Against | None

    def row(self) -> dict[str, Any]:
        return asdict(self)


def fit_preparation(points: F64 | F32, wish: Wish) -> Preparation:
    """Unit length, then the main directions of points [n, d]."""
    d = points.shape[1]
    x = prepare(Preparation(wish.unit, np.zeros(d), np.eye(d)), points)
    mean = x.mean(0)
    width = min(wish.width or d, d, len(x))
    rows = np.linalg.svd(x - mean, full_matrices=False)[2][:width]
    sign = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(1)])
    return Preparation(wish.unit, mean, np.ascontiguousarray((rows * sign[:, None]).T))


def fit_clusters(points: F64 | F32, wish: Wish) -> Clusters:
    """Clusters of points [n, d], finite. Raises ValueError for an unknown method or too few points."""
    if wish.method not in METHODS:
        raise ValueError(f"{wish.method} is no method; there are {', '.join(METHODS)}")
    if len(points) < 2 or not np.isfinite(points).all():
        raise ValueError(f"{len(points)} points, {int((~np.isfinite(points)).any(1).sum())} of them not finite")
    preparation = fit_preparation(points, wish)
    x = prepare(preparation, points)
    if wish.method == "hdbscan":
        return Clusters(wish.method, preparation, fit_placement(x).known, settings=asdict(wish))
    n = min(wish.n_clusters or _found_by_density(x), len(x))
    model = _centres(x, n, wish) if wish.method.endswith("kmeans") else _mixture(x, n, wish)
    return Clusters(wish.method, preparation, model, settings=asdict(replace(wish, n_clusters=n)))


def compare(
    points: F64 | F32, truth: Sequence[str] | None, wishes: Sequence[Wish], resamples: int = RESAMPLES
) -> list[Comparison]:
    """Every wish fitted to the same points [n, d] and judged: by itself, by resampling and, with labels, by them."""
    return [_judged(points, truth, wish, resamples) for wish in wishes]


def all_methods(n_clusters: int | None = None, seed: int = 0) -> tuple[Wish, ...]:
    """One wish per method."""
    return tuple(Wish(method, n_clusters, seed=seed) for method in METHODS)


def _judged(points: F64 | F32, truth: Sequence[str] | None, wish: Wish, resamples: int) -> Comparison:
    clusters = fit_clusters(points, wish)
    label = place(clusters, points)[0].astype(np.int64)
    found = len(np.unique(label[label >= 0]))
    steady = stability(label, [_refitted(points, wish, draw) for draw in range(resamples)])
    x = prepare(clusters.preparation, points)
    judged = against(label, truth) if truth is not None else None
    return Comparison(wish.method, found, float(np.mean(label < 0)), silhouette(x, label, wish.seed), steady, judged)


def _refitted(points: F64 | F32, wish: Wish, draw: int) -> I64:
    """All points placed by a fit to a part of them."""
    rng = np.random.default_rng([wish.seed, draw])
    part = np.sort(rng.permutation(len(points))[: max(2, round(RESAMPLE_SHARE * len(points)))])
    return place(fit_clusters(points[part], wish), points)[0].astype(np.int64)


def _found_by_density(x: F64) -> int:
    found = fit_placement(x).quality.clusters
    return found if found > 1 else CLUSTERS_WITHOUT_A_HINT


def _centres(x: F64, n: int, wish: Wish) -> Centres:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    kind = KMeans if wish.method == "kmeans" else MiniBatchKMeans
    return Centres(kind(n, n_init=3, random_state=wish.seed).fit(x).cluster_centers_.astype(np.float64))


def _mixture(x: F64, n: int, wish: Wish) -> Mixture:
    """A full covariance each. The Bayesian one begins with twice as many components and keeps those that it needs."""
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

    if wish.method == "gmm":
        model = GaussianMixture(n, reg_covar=1e-4, random_state=wish.seed).fit(x)
    else:
        model = BayesianGaussianMixture(
            n_components=min(2 * n, len(x)), weight_concentration_prior_type="dirichlet_process",
            reg_covar=1e-4, max_iter=300, random_state=wish.seed,
        ).fit(x)  # fmt: skip
    kept = np.flatnonzero(model.weights_ >= min(SHARE_OF_COMPONENTS, float(model.weights_.max())))
    # At its own mean a component's ln p is its offset. The library has no public name for these values.
    offset = np.diag(model._estimate_weighted_log_prob(model.means_))
    return Mixture(offset[kept].copy(), model.means_[kept], model.precisions_cholesky_[kept])
