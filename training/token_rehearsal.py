"""Rehearsal for tokens: sessions of what a bundle was trained on, kept in it, so that what follows it does not forget.

In: the training sessions, or a bundle's arrays. Out: a bounded sample, and what a fit goes on from. Remembers: nothing.
Experience replay, as `training.rehearsal` does it for sensors; `models.token_bundle` has the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.scenes import I64
from models.stretches import FIRST
from models.tokens import TokenDetector
from training.token_sessions import Sessions

TOKENS_MAX = 20_000  # 80 kB; the networks see some 30,000 in their fewest steps
VISIT = 512  # tokens of a session: what one visit of the networks' training takes
_COLUMNS = ("tokens", "first", "position", "ends")


@dataclass(frozen=True)
class Start:
    """What is gone on from. `sample`: of what it was trained on, in the ids of its vocabulary."""

    detector: TokenDetector
    sample: Sessions

    def numbered(self, vocabulary: Mapping[str, int], counts: I64) -> tuple[dict[str, int], I64]:
        """As `by_frequency`, but with every token that is known under the id that it has; new ones come behind."""
        words = list(dict.fromkeys([*self.detector.vocabulary, *vocabulary]))
        both = {word: FIRST + i for i, word in enumerate(words)}
        there = np.bincount(self.sample.tokens, minlength=FIRST + len(words))
        np.add.at(there, [both[word] for word in vocabulary], counts[list(vocabulary.values())])
        there[FIRST:] = np.maximum(1, there[FIRST:])  # seen once, if not in the sample
        return both, there


def sample_of(sessions: Sessions, rng: np.random.Generator) -> Sessions:
    """Beginnings of random sessions."""
    return sessions.shortened(VISIT).thinned(TOKENS_MAX, rng)


def arrays_of(sample: Sessions) -> dict[str, NDArray[Any]]:
    """What a bundle stores."""
    return {f"sample/{name}": getattr(sample, name) for name in _COLUMNS} | {
        "sample/ends": sample.ends.astype(np.int64)
    }


def stored(arrays: Mapping[str, NDArray[Any]]) -> Sessions | None:
    """The sample that a bundle carries; None for one that was made without."""
    if "sample/tokens" not in arrays:
        return None
    tokens, first, position, ends = (arrays[f"sample/{name}"] for name in _COLUMNS)
    return Sessions(tokens, np.zeros(len(tokens), np.int64), first, position, ends.astype(bool))
