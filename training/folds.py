"""Folds: which frames judge and which teach, so that normal scores are those of frames not learned from.

In: entities and frames. Out: pairs of index arrays. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from models.scenes import I64

FOLDS = 4
ENTITIES_MIN = 4  # from here on whole entities are held out: the next entity is what matters


def folds(entity: I64, embargo: int) -> Iterator[tuple[I64, I64]]:
    """(learn, judge) indices of frames in order of (entity, time). Few entities: blocks of time, an embargo around."""
    n = len(entity)
    kinds = np.unique(entity)
    if len(kinds) >= ENTITIES_MIN:
        fold = np.searchsorted(kinds, entity) % FOLDS
        for k in range(FOLDS):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        return
    edges = np.linspace(0, n, FOLDS + 1).astype(int)
    at = np.arange(n)
    for begin, end in pairwise(edges):
        yield np.flatnonzero((at < begin - embargo) | (at >= end + embargo)), at[begin:end]
