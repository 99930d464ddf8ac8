"""Nearest reference points, exactly, by matrix products: under the distance parts and under placement.

In: reference points and queries. Out: for each query its k nearest references. Remembers: nothing.

References lie in small cells, which halve and halve again along the direction of most variance. For a block of queries:
(1) the cells of the nearest centres bound the k-th distance; (2) cells that begin beyond the bound are left out, as
seen along the line from the query's own centre to theirs, or by the ball that holds them; (3) in the rest a float32
product finds all references within the bound and its rounding; (4) only their distances are computed in float64. So
values and order are those of float64, at the speed of a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I64, Bool
from models.threads import each

CELL = 96  # references per cell at most: with more cells Python's calls cost more than the references left out save
CELLS = 1_024  # of which each knows how it lies to each: 8 MB; cells grow where references are more than so many hold
POWERS = 10  # steps towards the direction of most variance: it need not be it
HOMES = 2  # cells more than the k-th neighbour needs, to bound its distance
QUERIES = 1_024  # per block: products of few queries are slow
READ = 1 << 19  # float32 numbers in one go, of queries and of their products with a cell: they stay in cache
AT_ONCE = 1 << 17  # float64 differences, for the same reason
WIDE = 256  # candidates: rows of more are not sorted one by one
SLACK = 4e-5  # of float32 sums of centred points, relative to what is summed: 4 times what their products want


@dataclass(frozen=True)
class References:
    """Points to measure from: n of them in cells of up to m. Made by `references`."""

    centred: F64  # [n, d] the points less their centre
    centre: F64  # [d]
    index: I64  # [cells, m] in the caller's order; -1 beyond a cell's size
    turned: tuple[F32, ...]  # per cell [d + 2, m]: -2 x, below it |x|^2 and one, NaN beyond its size
    centres: F32  # [d + 2, cells] the same of the cells' centres c
    gap: F32  # [cells i, cells j] 2 |c_i - c_j|
    margin: F32  # [cells i, cells j] |x - c_i|^2 - |x - c_j|^2 of the references x in cell j, at least
    balls: F32  # [3, cells] for the ball around each cell: one, its radius and its square
    smallest: int  # points in a cell at least


def references(points: F64) -> References:
    """Prepares points [n, d], n >= 1, finite, for many queries."""
    points = np.ascontiguousarray(points, np.float64)
    centre = points.mean(0)
    x = points - centre
    cells = list(_halved(x, max(CELL, -(-len(x) // CELLS))))
    size = max(map(len, cells))
    centres = np.stack([x[own].mean(0) for own in cells])
    return References(
        x,
        centre,
        np.stack([np.pad(own, (0, size - len(own)), constant_values=-1) for own in cells]),
        tuple(_turned(x[own], size) for own in cells),
        _turned(centres, len(cells)),
        *_borders(x, cells, centres),
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


def _block(refs: References, x: F64, k: int) -> tuple[F64, I64]:
    """`nearest` of one block of centred queries [q, d]."""
    n, length = len(x), np.einsum("ij,ij->i", x, x)
    product = np.concatenate([x, np.ones((n, 1)), np.zeros((n, 1))], 1).astype(np.float32)
    away = product @ refs.centres  # [q, cells]: |query - centre|^2 - |query|^2
    own = away.min(1)
    homes = _taken(away, min(len(refs.turned), HOMES + (k - 1) // refs.smallest))
    order = _by_number(homes.ravel())
    pairs = homes.ravel()[order], order % n
    near = _products(refs, product, pairs)
    limit, reach = _bound(_kth(near, order, len(homes), k), length)
    product[:, -1] = -limit  # so that products tell by how much they are above it
    near += product[pairs[1], -1:]
    found = [_within(refs, near, pairs)]
    row, cell = np.divmod(np.flatnonzero(_reached(refs, away, (homes[0], own), (length, reach))), len(refs.turned))
    order = _by_number(cell)
    cell, row = cell[order], row[order]
    some = max(1, READ // (product.shape[1] + near.shape[1]))
    for at in range(0, len(cell), some):
        pairs = cell[at : at + some], row[at : at + some]
        found.append(_within(refs, _products(refs, product, pairs), pairs))
    return _best(refs.centred, x, (np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])), k)


def _taken(away: F32, n: int) -> I64:
    """The n cells whose centres are nearest to each query, which are infinitely far away from then on. [n, q]"""
    homes, every = np.empty((n, len(away)), np.int64), np.arange(len(away))
    for home in homes:
        home[:] = away.argmin(1)
        away[every, home] = np.inf
    return homes


def _by_number(numbers: I64) -> I64:
    """What sorts small numbers, equal ones in their order: short integers are sorted by radix."""
    return np.argsort(numbers.astype(np.uint16), kind="stable")


def _products(refs: References, product: F32, pairs: tuple[I64, I64]) -> F32:
    """|query - reference|^2 - |query|^2, less the query's limit, of all references of each pair's cell. [pairs, m]

    pairs: cell, ascending, and query.
    """
    cell, row = pairs
    x, out = product.take(row, 0), np.empty((len(cell), refs.index.shape[1]), np.float32)
    edge = [0, *(np.flatnonzero(cell[1:] != cell[:-1]) + 1).tolist(), len(cell)]
    for c, begin, end in zip(cell[edge[:-1]].tolist(), edge, edge[1:], strict=False):  # over cells
        np.dot(x[begin:end], refs.turned[c], out=out[begin:end])
    return out


def _kth(near: F32, order: I64, homes: int, k: int) -> F64:
    """The k-th smallest of each query's products [homes * q, m], which are in the order of their cells. [q]"""
    of_query = np.empty_like(near)
    of_query[order] = near
    table = of_query.reshape(homes, -1, near.shape[1]).transpose(1, 0, 2).reshape(len(near) // homes, -1)
    table.partition(k - 1, axis=1)
    return table[:, k - 1].astype(np.float64)


def _bound(kth: F64, length: F64) -> tuple[F64, F64]:
    """No product above the limit, and no reference beyond the distance, is among the k nearest. [q]

    kth: of products; length: |query|^2. A reference x so near has |x|^2 <= 2 |query|^2 + 2 distance^2, and products
    are as exact as their summands are long.
    """
    squared = np.maximum(kth + (1 + SLACK) * length, 0) * (1 + SLACK)
    return squared - length + SLACK * (squared + length), np.sqrt(squared)


def _within(refs: References, above: F32, pairs: tuple[I64, I64]) -> tuple[I64, I64]:
    """Query and reference of all products [pairs, m] that are not above their query's limit."""
    cell, row = pairs
    pair, place = np.divmod(np.flatnonzero(above <= 0), above.shape[1])
    return row[pair], refs.index[cell[pair], place]


def _reached(refs: References, away: F32, homes: tuple[I64, F32], limits: tuple[F64, F64]) -> Bool:
    """Which cells may hold a reference within reach. [q, cells]

    homes: each query's nearest cell, and how far away that is; limits: |query|^2 and reach.
    On the way to such a reference, |x - c_home|^2 - |x - c|^2 rises by no more than the gap times the reach.
    """
    (home, own), (length, reach) = homes, limits
    most = refs.gap.take(home, 0)
    most *= (reach * (1 + SLACK)).astype(np.float32)[:, None]
    most -= refs.margin.take(home, 0)
    most += (own + SLACK * length).astype(np.float32)[:, None]
    reached: Bool = away <= most
    ball = np.stack([(1 + SLACK) * reach**2 - (1 - SLACK) * length, 2 * reach, np.ones(len(reach))], 1)
    reached &= away <= ball.astype(np.float32) @ refs.balls
    return reached


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
    if width > WIDE:
        return None
    order = _by_number(row)
    first, table = np.cumsum(count) - count, np.full((n, width + 1), np.inf)
    table[row[order], np.arange(len(row)) - np.repeat(first, count)] = squared[order]
    places = table.argsort(1)[:, : k + 1]
    ordered = np.take_along_axis(table, places, 1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return None
    found: I64 = order[first[:, None] + places[:, :k]]
    return found


def _turned(x: F64, size: int) -> F32:
    """-2 x, below it |x|^2 and one, a column per point, with columns of NaN up to a size: no limit admits them."""
    turned = np.concatenate([-2 * x.T, (x**2).sum(1)[None], np.ones((1, len(x)))])
    return np.ascontiguousarray(np.pad(turned, ((0, 0), (0, size - len(x))), constant_values=np.nan), np.float32)


def _borders(x: F64, cells: list[I64], centres: F64) -> tuple[F32, F32, F32]:
    """`gap`, `margin` and `balls`, with the slack of all that is compared with them."""
    square = (centres**2).sum(1)
    gap = 2 * np.sqrt(np.maximum(square[:, None] + square - 2 * centres @ centres.T, 0))
    margin, radius = np.empty_like(gap), np.empty(len(cells))
    for j, own in enumerate(cells):
        along = 2 * x[own] @ centres.T
        margin[:, j] = (along[:, j, None] - along).min(0) + square - square[j]
        radius[j] = np.sqrt(((x[own] - centres[j]) ** 2).sum(1).max()) * (1 + SLACK)
    margin -= SLACK * (np.abs(margin) + square[:, None] + square)
    balls = np.stack([np.ones(len(cells)), radius, radius**2 + SLACK * square])
    return gap.astype(np.float32), margin.astype(np.float32), balls.astype(np.float32)


def _halved(x: F64, size: int) -> Iterator[I64]:
    """Points [n, d] in cells of at most a size, all of nearly the same."""
    waiting = [np.arange(len(x))]
    while waiting:  # once per cell, at preparation only
        own = waiting.pop()
        if len(own) <= size:
            yield own
            continue
        gap = x[own] - x[own].mean(0)
        axis = gap[np.einsum("ij,ij->i", gap, gap).argmax()]
        for _ in range(POWERS):
            axis = (gap @ axis) @ gap
            axis /= max(float(np.linalg.norm(axis)), 1e-300)
        cells = -(-len(own) // size)
        left = cells // 2 * len(own) // cells
        order = np.argpartition(gap @ axis, left)
        waiting += [own[order[left:]], own[order[:left]]]
