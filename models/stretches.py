"""Stretches: what is new in each window of tokens, with what comes before it. The form in which tokens are scored.

In: `Scenes` of tokens and how far each entity was scored before. Out: `Stretches`, one per window. Remembers: nothing.

A session's tokens are scored once, however its windows overlap: of every window only the tokens that no earlier window
held are targets, the others are context. The end of a session is a token too, since some are strange by ending early.

    length 6, stride 3      0 1 2 3 4 5
                                  . . . 6 7 8          targets are numbers, context is dots
                                        . . . 9 EOS    ended
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.scenes import F32, F64, I32, I64, Bool, Scenes

BOS, EOS, UNK, FIRST = 0, 1, 2, 3  # begin, end and unknown are in every vocabulary; then come the tokens


@dataclass(frozen=True)
class Stretches:
    """`s` runs of consecutive tokens, end to end: stretch i is `tokens[first[i]:first[i + 1]]`."""

    tokens: I32  # [n] ids
    first: I64  # [s + 1]
    fresh: I64  # [s] index in `tokens` of the stretch's first target; what is before it is context
    begins: Bool  # [s] the first token is the session's first

    def __len__(self) -> int:
        return len(self.fresh)

    @property
    def owner(self) -> I64:
        """The stretch that each token belongs to. [n]"""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @property
    def is_target(self) -> Bool:
        """Which tokens are to be scored. [n]"""
        return np.arange(len(self.tokens)) >= self.fresh[self.owner]

    @property
    def n_targets(self) -> I64:
        """How many targets each stretch has. [s]"""
        return self.first[1:] - self.fresh


def stretches_of(scenes: Scenes, scored: I64, n_ids: int) -> Stretches:
    """One stretch per window. `scored` [w]: how many tokens of its session were scored before and are remembered;
    a window that begins after them, or that they cover wholly, does not continue them and is scored from its start."""
    size = scenes.last - scenes.first
    first = np.concatenate([[0], np.cumsum(size + scenes.ended)])
    tokens = np.full(first[-1], EOS, np.int32)
    value = scenes.value[joined_ranges(scenes.first, scenes.last)]
    known = (value >= FIRST) & (value < n_ids)
    tokens[joined_ranges(first[:-1], first[:-1] + size)] = np.where(known, value, UNK).astype(np.int32)
    context = scored - scenes.position
    context = np.where((context > 0) & (context <= size), context, 0)
    return Stretches(tokens, first, first[:-1] + context, scenes.position == 0)


def joined_ranges(first: I64, last: I64) -> I64:
    """The indices first[0]:last[0], first[1]:last[1], ... in one array.

    >>> joined_ranges(np.array([0, 5]), np.array([2, 8])).tolist()
    [0, 1, 5, 6, 7]
    """
    size = last - first
    ends = np.cumsum(size)
    rows: I64 = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - size), size)
    return rows


def sums(values: F32 | F64, first: I64, last: I64) -> F64:
    """The sum of each run of rows values[first[i]:last[i]] of [n, k]; an empty run gives 0. [s, k]

    >>> sums(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1]), np.array([2, 3])).tolist()
    [[3.0], [6.0]]
    """
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    of_runs: F64 = total[last] - total[first]
    return of_runs
