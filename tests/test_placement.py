"""Neighbours and placement against their obvious twins, and against the library that the arrays were taken from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.neighbours import nearest, references
from models.placement import assign, flatten, placement, shapes
from tests import naive_placement


def clusterer(points: np.ndarray, min_samples: int = 5):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hdbscan

        return hdbscan.HDBSCAN(
            min_cluster_size=8, min_samples=min_samples, prediction_data=True, core_dist_n_jobs=1
        ).fit(points)


def predicted(fitted, points: np.ndarray):
    import hdbscan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hdbscan.approximate_predict(fitted, points)


def blobs(rng: np.random.Generator, n: int, width: int, centres: int) -> np.ndarray:
    where = rng.normal(0, 6, (centres, width))
    return where[rng.integers(0, centres, n)] + rng.normal(0, rng.uniform(0.3, 2), (n, width))


# From two dimensions on: in one, several points are often at the very same mutual reachability, and which of them the
# library's tree meets first is its own affair.
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(2, 12), centres=st.integers(1, 6), k=st.integers(2, 7))
@settings(max_examples=40, deadline=None)
def test_assignment_equals_the_librarys_in_label_and_probability(seed: int, width: int, centres: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points = blobs(rng, 150, width, centres)
    fitted = clusterer(points, k)
    queries = np.concatenate(
        [points[:40], rng.normal(0, 6, (40, width)), points[:20] + rng.normal(0, 0.1, (20, width))]
    )
    label, probability = assign(flatten(fitted), queries)
    theirs = predicted(fitted, queries)
    np.testing.assert_array_equal(label, theirs[0])
    np.testing.assert_allclose(probability, theirs[1], atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_assignment_equals_its_naive_twin(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    known = flatten(clusterer(blobs(rng, 120, width, 3)))
    queries = rng.normal(0, 6, (50, width))
    label, probability = assign(known, queries)
    labels, probabilities = naive_placement.assign(known, queries)
    np.testing.assert_array_equal(label, labels)
    np.testing.assert_allclose(probability, probabilities, atol=1e-6)


def test_arrays_survive_being_stored_and_match_their_declared_shapes() -> None:
    rng = np.random.default_rng(0)
    known = flatten(clusterer(blobs(rng, 200, 4, 3)))
    arrays = known.arrays()
    declared = shapes(200, 4, len(known.node_label))
    assert {name: (a.shape, str(a.dtype)) for name, a in arrays.items()} == declared
    again = placement(arrays, known.min_samples)
    queries = rng.normal(0, 6, (30, 4))
    np.testing.assert_array_equal(assign(known, queries)[0], assign(again, queries)[0])


def test_no_embedding_gives_no_label() -> None:
    known = flatten(clusterer(blobs(np.random.default_rng(1), 100, 3, 2)))
    label, probability = assign(known, np.empty((0, 3)))
    assert label.shape == probability.shape == (0,)


@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 2, 7, 90, 3000]), k=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_nearest_equals_sorting_all_distances(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points, queries = blobs(rng, n, 3, 4) + 1e3, rng.normal(1e3, 8, (40, 3))
    distance, index = nearest(references(points), queries, k)
    every = np.sqrt(((queries[:, None] - points) ** 2).sum(2))
    order = np.argsort(every, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(distance, np.take_along_axis(every, order, 1), rtol=1e-9)
    np.testing.assert_array_equal(index, order)


@pytest.mark.parametrize("points", [np.zeros((50, 2)), np.repeat(np.eye(3), 20, 0)], ids=["one place", "three places"])
def test_points_on_top_of_each_other_are_found(points: np.ndarray) -> None:
    distance, _ = nearest(references(points), points, 5)
    np.testing.assert_array_equal(distance, 0)


@pytest.mark.parametrize("k", [64, 65, 300, 2000])
def test_more_neighbours_than_a_cell_holds_are_found(k: int) -> None:
    rng = np.random.default_rng(k)
    points = np.concatenate([blobs(rng, 990, 5, 4), rng.normal(0, 1e4, (10, 5))])  # some far away from all
    queries = np.concatenate([points[:20] + 0.1, rng.normal(0, 1e4, (5, 5))])
    distance, index = nearest(references(points), queries, k)
    every = np.sqrt(((queries[:, None] - points) ** 2).sum(2))
    order = np.argsort(every, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(distance, np.take_along_axis(every, order, 1), rtol=1e-9)
    np.testing.assert_array_equal(index, order)


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 2, 9, 40]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    k=st.integers(1, 12),
)
@settings(max_examples=40, deadline=None)
def test_no_neighbour_lies_in_a_cell_that_was_left_out(seed: int, width: int, scale: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    points = blobs(rng, 1500, width, 7)
    points[:5] *= 1e3  # far away from all, each in a cell with others
    queries = np.concatenate([points[:20], blobs(rng, 40, width, 7), rng.normal(0, 1e3, (10, width))])
    distance, index = nearest(references(points * scale), queries * scale, k)
    every = np.sqrt((((queries[:, None] - points) * scale) ** 2).sum(2))
    np.testing.assert_allclose(distance, np.sort(every, axis=1)[:, :k], rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(distance, np.take_along_axis(every, index, 1), rtol=1e-9, atol=1e-9 * scale)
