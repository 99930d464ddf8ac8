"""Parts: the statements a sensors' score is made of, each over the same frames and with its share per sensor.

In: `Views` of frames. Out: per frame one number, and on demand where it comes from. Remembers: nothing.

    several sensors: forecast, distance, residual, reconstruction
    one sensor:      forecast, distance, distance_short, shape      (there is no other sensor to learn from)
    where the recipe asks for them: those of models.fusion_parts

Sensors that are absent take part in nothing: frames are judged in groups that have the same sensors present, each group
by the part seen through those sensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from models import forecast as tcn
from models import reconstruct as ridge
from models.bins import Bins
from models.neighbours import References, nearest, references
from models.patches import PatchShape, patches
from models.scenes import F32, F64, I64, Bool
from models.sights import Sights

SEVERAL = ("forecast", "distance", "residual", "reconstruction")
SINGLE = ("forecast", "distance", "distance_short", "shape")
OF_OTHERS = ("residual", "reconstruction", "fusion_masked")  # need several sensors
OF_ONE = ("distance_short", "shape")  # stand in for them where there is one
NEIGHBOURS = 3
WITNESSES_MAX = 48  # sensors; of more each is charged with its own error only, or an alert takes seconds
LINEAR_MAX = 20.0  # of the linear view: one wild value must not be the only thing seen


@dataclass(frozen=True)
class Views:
    """Frames [f, c] as the parts want them. asinh keeps the small exact and the huge in bounds."""

    squashed: F32  # asinh(z)
    wide: F32  # 3 asinh(z / 3)
    linear: F32  # z, clipped
    table: ridge.Table
    present: Bool  # what parts judge; of scored frames without the sensors that are stuck
    heard: Bool  # whether there is a value, stuck or not
    sights: Sights = field(default_factory=Sights)  # what the networks say; see models.networks


@dataclass(frozen=True)
class Moments:
    """Centre and scale of the training's spreads and slopes, [c] each."""

    std_centre: F64
    std_scale: F64
    slope_centre: F64
    slope_scale: F64


def views(bins: Bins, moments: Moments) -> Views:
    """All views of a call's frames. Several sensors use `squashed` throughout."""
    squashed = np.arcsinh(bins.mean)
    wide = 3 * np.arcsinh(bins.mean / 3)
    present = bins.age >= 0
    std = np.where(present, np.arcsinh((bins.std - moments.std_centre) / moments.std_scale), 0).astype(np.float32)
    slope = np.where(present, np.arcsinh((bins.slope - moments.slope_centre) / moments.slope_scale), 0)
    table = ridge.Table(squashed, std, slope.astype(np.float32))
    return Views(squashed, wide, np.clip(bins.mean, -LINEAR_MAX, LINEAR_MAX), table, present, present)


class Part(Protocol):
    """One statement. Absent sensors have no share; a frame without any sensor scores zero."""

    @property
    def needs(self) -> int:
        """Frames looked back on, its own included. Before an entity has as many the part says nothing."""
        ...

    def score(self, views: Views, at: I64) -> F64:
        """[n], of the frames `at`."""
        ...

    def shares(self, views: Views, at: int) -> F64:
        """[c, k]: what each sensor adds at frame `at`, in k bins of time that end there, in any unit."""
        ...


def settled(present: Bool, at: I64, frames: int) -> Bool:
    """Whether something was known in each of the last `frames` frames up to `at`: then a part can speak. [n]"""
    known = np.concatenate([[0], np.cumsum(present.any(1))])
    return np.asarray(known[at + 1] - known[np.maximum(at + 1 - frames, 0)] == frames)


def patterns(present: Bool) -> Iterator[tuple[Bool, I64]]:
    """Groups of frames with the same sensors present: the pattern [c] and the rows. Rows with none are left out."""
    if present.all():
        yield np.ones(present.shape[1], bool), np.arange(len(present))
        return
    kinds, of = np.unique(present, axis=0, return_inverse=True)
    for kind, pattern in enumerate(kinds):
        if pattern.any():
            yield pattern, np.flatnonzero(of.ravel() == kind)


@dataclass(frozen=True, eq=False)
class ForecastPart:
    """Error of the network's forecast, mean over the sensors present."""

    known: tcn.Forecast
    wide: bool  # which view

    @property
    def needs(self) -> int:
        return tcn.MEMORY + 1

    def frames(self, views: Views) -> F32:
        return views.wide if self.wide else views.squashed

    def errors(self, views: Views, at: I64) -> F32:
        """[n, c] at the frames `at`; zero for the absent."""
        assert views.sights.tcn is not None  # the detector that has this part has the network
        gap = tcn.errors(self.known, self.frames(views)[at], views.sights.tcn.guess[at])
        return np.where(views.present[at], gap, 0).astype(np.float32)

    def score(self, views: Views, at: I64) -> F64:
        n_present = np.maximum(views.present[at].sum(1), 1)
        out: F64 = self.errors(views, at).sum(1, dtype=np.float64) / n_present
        return out

    def shares(self, views: Views, at: int) -> F64:
        gap: F64 = self.errors(views, np.array([at]))[0][:, None].astype(np.float64)
        return gap


