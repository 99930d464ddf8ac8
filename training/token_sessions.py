"""Sessions of tokens: training data numbered by frequency, cut into pieces where sessions are few, and their windows.

In: `Dataset`. Out: `Sessions`, and the `Scenes` and `Stretches` of them. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from models.detector import WindowSpec
from models.scenes import I32, I64, Bool, Scenes
from models.stretches import EOS, FIRST, Stretches, joined_ranges
from stream_app.intervals import Interval, overlapping
from stream_app.windows.counted import Counts
from training.dataset import Dataset

FEWEST = 9  # sessions; below it they are cut, so that each of three folds has three pieces at least
PIECES = 30
PIECE_WINDOWS = 2  # a piece holds at least so many windows' lengths


@dataclass(frozen=True)
class Sessions:
    """`s` runs of tokens: whole sessions, or pieces of them. Session i is rows first[i]:first[i + 1]."""

    tokens: I32  # [n] ids, the most frequent token first
    t_us: I64  # [n]
    first: I64  # [s + 1]
    position: I64  # [s] of the first token in its session; 0 unless a piece
    ends: Bool  # [s] the session's end is the run's end

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def size(self) -> I64:
        return np.diff(self.first)

    def at(self, which: I64) -> Sessions:
        """Some of them, in the order given."""
        size = self.size[which]
        rows = joined_ranges(self.first[which], self.first[which] + size)
        first = np.concatenate([[0], np.cumsum(size)])
        return Sessions(self.tokens[rows], self.t_us[rows], first, self.position[which], self.ends[which])

    def shortened(self, n_tokens: int) -> Sessions:
        """The first so many tokens of each; those that are cut do not end."""
        size = np.minimum(self.size, n_tokens)
        rows = joined_ranges(self.first[:-1], self.first[:-1] + size)
        first = np.concatenate([[0], np.cumsum(size)])
        return Sessions(self.tokens[rows], self.t_us[rows], first, self.position, self.ends & (size == self.size))

    def thinned(self, n_tokens: int, rng: np.random.Generator) -> Sessions:
        """Random ones, in their order, of at most so many tokens together, but at least one."""
        order = rng.permutation(len(self))
        n = max(1, int(np.searchsorted(np.cumsum(self.size[order]), n_tokens, side="right")))
        return self.at(np.sort(order[:n]))


def joined(one: Sessions, other: Sessions) -> Sessions:
    """Those of both."""
    columns = {f.name: np.concatenate([getattr(one, f.name), getattr(other, f.name)]) for f in fields(Sessions)}
    return Sessions(**columns | {"first": np.concatenate([one.first, one.first[-1] + other.first[1:]])})


def by_frequency(data: Dataset) -> tuple[dict[str, int], I64]:
    """The vocabulary, the most frequent token first, then by name; and how often each id came. [vocabulary + 3]"""
    ids = data.value.astype(np.int64)
    counts = np.bincount(ids, minlength=max(data.vocabulary.values(), default=0) + 1)
    words = sorted(data.vocabulary, key=lambda word: (-counts[data.vocabulary[word]], word))
    vocabulary = {word: FIRST + i for i, word in enumerate(words)}
    return vocabulary, np.concatenate([np.zeros(FIRST, np.int64), counts[[data.vocabulary[w] for w in words]]])


def sessions_of(data: Dataset, vocabulary: dict[str, int], spec: WindowSpec) -> Sessions:
    """Every entity is one session that ends with its last token. Fewer than FEWEST are cut into about PIECES pieces."""
    renumber = np.zeros(max(data.vocabulary.values(), default=0) + 1, np.int32)
    renumber[[data.vocabulary[word] for word in vocabulary]] = list(vocabulary.values())
    bounds = data.bounds()
    size = np.diff(bounds)
    n_pieces = np.ones(len(size), np.int64)
    if len(size) < FEWEST:
        n_pieces = np.maximum(1, size // max(PIECE_WINDOWS * spec.length_tokens, -(-len(data) // PIECES)))
    whole = np.repeat(np.arange(len(size)), n_pieces)
    nth = np.arange(len(whole)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    position = nth * size[whole] // n_pieces[whole]
    first = np.concatenate([bounds[whole] + position, bounds[-1:]])
    ids: I32 = renumber[data.value.astype(np.int64)]
    return Sessions(ids, data.t_us, first, position, nth == n_pieces[whole] - 1)


def apart(sessions: Sessions, data: Dataset, without: Sequence[Interval]) -> tuple[Sessions, dict[str, int]]:
    """The sessions, or pieces of them, that overlap none of the intervals, and how many do, by reason.

    Raises ValueError where none is left.
    """
    first, last = sessions.first[:-1], sessions.first[1:] - 1
    found = overlapping(without, data.entity[first], data.entities, (sessions.t_us[first], sessions.t_us[last] + 1))
    keep = np.ones(len(sessions), bool)
    for rows in found.values():
        keep[rows] = False
    counts = {why: len(rows) for why, rows in found.items()}
    if not keep.any():
        raise ValueError(f"all {len(sessions)} sessions are left out: {counts}")
    return sessions if not counts else sessions.at(np.flatnonzero(keep)), counts


def runs(sessions: Sessions) -> Stretches:
    """Every token a target, and the end of those that end."""
    size = sessions.size + sessions.ends
    first = np.concatenate([[0], np.cumsum(size)])
    tokens = np.full(first[-1], EOS, np.int32)
    tokens[joined_ranges(first[:-1], first[:-1] + sessions.size)] = sessions.tokens
    return Stretches(tokens, first, first[:-1], sessions.position == 0)


def windows_of(sessions: Sessions, spec: WindowSpec) -> Scenes:
    """The windows that the stream would close for these sessions, session i as entity i."""
    counts = Counts(spec.length_tokens, spec.stride_tokens)
    n = counts.all(sessions.size)
    entity = np.repeat(np.arange(len(sessions), dtype=np.int32), n)
    start = joined_ranges(np.zeros(len(n), np.int64), n) * spec.stride_tokens
    end = np.minimum(start + spec.length_tokens, sessions.size[entity])
    ended = sessions.ends[entity] & (start + spec.length_tokens > sessions.size[entity])
    first, last = sessions.first[entity] + start, sessions.first[entity] + end
    none = np.full(len(entity), -1, np.int64)
    return Scenes(
        entity, sessions.t_us[first], sessions.t_us[last - 1], sessions.position[entity] + start, first, last,
        none, none, ended, np.zeros(len(sessions.tokens), np.int32), sessions.t_us, sessions.tokens.astype(np.float64),
    )  # fmt: skip
