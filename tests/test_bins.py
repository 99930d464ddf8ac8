"""Bins against their obvious twin, at any rates, with gaps, jitter and missing values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bins import NEVER, Bins, Grid, bins
from models.detector import WindowSpec
from models.scenes import Scenes
from tests.naive_bins import frame
from training.dataset import Dataset, cut, from_indices

STEP = 1_000_000
MULTI = Grid(STEP, 5, 0, 2, 6, 4, True)
ALIGNED = Grid(STEP, 1, -400_000, 1, 6, 3, False)


def dataset(rng: np.random.Generator, sensors: int, n: int) -> Dataset:
    """Two entities whose sensors have rates of their own, a long silence, and values missing."""
    t = np.sort(rng.integers(0, 60 * STEP, n)) + rng.integers(0, 10**9)
    t[n // 2 :] += int(rng.integers(0, 2)) * 40 * STEP
    sensor = rng.integers(0, sensors, n) ** 2 // max(1, sensors - 1)
    value = np.where(rng.random(n) < 0.1, np.nan, rng.normal(0, 1, n))
    names = tuple(f"s{i}" for i in range(sensors))
    return from_indices(("a", "b"), names, (rng.integers(0, 2, n), sensor, t, value))


def cut_for(data: Dataset, grid: Grid) -> Scenes:
    return cut(data, WindowSpec(grid.length * grid.step_us, grid.stride * grid.step_us))


def table(scenes: Scenes, grid: Grid, sensors: int) -> Bins:
    return bins(scenes, grid, np.full(len(scenes), NEVER), (np.zeros(sensors), np.ones(sensors)))


@pytest.mark.parametrize("grid", [MULTI, ALIGNED], ids=["several rates", "one rate"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_every_frame_shows_what_its_window_alone_holds(grid: Grid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = dataset(rng, 3, 60)
    scenes = cut_for(data, grid)
    got = table(scenes, grid, 3)
    row = 0
    for window, fresh in enumerate(got.stretches.fresh):
        end = scenes.end_us[window] // grid.step_us
        for at in range(end - fresh, end):
            for sensor in range(3):
                f = got.scored[row]
                shown = got.mean[f, sensor], got.std[f, sensor], got.slope[f, sensor], got.age[f, sensor]
                mean, std, slope, age = frame(scenes, window, grid, at, sensor)
                wanted = (mean, std, slope, age) if grid.spread else (mean, 0.0, 0.0, age)
                np.testing.assert_allclose(shown, wanted, atol=2e-5)
            row += 1
    assert row == len(got.scored)


def test_frames_of_neighbouring_windows_tile_time_without_overlap() -> None:
    data = dataset(np.random.default_rng(3), 3, 80)
    scenes = cut_for(data, MULTI)
    got = table(scenes, MULTI, 3)
    for i, entity in enumerate(got.stretches.entity):
        windows = slice(got.stretches.window[i], got.stretches.window[i + 1])
        assert (scenes.entity[windows] == entity).all()
        assert got.stretches.start[i] + got.stretches.fresh[windows].sum() == scenes.end_us[windows][-1] // STEP


def test_a_value_stands_for_missing_ones_for_hold_frames_and_no_longer() -> None:
    grid = ALIGNED
    t = np.array([0, 1, 2]) * STEP + 200_000
    other = np.arange(12) * STEP + 200_000
    sensor = np.r_[np.zeros(3, int), np.ones(12, int)]
    data = from_indices(("a",), ("x", "y"), (np.zeros(15, int), sensor, np.r_[t, other], np.ones(15)))
    got = table(cut_for(data, grid), grid, 2)
    ages = got.age[got.scored, 0][:9]
    np.testing.assert_array_equal(ages, [0, 0, 0, 1, 2, 3, -1, -1, -1])
    np.testing.assert_array_equal(got.mean[got.scored, 0][:9], [1, 1, 1, 1, 1, 1, 0, 0, 0])


def test_scoring_goes_on_where_it_stopped() -> None:
    data = dataset(np.random.default_rng(5), 2, 50)
    scenes = cut_for(data, ALIGNED)
    last = int(scenes.end_us[scenes.entity == 0][-1] // STEP)
    until = np.where(scenes.entity == 0, last, NEVER)
    zero, one = np.zeros(2), np.ones(2)
    first = bins(scenes, ALIGNED, until, (zero, one)).stretches.fresh[0]
    assert first == 0


def test_a_huge_value_stays_finite() -> None:
    data = from_indices(
        ("a",), ("x",), (np.zeros(3, int), np.zeros(3, int), np.arange(3) * STEP, np.array([1e308, -1e308, 0]))
    )
    got = table(cut_for(data, MULTI), MULTI, 1)
    for column in (got.mean, got.std, got.slope):
        assert np.isfinite(column).all()
