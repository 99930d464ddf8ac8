"""Rates: which sensors are read alike by the network, and how far back. Arithmetic on grids; no array of data.

In: a sensor's sampling interval and whether it only knows a few levels. Out: `Rate`s. Remembers: nothing.

    fast      one sample or more per frame                      a TCN over frames       8 bins
    middle    one or more per bin, or a few levels only         a residual convolution  8 bins
    slow      less than one per bin, or hardly ever             a residual convolution  6 bins of twice the length

A bin of the network is the grid's bin, or `ALIGNED` frames where the grid's is one sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.bins import Grid
from models.scenes import F64, Bool

ALIGNED = 4  # frames in a bin of the network where the grid's bins are single samples
BINS, BINS_SLOW = 8, 6
KERNEL = 3
DILATIONS = (1, 2, 4)  # of the TCN: a feature sees 17 frames, about four bins, and the bins go back 28 frames more
RECEPTIVE = 1 + (KERNEL - 1) * (1 + sum(DILATIONS))
SAME = 1.1  # intervals up to so many times a frame are one sample per frame
ENCODERS = {"fast": "tcn", "middle": "conv", "slow": "conv"}


@dataclass(frozen=True)
class Rate:
    """Sensors that share an encoder. A bin's feature stands at its last frame; the newest bin's at the frame itself."""

    name: str  # a key of ENCODERS
    spacing: int  # frames between two bins
    bins: int
    sensors: tuple[int, ...]  # ascending

    @property
    def reach(self) -> int:
        """Frames looked back on, the frame itself included."""
        return (self.bins - 1) * self.spacing + (RECEPTIVE if ENCODERS[self.name] == "tcn" else 1)

    @property
    def back(self) -> tuple[int, ...]:
        """How many frames before the newest each bin stands, oldest first."""
        return tuple(self.spacing * i for i in range(self.bins - 1, -1, -1))


def spacing(grid: Grid) -> int:
    """Frames in a bin of the network."""
    return grid.per_bin if grid.per_bin > 1 else ALIGNED


def rates(interval_us: F64, stepwise: Bool, grid: Grid) -> tuple[Rate, ...]:
    """The rates that occur. interval_us [c]: median between samples, NaN: fewer than two; stepwise [c]: few levels."""
    per_frame = np.where(np.isfinite(interval_us), interval_us, np.inf) <= SAME * grid.step_us
    per_bin = np.where(np.isfinite(interval_us), interval_us, np.inf) <= SAME * grid.step_us * grid.per_bin
    name = np.where(per_frame & ~stepwise, "fast", np.where(per_bin, "middle", "slow"))
    apart = spacing(grid)
    shapes = {"fast": (apart, BINS), "middle": (apart, BINS), "slow": (2 * apart, BINS_SLOW)}
    found = [(n, tuple(np.flatnonzero(name == n).tolist())) for n in ENCODERS]
    return tuple(Rate(n, *shapes[n], sensors) for n, sensors in found if sensors)
