"""Explanation: which sensor, which moment, and what was expected instead.

In: one frame of a call, and what each part gave there. Out: a `SensorPart` per sensor. Remembers: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.bins import Bins
from models.detector import SensorPart
from models.forecast import MEMORY, run
from models.parts import DistancePart, ForecastPart, ReconstructionPart, Views
from models.scenes import F32, F64

if TYPE_CHECKING:
    from models.sensors import Fitted


def explain(fitted: Fitted, data: tuple[Bins, Views], moment: tuple[int, int], parts: F64) -> tuple[SensorPart, ...]:
    """Sensors by their share of the score of one frame, largest first. moment: frame in the call, and its start_us.

    Each part hands its contribution to sensors in proportion to what they add to it.
    """
    (seen, view), (frame, start_us) = data, moment
    shares = {name: part.shares(view, frame) for name, part in fitted.parts.items()}
    weights = np.maximum(parts, 0) / max(float(np.maximum(parts, 0).sum()), 1e-300)
    of_sensor = sum(w * _proportions(s.sum(1)) for w, s in zip(weights, shares.values(), strict=True))
    of_sensor = _proportions(np.asarray(of_sensor, np.float64))
    wanted = _expected(fitted, view, frame)
    times = _bins(fitted, shares, start_us)
    out = []
    for sensor in np.argsort(-of_sensor, kind="stable"):
        heard = bool(view.present[frame, sensor])
        actual = float(seen.mean[frame, sensor] * fitted.scaling.scale[sensor] + fitted.scaling.centre[sensor])
        expected = float(np.sinh(float(wanted[sensor])) * fitted.scaling.scale[sensor] + fitted.scaling.centre[sensor])
        said = (actual if heard else None, expected if heard else None)
        out.append(SensorPart(fitted.sensors[sensor], float(of_sensor[sensor]), said[0], said[1], times[sensor]))
    return tuple(out)


def _proportions(x: F64) -> F64:
    total = float(x.sum())
    return x / total if total > 0 else np.full(len(x), 1 / max(1, len(x)))


def _expected(fitted: Fitted, view: Views, frame: int) -> F32:
    """In the squashed view: from the other sensors where there are any, else from the past."""
    rebuilt = fitted.parts.get("reconstruction")
    if isinstance(rebuilt, ReconstructionPart):
        return rebuilt.expected(view, frame)
    forecast = fitted.parts["forecast"]
    assert isinstance(forecast, ForecastPart)
    guess = run(forecast.known, forecast.frames(view)[frame - MEMORY : frame + 1])[0][0]
    expected: F32 = np.arcsinh(3 * np.sinh(guess / 3)) if forecast.wide else guess
    return expected


def _bins(fitted: Fitted, shares: dict[str, F64], start_us: int) -> list[tuple[tuple[int, float], ...]]:
    """Per sensor (start_us, share) of the distance's bins of time, those that hold anything."""
    part = fitted.parts["distance"]
    assert isinstance(part, DistancePart)
    shape, step = part.shape, fitted.grid.step_us
    starts = [start_us - (shape.bins - i) * shape.group * step + step for i in range(shape.bins)]
    rows = [_proportions(row) if row.sum() > 0 else np.zeros(len(row)) for row in shares["distance"]]
    return [tuple((t, float(s)) for t, s in zip(starts, row, strict=True) if s > 0) for row in rows]
