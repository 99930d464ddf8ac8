"""Stuck: sensors that stand still for longer than is usual with them, and have had their say. They are absent.

In: frames, and for how many each sensor of each entity has stood. Out: which are left out at which scored frame.
Remembers: that number and how much the sensor contradicted the others meanwhile; 8 bytes per sensor.

A sensor that stands still contradicts the others for as long as they move, and hides what else happens. So it is raised
once: when it has stood for longer than its limit, RAISED frames of contradiction count like any other anomaly. Then it
tells nothing new, and what is left is judged without it until it moves. It is a fault of few: of many sensors that
stand still together, since they tell of the entity, none is left out.

    value        7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 6
                   |- limit -|
    contradicts                  ! ! . . !
    left out     . . . . . . . . . . . . . x x x . .       with RAISED = 2

What is usual: 99 of 100 times that it stood in training. The longest time would say less: of a night, of a gap that was
filled. On six servers (asd) .93 of the quality is left beside one stuck sensor, .88 with the longest time, .58 where it
is judged on; nothing changes where none is stuck.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.bins import Bins
from models.scenes import F64, I32, I64, Bool

FRAMES_MIN = 8  # of a limit: with RAISED an alert has time to open; with 4 to 24 as many stuck sensors are raised
USUAL = 0.99  # quantile of the times that a sensor stood
RAISED = 8  # frames of full contradiction that are judged: fewer leave more quality and raise fewer of those that stick
UNITS = 1_000  # of loudness, in an entity's row: whole numbers have the same sum in every call
LARGE = 0.1  # part of training
ROUNDING = 1e-6  # of a spread, in units of the value: what sums of squares leave of a constant
FEW = 4  # of the sensors present one in so many is left out at most, or one: those that have stood longest
STILL, SAID = "still", "said"  # fields of an entity's row


def layout(sensors: int) -> list[tuple[str, type, tuple[int, ...]]]:
    """Fields of an entity's row."""
    return [(name, np.int32, (sensors,)) for name in (STILL, SAID)]


def limits(seen: Bins, known: I32 | None = None) -> I32:
    """For how many frames each sensor may stand still, by those of training; 0: for ever. [c]

    That is, longer than it stood in USUAL of the cases that ended with a move. For ever: a sensor that never moved or
    stood still for a large part of training, which then says little of how long it may; and a single one, without which
    nothing is left to judge.
    known: the limits of the first sensors in the bundle that is followed, which training saw more than these frames.
    """
    kinds, owner = np.unique(seen.entity(), return_inverse=True)
    moves, c = _moves(seen), seen.mean.shape[1]
    still = _stands(moves, owner, np.zeros((len(kinds), c), np.int32))
    shown = moves & (seen.age[seen.scored] >= 0) & (seen.age[seen.scored - 1] >= 0)
    least = np.full(c, FRAMES_MIN)
    if known is not None:
        least[: len(known)] = np.maximum(known, FRAMES_MIN)
    often = shown.any(0) & (c > 1) & (still.max(0, initial=0) <= LARGE * len(still))
    longer: I64 = np.maximum(_usual(still, shown, owner), least)
    return np.where(often, longer, 0).astype(np.int32)


def stuck(seen: Bins, of: tuple[I64, NDArray[np.void]], limit: I32, loudness: Callable[[I64], F64]) -> Bool:
    """Which sensors have had their say at each scored frame; brings the rows up to date. [n, c]

    of: the row of each scored frame's entity, ascending [n], and the rows. loudness: of rows among the scored frames
    [k], how much each sensor contradicts the others, 0 to 1 [k, c].
    """
    owner, rows = of
    still = _stands(_moves(seen), owner, rows[STILL])
    present = seen.age[seen.scored] >= 0
    over = present & (limit > 0) & (still > limit)
    at = np.flatnonzero(over.any(1))
    loud = np.zeros(over.shape, np.int64)
    if len(at):
        loud[at] = np.where(over[at], UNITS * loudness(at), 0)
    said = _since(loud, still, owner, rows[SAID])
    ends = np.flatnonzero(np.diff(owner, append=-1))
    rows[STILL][owner[ends]], rows[SAID][owner[ends]] = still[ends], said[ends]
    stood = np.where(over & (said > RAISED * UNITS), still, 0)
    few = np.minimum(np.maximum(1, present.sum(1) // FEW), stood.shape[1] - 1)
    next_to = np.sort(stood, axis=1)[np.arange(len(stood)), -1 - few] if len(at) else np.zeros(len(stood))
    found: Bool = stood > next_to[:, None]
    return found


def _usual(still: I32, shown: Bool, owner: I64) -> I64:
    """The USUAL quantile of how long each sensor stood before a move was shown; 0: it never stood. [c]"""
    ended = (still[:-1] > 0) & shown[1:] & (np.diff(owner) == 0)[:, None]
    times = [still[:-1, sensor][ended[:, sensor]] for sensor in range(still.shape[1])]  # in training, once per sensor
    return np.array([np.quantile(t, USUAL, method="higher") if len(t) else 0 for t in times], np.int64)


def _moves(seen: Bins) -> Bool:
    """Whether a sensor shows another value than one frame before, or was absent at one of the two. [n, c]"""
    at = seen.scored
    here, before = seen.mean[at], seen.mean[at - 1]
    same = (here == before) & (seen.age[at] >= 0) & (seen.age[at - 1] >= 0)
    moves: Bool = ~same | (seen.std[at] > ROUNDING * (1 + np.abs(here)))
    return moves


def _stands(moves: Bool, owner: I64, before: I32) -> I32:
    """For how many frames each sensor has stood still at each; before [e, c]: at the frame before each entity's first.

    Stops counting where an int32 ends.
    """
    at = np.arange(len(moves))[:, None]
    latest = np.maximum.accumulate(np.where(moves, at, -1), axis=0)
    first = np.searchsorted(owner, owner)[:, None]
    out = np.where(latest >= first, at - latest, at - first + 1 + before[owner].astype(np.int64))
    return np.minimum(out, np.iinfo(np.int32).max).astype(np.int32)


def _since(loud: I64, still: I32, owner: I64, before: I32) -> I32:
    """The sum of what was loud since each sensor stands still; before [e, c]: as of `_stands`. [n, c]"""
    total = np.concatenate([np.zeros((1, loud.shape[1]), np.int64), np.cumsum(loud, axis=0)])
    at, first = np.arange(len(loud))[:, None], np.searchsorted(owner, owner)[:, None]
    begun = at - still.astype(np.int64) + 1  # the first frame that showed what the one before it did
    here = total[1:] - np.take_along_axis(total, np.maximum(begun, first), axis=0)
    out: I64 = here + np.where(begun < first, before[owner].astype(np.int64), 0)
    return np.minimum(out, np.iinfo(np.int32).max).astype(np.int32)
