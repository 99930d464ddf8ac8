"""Training data: cut by the stage that cuts the live stream."""

from __future__ import annotations

import naive_cutting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import WindowSpec
from stream_app.intervals import Interval
from training.dataset import cut, from_indices, outside

SAMPLE = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(-40, 200))


@settings(max_examples=60)
@given(st.lists(SAMPLE, max_size=40), st.integers(1, 30), st.integers(1, 30))
def test_training_cuts_the_windows_that_a_loop_over_time_finds(
    samples: list[tuple[int, int, int]], length: int, stride: int
) -> None:
    spec = WindowSpec(max(length, stride), min(length, stride))
    columns = np.array(samples, np.int64).reshape(-1, 3).T
    data = from_indices(("a", "b", "c"), ("x", "y"), (*columns, np.arange(len(samples), dtype=float)))
    got = cut(data, spec)
    said = [
        (
            int(got.entity[i]),
            int(got.start_us[i]),
            int(got.end_us[i]),
            [(int(got.sensor[j]), int(got.t_us[j]), got.value[j]) for j in range(got.first[i], got.last[i])],
        )
        for i in range(len(got))
    ]
    assert said == naive_cutting.windows(data, spec)
    assert len(got.t_us) == len(data), "every sample is there once"


def test_windows_that_touch_an_interval_of_their_entity_are_left_out() -> None:
    t = np.arange(0, 100, 10)
    columns = (np.repeat([0, 1], 10), np.zeros(20, np.int64), np.tile(t, 2), np.arange(20.0))
    data = from_indices(("a", "b"), ("x",), columns)
    scenes = cut(data, WindowSpec(20, 10))
    kept, counts = outside(scenes, data.entities, [Interval("a", 30, 40, "alert")])
    starts = {name: kept.start_us[kept.entity == i].tolist() for i, name in enumerate(data.entities)}
    assert starts == {"a": [-10, 0, 10, 40, 50, 60, 70, 80, 90], "b": list(range(-10, 100, 10))}
    assert counts == {"alert": 2}
    with pytest.raises(ValueError, match="all 22 windows are left out: 22 by pause"):
        outside(scenes, data.entities, [Interval("", 0, 10**9, "pause"), Interval("", -100, 1, "pause")])


def test_sensors_that_were_known_before_keep_their_place_and_new_ones_follow() -> None:
    data = from_indices(
        ("a",), ("new", "x"), (np.zeros(3, int), np.array([0, 1, 1]), np.array([5, 5, 6]), np.arange(3.0))
    )
    moved = data.with_sensors(("w", "x"))
    assert moved.sensors == ("w", "x", "new")
    rows = list(zip(moved.t_us.tolist(), moved.sensor.tolist(), moved.value.tolist(), strict=True))
    assert rows == [(5, 1, 1.0), (5, 2, 0.0), (6, 1, 2.0)]
