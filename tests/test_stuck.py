"""Sensors that stick: raised at first, then known as absent, whatever the calls."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import stuck
from models.bins import Bins, Stretches
from models.scenes import Scenes
from models.sensors_bundle import layout, open_bundle
from tests.sensor_worlds import World, detector, part, scenes, score, trained

FROM_S = 60
SECOND = 1_000_000


def sticking(kind: str, sensors: tuple[int, ...], seconds: float = 260.0) -> Scenes:
    """A world in which some sensors show one value from a minute on."""
    data = World(kind, 1, seconds, seed=9).data()
    value = data.value.copy()
    for sensor in sensors:
        rows = np.flatnonzero((data.sensor == sensor) & (data.t_us >= data.t_us.min() + FROM_S * SECOND))
        value[rows] = value[rows[0]]
    return scenes(detector(kind), dataclasses.replace(data, value=value))


def frames(shown: np.ndarray, context: int = 2) -> Bins:
    """One entity's frames, all but the context scored; NaN: the sensor is absent."""
    n = len(shown)
    one = np.array([0], np.int32), np.array([0, 1]), np.array([0, n]), np.array([0]), np.array([n - context])
    mean, zero = np.nan_to_num(shown).astype(np.float32), np.zeros(shown.shape, np.float32)
    age = np.where(np.isnan(shown), -1, 0).astype(np.int32)
    return Bins(Stretches(*one), mean, zero, zero, age, np.arange(context, n))


