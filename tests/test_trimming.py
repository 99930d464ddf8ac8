"""Trimming: what is strange among its own is not learned from; what is merely rare stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.trimming import BEFORE, spread, strange


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
