"""What the windows stage keeps of an entity, and what it gives: shared by windows of time and of tokens.

In: nothing. Out: the layout of the row, and `Closed`. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from models.scenes import I32, I64, Scenes, no_scenes, select
from stream_app.keys import Keys, Row
from stream_app.windows.segments import NEVER, distinct, starts_of

STAGE = "windows"
INGEST = np.array(
    [(NEVER, NEVER, -NEVER, 0, 0, -1, -1)],
    dtype=[
        ("max_t_us", np.int64),  # largest event time accepted
        ("closed_until_us", np.int64),  # all windows that end at or before it are closed; never falls
        ("clock_us", np.int64),  # the partition's clock at the last record; far ahead before the first: never idle
        ("ordinal", np.int64),  # tokens: ordinal of the session's first window
        ("position", np.int64),  # tokens: index of the session's next token
        ("last_seq", np.int64),  # tokens: largest `seq` in the session
        ("ended_at", np.int64),  # offset of the tombstone
    ],
)


@dataclass(frozen=True)
class Closed:
    """What closed with a batch. Each sample has one outcome, reported once: late, duplicate or scored.

    The ordinal of a window is derived from where it begins, not counted, so that it is the same when windows are
    rebuilt from a later offset. It is not below 0 and grows with each window of an entity, by more than 1 over a gap.
    """

    shown: Callable[[], Scenes]  # see `scenes`
    ordinal: I64  # [w]
    block: I32  # [w] of the entity in this call; 0 unless a sample came after some, not all, of its windows had closed.
    # Each block has its rows for itself (the late-comer is in the later windows only); see `rounds`
    late: I64  # offsets of the records, one entry per sample, as in the next two
    duplicate: I64
    scored: I64  # in the first window that holds them
    touched: I32  # slots whose row changed, ascending
    before: Row  # their rows before this call
    ended: I32  # slots whose session is over by a tombstone; nothing is pending
    idle: I32  # slots closed because nothing came; nothing is pending, they may leave memory
    forced: I32  # slots closed because a limit was reached; as `idle`
    n_open: int  # samples that have no outcome yet

    @classmethod
    def of(cls, cuts: Cuts, change: Change, causes: Causes, n_open: int) -> Closed:
        return cls(
            shown=cuts.shown,
            ordinal=cuts.ordinal,
            block=cuts.block,
            late=cuts.late,
            duplicate=cuts.duplicate,
            scored=cuts.scored,
            touched=change.slots,
            before=change.before,
            ended=causes.ended,
            idle=causes.idle,
            forced=causes.forced,
            n_open=n_open,
        )

    @cached_property
    def scenes(self) -> Scenes:
        """The windows; see `block`. To be asked for before the stage's next call: until then their samples lie in the
        store, and are copied only if somebody wants them."""
        return self.shown()


def _nobody() -> I32:
    return np.empty(0, np.int32)


def _none() -> I64:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Cuts:
    """The windows cut in one call, and its samples' outcomes. Without arguments: none."""

    shown: Callable[[], Scenes] = no_scenes
    ordinal: I64 = field(default_factory=_none)
    block: I32 = field(default_factory=_nobody)
    scored: I64 = field(default_factory=_none)  # offsets
    duplicate: I64 = field(default_factory=_none)  # offsets of resends
    late: I64 = field(default_factory=_none)  # offsets of samples that came when all their windows had closed


@dataclass(frozen=True)
class Causes:
    """Slots that something other than their own samples closed."""

    ended: I32 = field(default_factory=_nobody)
    idle: I32 = field(default_factory=_nobody)
    forced: I32 = field(default_factory=_nobody)
    shut: I64 = field(default_factory=_none)  # windows of time: of `ended`, the last shut before
    open_end: bool = False  # the end of a file is not the end of its sessions

    def done(self, pending: Callable[[I32], I64]) -> Causes:
        """Without the slots closed of which samples are `pending` (how many, per slot)."""
        return replace(self, idle=self.idle[pending(self.idle) == 0], forced=self.forced[pending(self.forced) == 0])


class Change:
    """The slots a call changes and their rows before it."""

    def __init__(self, keys: Keys, slots: I32) -> None:
        self._keys = keys
        self.slots, self.before = slots, keys[STAGE].take(slots)  # `take`: numpy indexes rows 10 times slower

    @classmethod
    def of(cls, keys: Keys, ascending: I32, *others: I32) -> Change:
        """Of distinct slots in order, and any others."""
        more = [slots for slots in others if len(slots)]
        return cls(keys, distinct(ascending, *more) if more else ascending)

    @classmethod
    def begin(cls, keys: Keys, ascending: I32, others: I32 | None = None) -> Change:
        """Of the slots in a sorted column, and others."""
        slots = ascending[starts_of(ascending)]
        return cls(keys, np.union1d(slots, others) if others is not None and len(others) else slots)

    def touch(self, slots: I32) -> None:
        """Adds slots whose rows have not been changed yet."""
        new = np.setdiff1d(slots, self.slots, assume_unique=True) if len(slots) else slots
        if len(new):
            order = np.argsort(together := np.concatenate([self.slots, new]))
            self.slots, self.before = together[order], np.concatenate([self.before, self._keys[STAGE].take(new)])[order]


def rounds(closed: Closed) -> Iterator[tuple[Scenes, I64]]:
    """The scenes and ordinals in parts in which each entity has one block of rows; almost always one part."""
    n_blocks = int(closed.block.max(initial=-1)) + 1
    if n_blocks <= 1:
        yield closed.scenes, closed.ordinal
        return
    for block in range(n_blocks):
        at = np.flatnonzero(closed.block == block)
        yield select(closed.scenes, at), closed.ordinal[at]