def slow(shown: np.ndarray, loud: np.ndarray, limit: np.ndarray, context: int = 2) -> np.ndarray:
    """One frame after the other."""
    still, said, found = np.zeros(shown.shape[1], int), np.zeros(shown.shape[1]), []
    for at, (before, here) in enumerate(pairwise(shown[context - 1 :])):
        still = np.where(before == here, still + 1, 0)  # NaN equals nothing
        over = (limit > 0) & (still > limit)
        said = np.where(still == 0, 0, said) + over * loud[at]
        few = min(max(1, int((~np.isnan(here)).sum()) // stuck.FEW), len(still) - 1)
        ready = np.flatnonzero(over & (said > stuck.RAISED))
        kept = [c for c in ready if sum(still[other] >= still[c] for other in ready) <= few]
        found.append(np.isin(np.arange(len(still)), kept))
    return np.array(found).reshape(-1, shown.shape[1])


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(2, 160), max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_left_out_equals_a_loop_over_frames_however_they_come_in_calls(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    shown = np.cumsum(rng.random((162, 9)) < rng.choice([0.01, 0.05, 0.3], 9), 0).astype(float)
    shown[rng.random(shown.shape) < 0.005] = np.nan
    loud = rng.choice([0.0, 0.25, 1.0], (160, 9))
    limit, row = np.array([3, 8, 0, 1, 3, 3, 3, 5, 2], np.int32), np.zeros(1, stuck.layout(9))
    found = []
    for a, b in pairwise(sorted({2, *cuts, len(shown)})):
        of = np.zeros(b - a, np.int64), row
        found.append(stuck.stuck(frames(shown[a - 2 : b]), of, limit, lambda at, a=a: loud[a - 2 + at]))  # type: ignore[misc]
    np.testing.assert_array_equal(np.concatenate(found), slow(shown, loud, limit))


def test_a_sensor_may_stand_still_as_long_as_is_usual_and_one_that_hardly_moved_for_ever() -> None:
    at = np.arange(600)
    shown = np.stack([at // 40, np.zeros(600), at, np.maximum(at, 100)], 1).astype(float)
    assert stuck.limits(frames(shown)).tolist() == [39, 0, stuck.FRAMES_MIN, 0]
    assert stuck.limits(frames(shown), np.array([500, 0], np.int32)).tolist() == [500, 0, stuck.FRAMES_MIN, 0]
    assert stuck.limits(frames(shown[:, :1])).tolist() == [0]  # nothing would be left


def test_one_long_time_of_many_and_one_that_no_move_ended_do_not_lengthen_a_limit() -> None:
    at = np.arange(4_000)
    often = np.where((at > 2_000) & (at < 2_100), 2_000 // 13, at // 13)  # some 300 times 12 frames, and once 100
    once = np.maximum(at, 300)
    silent = np.where((at >= 3_600) & (at < 3_650), np.nan, np.where(at < 3_600, np.minimum(at, 3_500), at))
    shown = np.stack([often, once, silent], 1).astype(float)
    assert stuck.limits(frames(shown)).tolist() == [12, 299, stuck.FRAMES_MIN]


@pytest.mark.parametrize("kind", ["aligned", "multirate"])
def test_a_sensor_that_sticks_is_raised_and_then_judged_as_absent(kind: str) -> None:
    known, shown = detector(kind), sticking(kind, (1,))
    out = score(known, shown).frames
    since_s = (out.start_us - shown.t_us.min()) / SECOND - FROM_S
    assert known.fitted.still is not None
    limit_s = known.fitted.still[1] * known.fitted.grid.step_us / SECOND
    raised = (since_s > 5) & (since_s < limit_s + stuck.RAISED * known.fitted.grid.step_us / SECOND)
    later = (since_s > limit_s + 30) & (since_s < 190)
    assert np.median(out.score[raised]) > 2 * np.median(out.score[(since_s < -5) & (since_s > -40)])
    gone = score(known, scenes(known, World(kind, 1, 260.0, seed=9, gone=(1,)).data())).frames
    same = np.isin(gone.start_us, out.start_us[later])
    assert np.median(out.score[later]) < 1.5 * np.median(gone.score[same])


def test_sensors_that_stand_still_together_are_all_judged() -> None:
    known = detector("aligned")
    one, two = (score(known, sticking("aligned", which)).frames.score[-100:-60] for which in ((1,), (1, 2)))
    assert np.median(two) > 2 * np.median(one)


@pytest.mark.parametrize("kind", ["aligned", "multirate"])
@given(cuts=st.lists(st.integers(1, 1_000), max_size=5))
@settings(max_examples=6, deadline=None)
def test_scores_beside_a_stuck_sensor_do_not_depend_on_how_windows_come_in_calls(kind: str, cuts: list[int]) -> None:
    known, given_ = detector(kind), sticking(kind, (1,))
    whole, carry, pieces = score(known, given_), known.carry_initial.copy(), []
    for a, b in pairwise(sorted({0, *(c for c in cuts if c < len(given_)), len(given_)})):
        pieces.append(known.score(part(given_, slice(a, b)), carry))
        carry = pieces[-1].carry
    scores = np.concatenate([p.frames.score for p in pieces])
    np.testing.assert_allclose(scores, whole.frames.score, rtol=2e-4, atol=2e-5)


def test_bundles_without_limits_open_and_wrong_limits_are_refused() -> None:
    bundle = trained("aligned").bundle
    before = {**bundle.settings, "fitted": {k: v for k, v in bundle.settings["fitted"].items() if k != "still"}}
    assert open_bundle(dataclasses.replace(bundle, settings=before)).fitted.still is None
    for wrong in ([1], [1, 2, -3], [1, 2, 0.5], [1, 2, 1 << 40], 7):
        fitted = {**bundle.settings["fitted"], "still": wrong}
        with pytest.raises((ValueError, TypeError)):
            layout({**bundle.settings, "fitted": fitted})


@pytest.mark.parametrize("kind", ["aligned", "multirate"])
def test_who_is_left_out_is_told_for_as_long_as_it_sticks(kind: str) -> None:
    known = detector(kind)
    out = score(known, shown := sticking(kind, (1,))).left_out
    assert out is not None
    assert out.shape == (len(shown), len(known.sensors))
    since_s = (shown.end_us - shown.t_us.min()) / SECOND - FROM_S
    assert not out[:, [c for c in range(len(known.sensors)) if c != 1]].any()
    assert not out[since_s < 0].any()
    assert out[(since_s > 120) & (since_s < 190), 1].all()
    moving = score(known, scenes(known, World(kind, 1, 100.0, seed=9).data())).left_out
    assert moving is not None
    assert not moving.any()
