"""A look at the data before anything is fitted: rates, gaps, constants, periods; what is chosen from them, and why.

In: `Dataset` of sensors. Out: `Look`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from models.bins import Grid
from models.forecast import MEMORY
from models.parts import DistancePart
from models.reconstruct import LAGS
from models.scenes import F64, Bool
from models.sensors import Fitted
from training.dataset import Dataset

SLOWEST_SHARE = 0.1  # the slowest rate that carries this share of the sensors sets the bin
BIN_SAMPLES = 2.6  # of that rate in a bin: a mean and a slope need more than two
STEPS = 5  # per bin, where rates differ
SEVERAL = 1.5  # samples in a bin: from here on it has a spread
SAME_RATE = 0.1  # intervals within 10 % of each other are one rate
STRIDE_US = 200_000  # windows closing more often than this cost more than they tell
STEP_US = 10_000  # frames are no shorter: what a score costs must not rise with the rate of the samples without end
PATCH_US = 50_000  # patches are looked at no more often
HOLD_MIN, HOLD_MAX = 20, 1_000  # frames
PERIOD_PEAK = 0.2  # autocorrelation below it is no period
SENSORS_FEW = 1
LEVELS_MAX = 8  # distinct values of a sensor that steps between a few levels: a valve, a mode


@dataclass(frozen=True)
class Look:
    """What was seen and chosen. Frames are the unit of lengths but for the grid."""

    grid: Grid
    short: int  # frames of the short patch
    long: int  # frames of the long patch
    period: int  # frames; 0: none was found
    interval_us: F64  # [c] median between a sensor's samples; NaN where there are fewer than two
    constant: tuple[str, ...]
    stepwise: Bool  # [c] sensors that know a few levels only
    notes: tuple[str, ...] = field(default=())


def intervals(data: Dataset) -> tuple[F64, F64]:
    """Median and 99 % quantile of the time between a sensor's samples, in microseconds, NaN: fewer than two. [c]"""
    valid = np.isfinite(data.value)
    entity, sensor, t_us = data.entity[valid], data.sensor[valid], data.t_us[valid]
    order = np.lexsort((t_us, entity, sensor))
    entity, sensor, t_us = entity[order], sensor[order], t_us[order]
    gap = np.diff(t_us).astype(np.float64)
    same = (np.diff(entity) == 0) & (np.diff(sensor) == 0)
    median, long = np.full(len(data.sensors), np.nan), np.full(len(data.sensors), np.nan)
    for c in range(len(data.sensors)):  # once per sensor
        own = gap[same & (sensor[1:] == c)]
        if len(own):
            median[c], long[c] = np.median(own), np.quantile(own, 0.99)
    return median, long


