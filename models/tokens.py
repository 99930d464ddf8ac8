"""The token detector: how strange the order of tokens is, window by window.

In: `Scenes` of tokens, a row per entity of what it remembers. Out: `Scored`. Remembers: nothing.

Two parts judge each token, both against how surprising the next token was to be in any case: H, the entropy of the
networks' prediction.

    order    (-ln p_network - H) / (H + 1)       an unlikely token where the next one was sure weighs most
    memory    -ln p_ngram        / (H + 1)       0 where the same n-gram came before in the stretch: once is enough

A window's statistic is the mean over its tokens, shrunk towards the ordinary. Each statistic becomes -ln p by its
calibration on held-out windows; the sum of the two, calibrated again, is the score: -ln of the probability that a
normal window is as strange. Without the division the AUC falls from .861 to .855 on ADFA-LD, and from .991 to .975 on
HDFS sessions that have drifted since training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, surprise
from models.detector import Frames, Scored, SensorPart, WindowSpec
from models.lstm import Surprises, TokenNets, likeliest, surprises
from models.ngrams import Ngrams, ngram_surprise
from models.placement import Placement, assign
from models.scenes import F32, F64, Scenes
from models.stretches import Stretches, stretches_of
from models.token_view import View, embed
from models.token_windows import WindowValues, nothing_remembered, remembered, scored_before, window_values

PARTS = ("order", "memory")
SOFTENING = 1.0  # nats; 0.3 gave .003 more on ADFA-LD, and on sendmail's traces .967 to .987 where 1 gave .983 to .992
N_ORDINARY = 16  # tokens added to every window, or one odd token would condemn a session of three
N_EXPLAINED = 8  # of the most surprising tokens


@dataclass(frozen=True)
class TokenScale:
    """What turns the values of single tokens into the score of a window."""

    ordinary: F64  # [part] held-out mean of a token's value
    parts: tuple[Calibration, ...]  # of each part's statistic
    total: Calibration  # of their sum


@dataclass(frozen=True)
class TokenDetector:
    """A fitted detector of tokens. See models.detector.Detector."""

    vocabulary: dict[str, int]
    windows: WindowSpec
    nets: TokenNets
    memory: Ngrams
    scale: TokenScale
    view: View
    known: Placement
    tail: dict[str, Any]
    risk: float
    digest: str = ""
    cluster_names: dict[int, str] = field(default_factory=dict)
    kind: str = "tokens"
    sensors: tuple[str, ...] = ("token",)
    part_names: tuple[str, ...] = PARTS

    @property
    def carry_initial(self) -> NDArray[np.void]:
        return nothing_remembered(self.windows.length_tokens - self.windows.stride_tokens, len(PARTS))

    def score(self, scenes: Scenes, carry: NDArray[np.void]) -> Scored:
        """See models.detector.Detector. An id that the vocabulary does not have is an unknown token."""
        stretches = stretches_of(scenes, scored_before(scenes, carry), len(self.nets.ln_share))
        found = surprises(self.nets, stretches)
        values = window_values(scenes, stretches, token_values(self.memory, stretches, found), carry)
        score, parts = window_scores(self.scale, values)
        embedding = embed(self.view, found.mean_hidden)
        cluster, membership = assign(self.known, embedding)
        return Scored(
            score=score,
            parts=parts,
            cluster=cluster,
            membership_probability=membership,
            embedding=embedding,
            frames=_frames(scenes, stretches, score),
            carry=remembered(scenes, values, carry),
            explain=lambda window: _explain(scenes, _Evidence(stretches, values, self.nets), window),
        )


def token_values(memory: Ngrams, stretches: Stretches, found: Surprises) -> F32:
    """How much each target speaks for an anomaly, by part. [targets, part]"""
    seen = ngram_surprise(memory, stretches)
    expected = found.entropy + SOFTENING
    order = (found.nll - found.entropy) / expected
    return np.stack([order, np.where(seen.repeated, 0.0, seen.nats) / expected], axis=1).astype(np.float32)


def window_scores(scale: TokenScale, values: WindowValues) -> tuple[F64, F32]:
    """The score [w] and its parts [w, part], in nats."""
    means = values.means(scale.ordinary, N_ORDINARY)
    parts = np.stack([surprise(c, means[:, i]) for i, c in enumerate(scale.parts)], axis=1)
    return surprise(scale.total, parts.sum(1)), parts.astype(np.float32)


def _frames(scenes: Scenes, stretches: Stretches, score: F64) -> Frames:
    """A window's score, over the tokens that no earlier window held. A window without such gives no frame."""
    context = stretches.fresh - stretches.first[:-1]
    some = context < scenes.last - scenes.first
    start = scenes.t_us[(scenes.first + context)[some]]
    return Frames(scenes.entity[some], start, scenes.end_us[some], score[some])


@dataclass(frozen=True)
class _Evidence:
    """What an explanation is made from."""

    stretches: Stretches
    values: WindowValues
    nets: TokenNets

    def expected(self, window: int, at: int) -> float | None:
        """The likeliest token there; None where it is the rare ones together. The window is read once more for it."""
        s = self.stretches
        first, last = s.first[window], s.first[window + 1]
        nothing = np.zeros(1, np.int64)
        alone = Stretches(s.tokens[first:last], np.array([0, last - first]), nothing, s.begins[window : window + 1])
        token = int(likeliest(self.nets, alone)[at])
        return float(token) if self.nets.ln_share[token] == 0 else None


def _explain(scenes: Scenes, seen: _Evidence, window: int) -> tuple[SensorPart, ...]:
    """The most surprising tokens of a window. A bin is a position in the session; `actual` and `expected` are ids."""
    own = np.maximum(0.0, seen.values.of(window).sum(1))
    share = own / max(float(own.sum()), 1e-12)
    worst = np.argsort(-share, kind="stable")[:N_EXPLAINED]
    bins = tuple((int(scenes.position[window] + at), float(share[at])) for at in worst if share[at] > 0)
    at = int(worst[0])
    actual = float(seen.stretches.tokens[seen.stretches.first[window] + at])
    return (SensorPart("token", 1.0, actual, seen.expected(window, at), bins),)
