"""The volume under the surface of precision and recall, threshold by threshold and border by border."""

from __future__ import annotations

import math


def vus_pr(label: list[int], score: list[float], border_max: int, thresholds: int) -> float:
    n, ordered = len(label), sorted(score, reverse=True)
    events, start = [], None
    for i in range(n + 1):
        inside = i < n and label[i]
        if inside and start is None:
            start = i
        if not inside and start is not None:
            events, start = [*events, (start, i - 1)], None
    total = 0.0
    for width in range(border_max + 1):
        soft, half = [float(v) for v in label], width // 2
        for first, last in events:
            for d in range(1, half + 1):
                if last + d < n:
                    soft[last + d] += math.sqrt(1 - d / width)
            for d in range(1, half + 1):
                if first - d >= 0:
                    soft[first - d] += math.sqrt(1 - d / width)
        soft = [min(1.0, v) for v in soft]
        spans: list[list[int]] = []
        for first, last in events:
            a, b = max(first - half, 0), min(last + half, n - 1)
            if spans and first - half <= spans[-1][1]:
                spans[-1][1] = b
            else:
                spans.append([a, b])
        area, before = 0.0, 0.0
        for k in range(thresholds):
            threshold = ordered[int(k * (n - 1) / (thresholds - 1))]
            above = [i for i in range(n) if score[i] >= threshold]
            hit = sum(soft[i] for i in above)
            labelled = sum(label[i] for i in above)
            positives = (2 * sum(label) + hit - labelled) / 2
            met = sum(any(score[i] >= threshold for i in range(a, b + 1)) for a, b in spans) / len(spans)
            recall = min(hit / positives, 1) * met
            area, before = area + (recall - before) * hit / len(above), recall
        total += area
    return total / (border_max + 1)
