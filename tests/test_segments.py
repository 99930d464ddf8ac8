"""Arithmetic on segments against slow, obvious twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.windows import segments
from stream_app.windows.segments import bisected, distinct, extremes, inner, picked, spread

VALUES = st.lists(st.integers(-5, 5), min_size=1, max_size=30)
CUTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def ranges_in(values: list[int], cuts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Half-open ranges that are not empty."""
    pairs = [sorted((a % (len(values) + 1), b % (len(values) + 1))) for a, b in cuts]
    kept = np.array([p for p in pairs if p[0] < p[1]], np.int64).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


@given(VALUES, CUTS)
def test_extremes_are_those_of_each_range_however_ranges_overlap(values: list[int], cuts: list) -> None:
    first, last = ranges_in(values, cuts)
    low, high = extremes(np.array(values), first, last)
    assert low.tolist() == [min(values[a:b]) for a, b in zip(first, last, strict=True)]
    assert high.tolist() == [max(values[a:b]) for a, b in zip(first, last, strict=True)]


@given(VALUES, CUTS, st.sampled_from([1, 256]))
def test_rows_are_picked_the_same_slice_by_slice_and_row_by_row(values: list[int], cuts: list, long: int) -> None:
    first, last = ranges_in(values, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "LONG", long)
        found = picked({"x": np.array(values)}, first, last - first)
    assert found["x"].tolist() == [v for a, b in zip(first, last, strict=True) for v in values[a:b]]


@given(VALUES, st.sampled_from([1, 2, 256]))
def test_values_are_spread_the_same_slice_by_slice_and_at_once(values: list[int], long: int) -> None:
    lengths = [abs(v) + 1 for v in values]
    into = np.full(sum(lengths), 99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "LONG", long)
        spread(np.array(values), np.array(lengths), into)
    assert into.tolist() == [v for v, n in zip(values, lengths, strict=True) for _ in range(n)]


@given(VALUES, CUTS, st.integers(-6, 6))
def test_bisected_is_the_first_row_at_or_above(values: list[int], cuts: list, wanted: int) -> None:
    values = sorted(values)
    first, last = ranges_in(values, cuts)
    found = bisected(np.array(values), first, last, np.full(len(first), wanted))
    naive = [next((i for i in range(a, b) if values[i] >= wanted), b) for a, b in zip(first, last, strict=True)]
    assert found.tolist() == naive


@given(VALUES, VALUES)
def test_distinct_is_sorted_and_each_once(one: list[int], other: list[int]) -> None:
    assert distinct(np.array(one), np.array(other)).tolist() == sorted({*one, *other})


def test_inner_rows_are_those_that_begin_no_segment() -> None:
    rows, segment = inner(np.array([0, 1, 3, 4]), np.array([0, 3]))
    assert (rows.tolist(), segment.tolist()) == ([1, 4], [0, 1])
