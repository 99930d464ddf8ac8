"""Paces: over what spans scores are smoothed, and how soon an entity's own level and references count.

In: what was seen of the training frames. Out: `Pace`, `OwnPace`. Remembers: nothing.
"""

from __future__ import annotations

import numpy as np

from models.levels import Pace
from models.own_references import OwnPace
from models.scenes import F64
from models.sensors import Fitted
from training.folds import ENTITIES_MIN
from training.frames import Frames

OWN_WAITING = 32  # of an entity's own references wait for their lag to pass
OWN_BYTES, OWN_MAX = 400_000, 500  # of those that are seen, per entity


def pace_of(ratio: F64, frames: Frames) -> Pace:
    """Spans by what each part looks back on; the level's time and delay by how long entities are watched.

    Of many entities each has a level of its own, to be learned soon; a single one's was learned here and drifts slowly.
    """
    look, single = frames.look, frames.single
    n_entities = len(np.unique(frames.entity))
    length = float(np.median(np.bincount(frames.entity)[np.unique(frames.entity)]))
    many = n_entities >= ENTITIES_MIN
    times = (max(10.0, 0.7 * length), int(0.7 * length / 12)) if many else (max(10.0, length), int(length / 2))
    own = {"distance": look.long / 8, "distance_short": look.short / 4, "shape": look.short / 8}
    spans = [own.get(name, look.long / 2) if single else look.long / 4 for name in frames.part_names]
    span = np.maximum(spans, 1.0) if frames.recipe.smoothing else np.ones(len(spans))
    return Pace(span, *times, np.maximum(np.nanmean(ratio, axis=0), 1e-6))


def own_pace(fitted: Fitted, frames: Frames) -> OwnPace | None:
    """Own references join after as long as was trained on, for a single series after two patches: it changes sooner."""
    widths = [part.shape.width for part in fitted.distances.values()]
    if frames.recipe.references == "frozen" or not widths:
        return None
    length = np.median(np.bincount(frames.entity)[np.unique(frames.entity)])
    lag = int(2 * frames.look.long if frames.single else max(length, 2 * frames.look.long))
    return OwnPace(lag, max(1, lag // OWN_WAITING), int(np.clip(OWN_BYTES // (4 * sum(widths)), 16, OWN_MAX)))
