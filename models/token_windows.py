"""Token windows: from the values of single tokens to means per window, each token counted in every window it is in.

In: values per target, and what each entity remembers. Out: means per window, and what each entity remembers now.
Remembers: nothing; the caller keeps the rows.

An entity's values lie in one run: first those remembered, then those of its targets. Since every token is scored once
and in order, the values of a window are the run's rows that end with the window's last target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scenes import F32, F64, I64, Scenes
from models.stretches import Stretches, joined_ranges, sums

Row = NDArray[np.void]


def nothing_remembered(n_tokens: int, n_parts: int) -> Row:
    """The row of an entity never seen, [1]: no token scored; room for the values of as many as two windows share."""
    return np.zeros(1, [("scored", np.int64), ("values", np.float32, (n_tokens, n_parts))])


def scored_before(scenes: Scenes, carry: Row) -> I64:
    """How many tokens of its session were scored before each window; 0 where it needs more than is remembered. [w]"""
    entity = np.unique(scenes.entity, return_inverse=True)[1]
    end = scenes.position + scenes.last - scenes.first
    follows = np.diff(entity, prepend=-1) == 0
    scored = np.where(follows, np.roll(end, 1), carry["scored"][entity])
    kept = carry.dtype["values"].shape[0]
    return np.where((scenes.position > 0) & (scored - scenes.position <= kept), scored, 0)


@dataclass(frozen=True)
class WindowValues:
    """The values of the tokens of `w` windows. Those of window i are `values[last[i] - size[i] : last[i]]`."""

    values: F32  # [n, part]
    last: I64  # [w]
    size: I64  # [w] tokens, and one for the end of a session
    entity_last: I64  # [e] where each entity's run ends

    def means(self, ordinary: F64, n_ordinary: int) -> F64:
        """The mean of each window, as if so many ordinary tokens were in it too. [w, part]"""
        total = sums(self.values, self.last - self.size, self.last)
        return (total + n_ordinary * ordinary) / (self.size + n_ordinary)[:, None]

    def of(self, window: int) -> F32:
        """[size of the window, part]"""
        return self.values[self.last[window] - self.size[window] : self.last[window]]


def window_values(scenes: Scenes, stretches: Stretches, targets: F32, carry: Row) -> WindowValues:
    """`targets` [t, part] in the order of Stretches.is_target; `carry` [e] in the order of np.unique(scenes.entity)."""
    entity = np.unique(scenes.entity, return_inverse=True)[1]
    kept, parts = carry.dtype["values"].shape
    n_targets = stretches.n_targets
    n_of_entity = np.bincount(entity, n_targets, len(carry)).astype(np.int64)
    entity_last = np.cumsum(n_of_entity + kept)
    values = np.empty((len(targets) + kept * len(carry), parts), np.float32)
    values[joined_ranges(entity_last - n_of_entity, entity_last)] = targets
    values[joined_ranges(entity_last - n_of_entity - kept, entity_last - n_of_entity)] = carry["values"].reshape(
        -1, parts
    )
    last = np.cumsum(n_targets) + kept * (entity + 1)
    return WindowValues(values, last, np.diff(stretches.first), entity_last)


def remembered(scenes: Scenes, windows: WindowValues, carry: Row) -> Row:
    """What each entity remembers after its last window: after the end of a session, nothing that can be continued."""
    rows = carry.copy()
    latest = np.flatnonzero(np.diff(scenes.entity, append=scenes.entity[-1:] + 1))
    end = scenes.position + scenes.last - scenes.first
    rows["scored"] = np.where(scenes.ended, 0, end)[latest]
    kept = carry.dtype["values"].shape[0]
    rows["values"] = windows.values[windows.entity_last[:, None] - kept + np.arange(kept)]
    return rows
