"""Training data: cut by the stage that cuts the live stream."""

from __future__ import annotations

import naive_cutting
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import WindowSpec
from training.dataset import cut, from_indices

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
