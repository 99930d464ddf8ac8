"""Bins: scenes as a table of frames, each holding what every sensor did in a trailing bin of time.

In: `Scenes`, whatever the rates of their sensors. Out: `Bins`, [frame, sensor] in units of the training's scale.
Remembers: nothing.

Frames have the length `step` and tile time. At a frame's end a sensor is seen through the samples of the last `per_bin`
steps: mean, standard deviation, least-squares slope. A bin without a sample repeats the sensor's last mean for at most
`hold` frames (spread and slope are zero then); after that, and before its first sample, the sensor is absent: age is
negative and its columns are zero, the training's mean.

    windows of an entity, each one stride later        one stretch of frames: its context, then the frames they score
    |------------------L-----------|                   |--------- hold + memory ----------|--S--|--S--|--S--|
          |------------------L-----------|        ->
                |------------------L-----------|

A frame uses the last `memory` frames, each of which uses samples at most `hold` frames older: both lie in the window
that scores it, so what a frame shows does not depend on how windows came in calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I32, I64, Bool, Scenes

NEVER = np.iinfo(np.int64).min  # no frame of the entity has been scored
CLIP = 1e6  # scaled values beyond are as strange as this one: sums of squares stay finite


@dataclass(frozen=True)
class Grid:
    """How time is cut, the same for every entity."""

    step_us: int
    per_bin: int  # steps in a trailing bin
    shift_us: int  # <= 0: step j takes the samples in [j * step + shift, (j + 1) * step + shift)
    stride: int  # frames scored per window
    memory: int  # frames that a frame's parts look back on, itself included
    hold: int  # frames a value stands in for missing ones
    spread: bool  # whether bins hold several samples, so that standard deviation and slope mean something
    every: int = 1  # frames that share one look at the patch before them; divides `stride`

    @property
    def reach(self) -> int:
        """Frames before a scored one on whose samples it depends. `per_bin`: the oldest bin; one more for the shift."""
        return self.memory + self.hold + self.per_bin + 1

    @property
    def length(self) -> int:
        """Frames in a window."""
        return self.stride + self.reach


@dataclass(frozen=True)
class Stretches:
    """Runs of neighbouring windows of one entity. `s` stretches; frames of all of them lie end to end."""

    entity: I32  # [s]
    window: I64  # [s + 1] windows of stretch i are window[i]:window[i + 1]
    frame: I64  # [s + 1] frames of stretch i: memory - 1 of context, then the scored ones
    start: I64  # [s] index since the epoch of the first scored frame
    fresh: I64  # [w] how many frames each window scores; what its entity's elder windows scored is not among them


@dataclass(frozen=True)
class Bins:
    """Every frame's view of every sensor; frames of context included."""

    stretches: Stretches
    mean: F32  # [f, c]
    std: F32  # [f, c]; zero where the grid has no spread
    slope: F32  # [f, c] per bin
    age: I32  # [f, c] frames since the last sample, 0 for one in this frame; -1: absent
    scored: I64  # [n] the frames that are scored; the others are context

    def runs(self, grid: Grid) -> tuple[I64, I64]:
        """First frames and ends of the runs of scored frames, one per stretch; each has its context before it. [s]"""
        frame = self.stretches.frame
        return frame[:-1] + grid.memory - 1, frame[1:]

    def entity(self) -> I32:
        """The entity of each scored frame. [n]"""
        total = np.concatenate([[0], np.cumsum(self.stretches.fresh)])
        return np.repeat(self.stretches.entity, np.diff(total[self.stretches.window]))

    def shared(self, grid: Grid) -> I64:
        """The frame whose patch each scored frame shares: the last of its `every`, which end where windows do. [n]

        All of them are the first to be shown by one window, so nothing later than its end is used.
        """
        runs = self.stretches
        owner = np.searchsorted(runs.frame, self.scored, side="right") - 1
        index = runs.start[owner] + self.scored - runs.frame[owner] - (grid.memory - 1)  # since the epoch
        ahead: I64 = self.scored + (grid.every - 1 - (index - grid.length) % grid.every)
        return ahead

    def live(self) -> Bool:
        """Whether a sample fell into the frame itself: what only trails behind the last one tells nothing new. [f]"""
        heard: Bool = np.any(self.age == 0, axis=1)
        return heard


def bins(scenes: Scenes, grid: Grid, until: I64, scaling: tuple[F64, F64]) -> Bins:
    """The frames that the windows score, with their context.

    until: [w] index of the frame at which the entity's scoring stopped in earlier calls, or NEVER.
    scaling: centre and scale [c] of the training part.
    """
    runs = _runs(scenes, grid, until)
    wide = grid.reach - grid.memory + 1  # frames before the context that only hand values on
    n, c = np.diff(runs.frame) + wide, len(scaling[0])
    base = np.concatenate([[0], np.cumsum(n)])
    first, total = base[:-1], int(base[-1])
    rows, step, z = _samples(scenes, grid, runs, base, scaling)
    cell = step * c + scenes.sensor[rows]
    # time within the step, in bins, from the step's end
    late = (scenes.t_us[rows] - grid.shift_us) % grid.step_us / (grid.step_us * grid.per_bin) - 1 / grid.per_bin
    powers = _powers(z, late, grid.spread)
    sums: list[F64] = [np.bincount(cell, w, total * c).reshape(total, c).astype(np.float64) for w in powers]
    trailing = _trailing(sums, grid, first)
    mean, std, slope = _moments(trailing, grid.spread)
    age, source = _ages(trailing[0] > 0, sums[0] > 0, first, grid.hold)
    mean = np.where(age >= 0, np.take_along_axis(mean, source, 0), 0)
    keep = np.ones(total, bool)
    keep[(first[:, None] + np.arange(wide)).ravel()] = False
    scored = np.ones(int(runs.frame[-1]), bool)
    scored[(runs.frame[:-1, None] + np.arange(grid.memory - 1)).ravel()] = False
    kept = (mean[keep].astype(np.float32), std[keep].astype(np.float32), slope[keep].astype(np.float32))
    return Bins(runs, *kept, age[keep].astype(np.int32), np.flatnonzero(scored))


