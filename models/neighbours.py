"""Nearest reference points, exactly, by matrix products: under the distance parts and under placement.

In: reference points and queries. Out: for each query its k nearest references. Remembers: nothing.

References lie in cells, balls around centres. For a block of queries: (1) the cell of the nearest centre gives a bound on
the k-th distance: the k-th smallest of minima over disjoint groups; (2) cells whose ball lies beyond the bound are left
out; (3) in the rest a float32 product finds all references within the bound and its rounding; (4) only their distances
are computed in float64. So values and order are those of float64, at the speed of a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I64

GROUPS = 80  # disjoint groups whose minima bound the k-th distance; several times the k in use
CELL = 1_250  # references per cell: few enough to stay in cache with a block of queries
QUERIES = 1_024  # per block
ROUNDING = 1e-5  # of float32 products of centred points, relative to the squared lengths: about 80 units in the last place


@dataclass(frozen=True)
class Cell:
    """References of one ball, ready for a product. `m` of them."""

    index: I64  # [m] in the caller's order
    turned: F32  # [d + 1, m]: -2 x, and below it |x|^2; x = point less the overall centre
    centre: F64  # [d], relative to the overall centre
    radius: float
    longest: float  # the largest |x|^2


@dataclass(frozen=True)
class References:
    """Points to measure from. Made by `references`."""

    centred: F64  # [n, d] the points less their centre
    centre: F64  # [d]
    cells: tuple[Cell, ...]


def references(points: F64) -> References:
    """Prepares points [n, d], n >= 1, finite, for many queries."""
    points = np.ascontiguousarray(points, np.float64)
    centre = points.mean(0)
    x = points - centre
    home = _balls(x, -(-len(x) // CELL))
    return References(x, centre, tuple(_cell(x, np.flatnonzero(home == c)) for c in np.unique(home)))


def nearest(refs: References, queries: F64 | F32, k: int) -> tuple[F64, I64]:
    """Euclidean distances [q, k], ascending, and indices [q, k] of the k nearest references; ties by index.

    k is cut to the number of references. Queries must be finite.
    """
    k = min(k, len(refs.centred))
    distance, index = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for at in range(0, len(queries), QUERIES):
        here = slice(at, at + QUERIES)
        distance[here], index[here] = _block(refs, np.asarray(queries[here], np.float64) - refs.centre, k)
    return distance, index


def mean_distance(refs: References, queries: F64 | F32, k: int = 3) -> F64:
    """Mean Euclidean distance [q] to the k nearest references."""
    return nearest(refs, queries, k)[0].mean(1)


def _block(refs: References, x: F64, k: int) -> tuple[F64, I64]:
    """`nearest` of one block of centred queries [q, d]."""
    product = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float32)
    length = np.einsum("ij,ij->i", x, x)
    to_centre = np.stack([np.sqrt(((x - cell.centre) ** 2).sum(1)) for cell in refs.cells], 1)
    eligible = np.array([len(cell.index) >= k for cell in refs.cells])
    bound = _bound(refs, product, np.where(eligible, to_centre, np.inf), k) if eligible.any() else np.full(len(x), np.inf)
    rows, columns = [], []
    for c, cell in enumerate(refs.cells):
        slack = ROUNDING * (length + cell.longest)
        reach = np.sqrt(np.maximum(bound + length + 2 * slack, 0))
        use = np.flatnonzero(to_centre[:, c] - cell.radius <= reach)
        near = product[use] @ cell.turned <= (bound + slack)[use, None].astype(np.float32)
        row, column = np.divmod(np.flatnonzero(near), len(cell.index))
        rows.append(use[row])
        columns.append(cell.index[column])
    return _best(refs.centred, x, (np.concatenate(rows), np.concatenate(columns)), k)


def _bound(refs: References, product: F32, to_centre: F64, k: int) -> F64:
    """For each query an upper bound of (k-th distance)^2 - |query|^2, from the cell with the nearest centre. [q]"""
    home, bound = to_centre.argmin(1), np.empty(len(product))
    for c in np.unique(home):
        mine, cell = home == c, refs.cells[c]
        squared = product[mine] @ cell.turned
        groups = min(squared.shape[1], max(GROUPS, 2 * k))
        full = squared.shape[1] // groups * groups
        minima = squared[:, :full].reshape(len(squared), -1, groups).min(1)
        slack = ROUNDING * (cell.longest + (product[mine, :-1] ** 2).sum(1))
        bound[mine] = np.partition(minima, k - 1, axis=1)[:, k - 1] + slack
    return bound


def _best(centred: F64, x: F64, pairs: tuple[I64, I64], k: int) -> tuple[F64, I64]:
    """The k nearest of the candidates (query, reference), at least k of them for each query, in float64."""
    row, column = pairs
    gap = centred[column] - x[row]
    squared = np.einsum("ij,ij->i", gap, gap)
    order = np.lexsort((column, squared, row))
    first = np.searchsorted(row[order], np.arange(len(x)))
    chosen = order[first[:, None] + np.arange(k)]
    return np.sqrt(squared[chosen]), column[chosen]


def _balls(x: F64, n: int) -> I64:
    """The cell of each point: the nearest of n centres, which start far apart and move to their means. [n points]"""
    centres = x[:1]
    away = ((x - centres[0]) ** 2).sum(1)
    for _ in range(n - 1):  # one pass per cell, at preparation only
        centres = np.concatenate([centres, x[[away.argmax()]]])
        away = np.minimum(away, ((x - centres[-1]) ** 2).sum(1))
    for _ in range(4 if n > 1 else 0):  # a few steps suffice: cells need not be good, only balls
        home = ((centres**2).sum(1) - 2 * (x @ centres.T)).argmin(1)
        centres = np.stack([x[home == c].mean(0) if (home == c).any() else centres[c] for c in range(n)])
    return ((centres**2).sum(1) - 2 * (x @ centres.T)).argmin(1)


def _cell(x: F64, index: I64) -> Cell:
    mine = x[index]
    centre, squares = mine.mean(0), (mine**2).sum(1)
    turned = np.concatenate([-2 * mine.T, squares[None]]).astype(np.float32)
    radius = float(np.sqrt(((mine - centre) ** 2).sum(1).max()))
    return Cell(index, np.ascontiguousarray(turned), centre, radius * (1 + 1e-9), float(squares.max()))
