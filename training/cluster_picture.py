"""A picture of clusters: the points in their two main directions, a colour per cluster, the noise in grey. SVG text.

In: points as they were compared, clusters. Out: SVG, complete in itself. Remembers: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from models.scenes import F64, I32, I64

SIDE = 640  # pixels of the square; beside it the legend
MARGIN = 20
LEGEND = 220
POINTS_MAX = 4_000  # drawn; a browser slows with more, and they hide each other
NAMED_MAX = 24  # clusters in the legend, the largest first
GOLDEN_ANGLE = 137.508  # degrees between the hues of successive clusters: neighbours in number differ most
GREY = "#bbb"


def picture(points: F64, cluster: I32 | I64, names: Mapping[int, str] | None = None, seed: int = 0) -> str:
    """SVG of points [n, k], n >= 1, and clusters [n], -1 for noise. Of many points some are drawn."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(points))[:POINTS_MAX])
    at = _pixels(_plane(points[chosen]))
    of = cluster[chosen]
    order = np.argsort(of >= 0, kind="stable")  # the noise lies beneath
    dots = [f'<circle cx="{at[i, 0]:.1f}" cy="{at[i, 1]:.1f}" r="2.5" fill="{colour(int(of[i]))}"/>' for i in order]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE + LEGEND} {SIDE}" font-family="sans-serif" '
        f'font-size="12" fill-opacity="0.7">\n' + "\n".join([*dots, *_legend(cluster, names or {})]) + "\n</svg>\n"
    )


def colour(cluster: int) -> str:
    """Grey for the noise, else a hue of its own."""
    return GREY if cluster < 0 else f"hsl({cluster * GOLDEN_ANGLE % 360:.0f} 65% 45%)"


def _plane(points: F64) -> F64:
    """The two main directions of points [n, k]; a second one of zeros where there is one only. [n, 2]"""
    x = points - points.mean(0)
    rows = np.linalg.svd(x, full_matrices=False)[2][:2]
    flat = np.zeros((len(points), 2))
    flat[:, : len(rows)] = x @ rows.T
    return flat


def _pixels(flat: F64) -> F64:
    low, high = flat.min(0), flat.max(0)
    span = float(max((high - low).max(), 1e-12))
    middle = (low + high) / 2
    pixels: F64 = SIDE / 2 + (flat - middle) / span * (SIDE - 2 * MARGIN) * np.array([1, -1])
    return pixels


def _legend(cluster: I32 | I64, names: Mapping[int, str]) -> list[str]:
    found, counts = np.unique(cluster, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:NAMED_MAX]
    lines = []
    for line, i in enumerate(largest):
        c = int(found[i])
        text = f"{'noise' if c < 0 else names.get(c, f'cluster {c}')} ({counts[i]:,})"
        y = MARGIN + 18 * line
        lines.append(f'<circle cx="{SIDE + 10}" cy="{y - 4}" r="5" fill="{colour(c)}"/>')
        lines.append(f'<text x="{SIDE + 22}" y="{y}" fill-opacity="1">{escape(text)}</text>')
    return lines
