"""The slow, obvious twin of models.ngrams: dictionaries of tuples, one token at a time."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from models.stretches import BOS, UNK

Gram = tuple[int, ...]


class NaiveNgrams:
    """Witten-Bell interpolated counts of sessions, each padded with BOS before its first token."""

    def __init__(self, sessions: Sequence[Sequence[int]], n_tokens: int, order: int) -> None:
        self.n_tokens, self.order = n_tokens, order
        self.after: dict[Gram, Counter[int]] = defaultdict(Counter)
        for session in sessions:
            for i, token in enumerate(session):
                for k in range(order):
                    self.after[self.context(session, i, k, BOS)][token] += 1

    def context(self, session: Sequence[int], i: int, k: int, outside: int) -> Gram:
        return tuple(session[j] if j >= 0 else outside for j in range(i - k, i))

    def p(self, context: Gram, token: int) -> float:
        shorter = self.p(context[1:], token) if context else 1 / self.n_tokens
        seen = self.after.get(context)
        if not seen:
            return shorter
        return (seen[token] + len(seen) * shorter) / (seen.total() + len(seen))

    def surprise(self, run: Sequence[int], i: int, begins: bool) -> float:
        """-ln p of the token at i of a run that is a session's beginning, or from within one."""
        return -math.log(self.p(self.context(run, i, self.order - 1, BOS if begins else UNK), run[i]))

    def repeats(self, run: Sequence[int], i: int, fresh: int, begins: bool) -> bool:
        """Whether the n-gram that ends at i ended before at one of the targets, which start at `fresh`."""
        outside = BOS if begins else UNK
        here = (*self.context(run, i, self.order - 1, outside), run[i])
        return any(here == (*self.context(run, j, self.order - 1, outside), run[j]) for j in range(fresh, i))
