"""What the threshold promises: so many episodes and no more, whatever scores do, from the first window on."""

from __future__ import annotations

import numpy as np
import pytest

from stream_app.threshold.population import fit_population
from tests.threshold_rig import Stage, nasty


@pytest.mark.parametrize("kind", ["normal", "heavy", "bounded", "rounded"])
def test_episodes_come_at_the_promised_rate(kind: str) -> None:
    rng = np.random.default_rng(7)
    columns = np.stack([nasty(kind, 6000, rng) for _ in range(30)])
    judged = Stage(30).update(np.repeat(np.arange(30), 6000), columns.ravel())
    episodes = judged.episode_start.reshape(30, 6000)[:, 1000:].sum()
    assert 0.7 < episodes / (1e-2 * 30 * 5000) < 1.4


def test_ties_never_alarm_more_often_than_promised() -> None:
    rng = np.random.default_rng(8)
    columns = np.stack([nasty(kind, 6000, rng) for kind in ("rare", "steps", "clipped") for _ in range(10)])
    judged = Stage(30).update(np.repeat(np.arange(30), 6000), columns.ravel())
    per_kind = judged.episode_start.reshape(3, 10, 6000)[:, :, 1000:].sum(axis=(1, 2)) / (1e-2 * 10 * 5000)
    assert (per_kind < 2).all()


def test_a_constant_alarms_at_its_first_change_and_accepts_the_new_level() -> None:
    x = np.concatenate([np.zeros(2000), np.ones(2000)])
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.alarm).tolist() == [2000, 2001, 2002]
    assert np.flatnonzero(judged.episode_start).tolist() == [2000]


def test_a_lasting_shift_is_one_episode_and_is_accepted_after_about_200_values() -> None:
    x = nasty("normal", 8000, np.random.default_rng(9))
    x[5000:] += 10
    judged = Stage(risk=1e-3).one(x)
    at = np.flatnonzero(judged.alarm[5000:])
    assert at[0] == 0
    assert 150 < len(at) < 350
    assert judged.episode_start[5000:].sum() <= 6
    assert judged.alarm[5600:].sum() <= 10


def test_bursts_are_found_and_do_not_make_it_deaf() -> None:
    x = nasty("normal", 12_000, np.random.default_rng(10))
    starts = np.arange(2000, 11_500, 2500)
    for at in starts:
        x[at : at + 60] += 6
    judged = Stage(risk=1e-3).one(x)
    assert all(judged.alarm[at : at + 60].any() for at in starts)


def test_a_grave_rise_within_an_open_episode_is_an_episode_of_its_own_and_the_only_one() -> None:
    x = nasty("normal", 8000, np.random.default_rng(16))
    x[5000:5030] = 3.2
    x[5030:5060] = 30.0
    x[5060:5090] = 90.0
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.episode_start[4990:5100]).tolist() == [10, 40]
    assert np.flatnonzero(judged.episode_worse).tolist() == [5030]
    assert judged.episode_open[5000:5090].all()


def test_what_is_grave_within_its_first_values_is_one_episode() -> None:
    x = nasty("normal", 8000, np.random.default_rng(16))
    x[5000:5010] = 3.2
    x[5010:5090] = 30.0
    judged = Stage(risk=1e-3).one(x)
    assert np.flatnonzero(judged.episode_start[4990:5100]).tolist() == [10]


def test_the_verdict_is_consistent() -> None:
    rng = np.random.default_rng(11)
    x = nasty("bursts", 5000, rng)
    judged = Stage(risk=1e-2).one(x)
    told = np.isfinite(judged.threshold)
    assert (judged.alarm <= told).all()
    assert (x[judged.alarm] > judged.threshold[judged.alarm]).all()
    assert (judged.tail_probability[judged.alarm] <= 1e-2 * (1 + 1e-9)).all()
    assert ((judged.tail_probability[told] >= 0) & (judged.tail_probability[told] <= 1)).all()
    assert (judged.episode_start <= judged.alarm).all()
    assert ((judged.grade > 0) == judged.alarm).all()


def test_a_new_entity_borrows_the_population_and_says_that_it_is_warming() -> None:
    rng = np.random.default_rng(12)
    tail = fit_population(rng.normal(5, 2, 20_000), np.repeat(np.arange(20), 1000))
    stage = Stage(200, risk=1e-3, tail=tail)
    judged = stage.update(np.repeat(np.arange(200), 600), rng.normal(5, 2, 200 * 600))
    told = judged.episode_start.reshape(200, 600)
    assert np.isfinite(judged.threshold).all()
    assert 0.4 < told[:, :300].sum() / (1e-3 * 200 * 300) < 2
    assert judged.warming.reshape(200, 600)[:, 499].all()
    assert not judged.warming.reshape(200, 600)[:, 501].any()
    assert Stage(risk=1e-3, tail=tail).one(np.array([60.0])).alarm.all()


def test_a_population_keeps_the_unit_of_its_scores() -> None:
    x = np.random.default_rng(13).gamma(2, 1, 5000)
    small, large = (fit_population(f * x, np.zeros(5000, int))["rare"] for f in (1.0, 1e3))
    np.testing.assert_allclose(large[:3], 1e3 * small[:3])
    np.testing.assert_allclose(large[3:], small[3:])


def test_scores_that_remember_for_long_have_rarer_clusters_and_a_longer_horizon() -> None:
    rng = np.random.default_rng(17)
    noise = rng.normal(size=(8, 1000))
    slow = np.stack([np.convolve(row, np.ones(60) / 60, "same") for row in noise])
    entity = np.repeat(np.arange(8), 1000)
    brief, long = (fit_population(np.exp(x).ravel(), entity) for x in (noise, slow))
    assert brief["form"][0] == 0.01
    assert brief["form"][1] > 0.02
    assert brief["form"][2] == 128
    assert long["form"][0] < 0.01
    assert long["form"][2] == 512
    assert long["rare"][3] > 0.5  # the initial threshold lies above what is usual, in mean deviations


def test_too_few_scores_are_no_population() -> None:
    assert fit_population(np.arange(10.0), np.zeros(10, int)) == {}
    assert fit_population(np.full(500, 2.0), np.zeros(500, int)) == {}
    assert fit_population(np.empty(0), np.empty(0, int)) == {}


def test_a_warming_entity_without_a_population_shows_few_episodes() -> None:
    x = nasty("normal", 700, np.random.default_rng(14))
    x[260::20] += 30
    judged = Stage(risk=1e-4).one(x)
    assert 1 <= judged.episode_start.sum() <= 2
    assert judged.warming.all()


@pytest.mark.parametrize("between", [0.0, 1.0, 5.0])
def test_short_sessions_alarm_at_the_promised_rate_from_their_first_window(between: float) -> None:
    rng = np.random.default_rng(15)

    def sessions(n: int) -> np.ndarray:
        return rng.gamma(2, 1, (n, 10)) + between * rng.normal(size=(n, 1))

    tail = fit_population(sessions(2000).ravel(), np.repeat(np.arange(2000), 10))
    judged = Stage(8000, tail=tail).update(np.repeat(np.arange(8000), 10), sessions(8000).ravel())
    assert 0.7 < judged.episode_start.sum() / (1e-2 * 80_000) < 1.4
