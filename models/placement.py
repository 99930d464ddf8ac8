"""Placement: which known behaviour an embedding belongs to, and how firmly: HDBSCAN's approximate assignment.

In: embeddings. Out: cluster and membership probability, equal to `hdbscan.approximate_predict` of the clusterer that
the arrays were taken from (McInnes, Healy, Astels 2017; hdbscan 0.8, prediction.py). Remembers: nothing.
The one module of `models` that knows hdbscan's objects: `flatten` reads a fitted clusterer, nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.neighbours import References, nearest, references
from models.scenes import F32, F64, I32, I64

ARRAYS = (
    "points",
    "core_distance",
    "parent",
    "departure",
    "node_parent",
    "node_lambda",
    "node_label",
    "node_max_lambda",
)


@dataclass(frozen=True)
class Placement:
    """A clustering as flat arrays: `p` fitted points, `c` nodes of the condensed tree (node less p; 0: root)."""

    points: F64  # [p, d]
    core_distance: F64  # [p]
    parent: I64  # [p] the node each point belonged to last
    departure: F64  # [p] the lambda at which it left
    node_parent: I64  # [c]; the root's is -1
    node_lambda: F64  # [c] at which the node split from its parent
    node_label: I64  # [c] the selected cluster it belongs to, -1 for none
    node_max_lambda: F64  # [c] of that cluster
    min_samples: int
    refs: References

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a bundle stores, by name."""
        return {name: getattr(self, name) for name in ARRAYS}


def placement(arrays: Mapping[str, NDArray[Any]], min_samples: int) -> Placement:
    """A Placement from the arrays that `arrays()` gave. The bundle has checked names and types."""
    return Placement(
        **{name: arrays[name] for name in ARRAYS}, min_samples=min_samples, refs=references(arrays["points"])
    )


def labels(known: Placement) -> I64:
    """The cluster of each fitted point, -1 for none. [p]"""
    found: I64 = known.node_label[known.parent]
    return found


def shapes(points: int, width: int, nodes: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array, for a bundle's check."""
    per_point, per_node = (points,), (nodes,)
    dims = [(points, width), per_point, per_point, per_point, per_node, per_node, per_node, per_node]
    kinds = ["float64", "float64", "int64", "float64", "int64", "float64", "int64", "float64"]
    return dict(zip(ARRAYS, zip(dims, kinds, strict=True), strict=True))


def assign(known: Placement, embedding: F64 | F32) -> tuple[I32, F32]:
    """Cluster [n] (-1: noise) and membership probability [n] of embeddings [n, d], which must be finite.

    A new point joins at the mutual reachability distance to its nearest of 2 * min_samples neighbours; lambda is one
    over it; from that neighbour's node we climb to the node that exists at that lambda.
    """
    if not len(embedding) or len(known.node_label) < 2:  # no cluster was found: all is noise, as hdbscan says
        return np.full(len(embedding), -1, np.int32), np.zeros(len(embedding), np.float32)
    distance, index = nearest(known.refs, np.asarray(embedding, np.float64), 2 * known.min_samples)
    own_core = distance[:, min(known.min_samples, distance.shape[1] - 1), None]
    reach = np.maximum(np.maximum(known.core_distance[index], own_core), distance)
    best = reach.argmin(1)[:, None]
    reach, neighbour = np.take_along_axis(reach, best, 1)[:, 0], np.take_along_axis(index, best, 1)[:, 0]
    with np.errstate(divide="ignore"):
        joins = np.where(reach > 0, 1 / reach, np.finfo(np.float64).max)
    node = _climb(known, known.parent[neighbour], joins, known.departure[neighbour] > joins)
    label, top = known.node_label[node], known.node_max_lambda[node]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(top > 0, np.minimum(top, joins) / top, 1.0)
    return label.astype(np.int32), np.where(label >= 0, share, 0.0).astype(np.float32)


def _climb(known: Placement, node: I64, joins: F64, moving: NDArray[np.bool_]) -> I64:
    """The node that holds each point at its lambda. One step for all points per level of the tree."""
    node = node.copy()
    moving = moving & (node > 0) & (known.node_lambda[node] >= joins)
    while moving.any():
        node[moving] = known.node_parent[node[moving]]
        moving = moving & (node > 0) & (known.node_lambda[node] >= joins)
    return node


def flatten(clusterer: Any) -> Placement:
    """The arrays of a fitted `hdbscan.HDBSCAN(prediction_data=True)`, Euclidean."""
    data = clusterer.prediction_data_
    tree = clusterer.condensed_tree_._raw_tree
    n = len(data.raw_data)
    if not len(tree):
        raise ValueError(f"{n} points are too few for a tree")
    parent, departure = np.zeros(n, np.int64), np.zeros(n)
    leaves = tree[tree["child"] < n]
    parent[leaves["child"]], departure[leaves["child"]] = leaves["parent"] - n, leaves["lambda_val"]
    nodes = tree[tree["child"] >= n]
    c = int(max(tree["parent"].max(), tree["child"].max())) - n + 1
    node_parent, node_lambda = np.full(c, -1, np.int64), np.zeros(c)
    node_parent[nodes["child"] - n], node_lambda[nodes["child"] - n] = nodes["parent"] - n, nodes["lambda_val"]
    label, top = np.full(c, -1, np.int64), np.zeros(c)
    for node, name in data.cluster_map.items():
        label[node - n], top[node - n] = name, data.max_lambdas[node]
    # Points that are the same leave at lambda = infinity, which no bundle holds; `assign` stops at the same number.
    departure, node_lambda, top = (np.minimum(at, np.finfo(np.float64).max) for at in (departure, node_lambda, top))
    arrays = (data.raw_data, data.core_distances, parent, departure, node_parent, node_lambda, label, top)
    return placement(dict(zip(ARRAYS, arrays, strict=True)), int(clusterer.min_samples or clusterer.min_cluster_size))
