"""The token detector: the laws of every detector, what it finds, and its way through a bundle."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_rig import dataset, grammatical, scenes, some

from models.bundle import open_detector, write
from models.detector import Scored, WindowSpec
from models.scenes import Scenes, no_scenes
from models.token_bundle import open_bundle
from models.tokens import TokenDetector
from stream_app.errors import ConfigurationError
from training.fit_lstm import LstmTraining
from training.fit_tokens import TokenTraining, Trained, fit
from training.token_sessions import by_frequency, sessions_of, windows_of

QUICK = LstmTraining(steps_min=120, steps_max=120, batch_tokens=1024, learning_rate=2e-2)
SPEC = WindowSpec(length_tokens=16, stride_tokens=8)


def usual(seed: int, n_sessions: int, n_tokens: int = 60) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [grammatical(rng, int(n_tokens * rng.uniform(0.5, 1.5))) for _ in range(n_sessions)]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return fit(dataset(usual(0, 60)), TokenTraining(windows=SPEC, hidden=16, lstm=QUICK))


@pytest.fixture(scope="module")
def detector(trained: Trained) -> TokenDetector:
    return open_bundle(trained.bundle)


def score(detector: TokenDetector, windows: Scenes) -> Scored:
    return detector.score(windows, np.repeat(detector.carry_initial, len(np.unique(windows.entity))))


def of(detector: TokenDetector, sessions: list[list[str]]) -> Scenes:
    return scenes(sessions, detector.vocabulary, detector.windows)


def test_a_broken_order_scores_higher_than_any_usual_one(detector: TokenDetector) -> None:
    fresh = usual(1, 20)
    broken = [list(reversed(s)) for s in fresh]
    windows = of(detector, fresh + broken)
    found = score(detector, windows).score
    mean = np.bincount(windows.entity, found) / np.bincount(windows.entity)
    assert mean[20:].min() > mean[:20].max()


def test_a_session_that_stops_short_scores_higher_than_a_whole_one(detector: TokenDetector) -> None:
    whole = ["open", "seek", "seek", "close"]
    found = score(detector, of(detector, [whole, whole[:2]])).score
    assert found[1] > found[0] + 1


def test_held_out_scores_mean_what_they_say(detector: TokenDetector) -> None:
    found = score(detector, of(detector, usual(2, 200))).score
    for p in (0.5, 0.1, 0.02):
        assert np.mean(found > -np.log(p)) == pytest.approx(p, rel=0.6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_scores_do_not_depend_on_how_windows_are_batched(detector: TokenDetector, seed: int, cuts: list[int]) -> None:
    windows = of(detector, usual(seed, 3, 40))
    whole = score(detector, windows)
    nth = np.arange(len(windows)) - np.searchsorted(windows.entity, windows.entity)
    carry = np.repeat(detector.carry_initial, 3)
    got = np.full(len(windows), np.nan)
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), 10**6], strict=True):
        which = np.flatnonzero((nth >= low) & (nth < high))
        entities = np.unique(windows.entity[which])
        part = detector.score(some(windows, which), carry[entities])
        got[which], carry[entities] = part.score, part.carry
    assert got == pytest.approx(whole.score, abs=1e-4)
    assert carry["scored"].tolist() == whole.carry["scored"].tolist()


def test_an_entity_scores_alike_alone_and_among_others(detector: TokenDetector) -> None:
    sessions = usual(3, 5)
    together = score(detector, of(detector, sessions))
    for i, session in enumerate(sessions):
        alone = score(detector, of(detector, [session]))
        assert alone.score == pytest.approx(together.score[of(detector, sessions).entity == i], abs=1e-4)


def test_a_score_uses_nothing_later_than_its_window(detector: TokenDetector) -> None:
    one, other = usual(4, 2, 60)
    n = 4 * SPEC.length_tokens
    before, after = of(detector, [one[:n] + one]), of(detector, [one[:n] + other])
    closed = np.flatnonzero(before.last <= n)
    assert len(closed) == 7
    assert score(detector, after).score[closed] == pytest.approx(score(detector, before).score[closed], abs=1e-4)


def test_the_input_is_not_changed(detector: TokenDetector) -> None:
    windows = of(detector, usual(5, 3))
    carry = np.repeat(detector.carry_initial, 3)
    copies = {f.name: getattr(windows, f.name).copy() for f in fields(Scenes)}
    detector.score(windows, carry)
    assert all((getattr(windows, name) == column).all() for name, column in copies.items())
    assert (carry == np.repeat(detector.carry_initial, 3)).all()


def test_no_windows_give_no_scores(detector: TokenDetector) -> None:
    found = detector.score(no_scenes(), detector.carry_initial[:0])
    assert found.score.shape == (0,)
    assert found.parts.shape == (0, 2)
    assert found.embedding.shape[0] == len(found.carry) == len(found.frames.score) == 0


def test_an_entity_whose_state_was_lost_is_scored_from_its_next_window(detector: TokenDetector) -> None:
    windows = of(detector, usual(6, 1, 80))
    later = some(windows, np.arange(3, len(windows)))
    found = score(detector, later)
    assert np.isfinite(found.score).all()
    assert found.score[2:] == pytest.approx(score(detector, windows).score[5:], abs=0.5)


def test_a_slot_whose_session_is_over_begins_the_next_one_afresh(detector: TokenDetector) -> None:
    one, two = usual(7, 2)
    apart = score(detector, of(detector, [one, two]))
    windows = of(detector, [one, two])
    in_turn = score(detector, replace(windows, entity=np.zeros_like(windows.entity)))
    assert in_turn.score == pytest.approx(apart.score, abs=1e-4)


def test_frames_cover_every_token_once_and_in_order(detector: TokenDetector) -> None:
    windows = of(detector, usual(8, 2))
    frames = score(detector, windows).frames
    for entity in (0, 1):
        start, end = frames.start_us[frames.entity == entity], frames.end_us[frames.entity == entity]
        assert (start[1:] == end[:-1] + 1000).all()
        assert (end >= start).all()


def test_the_explanation_names_the_token_that_is_out_of_place(detector: TokenDetector) -> None:
    session = ["open", "seek", "seek", "close"] * 3
    session[6] = "close"  # for the second seek
    windows = of(detector, [session])
    part = score(detector, windows).explain(0)[0]
    assert part.bins[0][0] == 6
    assert (part.actual, part.expected) == (detector.vocabulary["close"], detector.vocabulary["seek"])
    assert sum(share for _, share in part.bins) <= 1 + 1e-6


def test_every_window_can_be_explained(detector: TokenDetector) -> None:
    windows = of(detector, [*usual(9, 2), ["open"], ["never", "seen"]])
    found = score(detector, windows)
    for i in range(len(windows)):
        (part,) = found.explain(i)
        assert part.contribution == 1
        assert all(windows.position[i] <= at <= windows.position[i] + SPEC.length_tokens for at, _ in part.bins)


def test_a_bundle_gives_back_the_same_detector(trained: Trained, detector: TokenDetector, tmp_path: Path) -> None:
    digest = write(tmp_path, trained.bundle)
    opened = open_detector(tmp_path)
    windows = of(detector, usual(10, 4))
    assert score(opened, windows).score == pytest.approx(score(detector, windows).score, abs=1e-6)
    assert (opened.digest, opened.vocabulary, opened.windows) == (digest, detector.vocabulary, detector.windows)
    assert opened.risk == detector.risk


def test_the_same_seed_gives_the_same_bundle() -> None:
    how = TokenTraining(windows=SPEC, hidden=8, lstm=replace(QUICK, steps_min=10, steps_max=10))
    one, two = (fit(dataset(usual(0, 12)), how).bundle for _ in range(2))
    assert one.settings == two.settings
    assert all((one.arrays[name] == two.arrays[name]).all() for name in one.arrays)


@pytest.mark.parametrize("ended", [True, False])
def test_training_cuts_windows_as_the_stream_does(ended: bool) -> None:
    rng = np.random.default_rng(0)
    sessions = [["a", "b"] * int(n) + ["c"] * int(n % 2) for n in rng.integers(1, 30, 25)]
    data = dataset(sessions)
    vocabulary, _ = by_frequency(data)
    held = sessions_of(data, vocabulary, SPEC)
    expected = scenes(sessions, vocabulary, SPEC)
    got = windows_of(replace(held, ends=held.ends & ended), SPEC)
    same = {f.name for f in fields(Scenes)} - ({"ended"} if not ended else set())
    assert all((getattr(got, name) == getattr(expected, name)).all() for name in same)
    assert ended or not got.ended.any()


def test_few_sessions_are_cut_so_that_some_can_be_held_out() -> None:
    data = dataset([["a", "b", "c", "d"] * 300])
    vocabulary, _ = by_frequency(data)
    pieces = sessions_of(data, vocabulary, SPEC)
    assert len(pieces) >= 20
    assert pieces.position[0] == 0
    assert (np.diff(pieces.position) == pieces.size[:-1]).all()
    assert pieces.ends.sum() == 1
    how = TokenTraining(windows=SPEC, hidden=8, lstm=replace(QUICK, steps_max=10, steps_min=10))
    assert any("cut into pieces" in line for line in fit(data, how).report["limits"])


def test_too_little_data_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="2 tokens in 1 sessions are too few"):
        fit(dataset([["a", "b"]]), TokenTraining())


def test_thousands_of_distinct_tokens_and_sessions_of_one_token_can_be_trained_on() -> None:
    rng = np.random.default_rng(0)
    sessions = [[f"t{int(i)}" for i in rng.integers(0, 3000, n)] for n in rng.integers(1, 60, 100)] + [["t1"]] * 50
    how = TokenTraining(hidden=8, lstm=replace(QUICK, steps_max=10, steps_min=10))
    detector = open_bundle(fit(dataset(sessions), how).bundle)
    assert detector.nets.nets[0].settings.n_classes == 1024 < len(detector.vocabulary)
    found = score(detector, of(detector, [["t1"], ["x"], sessions[0]]))
    assert np.isfinite(found.score).all()


def test_default_risk_is_one_alarm_in_a_hundred_sessions(trained: Trained, detector: TokenDetector) -> None:
    windows = of(detector, usual(0, 60))
    assert detector.risk == pytest.approx(0.01 * 60 / len(windows))
