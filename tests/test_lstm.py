"""The token network: what it learns, what it is given, and that batches do not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_rig import grammatical

from models.lstm import UNIFORM, NetSettings, Surprises, TokenNets, likeliest, surprises
from models.stretches import EOS, FIRST, UNK, Stretches
from training.fit_lstm import LstmTraining, fit_lstm, steps_within

WORDS = ("open", "read", "write", "seek", "close")
IDS = {word: FIRST + i for i, word in enumerate(WORDS)}
N_IDS = FIRST + len(WORDS)
SETTINGS = NetSettings(N_IDS, embedding=8, hidden=24)
QUICK = LstmTraining(steps_min=250, steps_max=250, batch_tokens=512, learning_rate=3e-2)


def sessions(parts: list[list[int]]) -> Stretches:
    """Whole sessions, every token a target."""
    first = np.cumsum([0, *map(len, parts)])
    tokens = np.array([t for part in parts for t in part], np.int32)
    return Stretches(tokens, first, first[:-1], np.ones(len(parts), bool))


def ids(words: list[str]) -> list[int]:
    return [*(IDS[w] for w in words), EOS]


@pytest.fixture(scope="module")
def nets() -> TokenNets:
    rng = np.random.default_rng(0)
    runs = sessions([ids(grammatical(rng, 60)) for _ in range(60)])
    net, curve = fit_lstm(runs, SETTINGS, QUICK, seed=0)
    assert curve.loss[-1] < 0.6 * curve.loss[0]
    return TokenNets((net,), np.zeros(N_IDS, np.float32))


def test_an_unusual_order_is_more_surprising_than_the_usual_one(nets: TokenNets) -> None:
    rng = np.random.default_rng(1)
    usual = grammatical(rng, 60)
    swapped = usual.copy()
    at = usual.index("close", 20)
    swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
    found = surprises(nets, sessions([ids(usual), ids(swapped)]))
    excess = found.nll - found.entropy
    n = len(usual) + 1
    assert excess[n : 2 * n].max() > 3 > excess[:n].max()
    assert int(excess[n : 2 * n].argmax()) in (at, at + 1)


def test_a_session_that_ends_in_the_middle_of_a_round_is_surprising_there(nets: TokenNets) -> None:
    words = ["open", "read", "write", "read", "write", "close", "open", "read"]
    found = surprises(nets, sessions([ids(words)]))
    assert found.nll[-1] > 3
    assert int((found.nll - found.entropy).argmax()) == len(words)


def test_the_likeliest_token_is_what_the_grammar_says(nets: TokenNets) -> None:
    found = likeliest(nets, sessions([ids(["open", "seek", "seek", "close"])]))
    assert found[2:4].tolist() == [IDS["seek"], IDS["close"]]


def test_an_unknown_token_costs_what_the_uniform_share_says(nets: TokenNets) -> None:
    found = surprises(nets, sessions([[IDS["open"], UNK, IDS["read"]]]))
    assert found.nll[1] == pytest.approx(np.log(N_IDS / UNIFORM), rel=1e-5)
    assert np.isfinite(found.nll).all()


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(FIRST, N_IDS - 1), min_size=1, max_size=40), min_size=1, max_size=8),
    data=st.data(),
)
def test_what_is_said_of_a_stretch_does_not_depend_on_its_neighbours(
    nets: TokenNets, parts: list[list[int]], data: st.DataObject
) -> None:
    whole = sessions(parts)
    fresh = [data.draw(st.integers(0, len(p))) for p in parts]
    begins = np.array(data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts))))
    together = surprises(nets, replace(whole, fresh=whole.first[:-1] + np.array(fresh), begins=begins))
    at = 0
    for i, (part, skip) in enumerate(zip(parts, fresh, strict=True)):
        alone = surprises(nets, replace(sessions([part]), fresh=np.array([skip]), begins=begins[i : i + 1]))
        n = len(part) - skip
        _assert_close(alone, together, slice(at, at + n), i)
        at += n


def _assert_close(alone: Surprises, together: Surprises, targets: slice, i: int) -> None:
    assert alone.nll == pytest.approx(together.nll[targets], abs=1e-5)
    assert alone.entropy == pytest.approx(together.entropy[targets], abs=1e-5)
    assert alone.mean_hidden[0] == pytest.approx(together.mean_hidden[i], abs=1e-5)
    assert alone.last_hidden[0] == pytest.approx(together.last_hidden[i], abs=1e-5)


def test_tokens_that_share_a_class_differ_by_how_often_they_came() -> None:
    n_ids, share = FIRST + 10, np.zeros(FIRST + 10, np.float32)
    last = 6  # classes 0 to 5 are tokens of their own
    share[last:] = np.log(np.arange(7, 0, -1) / 28)
    runs, how = sessions([list(range(FIRST, n_ids))] * 5), replace(QUICK, steps_min=5, steps_max=5)
    nets = TokenNets((fit_lstm(runs, NetSettings(last + 1, 4, 4), how, 0)[0],), share)
    found = surprises(nets, sessions([[FIRST, t] for t in range(last, n_ids)]))
    assert (np.diff(found.nll[1::2]) > 0).all()
    every = surprises(nets, sessions([[FIRST, t] for t in range(EOS, n_ids) if t != UNK]))
    p = np.exp(-every.nll[1::2])
    assert p.sum() == pytest.approx(1, abs=1e-2)


def test_the_same_seed_gives_the_same_network() -> None:
    runs, how = sessions([[3, 4, 5, 6, EOS]] * 20), replace(QUICK, steps_min=20, steps_max=20)
    one, two, other = (fit_lstm(runs, SETTINGS, how, seed)[0].state_dict() for seed in (5, 5, 6))
    assert all((one[name] == two[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_a_budget_cuts_the_steps_to_a_multiple_of_fifty() -> None:
    steps = steps_within(1e-9, SETTINGS, QUICK), steps_within(1e9, SETTINGS, QUICK)
    assert steps == (50, QUICK.steps_max)
