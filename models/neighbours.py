"""Nearest reference points, exactly, by matrix products: under the distance parts and under placement.

In: reference points and queries. Out: for each query its k nearest references. Remembers: nothing.

References lie in small cells, balls around centres, which halve and halve again along the direction of most variance.
For a block of queries: (1) the cells of the nearest centres bound the k-th distance; (2) cells whose ball lies beyond
the bound are left out; (3) in the rest a float32 product finds all references within the bound and its rounding;
(4) only their distances are computed in float64. So values and order are those of float64, at the speed of a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I64, Bool
from models.threads import each

CELL = 64  # references per cell at most: with more cells Python's calls cost more than the references left out save
POWERS = 3  # steps towards the direction of most variance: it need not be it
HOMES = 2  # cells more than the k-th neighbour needs, to bound its distance
QUERIES = 512  # per block, so that two threads share a thousand
PAIRS = 8_192  # of a query and a cell in one go: their products stay in cache
AT_ONCE = 1 << 15  # float64 differences, for the same reason
WIDE = 8  # times k: rows of more candidates are not sorted one by one
ROUNDING = 1e-5  # of float32 products of centred points, relative to the squared lengths: 80 units in the last place


@dataclass(frozen=True)
class References:
    """Points to measure from: n of them in cells of up to m. Made by `references`."""

    centred: F64  # [n, d] the points less their centre
    centre: F64  # [d]
    index: I64  # [cells, m] in the caller's order; -1 beyond a cell's size
    turned: tuple[F32, ...]  # per cell [d + 1, m]: -2 x, and below it |x|^2, NaN beyond its size
    centres: F32  # [d + 1, cells] of the balls: -2 c, and below it |c|^2
    radii: F32  # [cells]
    longest: F64  # [cells] the largest |x|^2
    smallest: int  # points in a cell at least


def references(points: F64) -> References:
    """Prepares points [n, d], n >= 1, finite, for many queries."""
    points = np.ascontiguousarray(points, np.float64)
    centre = points.mean(0)
    x = points - centre
    cells = list(_halved(x))
    size = max(map(len, cells))
    index = np.stack([np.pad(own, (0, size - len(own)), constant_values=-1) for own in cells])
    centres = np.stack([x[own].mean(0) for own in cells])
    radii = [np.sqrt(((x[own] - c) ** 2).sum(1).max()) for own, c in zip(cells, centres, strict=True)]
    squares = (x**2).sum(1)
    return References(
        x,
        centre,
        index,
        tuple(_turned(x[own], size) for own in cells),
        _turned(centres, len(centres)),
        (np.array(radii) * (1 + 1e-6)).astype(np.float32),
        np.array([squares[own].max() for own in cells]),
        min(map(len, cells)),
    )


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
    length = np.einsum("ij,ij->i", x, x)
    away = product @ refs.centres  # [q, cells]: |query - centre|^2 - |query|^2
    homes = _homes(away, min(len(refs.turned), HOMES + (k - 1) // refs.smallest))
    order = np.argsort(homes.ravel(), kind="stable")
    pairs = homes.ravel()[order], order % len(x)
    near = _products(refs, product, pairs)
    bound = _kth(near, order, len(homes), k) + ROUNDING * (length + refs.longest[homes].max(0))
    found = [_within(refs, near, pairs, (bound, length))]
    visited = _reached(refs, away, (bound, length))
    visited[np.arange(len(x)), homes] = False
    cell, row = np.nonzero(np.ascontiguousarray(visited.T))
    for at in range(0, len(cell), PAIRS):
        pairs = cell[at : at + PAIRS], row[at : at + PAIRS]
        found.append(_within(refs, _products(refs, product, pairs), pairs, (bound, length)))
    return _best(refs.centred, x, (np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])), k)


def _homes(away: F32, n: int) -> I64:
    """The n cells whose centres are nearest to each query. [n, q]"""
    rest, every = away.copy(), np.arange(len(away))
    homes = np.empty((n, len(away)), np.int64)
    for home in homes:
        home[:] = rest.argmin(1)
        rest[every, home] = np.inf
    return homes


def _products(refs: References, product: F32, pairs: tuple[I64, I64]) -> F32:
    """|query - reference|^2 - |query|^2 of all references of each pair's cell. pairs: cell, ascending, and query."""
    cell, row = pairs
    out = np.empty((len(cell), refs.index.shape[1]), np.float32)
    edge = np.flatnonzero(np.diff(cell, prepend=-1, append=-1)).tolist()
    which = cell[edge[:-1]].tolist()
    for c, begin, end in zip(which, edge, edge[1:], strict=False):  # over cells
        np.dot(product.take(row[begin:end], 0), refs.turned[c], out=out[begin:end])
    return out


