"""A time budget: what fits into it is done, what does not is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_app.recipe import Recipe
from tests.sensor_worlds import World
from training import fit_budget
from training.fit_sensors import SensorTraining, fit
from training.frames import BLOCK, evenly


def test_a_budget_that_is_too_short_trains_the_least_and_says_so() -> None:
    said: list[str] = []
    how = SensorTraining(recipe=Recipe(encoder="none", parts=("forecast", "distance")), say=said.append)
    made = fit(World("aligned", 1, 3000.0).data(), replace(how, budget_s=0.001))
    assert len(made.report["networks"]["tcn"]["curve"]) == 25
    assert made.report["budget"] == ["to stay within 0 s, only 2,000 of 3,000 frames, 25 of 250 steps"]
    assert made.report["budget"][0] in said


def test_within_a_generous_budget_everything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_budget, "_timed", lambda frames: (1e-4, 1e-3))
    data, recipe = World("aligned", 1, 200.0).data(), Recipe(steps=5)
    free, bounded = (fit(data, SensorTraining(1, recipe, budget_s=budget)) for budget in (None, 3600.0))
    assert bounded.report["budget"] == []
    for name, array in free.bundle.arrays.items():
        np.testing.assert_array_equal(array, bounded.bundle.arrays[name], err_msg=name)


@pytest.mark.parametrize(("n", "most"), [(5, 10), (10, 10), (9_000, 4_000), (9_000, 500), (60_001, 60_000)])
def test_rows_are_left_out_in_blocks_spread_evenly(n: int, most: int) -> None:
    rows = evenly(n, most)
    assert len(rows) <= max(n if n <= most else most, 1)
    assert rows[0] == 0
    assert rows[-1] == n - 1 or most < BLOCK
    assert (np.diff(rows) > 0).all()
