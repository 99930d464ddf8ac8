"""A time budget: what fits into it is done, what does not is said."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from models.lstm import NetSettings
from models.stretches import FIRST
from stream_app.recipe import Recipe
from tests.sensor_worlds import World
from training import fit_budget
from training.fit_lstm import LstmTraining
from training.fit_sensors import SensorTraining, fit
from training.frames import BLOCK, evenly
from training.token_budget import Wanted, within
from training.token_sessions import Sessions


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


def test_a_budget_too_short_for_tokens_does_the_least_and_says_so() -> None:
    rng = np.random.default_rng(0)
    size = np.full(600, 60)
    net = NetSettings(20)
    first = np.concatenate([[0], np.cumsum(size)])
    tokens = rng.integers(FIRST, 20, first[-1]).astype(np.int32)
    sessions = Sessions(tokens, np.arange(first[-1]), first, np.zeros(600, np.int64), np.ones(600, bool))
    wanted = Wanted(3, 8, LstmTraining(), 5_000, 128)
    least = within(sessions, net, wanted, (0.001, time.monotonic()))
    assert (least.steps_max, least.tokens_max, least.placed_max) == (50, 20_000, 500)
    assert least.notes == (
        "to stay within 0 s, only 50 of 536 steps, 20,000 of 36,000 tokens beside them, clusters of 500 windows",
    )
    assert within(sessions, net, wanted, (36_000.0, time.monotonic())).notes == ()
