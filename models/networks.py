"""Networks: those that a detector has, run once per call over all its frames.

In: `Views` of frames. Out: the same with their `Sights`. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models import forecast as tcn
from models.parts import Views
from models.reconstruct import Table
from models.scenes import F32, I64, Bool
from models.sights import Forecasted, Sights, at_frames, inputs

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
    return replace(views, sights=_told(networks, views, runs))


def apart(networks: Networks, views: Views, out: Bool, runs: tuple[I64, I64]) -> Views:
    """The views in which some sensors take part in nothing at some of the scored frames.

    out [f, c]: which, and where. runs: as of `seen_by`. What networks say of such a frame is what they say where those
    sensors never sent anything: so it is the same in every call.
    """
    at = np.flatnonzero(out.any(1))
    if not len(at):
        return views
    sights = views.sights
    kinds, of = np.unique(out[at], axis=0, return_inverse=True)
    for kind, pattern in enumerate(kinds):  # once per set of sensors apart; there are few
        mine = at[of.ravel() == kind]
        near = np.unique(np.searchsorted(runs[1], mine, side="right"))
        sights = at_frames(sights, mine, _told(networks, _blind(views, pattern), (runs[0][near], runs[1][near])))
    return replace(views, sights=sights, present=views.present & ~out)


def _blind(views: Views, pattern: Bool) -> Views:
    """As if the sensors of a pattern [c] had never sent anything."""
    table = (
        np.where(pattern, np.float32(0), column) for column in (views.table.mean, views.table.std, views.table.slope)
    )
    squashed, wide = (np.where(pattern, np.float32(0), view) for view in (views.squashed, views.wide))
    return replace(views, squashed=squashed, wide=wide, table=Table(*table), present=views.present & ~pattern)


def _told(networks: Networks, views: Views, runs: tuple[I64, I64] | None) -> Sights:
    fused = None
    if networks.fusion is not None:
        from models.fusion import run  # loads torch

        table = views.table
        fused = run(networks.fusion, inputs((table.mean, table.std, table.slope), views.present), runs)
    return Sights(_forecasted(networks, views, runs), fused)


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
