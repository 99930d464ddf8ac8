"""Calibration: a rank below the tail's start, a formula beyond it, and one scale whatever the unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.calibration import N_POINTS_MAX, fit_calibration, surprise

values = arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6))


@settings(max_examples=200, deadline=None)
@given(values=values, more=values)
def test_surprise_is_finite_not_negative_and_never_falls(values: np.ndarray, more: np.ndarray) -> None:
    found = surprise(fit_calibration(values), np.sort(more))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (np.diff(found) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(values=values)
def test_below_the_tail_a_value_seen_is_as_surprising_as_its_rank(values: np.ndarray) -> None:
    calibration = fit_calibration(values)
    for x in values[values <= calibration.points[-1]]:
        rank = (1 + np.count_nonzero(values >= x)) / (len(values) + 1)
        assert surprise(calibration, np.array([x]))[0] == pytest.approx(-np.log(rank))


def test_a_fresh_normal_value_is_surprising_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    calibration = fit_calibration(rng.exponential(3.0, 20_000))
    fresh = surprise(calibration, rng.exponential(3.0, 200_000))
    for p in (0.5, 0.1, 0.01, 0.001):
        assert np.mean(fresh > -np.log(p)) == pytest.approx(p, rel=0.15)


def test_the_unit_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    values, x = rng.normal(size=500), np.linspace(-4, 8, 50)
    assert surprise(fit_calibration(values), x) == pytest.approx(surprise(fit_calibration(100 * values), 100 * x))


def test_constant_values_make_anything_larger_very_surprising() -> None:
    found = surprise(fit_calibration(np.full(50, 2.0)), np.array([1.0, 2.0, 2.1]))
    assert found[0] == found[1] < 0.1
    assert found[2] > 40


def test_a_million_values_are_kept_as_few_points() -> None:
    x = np.arange(100_000.0)
    calibration = fit_calibration(x)
    assert len(calibration.points) == N_POINTS_MAX
    assert surprise(calibration, np.array([50_000.0]))[0] == pytest.approx(np.log(2), rel=1e-3)


def test_nan_stays_nan() -> None:
    assert np.isnan(surprise(fit_calibration(np.arange(9.0)), np.array([np.nan]))[0])


def test_values_that_hardly_differ_do_not_make_others_strange_beyond_measure() -> None:
    found = surprise(fit_calibration(np.linspace(0, 1e-9, 100), least_excess=0.5), np.array([1.0]))
    assert 2 < found[0] < 7
