"""Fusion parts: what the fusion network's errors add to a sensors' score, where the recipe asks for it.

In: `Views` with their sights. Out: as `models.parts.Part`. Remembers: nothing.

    fusion_forecast   each sensor's next frame, from all sensors' frames before
    fusion_masked     each sensor's recent bins, from all other sensors
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.forecast import FLOOR
from models.parts import Views
from models.rates import BINS
from models.scenes import F32, F64, I64, Bool
from models.sights import Fused, targets


@dataclass(frozen=True, eq=False)
class FusionForecastPart:
    """Error of the network's forecast, mean over the sensors present."""

    rms: F64  # [c]
    needs: int

    def gaps(self, views: Views, at: I64) -> F32:
        """[n, c] forecast less what came; zero for the absent."""
        gap = _fused(views).forecast[at] - views.squashed[at]
        return np.where(views.present[at], gap, 0).astype(np.float32)

    def errors(self, views: Views, at: I64) -> F64:
        """[n, c] squared, standardised."""
        error = (np.abs(self.gaps(views, at)) / self.rms + FLOOR) ** 2
        return np.where(views.present[at], error, 0.0)

    def score(self, views: Views, at: I64) -> F64:
        return np.asarray(self.errors(views, at).sum(1) / np.maximum(views.present[at].sum(1), 1))

    def shares(self, views: Views, at: int) -> F64:
        error: F64 = self.errors(views, np.array([at]))[0][:, None]
        return error


@dataclass(frozen=True, eq=False)
class FusionMaskedPart:
    """Error of each sensor's recent bins given all the others, mean over the sensors and bins present."""

    rms: F64  # [c, BINS]
    needs: int
    spacing: int  # frames in a bin

    def gaps(self, views: Views, at: I64) -> F32:
        """[n, c, BINS] as told less what was; zero for the absent."""
        near = np.arange(-BINS * self.spacing + 1, 1)  # no more frames than the bins hold
        if len(at) == 1:
            want = targets(views.squashed[at[0] + near], self.spacing)[-1:]
        else:
            want = targets(views.squashed, self.spacing)[at]
        gap = _fused(views).masked[at] - want
        return np.where(self.there(views, at), gap, 0).astype(np.float32)

    def there(self, views: Views, at: I64) -> Bool:
        """[n, c, BINS] whether the sensor is present now and was at the bin's end."""
        back = self.spacing * np.arange(BINS - 1, -1, -1)
        was: Bool = views.heard[at[:, None] - back].transpose(0, 2, 1)  # [n, BINS, c] -> [n, c, BINS]
        return was & views.present[at][:, :, None]

    def errors(self, views: Views, at: I64) -> F64:
        """[n, c, BINS] squared, standardised."""
        error = (np.abs(self.gaps(views, at)) / self.rms + FLOOR) ** 2
        return np.where(self.there(views, at), error, 0.0)

    def score(self, views: Views, at: I64) -> F64:
        n = np.maximum(self.there(views, at).sum((1, 2)), 1)
        return np.asarray(self.errors(views, at).sum((1, 2)) / n)

    def shares(self, views: Views, at: int) -> F64:
        error: F64 = self.errors(views, np.array([at]))[0]
        return error


def _fused(views: Views) -> Fused:
    fused = views.sights.fusion
    assert fused is not None  # the detector that has such a part has the network
    return fused
