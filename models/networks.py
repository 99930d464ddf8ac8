"""Networks: those that a detector has, run once per call over all its frames.

In: `Views` of frames. Out: the same with their `Sights`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models import forecast as tcn
from models.parts import Views
from models.scenes import F32, I64
from models.sights import Forecasted, Sights, inputs

if TYPE_CHECKING:
    from models.fusion import Fusion


@dataclass(frozen=True, eq=False)
class Networks:
    """None: the recipe has no use for it. wide: which view the forecasting network reads."""

    tcn: tcn.Forecast | None
    wide: bool
    fusion: Fusion | None = None


def seen_by(networks: Networks, views: Views, runs: tuple[I64, I64] | None = None) -> Views:
    """The views with what the networks say of them. Frames whose context is another's are not to be used.

    runs: first rows and ends of the runs of frames to be scored, whose context lies before them; None: every frame's.
    """
    fused = None
    if networks.fusion is not None:
        from models.fusion import run  # loads torch

        table = views.table
        fused = run(networks.fusion, inputs((table.mean, table.std, table.slope), views.present), runs)
    return replace(views, sights=Sights(_forecasted(networks, views, runs), fused))


def _forecasted(networks: Networks, views: Views, runs: tuple[I64, I64] | None) -> Forecasted | None:
    if networks.tcn is None:
        return None
    frames = views.wide if networks.wide else views.squashed
    out = Forecasted(np.zeros_like(frames), np.zeros((len(frames), tcn.CODE), np.float32))
    first, end = runs or (np.array([tcn.MEMORY]), np.array([len(frames)]))
    lengths = end - first + tcn.MEMORY
    for length in np.unique(lengths[end > first]):  # in a stream nearly all runs are of one length
        rows = (end - length)[lengths == length][:, None] + np.arange(length)
        out.guess[rows[:, tcn.MEMORY :]], out.code[rows[:, tcn.MEMORY :]] = tcn.run(networks.tcn, frames[rows])
    return out


def code_of(encoder: str, views: Views) -> F32:
    """The code that the embedding takes up, at every frame. [f, width]; width zero: no encoder."""
    sights = views.sights
    if encoder == "fusion":
        assert sights.fusion is not None
        return sights.fusion.code
    if encoder == "tcn":
        assert sights.tcn is not None
        return sights.tcn.code
    return np.zeros((len(views.present), 0), np.float32)
