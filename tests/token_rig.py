"""Sessions of a tiny grammar, as training data and as windows cut one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from models.detector import WindowSpec
from models.scenes import Scenes
from models.stretches import UNK
from training.dataset import Dataset

Session = Sequence[str]


def grammatical(rng: np.random.Generator, n: int) -> list[str]:
    """open, then read and write in pairs or a seek, close; over and over, to about n tokens and the end of a round."""
    words: list[str] = []
    while len(words) < n:
        middle = [["read", "write"], ["read", "read", "write"], ["seek"]][rng.integers(3)]
        words += ["open", *middle, *middle, "close"]
    return words


def dataset(sessions: Sequence[Session]) -> Dataset:
    """Session i is the entity e<i>, a token a millisecond."""
    vocabulary = {word: 3 + i for i, word in enumerate(sorted({w for s in sessions for w in s}))}
    entity = np.repeat(np.arange(len(sessions), dtype=np.int32), [len(s) for s in sessions])
    value = np.array([vocabulary[w] for s in sessions for w in s], np.float64)
    names = tuple(f"e{i}" for i in range(len(sessions)))
    nothing = np.zeros(len(value), np.int32)
    return Dataset("tokens", names, ("token",), vocabulary, entity, nothing, 1000 * np.arange(len(value)), value)


def scenes(sessions: Sequence[Session], vocabulary: dict[str, int], spec: WindowSpec, ended: bool = True) -> Scenes:
    """All windows of each session, cut as DESIGN says: [j*stride, j*stride + length), and at the end what is left."""
    rows: list[tuple[int, int, int, bool]] = []
    start = 0
    for entity, session in enumerate(sessions):
        at = 0
        while at + spec.length_tokens <= len(session):
            rows.append((entity, at, spec.length_tokens, False))
            at += spec.stride_tokens
        if at < len(session) and ended:
            rows.append((entity, at, len(session) - at, True))
        start += len(session)
    base = np.cumsum([0, *(len(s) for s in sessions)])
    entity = np.array([r[0] for r in rows], np.int32)
    position = np.array([r[1] for r in rows], np.int64)
    first = base[entity] + position
    last = first + np.array([r[2] for r in rows], np.int64)
    value = np.array([vocabulary.get(w, UNK) for s in sessions for w in s], np.float64)
    t_us, none = 1000 * np.arange(len(value)), np.full(len(rows), -1, np.int64)
    over = np.array([r[3] for r in rows], bool)
    sensor = np.zeros(len(value), np.int32)
    return Scenes(entity, t_us[first], t_us[last - 1], position, first, last, none, none, over, sensor, t_us, value)


def some(windows: Scenes, which: np.ndarray) -> Scenes:
    """Some of the windows, with only the samples that they hold: as if the others were in another call."""
    names = [f.name for f in fields(Scenes) if f.name not in ("sensor", "t_us", "value")]
    part = replace(windows, **{name: getattr(windows, name)[which] for name in names})
    held = np.zeros(len(windows.value), bool)
    for a, b in zip(part.first, part.last, strict=True):
        held[a:b] = True
    place = np.cumsum(held) - 1
    cut = {name: getattr(windows, name)[held] for name in ("sensor", "t_us", "value")}
    return replace(part, first=place[part.first], last=place[part.last - 1] + 1, **cut)
