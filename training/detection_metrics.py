"""Figures of detection: how well scores rank labelled moments, and which labelled events alerts find.

In: labels, scores, spans of time. Out: numbers. Remembers: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scenes import F64, I64, Bool

BORDER_MAX = 100  # samples around an event, within which an early or late alarm still counts in part
THRESHOLDS = 250
Labels = NDArray[np.int64]  # [n] 1 within an event, else 0


@dataclass(frozen=True)
class Found:
    """Of alerts against labelled events."""

    found: float  # share of the events that an alert overlaps
    false_per_1000: float  # alerts that overlap none, per 1,000 normal samples


def events(label: Labels) -> list[tuple[int, int]]:
    """Half-open runs of ones."""
    edge = np.flatnonzero(np.diff(np.concatenate([[0], label, [0]])))
    return list(zip(edge[::2].tolist(), edge[1::2].tolist(), strict=True))


def auc(label: Labels, score: F64) -> float:
    """Area under the ROC curve; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score))


def vus_pr(label: Labels, score: F64, border_max: int = BORDER_MAX) -> float:
    """Volume under the surface of precision and recall over thresholds and soft borders of 0..border_max samples.

    Paparrizos et al. 2022 (PVLDB 15, 2774), in the variant of TSB-AD: THRESHOLDS of the sorted scores; an event's
    border of width w falls off as a root to both sides; recall is weighted by the share of events met at all.
    """
    found, n = events(label), len(label)
    ordered = -np.sort(-score)
    threshold = ordered[np.linspace(0, n - 1, THRESHOLDS).astype(int)]
    above: Bool = score[None] >= threshold[:, None]  # [threshold, n]
    n_above, inside = above.sum(1), above[:, label > 0].sum(1)
    total = 0.0
    for width in range(border_max + 1):
        soft, half = _soft(label, found, width), width // 2
        near = np.flatnonzero(soft)
        hit = above[:, near] @ soft[near]
        positives = (2 * label.sum() + hit - inside) / 2
        met = np.mean([threshold <= score[a:b].max() for a, b in _joined(found, half, n)], axis=0)
        recall, precision = np.minimum(hit / positives, 1) * met, hit / n_above
        total += float(np.diff(np.concatenate([[0.0], recall])) @ precision)
    return total / (border_max + 1)


def _soft(label: Labels, found: list[tuple[int, int]], width: int) -> F64:
    """The label with soft borders of half the width on either side of each event."""
    soft, n, half = label.astype(np.float64), len(label), width // 2
    for a, b in found:  # once per event
        after, before = np.arange(b, min(b + half, n)), np.arange(max(a - half, 0), a)
        soft[after] += np.sqrt(1 - (after - b + 1) / max(width, 1))
        soft[before] += np.sqrt(1 - (a - before) / max(width, 1))
    return np.minimum(soft, 1)


def _joined(found: list[tuple[int, int]], half: int, n: int) -> list[tuple[int, int]]:
    """Events with their borders, those that touch as one."""
    out: list[tuple[int, int]] = []
    for a, b in found:
        a, b = max(a - half, 0), min(b + half, n)
        out = [*out[:-1], (out[-1][0], b)] if out and a < out[-1][1] else [*out, (a, b)]
    return out


def found(label: Labels, t_us: I64, spans: list[tuple[int, int]]) -> Found:
    """Of alerts that cover [start_us, end_us] of the times of the labels."""
    true = [(int(t_us[a]), int(t_us[b - 1])) for a, b in events(label)]

    def meets(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] <= other[1] and one[1] >= other[0]

    n_found = sum(any(meets(span, event) for span in spans) for event in true)
    n_false = sum(not any(meets(span, event) for event in true) for span in spans)
    return Found(n_found / max(1, len(true)), 1000 * n_false / max(1, int((label == 0).sum())))
