"""The memory of n-grams against its slow twin, and what a probability must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_ngrams import NaiveNgrams

from models.ngrams import Ngrams, fit_ngrams, ngram_surprise
from models.stretches import EOS, FIRST, UNK, Stretches

N_WORDS = 4
IDS = FIRST + N_WORDS
token = st.integers(FIRST, IDS - 1)
sessions = st.lists(st.lists(token, min_size=1, max_size=20).map(lambda s: [*s, EOS]), min_size=1, max_size=6)
runs = st.lists(
    st.tuples(st.lists(st.integers(EOS, IDS - 1), min_size=1, max_size=15), st.integers(0, 14), st.booleans()),
    max_size=5,
)


def stretches(parts: list[tuple[list[int], int, bool]]) -> Stretches:
    first = np.cumsum([0, *(len(tokens) for tokens, _, _ in parts)])
    fresh = [start + min(context, len(t)) for (t, context, _), start in zip(parts, first, strict=False)]
    tokens = np.array([t for part in parts for t in part[0]], np.int32)
    return Stretches(tokens, first, np.array(fresh, np.int64), np.array([b for _, _, b in parts], bool))


def fitted(known: list[list[int]], order: int) -> Ngrams:
    first = np.cumsum([0, *map(len, known)])
    tokens = np.array([t for session in known for t in session], np.int32)
    return fit_ngrams(Stretches(tokens, first, first[:-1], np.ones(len(known), bool)), IDS - 1, order)


@settings(max_examples=100, deadline=None)
@given(known=sessions, parts=runs, order=st.integers(1, 5))
def test_surprise_equals_that_of_counting_token_by_token(
    known: list[list[int]], parts: list[tuple[list[int], int, bool]], order: int
) -> None:
    naive = NaiveNgrams(known, IDS - 1, order)
    found = ngram_surprise(fitted(known, order), stretches(parts))
    targets = [(t, min(c, len(t)), b, i) for t, c, b in parts for i in range(min(c, len(t)), len(t))]
    assert found.nats == pytest.approx([naive.surprise(t, i, b) for t, _, b, i in targets], rel=1e-5, abs=1e-5)
    assert found.repeated.tolist() == [naive.repeats(t, i, c, b) for t, c, b, i in targets]


@settings(max_examples=30, deadline=None)
@given(known=sessions, context=st.lists(token, max_size=6), order=st.integers(1, 5))
def test_the_probabilities_of_all_tokens_after_a_context_sum_to_one(
    known: list[list[int]], context: list[int], order: int
) -> None:
    every = [([*context, t], len(context), True) for t in range(EOS, IDS)]
    p = np.exp(-ngram_surprise(fitted(known, order), stretches(every)).nats)
    assert p.sum() == pytest.approx(1, abs=1e-5)


def test_an_unknown_token_is_more_surprising_than_any_known_one() -> None:
    memory = fitted([[3, 4, 5, 6, 3, 4, 5, 6, EOS]], 3)
    after = [([3, 4, t], 2, True) for t in (5, 6, UNK)]
    nats = ngram_surprise(memory, stretches(after)).nats
    assert nats[0] < nats[1] < nats[2]


def test_nothing_to_score_gives_nothing() -> None:
    found = ngram_surprise(fitted([[3, EOS]], 3), stretches([]))
    assert len(found.nats) == 0
    assert len(found.repeated) == 0