@dataclass(frozen=True, eq=False)
class DistancePart:
    """Mean distance of the patch to its nearest training patches."""

    points: F32  # [n, width]
    shape: PatchShape
    view: str

    @property
    def needs(self) -> int:
        return self.shape.frames

    def patches(self, views: Views, at: I64) -> F32:
        return patches(getattr(views, self.view), at, self.shape)

    def score(self, views: Views, at: I64) -> F64:
        out: F64 = self.nearest(views, at).mean(1)
        return out

    def nearest(self, views: Views, at: I64) -> F64:
        """[n, k] distances to the nearest references, through the sensors present; zero where there is none."""
        out, c = np.zeros((len(at), min(NEIGHBOURS, len(self.points)))), self.shape.sensors
        for pattern, rows in patterns(views.present[at]):
            columns = np.repeat(pattern, self.shape.bins)
            refs = _references(self, pattern.tobytes())
            x = self.patches(views, at[rows])
            distance = nearest(refs, x if pattern.all() else x[:, columns], NEIGHBOURS)[0]
            out[rows] = distance * np.sqrt(c / pattern.sum())
        return out

    def shares(self, views: Views, at: int) -> F64:
        x = self.patches(views, np.array([at]))
        pattern = views.present[at]
        if not pattern.any():
            return np.zeros((self.shape.sensors, 1))
        columns = np.repeat(pattern, self.shape.bins)
        closest = nearest(_references(self, pattern.tobytes()), x[:, columns], 1)[1][0, 0]
        gap = np.where(columns, (x[0] - self.points[closest]).astype(np.float64) ** 2, 0)
        return gap.reshape(self.shape.sensors, self.shape.bins)


@lru_cache(maxsize=64)
def _references(part: DistancePart, pattern: bytes) -> References:
    """The reference patches through the sensors present."""
    columns = np.repeat(np.frombuffer(pattern, bool), part.shape.bins)
    return references(part.points[:, columns].astype(np.float64))


@dataclass(frozen=True, eq=False)
class ResidualPart:
    """Squared distance of the patch to the subspace that holds 90 % of the training's variance, per coordinate."""

    known: ridge.Subspace
    shape: PatchShape

    @property
    def needs(self) -> int:
        return self.shape.frames

    def by_coordinate(self, views: Views, at: I64, pattern: Bool) -> F32:
        """[n, width], zero for absent sensors."""
        x = patches(views.squashed, at, self.shape)
        if pattern.all():
            return ridge.residual(self.known, x)
        columns = np.repeat(pattern, self.shape.bins)
        out = np.zeros_like(x)
        out[:, columns] = ridge.residual(_restricted(self, pattern.tobytes()), x[:, columns])
        return out

    def score(self, views: Views, at: I64) -> F64:
        out = np.zeros(len(at))
        for pattern, rows in patterns(views.present[at]):
            square = self.by_coordinate(views, at[rows], pattern)
            out[rows] = square.sum(1, dtype=np.float64) / (pattern.sum() * self.shape.bins)
        return out

    def shares(self, views: Views, at: int) -> F64:
        square = self.by_coordinate(views, np.array([at]), views.present[at])
        return square.reshape(self.shape.sensors, self.shape.bins).astype(np.float64)


def _but(present: Bool, sensor: int) -> Bool:
    return np.asarray(present & (np.arange(len(present)) != sensor), bool)


@lru_cache(maxsize=64)
def _restricted(part: ResidualPart, pattern: bytes) -> ridge.Subspace:
    return ridge.restricted(part.known, np.repeat(np.frombuffer(pattern, bool), part.shape.bins))


@dataclass(frozen=True, eq=False)
class ReconstructionPart:
    """Error of each sensor given all the others present, mean over those."""

    known: ridge.Reconstruction

    @property
    def needs(self) -> int:
        return self.known.inputs.reach + 1

    def errors(self, views: Views, at: I64) -> F32:
        """[n, c] at the frames `at`; zero for the absent."""
        out = np.zeros((len(at), views.present.shape[1]), np.float32)
        for pattern, rows in patterns(views.present[at]):
            out[rows] = ridge.errors(self.known, views.table, at[rows], pattern)
        return out

    def score(self, views: Views, at: I64) -> F64:
        n_present = np.maximum(views.present[at].sum(1), 1)
        out: F64 = self.errors(views, at).sum(1, dtype=np.float64) / n_present
        return out

    def shares(self, views: Views, at: int) -> F64:
        """What the sum of errors loses when a sensor is left out, as witness too: a faulty one spoils the others'."""
        present, where = views.present[at], np.array([at])
        features = ridge.features(views.table, where, self.known.inputs)  # all the same, whoever is left out
        gap: F64 = ridge.errors_of(self.known, features, views.table.mean[where], present)[0].astype(np.float64)
        if len(present) > WITNESSES_MAX:
            return gap[:, None]
        others = np.stack([_but(present, sensor) for sensor in range(len(present))])
        rest = ridge.errors_without(self.known, features, views.table.mean[at], others).sum(1)
        return np.where(present, np.maximum(gap.sum() - rest.astype(np.float64), 0), 0)[:, None]

    def expected(self, views: Views, at: int) -> F32:
        """[c] in the squashed view."""
        out: F32 = ridge.expected(self.known, views.table, np.array([at]), views.present[at])[0]
        return out


# They judge a patch of many frames, which a frame more or less hardly changes, and cost the most.
OF_PATCHES = (DistancePart, ResidualPart)
