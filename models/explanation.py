"""Explanation: which sensor, which moment, and what was expected instead.

In: one frame of a call, and what each part gave there. Out: a `SensorPart` per sensor. Remembers: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.bins import Bins
from models.detector import SensorPart
from models.fusion_parts import FusionForecastPart, FusionMaskedPart
from models.parts import DistancePart, ForecastPart, Part, ReconstructionPart, ResidualPart, Views
from models.scenes import F32, F64

if TYPE_CHECKING:
    from models.sensors import Fitted


def explain(fitted: Fitted, data: tuple[Bins, Views], moment: tuple[int, int], parts: F64) -> tuple[SensorPart, ...]:
    """Sensors by their share of the score of one frame, largest first. moment: frame in the call, and its start_us.

    Each part hands its contribution to sensors in proportion to what they add to it.
    """
    (seen, view), (frame, start_us) = data, moment
    single = len(fitted.sensors) == 1  # everything is its own: only where in time is asked
    shares = {name: p.shares(view, frame) for name, p in fitted.parts.items() if not single or name == "distance"}
    weights = np.maximum(parts, 0) / max(float(np.maximum(parts, 0).sum()), 1e-300)
    named = dict(zip(fitted.parts, weights, strict=True))
    of_sensor = sum(named[name] * _proportions(s.sum(1)) for name, s in shares.items()) if not single else np.ones(1)
    of_sensor = _proportions(np.asarray(of_sensor, np.float64))
    wanted = _expected(fitted, view, frame)
    times = _bins(fitted, shares, start_us)
    out = []
    for sensor in np.argsort(-of_sensor, kind="stable"):
        heard = bool(view.present[frame, sensor])
        centre, scale = fitted.scaling.centre[sensor], fitted.scaling.scale[sensor]
        actual = float(seen.mean[frame, sensor] * scale + centre)
        expected = None if wanted is None else float(np.sinh(float(wanted[sensor])) * scale + centre)
        said = (actual if heard else None, expected if heard else None)
        out.append(SensorPart(fitted.sensors[sensor], float(of_sensor[sensor]), said[0], said[1], times[sensor]))
    return tuple(out)


def _proportions(x: F64) -> F64:
    total = float(x.sum())
    return x / total if total > 0 else np.full(len(x), 1 / max(1, len(x)))


def _expected(fitted: Fitted, view: Views, frame: int) -> F32 | None:
    """In the squashed view: from the other sensors where there are any, else from the past; None: no part says."""
    parts, at = fitted.parts, np.array([frame])
    if isinstance(rebuilt := parts.get("reconstruction"), ReconstructionPart):
        return rebuilt.expected(view, frame)
    if isinstance(forecast := parts.get("forecast"), ForecastPart):
        assert view.sights.tcn is not None
        guess = view.sights.tcn.guess[frame]
        expected: F32 = np.arcsinh(3 * np.sinh(guess / 3)) if forecast.wide else guess
        return expected
    if isinstance(fused := parts.get("fusion_masked"), FusionMaskedPart):
        return np.asarray(view.squashed[frame] + fused.gaps(view, at)[0, :, -1])
    if isinstance(fused := parts.get("fusion_forecast"), FusionForecastPart):
        return np.asarray(view.squashed[frame] + fused.gaps(view, at)[0])
    return None


def _bins(fitted: Fitted, shares: dict[str, F64], start_us: int) -> list[tuple[tuple[int, float], ...]]:
    """Per sensor (start_us, share) of the first part's bins of time that has any, those that hold anything."""
    frames = {name: _bin_frames(part) for name, part in fitted.parts.items()}
    name = next((n for n in ("distance", "residual", "fusion_masked", "distance_short") if frames.get(n)), None)
    if name is None:
        return [()] * len(fitted.sensors)
    step, n = fitted.grid.step_us, shares[name].shape[1]
    starts = [start_us - (n - i) * frames[name] * step + step for i in range(n)]
    rows = [_proportions(row) if row.sum() > 0 else np.zeros(len(row)) for row in shares[name]]
    return [tuple([pair for pair in zip(starts, row.tolist(), strict=True) if pair[1] > 0]) for row in rows]


def _bin_frames(part: Part) -> int:
    """Frames in a bin of the part's shares; 0: it knows one moment only."""
    if isinstance(part, FusionMaskedPart):
        return part.spacing
    return part.shape.group if isinstance(part, DistancePart | ResidualPart) else 0