def _kth(near: F32, order: I64, homes: int, k: int) -> F64:
    """The k-th smallest of each query's products [homes * q, m], which are in the order of their cells. [q]"""
    of_query = np.empty_like(near)
    of_query[order] = near
    table = of_query.reshape(homes, -1, near.shape[1]).transpose(1, 0, 2).reshape(len(near) // homes, -1)
    table.partition(k - 1, axis=1)
    return table[:, k - 1].astype(np.float64)


def _within(refs: References, squared: F32, pairs: tuple[I64, I64], limits: tuple[F64, F64]) -> tuple[I64, I64]:
    """Query and reference of all products [pairs, m] within their query's bound. limits: bound, |query|^2. [q]"""
    (cell, row), (bound, length) = pairs, limits
    limit = bound[row] + ROUNDING * (length[row] + refs.longest[cell])
    pair, place = np.divmod(np.flatnonzero(squared <= limit.astype(np.float32)[:, None]), squared.shape[1])
    return row[pair], refs.index[cell[pair], place]


def _reached(refs: References, away: F32, limits: tuple[F64, F64]) -> Bool:
    """Which cells' balls the bounds reach. [q, cells]"""
    bound, length = limits
    reach = np.sqrt(np.maximum(bound + (1 + ROUNDING) * length, 0)).astype(np.float32)
    most = reach[:, None] + refs.radii
    most *= most
    most += (ROUNDING * refs.longest).astype(np.float32)
    most -= ((1 - ROUNDING) * length).astype(np.float32)[:, None]
    return away <= most


def _best(centred: F64, x: F64, pairs: tuple[I64, I64], k: int) -> tuple[F64, I64]:
    """The k nearest of the candidates (query, reference), at least k of them for each query, in float64."""
    row, column = pairs
    squared, some = np.empty(len(row)), max(1, AT_ONCE // x.shape[1])
    for at in range(0, len(row), some):
        here = slice(at, at + some)
        gap = centred.take(column[here], 0)
        gap -= x.take(row[here], 0)
        np.einsum("ij,ij->i", gap, gap, out=squared[here])
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


def _turned(x: F64, size: int) -> F32:
    """-2 x and below it |x|^2, a column per point, with columns of NaN up to a size: no limit admits them."""
    turned = np.concatenate([-2 * x.T, (x**2).sum(1)[None]])
    return np.ascontiguousarray(np.pad(turned, ((0, 0), (0, size - len(x))), constant_values=np.nan), np.float32)


def _halved(x: F64) -> Iterator[I64]:
    """Points [n, d] in cells of at most CELL, of sizes that hardly differ."""
    waiting = [np.arange(len(x))]
    while waiting:  # once per cell, at preparation only
        own = waiting.pop()
        if len(own) <= CELL:
            yield own
            continue
        gap = x[own] - x[own].mean(0)
        axis = gap[np.einsum("ij,ij->i", gap, gap).argmax()]
        for _ in range(POWERS):
            axis = (gap @ axis) @ gap
            axis /= max(float(np.linalg.norm(axis)), 1e-300)
        cells = -(-len(own) // CELL)
        left = cells // 2 * len(own) // cells
        order = np.argpartition(gap @ axis, left)
        waiting += [own[order[left:]], own[order[:left]]]
