"""Nearest reference points, exactly, by matrix products: under the distance parts and under placement.

In: reference points and queries. Out: for each query its k nearest references. Remembers: nothing.

References lie in cells, balls around centres. For a block of queries: (1) the cell of the nearest centre bounds the
k-th distance: the k-th smallest of minima over disjoint groups; (2) cells whose ball lies beyond the bound are left
out; (3) in the rest a float32 product finds all references within the bound and its rounding; (4) only their distances
are computed in float64. So values and order are those of float64, at the speed of a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I64
from models.threads import each

GROUPS = 80  # disjoint groups whose minima bound the k-th distance; several times the k in use
CELL = 900  # references per cell: few enough to stay in cache with a block of queries
QUERIES = 512  # per block, so that two threads share a thousand
WIDE = 8  # times k: rows of more candidates are not sorted one by one
ROUNDING = 1e-5  # of float32 products of centred points, relative to the squared lengths: 80 units in the last place


@dataclass(frozen=True)
class Cell:
    """References of one ball, ready for a product. `m` of them."""

    index: I64  # [m] in the caller's order
    turned: F32  # [d + 1, m]: -2 x, and below it |x|^2; x = point less the overall centre
    centre: F64  # [d], relative to the overall centre
    radius: float
    longest: float  # the largest |x|^2


@dataclass(frozen=True)
class Balls:
    """The cells' balls, side by side. [cells]"""

    centres: F64  # [cells, d]
    squares: F64  # |centre|^2
    radii: F64
    longest: F64
    sizes: I64


@dataclass(frozen=True)
class References:
    """Points to measure from. Made by `references`."""

    centred: F64  # [n, d] the points less their centre
    centre: F64  # [d]
    cells: tuple[Cell, ...]
    balls: Balls


def references(points: F64) -> References:
    """Prepares points [n, d], n >= 1, finite, for many queries."""
    points = np.ascontiguousarray(points, np.float64)
    centre = points.mean(0)
    x = points - centre
    home = _balls(x, max(1, len(x) // CELL - 1))  # below two cells' worth one product is cheaper than two
    cells = tuple(_cell(x, np.flatnonzero(home == c)) for c in np.unique(home))
    centres, sizes = np.stack([cell.centre for cell in cells]), np.array([len(cell.index) for cell in cells])
    radii, longest = np.array([cell.radius for cell in cells]), np.array([cell.longest for cell in cells])
    return References(x, centre, cells, Balls(centres, (centres**2).sum(1), radii, longest, sizes))


def nearest(refs: References, queries: F64 | F32, k: int) -> tuple[F64, I64]:
    """Euclidean distances [q, k], ascending, and indices [q, k] of the k nearest references; ties by index.

    k is cut to the number of references. Queries must be finite.
    """
    k = min(k, len(refs.centred))
    distance, index = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)

    def block(at: int) -> None:
        here = slice(at, at + QUERIES)
        distance[here], index[here] = _block(refs, np.asarray(queries[here], np.float64) - refs.centre, k)

    each(block, range(0, len(queries), QUERIES))
    return distance, index


def mean_distance(refs: References, queries: F64 | F32, k: int = 3) -> F64:
    """Mean Euclidean distance [q] to the k nearest references."""
    out: F64 = nearest(refs, queries, k)[0].mean(1)
    return out


def _block(refs: References, x: F64, k: int) -> tuple[F64, I64]:
    """`nearest` of one block of centred queries [q, d]."""
    product = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float32)
    length, balls = np.einsum("ij,ij->i", x, x), refs.balls
    to_centre = np.sqrt(np.maximum(length[:, None] - 2 * (x @ balls.centres.T) + balls.squares, 0.0))
    slack = ROUNDING * (length[:, None] + balls.longest)  # [q, cells]
    bound, kept = _bound(refs, product, (np.where(balls.sizes >= k, to_centre, np.inf), slack), k)
    visited = to_centre - balls.radii <= np.sqrt(np.maximum((bound + length)[:, None] + 2 * slack, 0.0))
    limit = (bound[:, None] + slack).astype(np.float32)
    pairs = []
    for c, (rows, squared) in kept.items():
        visited[rows, c] = False
        pairs.append(_within(squared, limit[rows, c], rows, refs.cells[c].index))
    for c in np.flatnonzero(visited.any(0)).tolist():
        rows, cell = np.flatnonzero(visited[:, c]), refs.cells[c]
        pairs.append(_within(product[rows] @ cell.turned, limit[rows, c], rows, cell.index))
    return _best(refs.centred, x, (np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])), k)


