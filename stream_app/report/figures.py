"""Figures as plotly takes them: plain data, made here, drawn in the reader's browser.

In: arrays. Out: dictionaries with `data` and `layout`. Remembers: nothing. Colours are the names of the page's own,
such as var(--a), so that one figure serves light and dark; times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from models.scenes import F64, I32, I64

Figure = dict[str, Any]
Trace = dict[str, Any]
GOLDEN_ANGLE = 137.508  # degrees between the hues of successive clusters: neighbours in number differ most
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif'


@dataclass(frozen=True)
class Panel:
    """One of several charts above each other that share their times."""

    title: str  # of its axis, with the unit
    traces: tuple[dict[str, Any], ...]
    weight: float = 1.0
    axis: dict[str, Any] | None = None  # more of its axis


def label(text: str) -> str:
    """A text where plotly would take it for its markup."""
    return escape(text, quote=False)


def shortened(text: str, most: int = 28) -> str:
    """For a place that is narrow."""
    return text if len(text) <= most else text[: most - 1] + "…"


def ms(t_us: I64 | F64) -> F64:
    """Microseconds as plotly's milliseconds."""
    return np.asarray(t_us, np.float64) / 1000


def line(x: Any, y: Any, colour: str, name: str, **more: Any) -> dict[str, Any]:
    """A line."""
    style = {"color": f"var(--{colour})", "width": 1.4} | more.pop("line", {})
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": label(name), "line": style, **more}


def dots(x: Any, y: Any, colour: str, name: str, **more: Any) -> dict[str, Any]:
    """Points."""
    marker = {"color": f"var(--{colour})", "size": 5} | more.pop("marker", {})
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": label(name), "marker": marker, **more}


def between(x: Any, low: Any, high: Any, name: str, colour: str = "interval") -> tuple[dict[str, Any], ...]:
    """A band."""
    edge = {"mode": "lines", "line": {"width": 0}, "type": "scatter", "x": x, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": f"var(--{colour})", "name": label(name)}
    return edge | {"y": low, "showlegend": False}, edge | fill | {"y": high}


def layout(**more: Any) -> dict[str, Any]:
    """What all figures share."""
    axis = {"gridcolor": "var(--grid)", "zerolinecolor": "var(--line)", "linecolor": "var(--line)", "automargin": True}
    base: dict[str, Any] = {
        "paper_bgcolor": "var(--page)",
        "plot_bgcolor": "var(--page)",
        "font": {"family": FONT, "size": 12, "color": "var(--ink)"},
        "margin": {"l": 62, "r": 16, "t": 34, "b": 44},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "xanchor": "left",
            "traceorder": "normal",
        },
        "hoverlabel": {"bgcolor": "var(--card)", "font": {"color": "var(--ink)"}, "bordercolor": "var(--line)"},
        "hovermode": "closest",
        "xaxis": axis,
        "yaxis": axis,
    }
    for name, value in more.items():
        base[name] = base.get(name, {}) | value if isinstance(value, dict) else value
    return base


def plot(traces: Sequence[dict[str, Any]], x: str, y: str, **more: Any) -> Figure:
    """One chart; `x`, `y`: what its axes are, with units."""
    titles = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    for name in titles:
        titles[name] |= more.pop(name, {})
    return {"data": list(traces), "layout": layout(**titles, **more)}


def over_time(panels: Sequence[Panel], bands: Sequence[dict[str, Any]] = (), **more: Any) -> Figure:
    """Panels above each other with one axis of time (UTC), and bands behind all of them."""
    total = sum(panel.weight for panel in panels)
    gap = 0.12 / max(4, len(panels))
    top, data, axes = 1.0, [], {}
    for i, panel in enumerate(panels, 1):
        height = panel.weight / total
        name = f"y{i}" if i > 1 else "y"
        data += [trace | {"yaxis": name, "xaxis": "x"} for trace in panel.traces]
        title = {"text": panel.title, "font": {"size": 11}, "standoff": 6}
        domain = [max(0.0, top - height + gap), top]
        axes["yaxis" + name[1:]] = _axis() | {"domain": domain, "title": title, "nticks": 4} | (panel.axis or {})
        top -= height
    x = {"type": "date", "anchor": f"y{len(panels)}" if len(panels) > 1 else "y", "title": {"text": "time (UTC)"}}
    return {"data": data, "layout": layout(xaxis=x, shapes=list(bands), **axes, **more)}


def _axis() -> dict[str, Any]:
    return {"gridcolor": "var(--grid)", "zerolinecolor": "var(--line)", "automargin": True}


def band(start_ms: float, end_ms: float, colour: str) -> dict[str, Any]:
    """A stretch of time behind all panels; one of no length gets a line."""
    edge = {"color": f"var(--{colour})", "width": 1}
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": start_ms, "x1": end_ms, "y0": 0, "y1": 1,
        "fillcolor": f"var(--{colour}-band)", "line": edge | {"width": 0 if end_ms > start_ms else 1}, "layer": "below",
    }  # fmt: skip


def clusters(points: F64, cluster: I32 | I64, names: dict[int, str]) -> list[dict[str, Any]]:
    """Known behaviours in two dimensions [n, 2]: a hue per cluster, the noise in grey beneath."""
    traces = []
    for c in np.unique(cluster):
        at = cluster == c
        title = "no cluster (noise)" if c < 0 else names.get(int(c), f"cluster {c}")
        colour = "var(--noise)" if c < 0 else hue(int(c))
        marker = {"color": colour, "size": 4, "opacity": 0.45 if c < 0 else 0.6}
        named = f"{shortened(title)} ({int(at.sum()):,})"
        traces.append(dots(points[at, 0], points[at, 1], "noise", named, marker=marker, hoverinfo="name"))
    return traces


def hue(cluster: int) -> str:
    """A cluster's own colour, legible on light and dark."""
    return f"hsl({cluster * GOLDEN_ANGLE % 360:.0f}, 60%, 52%)"