def look(data: Dataset) -> Look:
    """Chooses grid and patches. Raises ValueError, in words for the user, where nothing can be learned."""
    if not len(data) or not np.isfinite(data.value).any():
        raise ValueError("there is no sample with a value; nothing can be learned from this")
    median, long = intervals(data)
    known = median[np.isfinite(median)]
    if not len(known):
        raise ValueError("no sensor has two samples; a detector needs at least some dozens of each")
    notes: list[str] = []
    step_us, per_bin = _steps(np.maximum(known, 1), notes)
    spread = per_bin > 1 or step_us > SEVERAL * float(np.median(known))
    shift = 0 if spread else _shift(data, step_us)
    hold = int(np.clip(np.ceil(2 * np.nanmax(long) / step_us), HOLD_MIN, HOLD_MAX))
    single = len(data.sensors) == SENSORS_FEW
    n = _frames(data, step_us)
    period = _period(data, step_us) if single else 0
    short, patch = _patches(single, period, n)
    if single:
        notes.append(
            f"one sensor, {f'period {period} samples' if period else 'no period found'}: patches of {short} and {patch}"
        )
    constant = tuple(name for c, name in enumerate(data.sensors) if _is_constant(data.value[data.sensor == c]))
    if constant:
        notes.append(f"{len(constant)} of {len(data.sensors)} sensors never change: {', '.join(constant[:5])}")
    if len(constant) == len(data.sensors):
        raise ValueError(f"none of the {len(constant)} sensors ever changes; what is normal can't be learned from this")
    memory = max(MEMORY + 2, patch, max(LAGS) * per_bin + 1)
    every = max(1, PATCH_US // step_us)
    stride = every * max(1, round(STRIDE_US / (every * step_us)))
    grid = Grid(step_us, per_bin, shift, stride, memory, hold, spread, every)
    return Look(grid, short, patch, period, median, constant, _stepwise(data), tuple(notes))


def look_again(data: Dataset, like: Fitted) -> Look:
    """As `look`, for a detector that follows another: its grid and patches stay, so that workers can swap the two.

    Raises ValueError where the data do not suffice, or hold one sensor where there were several, or several for one.
    """
    seen = look(data)
    shapes = {name: part.shape.frames for name, part in like.parts.items() if isinstance(part, DistancePart)}
    if (len(data.sensors) == SENSORS_FEW) != (len(like.sensors) == SENSORS_FEW):
        raise ValueError(f"{len(data.sensors)} sensors where there were {len(like.sensors)}: name another detector")
    short = shapes.get("distance_short", seen.short)
    notes = (f"windows as before: frames of {like.grid.step_us / 1e6:g} s",)
    return replace(seen, grid=like.grid, short=short, long=shapes.get("distance", seen.long), notes=notes)


def _steps(interval_us: F64, notes: list[str]) -> tuple[int, int]:
    """Step and steps per bin. One rate: a bin is one sample. Several: bins of the slowest rate that matters."""
    middle = float(np.median(interval_us))
    if np.mean(np.abs(interval_us / middle - 1) <= SAME_RATE) >= 1 - SLOWEST_SHARE:
        if middle * SEVERAL < STEP_US:
            notes.append(f"{len(interval_us)} sensors of {1e6 / middle:.3g} samples/s: bins of {STEP_US / 1e6:g} s")
            return STEP_US, 1
        notes.append(f"{len(interval_us)} sensors, one sample every {middle / 1e6:g} s: a bin is one sample")
        return max(1, round(middle)), 1
    ordered = np.sort(interval_us)[::-1]
    slowest = next(
        s for s in ordered if np.mean(np.abs(ordered / s - 1) <= SAME_RATE) >= SLOWEST_SHARE or s == ordered[-1]
    )
    step = max(STEP_US, round(BIN_SAMPLES * slowest / STEPS))
    if step > STEP_US:
        step = round(step, -4)  # whole hundredths of a second read better
    notes.append(
        f"{len(interval_us)} sensors of {1e6 / interval_us.max():.3g} to {1e6 / interval_us.min():.3g} samples/s: "
        f"bins of {step * STEPS / 1e6:g} s, one every {step / 1e6:g} s"
    )
    return step, STEPS


def _shift(data: Dataset, step_us: int) -> int:
    """Where bins of one sample begin, so that each holds exactly one in spite of jitter: at most half a step off it."""
    phase = data.t_us % step_us
    turn = np.exp(2j * np.pi * phase / step_us).mean()
    if abs(turn) < 0.5:  # entities with clocks of their own: no phase suits all
        return 0
    centre = int(np.angle(turn) / (2 * np.pi) * step_us) % step_us
    off = np.abs((phase - centre + step_us // 2) % step_us - step_us // 2)
    tolerance = int(min(step_us // 2, 2 * np.quantile(off, 0.999) + 2))
    shift = centre + tolerance - step_us
    return int(shift if shift <= 0 else shift - step_us)


def _frames(data: Dataset, step_us: int) -> int:
    """Frames of all entities together."""
    bounds = data.bounds()
    spans = [data.t_us[b - 1] - data.t_us[a] for a, b in pairwise(bounds) if b > a]
    return int(sum(spans) // step_us + len(spans))


def _patches(single: bool, period: int, n: int) -> tuple[int, int]:
    """Short and long patch. Several sensors: 1 and 20 frames. One: half a period, at least 32 frames; twice that."""
    if not single:
        return 1, int(np.clip(20, 1, max(1, n // 4)))
    half = period / 2
    short = 48.0 if not period else half if half >= 32 else np.ceil(32 / half) * half
    short = int(np.clip(short, 12, max(12, min(200, n // 6))))
    return short, int(max(short, min(max(96, 2 * short), n // 4)))


def _period(data: Dataset, step_us: int) -> int:
    """The first nearly highest peak of the longest entity's detrended autocorrelation, in frames; 0: none."""
    bounds = data.bounds()
    e = int(np.argmax(np.diff(bounds)))
    t, x = data.t_us[bounds[e] : bounds[e + 1]], data.value[bounds[e] : bounds[e + 1]]
    x, t = x[np.isfinite(x)], t[np.isfinite(x)]
    n = min(int((t[-1] - t[0]) // step_us) + 1, 200_000) if len(t) else 0
    if n < 32:
        return 0
    x = np.interp(t[0] + np.arange(n) * step_us, t, x)
    at = np.arange(n)
    x = x - np.polyval(np.polyfit(at, x, 1), at)
    spectrum = np.fft.rfft(x, 2 * n)
    acf = np.fft.irfft(spectrum * np.conj(spectrum))[: n // 3] / (1 - np.arange(n // 3) / n)
    return _first_peak(acf / max(float(acf[0]), 1e-12))


def _first_peak(acf: F64) -> int:
    negative = np.flatnonzero(acf < 0)
    if not len(negative):
        return 0
    lag = np.arange(max(int(negative[0]), 8), len(acf) - 1)
    peaks = lag[(acf[lag] > acf[lag - 1]) & (acf[lag] >= acf[lag + 1])]
    if not len(peaks) or acf[peaks].max() < PERIOD_PEAK:
        return 0
    return int(peaks[acf[peaks] >= 0.85 * acf[peaks].max()][0])


def _stepwise(data: Dataset) -> Bool:
    """Sensors with at most LEVELS_MAX distinct values. [c]"""
    valid = np.isfinite(data.value)
    order = np.lexsort((data.value[valid], data.sensor[valid]))
    sensor, value = data.sensor[valid][order], data.value[valid][order]
    new = np.ones(len(value), bool)
    new[1:] = (np.diff(sensor) != 0) | (np.diff(value) != 0)
    few: Bool = np.bincount(sensor[new], minlength=len(data.sensors)) <= LEVELS_MAX
    return few


def _is_constant(x: F64) -> bool:
    x = x[np.isfinite(x)]
    return not len(x) or bool(x.max() == x.min())