def _within(squared: F32, limit: F32, rows: I64, index: I64) -> tuple[I64, I64]:
    """Query and reference of all products [rows, m] within their query's limit."""
    row, column = np.divmod(np.flatnonzero(squared <= limit[:, None]), squared.shape[1])
    return rows[row], index[column]


def _bound(refs: References, product: F32, cells: tuple[F64, F64], k: int) -> tuple[F64, dict[int, tuple[I64, F32]]]:
    """For each query an upper bound [q] of (k-th distance)^2 - |query|^2, from the cell with the nearest centre.

    And the products that gave it, cell by cell, with their rows. No cell of k points: no bound. cells: distances to the
    centres, infinite for cells of fewer, and slack. [q, cells] each
    """
    to_centre, slack = cells
    bound, kept = np.full(len(product), np.inf), dict[int, tuple[I64, F32]]()
    home = np.where(np.isfinite(to_centre.min(1)), to_centre.argmin(1), -1)
    for c in sorted(set(home.tolist()) - {-1}):
        mine = np.flatnonzero(home == c)
        squared = product[mine] @ refs.cells[c].turned
        groups = min(squared.shape[1], max(GROUPS, 2 * k))
        full = squared.shape[1] // groups * groups
        minima = squared[:, :full].reshape(len(squared), -1, groups).min(1)
        minima.partition(k - 1, axis=1)
        bound[mine], kept[c] = minima[:, k - 1] + slack[mine, c], (mine, squared)
    return bound, kept


def _best(centred: F64, x: F64, pairs: tuple[I64, I64], k: int) -> tuple[F64, I64]:
    """The k nearest of the candidates (query, reference), at least k of them for each query, in float64."""
    row, column = pairs
    gap = centred[column] - x[row]
    squared = np.einsum("ij,ij->i", gap, gap)
    chosen = _smallest(squared, row, len(x), k)
    if chosen is None:
        order = np.lexsort((column, squared, row))
        chosen = order[np.searchsorted(row[order], np.arange(len(x)))[:, None] + np.arange(k)]
    return np.sqrt(squared[chosen]), column[chosen]


def _smallest(squared: F64, row: I64, n: int, k: int) -> I64 | None:
    """The k smallest of each row, in order [n, k], by sorting short rows. None: a row is long, or some are equal."""
    count = np.bincount(row, minlength=n)
    width = int(count.max(initial=0))
    if width > WIDE * k:
        return None
    order = np.argsort(row.astype(np.uint16), kind="stable")  # short integers are sorted by radix
    first, table = np.cumsum(count) - count, np.full((n, width + 1), np.inf)
    table[row[order], np.arange(len(row)) - np.repeat(first, count)] = squared[order]
    places = table.argsort(1)[:, : k + 1]
    ordered = np.take_along_axis(table, places, 1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return None
    found: I64 = order[first[:, None] + places[:, :k]]
    return found


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
    nearest_centre: I64 = ((centres**2).sum(1) - 2 * (x @ centres.T)).argmin(1)
    return nearest_centre


def _cell(x: F64, index: I64) -> Cell:
    mine = x[index]
    centre, squares = mine.mean(0), (mine**2).sum(1)
    turned = np.concatenate([-2 * mine.T, squares[None]]).astype(np.float32)
    radius = float(np.sqrt(((mine - centre) ** 2).sum(1).max()))
    return Cell(index, np.ascontiguousarray(turned), centre, radius * (1 + 1e-9), float(squares.max()))
