"""Fine-tuning for tokens: a bundle goes on from another, with a sample of what that one was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_tokens import QUICK, SPEC, of, score, usual
from token_rig import dataset

from models.bundle import open_detector, write
from models.token_bundle import open_bundle
from models.tokens import TokenDetector
from stream_app.config import parse
from training.fit_tokens import TokenTraining, Trained, fit
from training.gates import Trial, figures, held_out, judged
from training.token_rehearsal import TOKENS_MAX, Start, sample_of, stored
from training.token_sessions import Sessions, by_frequency, sessions_of

HOW = TokenTraining(windows=SPEC, hidden=16, lstm=QUICK)


def other(seed: int, n_sessions: int) -> list[list[str]]:
    """What the world has become: after each close comes a token that is new."""
    return [[w for word in s for w in ([word, "sync"] if word == "close" else [word])] for s in usual(seed, n_sessions)]


@pytest.fixture(scope="module")
def old() -> Trained:
    return fit(dataset(usual(0, 60)), HOW)


@pytest.fixture(scope="module")
def start(old: Trained) -> Start:
    sample = stored(old.bundle.arrays)
    assert sample is not None
    return Start(open_bundle(old.bundle), sample)


@pytest.fixture(scope="module")
def tuned(start: Start) -> Trained:
    return fit(dataset(other(1, 60)), replace(HOW, start=start, seed=1))


def mean_score(detector: TokenDetector, sessions: list[list[str]]) -> float:
    return float(score(detector, of(detector, sessions)).score.mean())


def test_a_bundle_carries_a_bounded_sample_of_its_training(start: Start) -> None:
    data = dataset(usual(0, 60))
    whole = sessions_of(data, by_frequency(data)[0], SPEC)
    known = {tuple(whole.tokens[a:b]) for a, b in zip(whole.first[:-1], whole.first[1:], strict=True)}
    kept = start.sample
    assert len(kept) == 60
    assert {tuple(kept.tokens[a:b]) for a, b in zip(kept.first[:-1], kept.first[1:], strict=True)} == known
    long = Sessions(np.full(10**6, 3, np.int32), np.zeros(10**6, np.int64), np.arange(0, 10**6 + 1, 10**4), *[
        np.zeros(100, np.int64), np.ones(100, bool)
    ])  # fmt: skip
    few = sample_of(long, np.random.default_rng(0))
    assert len(few.tokens) <= TOKENS_MAX
    assert not few.ends.any(), "they were cut"
    assert stored({}) is None


def test_fine_tuning_keeps_windows_ids_and_what_the_networks_make_of_known_tokens(start: Start, tuned: Trained) -> None:
    before, after = start.detector, open_bundle(tuned.bundle)
    assert after.windows == before.windows
    assert {word: after.vocabulary[word] for word in before.vocabulary} == before.vocabulary
    assert set(after.vocabulary) - set(before.vocabulary) == {"sync"}
    for a, b in zip(before.nets.nets, after.nets.nets, strict=True):
        n = a.settings.n_classes
        np.testing.assert_array_equal(b.embedding.weight[:n].numpy(), a.embedding.weight.numpy())
        assert not np.array_equal(b.head.weight[:n].numpy(), a.head.weight.numpy())


def test_what_is_gone_on_from_learns_the_new_and_forgets_less_of_the_old_than_what_begins_anew(
    start: Start, tuned: Trained
) -> None:
    went_on, anew = open_bundle(tuned.bundle), open_bundle(fit(dataset(other(1, 60)), replace(HOW, seed=1)).bundle)
    known, new = usual(7, 20), other(8, 20)
    assert mean_score(went_on, new) < mean_score(start.detector, new) / 2
    assert mean_score(went_on, known) < mean_score(anew, known) / 2
    broken = [list(reversed(session)) for session in new]
    assert mean_score(went_on, broken) > 2 * mean_score(went_on, new)


def test_it_is_a_bundle_that_can_be_gone_on_from_again(tuned: Trained, tmp_path: Path) -> None:
    digest = write(tmp_path, tuned.bundle)
    assert open_detector(tmp_path).digest == digest
    assert stored(tuned.bundle.arrays) is not None


def test_tokens_that_came_in_neither_have_a_share_of_their_class(start: Start) -> None:
    words = {**start.detector.vocabulary, "never": len(start.detector.vocabulary) + 3}
    grown = Start(replace(start.detector, vocabulary=words), start.sample)
    vocabulary, counts = grown.numbered({"sync": 3}, np.array([0, 0, 0, 9]))
    assert counts[vocabulary["never"]] == 1
    assert counts[vocabulary["sync"]] == 9
    assert counts[vocabulary["open"]] == (start.sample.tokens == start.detector.vocabulary["open"]).sum()


def test_windows_of_sessions_that_end_at_one_time_are_told_apart_when_two_bundles_are_compared(
    tuned: Trained, tmp_path: Path
) -> None:
    """Of a session both the last whole window and what is left end with its last token."""
    write(tmp_path, tuned.bundle)
    live, data = open_detector(tmp_path), dataset(other(3, 60))
    config = parse({"detector": "d", "sources": [{"topic": "t"}], "alarms": {"risk": 0.01}})
    trial = Trial(config, data, (), held_out(data, 0.5))
    found = figures(tmp_path, tuned.report, live, trial)
    windows = of(live, other(3, 60))
    assert len(np.unique(np.stack([windows.entity, windows.end_us]), axis=1).T) < len(windows)
    assert found.windows > 0
    assert found.agreement == 1.0


def test_a_candidate_is_judged_on_tokens_in_the_order_in_which_they_came_whatever_their_times_say(old: Trained) -> None:
    """As the stream reads them. In order of time they would be other sequences."""
    detector, config = open_bundle(old.bundle), parse({"sources": [{"topic": "t"}]})
    data = dataset(usual(2, 12))
    unsteady = replace(data, t_us=data.t_us - np.random.default_rng(0).integers(0, 9_000, len(data)))
    assert (np.diff(unsteady.t_us) < 0).any()
    even, uneven = (judged(detector, Trial(config, given, (), ()), "test") for given in (data, unsteady))
    np.testing.assert_array_equal(even.entity, uneven.entity)
    np.testing.assert_array_equal(even.position, uneven.position)
    np.testing.assert_array_equal(even.score, uneven.score)
