"""Trimming: what is strange among its own is not learned from; what is merely rare stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.reconstruct import fit
from training.trimming import BEFORE, FLOOR, MOST, STRANGEST, spread, strange, usual, weights


def scores(n: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 0.5, (n, 3))


def test_normal_scores_are_left_as_they_are() -> None:
    assert not strange(scores()).any()


def test_a_twentieth_of_poison_is_found_in_whichever_part_shows_it() -> None:
    held = scores()
    held[:200, 1] *= 60
    found = strange(held)
    assert found[:200].mean() > 0.9
    assert found[200:].mean() < 0.01


def test_a_few_strange_frames_are_the_tail_and_stay() -> None:
    held = scores()
    held[:20] *= 1000
    assert not strange(held).any()


def test_of_many_strange_frames_only_the_worst_tenth_goes() -> None:
    held = scores()
    held[:800] *= np.linspace(100, 1000, 800)[:, None]
    found = strange(held)
    assert 0.08 < found.mean() <= 0.1
    assert not found[800:].any()


def test_a_silent_part_says_nothing() -> None:
    held = scores()
    held[:, 2] = np.nan
    held[:5] = np.nan
    assert not strange(held).any()
    assert not strange(np.empty((0, 3))).any()


def test_frames_that_others_cannot_explain_teach_little() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 1))
    y = 2 * x + rng.normal(0, 0.1, x.shape)
    even = np.ones(len(x))
    clean = fit(x, y, even)[1]
    y[1000:1200] = -2 * x[1000:1200]  # a twentieth, in one piece
    plain = fit(x, y, even)[1]
    weight = weights(((y - x @ plain) ** 2)[:, 0], np.zeros(len(x), np.int64))
    assert weight[1000:1200].mean() < 0.1
    assert np.delete(weight, slice(990, 1210)).mean() > 0.95
    assert abs(fit(x, y, weight)[1] - clean) < 0.03 < abs(plain - clean)


@given(st.lists(st.floats(0, 1e6), min_size=20, max_size=60), st.floats(1e-3, 1e3))
def test_weights_stay_within_bounds_whatever_the_unit_of_the_errors(errors: list[float], unit: float) -> None:
    error, entity = np.array(errors) + 1e-3, np.arange(len(errors)) // 15
    weight = weights(error, entity)
    assert ((weight >= FLOOR) & (weight <= 1)).all()
    assert (weight < 1).mean() <= MOST + 1 / len(error)
    np.testing.assert_allclose(weights(error * unit, entity), weight, rtol=1e-6)


def test_data_that_are_explained_to_the_last_digit_teach_in_full() -> None:
    assert (weights(np.zeros(100), np.zeros(100, np.int64)) == 1).all()


def test_an_entity_that_is_unlike_the_others_throughout_teaches_in_full() -> None:
    held, entity = scores(), np.repeat(np.arange(40), 100)
    held[entity == 7] *= 50
    assert weights(held[:, 0], entity)[entity == 7].mean() > 0.95
    assert usual(held, entity)[entity == 7].mean() > 0.8


def test_a_twentieth_has_no_say_in_the_unit_and_it_is_the_strangest_in_all_parts_together() -> None:
    held = scores()
    held[500:700] *= 30  # a twentieth of the frames, in one piece
    held[:, 2] = np.nan  # a silent part has no say
    held[:5] = np.nan
    found = usual(held, np.zeros(len(held), np.int64))
    assert found.mean() == 1 - STRANGEST
    assert not found[510:690].any()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 1)), max_size=40), st.integers(0, 10))
def test_frames_that_look_back_on_a_strange_one_go_with_it(frames: list[tuple[bool, int, int]], after: int) -> None:
    found = np.array([f for f, _, _ in frames], bool)
    at = np.cumsum([step for _, step, _ in frames]).astype(np.int64)
    entity = np.sort(np.array([e for _, _, e in frames], np.int64))
    naive = [
        any(found[j] and entity[j] == entity[i] and -BEFORE <= at[i] - at[j] <= after for j in range(len(frames)))
        for i in range(len(frames))
    ]
    assert spread(found, at, entity, after).tolist() == naive
