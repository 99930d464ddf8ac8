"""Networks: those that a detector has, run once per call over all its frames.

In: `Views` of frames. Out: the same with their `Sights`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models import forecast as tcn
from models.parts import Views
from models.scenes import F32
from models.sights import Forecasted, Sights, inputs

if TYPE_CHECKING:
    from models.fusion import Fusion


@dataclass(frozen=True, eq=False)
class Networks:
    """None: the recipe has no use for it. wide: which view the forecasting network reads."""

    tcn: tcn.Forecast | None
    wide: bool
    fusion: Fusion | None = None


def seen_by(networks: Networks, views: Views) -> Views:
    """The views with what the networks say of them. Frames whose context is another's are not to be used."""
    fused = None
    if networks.fusion is not None:
        from models.fusion import run  # loads torch

        table = views.table
        fused = run(networks.fusion, inputs((table.mean, table.std, table.slope), views.present))
    return replace(views, sights=Sights(_forecasted(networks, views), fused))


def _forecasted(networks: Networks, views: Views) -> Forecasted | None:
    if networks.tcn is None:
        return None
    frames = views.wide if networks.wide else views.squashed
    guess, code = tcn.run(networks.tcn, frames)
    out = Forecasted(np.zeros_like(frames), np.zeros((len(frames), tcn.CODE), np.float32))
    out.guess[len(frames) - len(guess) :], out.code[len(frames) - len(guess) :] = guess, code
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
