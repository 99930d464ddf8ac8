"""What tests of the threshold share: the stage over numbered entities, and scores of every nasty kind."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from stream_app.keys import Keys
from stream_app.threshold.judgement import Judged
from stream_app.threshold.stage import STAGE, Threshold, initial


class Stage:
    """The stage and its entities, numbered 0, 1, ..."""

    def __init__(self, n_entities: int = 1, risk: float = 1e-2, tail: dict | None = None) -> None:
        self.keys = Keys({STAGE: initial(tail or {}, risk)})
        self.slots = self.keys.slots([str(i).encode() for i in range(n_entities)])
        self.threshold = Threshold(risk, self.keys, tail)

    def update(self, entity: np.ndarray, scores: np.ndarray, feeds: np.ndarray | None = None) -> Judged:
        feeds = np.ones(len(scores), bool) if feeds is None else feeds
        return self.threshold.update(self.slots[entity], np.asarray(scores, float), feeds)

    def one(self, scores: np.ndarray, feeds: np.ndarray | None = None) -> Judged:
        return self.update(np.zeros(len(scores), int), scores, feeds)


def join(parts: list[Judged]) -> Judged:
    return Judged(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Judged)))


def assert_same(a: Judged, b: Judged) -> None:
    for f in fields(Judged):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), f.name)


def nasty(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=n)
    match kind:
        case "normal":
            return x
        case "heavy":
            return rng.standard_t(1.5, n) * 1e-6
        case "bounded":
            return rng.random(n)
        case "rounded":
            return np.round(rng.gamma(2, 1, n), 1)
        case "rare":
            return (rng.random(n) < 0.01).astype(float)
        case "steps":
            return 10 + np.cumsum(np.where(rng.random(n) < 0.01, rng.choice([-1.0, 1.0], n), 0.0))
        case "constant":
            return np.full(n, 3.0)
        case "stuck in between":
            x[n // 3 : 2 * n // 3] = 0.5
            return x
        case "bursts":
            x[400::250] += 8
            for at in range(500, n - 100, 700):
                x[at : at + 90] += 6
            return x
        case "shift":
            x[n // 2 :] += 20
            return x
        case "huge":
            x[300::190] = 1e300
            return x
        case "clipped":
            return np.minimum(x, 1.5)
    raise AssertionError(kind)


KINDS = ["normal", "heavy", "bounded", "rounded", "rare", "steps", "constant", "stuck in between", "bursts", "shift"]
KINDS += ["huge", "clipped"]