def _runs(scenes: Scenes, grid: Grid, until: I64) -> Stretches:
    """Stretches of windows in which every frame has its whole context in the window that scores it.

    Scoring goes on where it stopped, if the window reaches back to there, else it starts at the window's first sample.
    """
    end, same = scenes.end_us // grid.step_us, np.zeros(len(scenes), bool)
    same[1:] = np.diff(scenes.entity) == 0
    stopped = np.where(same, np.concatenate([end[:1], end[:-1]]), until)
    begin = -(-scenes.start_us // grid.step_us)
    heard = (scenes.t_us[scenes.first] - grid.shift_us) // grid.step_us
    goes_on = stopped >= begin
    start = np.minimum(np.where(goes_on, stopped, np.maximum(heard, begin)), end)
    joined = same & goes_on & (start - grid.reach >= begin)
    window = np.concatenate([np.flatnonzero(~joined), [len(scenes)]]).astype(np.int64)
    fresh = np.maximum(end - start, 0)
    total = np.concatenate([[0], np.cumsum(fresh)])
    frames = np.diff(total[window]) + grid.memory - 1
    return Stretches(
        scenes.entity[window[:-1]], window, np.concatenate([[0], np.cumsum(frames)]), start[window[:-1]], fresh
    )


def _samples(scenes: Scenes, grid: Grid, runs: Stretches, base: I64, scaling: tuple[F64, F64]) -> tuple[I64, I64, F64]:
    """Rows of samples that count, the step each falls into (over all stretches), and their scaled values."""
    from_row, to_row = scenes.first[runs.window[:-1]], scenes.last[runs.window[1:] - 1]
    lengths = to_row - from_row
    owner = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(int(lengths.sum())) + np.repeat(from_row - np.cumsum(lengths) + lengths, lengths)
    step = (scenes.t_us[rows] - grid.shift_us) // grid.step_us - runs.start[owner] + (grid.reach + base[owner])
    z = (scenes.value[rows] - scaling[0][scenes.sensor[rows]]) / scaling[1][scenes.sensor[rows]]
    good = (step >= base[owner]) & (step < base[owner + 1]) & ~np.isnan(z)
    return rows[good], step[good], np.clip(z[good], -CLIP, CLIP)


def _powers(z: F64, late: F64, spread: bool) -> list[F64]:
    """What is summed per step and sensor: n, z, and for the spread z^2, t, t^2, t z."""
    one = np.ones(len(z))
    return [one, z, z * z, late, late * late, late * z] if spread else [one, z]


def _trailing(sums: list[F64], grid: Grid, first: I64) -> list[F64]:
    """Sums over the last `per_bin` steps of the same stretch, times moved to the last step's end."""
    total = [part.copy() for part in sums]
    for back in range(1, grid.per_bin):
        shifted = [np.concatenate([np.zeros_like(part[:back]), part[:-back]]) for part in sums]
        for part in shifted:  # a stretch's first steps have no elder ones
            part[(first[:, None] + np.arange(back)).ravel()] = 0
        if grid.spread:
            n, z, zz, t, tt, tz = shifted
            d = back / grid.per_bin
            shifted = [n, z, zz, t - d * n, tt - 2 * d * t + d * d * n, tz - d * z]
        total = [a + b for a, b in zip(total, shifted, strict=True)]
    return total


def _moments(sums: list[F64], spread: bool) -> tuple[F64, F64, F64]:
    """Mean, standard deviation, slope per bin; zero where there is no sample."""
    n = np.maximum(sums[0], 1)
    mean = sums[1] / n
    if not spread:
        return mean, np.zeros_like(mean), np.zeros_like(mean)
    _, _, zz, t, tt, tz = (part / n for part in sums)
    variance_t = np.maximum(tt - t * t, 0) + 0.01  # (b / 10)^2 in units of the bin keeps the slope of few samples small
    slope = np.where(sums[0] > 1, (tz - t * mean) / variance_t, 0)
    return mean, np.sqrt(np.maximum(zz - mean * mean, 0)), slope


def _ages(filled: Bool, sampled: Bool, first: I64, hold: int) -> tuple[I64, I64]:
    """Frames since the last sample (-1: absent) and the frame whose bin is shown. [f, c]"""
    at = np.arange(len(filled))[:, None]
    floor = np.repeat(first, np.diff(np.append(first, len(filled))))[:, None]
    latest = np.maximum.accumulate(np.where(sampled, at, -1), axis=0)
    source = np.maximum.accumulate(np.where(filled, at, -1), axis=0)
    absent = (latest < floor) | (at - latest > hold)
    return np.where(absent, -1, at - latest), np.where(absent, at, source)
