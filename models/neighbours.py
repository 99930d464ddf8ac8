"""Nearest reference points, exactly and in blocks of matrix products: under the distance parts and under placement.

In: reference points and queries. Out: for each query its k nearest references. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I64

BLOCK = 16  # references per block minimum: the k nearest lie in the k blocks with the smallest minima
CELLS = 8_000_000  # of one distance matrix: 32 MB at float32


@dataclass(frozen=True)
class References:
    """Points to measure from, centred, so that float32 products lose little. Made by `references`."""

    points: F64  # [n, d]
    centre: F64  # [d]
    turned: F32  # [d, padded n], the points less the centre, transposed
    squares: F32  # [padded n], their squared lengths; infinite on the padding


def references(points: F64) -> References:
    """Prepares points [n, d] for many queries. n >= 1."""
    points = np.ascontiguousarray(points, np.float64)
    centre = points.mean(0)
    centred = (points - centre).astype(np.float32)
    pad = -len(points) % BLOCK
    squares = np.r_[(centred.astype(np.float64) ** 2).sum(1), np.full(pad, np.inf)].astype(np.float32)
    turned = np.concatenate([centred, np.zeros((pad, centred.shape[1]), np.float32)]).T
    return References(points, centre, np.ascontiguousarray(turned), squares)


def nearest(refs: References, queries: F64, k: int) -> tuple[F64, I64]:
    """Euclidean distances [q, k], ascending, and indices [q, k] of the k nearest references.

    Candidates come from a float32 product by block minima; their distances are computed again in float64, so values
    and order are those of float64 wherever two distances differ by more than float32's rounding of the candidates'
    border (four spare blocks stand against that). k is cut to the number of references. Queries must be finite.
    """
    n, k = len(refs.points), min(k, len(refs.points))
    rows = max(1, CELLS // max(1, len(refs.squares)))
    distance, index = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for at in range(0, len(queries), rows):
        part = np.asarray(queries[at : at + rows], np.float64)
        found = _candidates(refs, part, k)
        exact = _exact(refs.points, part, np.minimum(found, n - 1))
        exact[found >= n] = np.inf
        order = np.lexsort((found, exact), axis=1)[:, :k]
        distance[at : at + rows] = np.take_along_axis(exact, order, 1)
        index[at : at + rows] = np.take_along_axis(found, order, 1)
    return distance, index


def mean_distance(refs: References, queries: F32, k: int = 3) -> F64:
    """Mean Euclidean distance [q] to the k nearest references, in float32 products: a score, not an order."""
    n, k = len(refs.points), min(k, len(refs.points))
    rows = max(1, CELLS // max(1, len(refs.squares)))
    out = np.empty(len(queries))
    for at in range(0, len(queries), rows):
        part = np.asarray(queries[at : at + rows]) - refs.centre
        squared = _block_values(refs, part.astype(np.float32), min(k, -(-n // BLOCK)))[0]
        best = np.partition(squared, k - 1, axis=1)[:, :k] + np.einsum("ij,ij->i", part, part)[:, None]
        out[at : at + rows] = np.sqrt(np.maximum(best, 0)).mean(1)
    return out


def _block_values(refs: References, centred: F32, n_blocks: int) -> tuple[F32, I64]:
    """|r|^2 - 2 q.r of all references in the n_blocks blocks nearest to each query, and their indices. [q, blocks*16]"""
    squared = centred @ refs.turned
    squared *= -2
    squared += refs.squares
    blocks = squared.reshape(len(centred), -1, BLOCK)
    chosen = np.argpartition(blocks.min(2), n_blocks - 1, axis=1)[:, :n_blocks]
    values = np.take_along_axis(blocks, chosen[:, :, None], 1).reshape(len(centred), -1)
    return values, (chosen[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(len(centred), -1)


def _candidates(refs: References, part: F64, k: int) -> I64:
    """Indices [q, k + 8] or fewer that hold the k nearest."""
    n_blocks = min(k + 4, len(refs.squares) // BLOCK)
    values, index = _block_values(refs, (part - refs.centre).astype(np.float32), n_blocks)
    keep = min(k + 8, values.shape[1])
    best = np.argpartition(values, keep - 1, axis=1)[:, :keep]
    return np.take_along_axis(index, best, 1)


def _exact(points: F64, queries: F64, index: I64) -> F64:
    """Distances [q, c] of each query to its own candidates, in float64."""
    out = np.empty(index.shape)
    for column in range(index.shape[1]):  # a loop over some dozens of candidates keeps memory at [q, d]
        gap = points[index[:, column]] - queries
        out[:, column] = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    return out
