"""Threads: whatever a process is allowed, results are the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from models.neighbours import nearest, references
from models.ngrams import KEYS, _find
from models.threads import allow, each


@pytest.fixture(params=[2, 5])
def several(request: pytest.FixtureRequest) -> Iterator[int]:
    allow(request.param)
    yield request.param
    allow(1)


def test_results_keep_the_order_of_their_pieces(several: int) -> None:
    assert each(lambda i: i * i, range(100)) == [i * i for i in range(100)]


def test_what_goes_wrong_in_a_piece_is_raised(several: int) -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda i: 1 // i, [1, 0])


def test_neighbours_are_the_same_whatever_the_number_of_threads(several: int) -> None:
    rng = np.random.default_rng(0)
    refs, queries = references(rng.normal(size=(3000, 6))), rng.normal(size=(1700, 6))
    shared = nearest(refs, queries, 5)
    allow(1)
    for got, expected in zip(shared, nearest(refs, queries, 5), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_keys_are_found_in_a_table_whatever_the_number_of_threads(several: int) -> None:
    rng = np.random.default_rng(0)
    table = np.sort(rng.integers(0, 1000, 500)).astype(np.uint64)
    keys = rng.integers(0, 1000, 2 * KEYS + 7).astype(np.uint64)
    at, found = _find(table, keys)
    np.testing.assert_array_equal(found, np.isin(keys, table))
    np.testing.assert_array_equal(table[at[found]], keys[found])
    assert len(_find(table, keys[:0])[0]) == 0
