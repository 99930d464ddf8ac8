"""The obvious twin of `models.bins.bins`: one frame, one sensor, one sum at a time, from a window's own samples."""

from __future__ import annotations

import numpy as np

from models.bins import Grid
from models.scenes import Scenes


def frame(scenes: Scenes, window: int, grid: Grid, at: int, sensor: int) -> tuple[float, float, float, int]:
    """Mean, standard deviation, slope per bin and age of a sensor in frame `at`, as one window shows them. Scale 1."""
    rows = range(scenes.first[window], scenes.last[window])
    mine = [(int(scenes.t_us[r]), float(scenes.value[r])) for r in rows if scenes.sensor[r] == sensor]
    mine = [(t, v) for t, v in mine if not np.isnan(v)]
    step = {(t, v): (t - grid.shift_us) // grid.step_us for t, v in mine}
    past = [tv for tv in mine if step[tv] <= at]
    if not past or at - max(step[tv] for tv in past) > grid.hold:
        return 0.0, 0.0, 0.0, -1
    age = at - max(step[tv] for tv in past)
    inside = [tv for tv in past if step[tv] > at - grid.per_bin]
    if not inside:
        latest = max(step[tv] for tv in past)
        return float(np.mean([v for t, v in past if step[(t, v)] == latest])), 0.0, 0.0, age
    v = np.array([value for _, value in inside])
    end = (at + 1) * grid.step_us + grid.shift_us
    t = np.array([(time - end) / (grid.step_us * grid.per_bin) for time, _ in inside])
    slope = np.mean((t - t.mean()) * (v - v.mean())) / (t.var() + 0.01) if len(v) > 1 else 0.0
    return float(v.mean()), float(v.std()), float(slope), age
