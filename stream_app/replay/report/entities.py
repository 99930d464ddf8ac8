"""The sections of a replay's report on alerts: side by side, and over the signals of the entities they are of.

In: `ModelReport`s, the difference, signals. Out: `Section`s. Remembers: nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from stream_app.replay.difference import Change, Difference, Side
from stream_app.replay.report import findings
from stream_app.replay.report.findings import EntityScores, Span
from stream_app.replay.report.model import ModelReport
from stream_app.replay.report.signals import Signal
from stream_app.report import figures
from stream_app.report.decimate import zigzag
from stream_app.report.figures import Panel, dots, line, ms
from stream_app.report.page import Chart, Row, Section, Table

SHOWN_MAX = 8  # entities; a report with more is not read
SENSORS_MAX = 5  # per entity
ALERTS_LISTED = 400
BANDS_MAX = 300
ROUND = 0.15  # of an alert's length is shown before and after it, at least
AROUND_MS = 60_000


def shown(reports: list[ModelReport], compared: Difference | None) -> list[str]:
    """The entities worth showing: those that differ, then those with alerts, then the strangest."""
    weight: Counter[str] = Counter(a["entity"] for r in reports for a in r.alerts.values())
    if compared is not None:
        weight.update(change.entity for change in compared.changes for _ in range(10) if change.kinds != ("same",))
    by_weight = sorted(weight, key=lambda entity: (-weight[entity], entity))
    rest = [e for r in reports for e in findings.strangest(r.model.folder, 3) if e not in weight]
    return list(dict.fromkeys(by_weight + (rest if len(by_weight) < 3 else [])))[:SHOWN_MAX]


# --- side by side -----------------------------------------------------------------------------------------------------


def difference(compared: Difference) -> Section:
    """Alerts of A and of B."""
    counts = compared.counts
    words = (
        f"A has {counts['a']} alerts, B has {counts['b']}: {counts['added']} added by B, {counts['lost']} lost, "
        f"{counts['moved']} moved, {counts['changed']} changed, {counts['same']} the same.",
        "Alerts belong together when they are of one entity and overlap. Moved: B's bounds differ. Changed: B's score "
        "lies above its threshold by another factor (a tenth or more), or its cause is another. Times are UTC, scores "
        "are times the threshold. A click on a row shows its place in the signals.",
    )
    changed = [change for change in compared.changes if change.kinds != ("same",)] + [
        change for change in compared.changes if change.kinds == ("same",)
    ]
    rows = tuple(_compared(change) for change in changed[:ALERTS_LISTED])
    left = len(changed) - len(rows)
    note = f"{left:,} more are in diff.parquet." if left else ""
    columns = ("B against A", "entity", "A from", "to", "score", "cause", "B from", "to", "score", "cause")
    table = Table(columns, rows, frozenset({4, 8}), note)
    return Section("Alerts side by side", words, (table,))


def _compared(change: Change) -> Row:
    cells = [" + ".join(change.kinds), change.entity]
    for side in (change.a, change.b):
        cells += _cells(side)
    at = [side for side in (change.a, change.b) if side is not None]
    go = _around(change.entity, min(s.start for s in at), max(s.end for s in at))
    return Row(tuple(cells), go, change.kinds[0])


def _cells(side: Side | None) -> list[str]:
    if side is None:
        return ["—", "", "", ""]
    above = f"{side.factor:.2f} x" if side.factor is not None else ""
    return [_short(side.start), _short(side.end), above, f"{side.reason} {side.sensor}".strip()]


def _around(entity: str, start: str, end: str) -> tuple[str, float, float]:
    first, last = _ms(start), _ms(end)
    more = max(AROUND_MS, 2 * (last - first), ROUND * (last - first))
    return entity, first - more, last + more


def alerts(report: ModelReport) -> Section:
    """The alerts of one model."""
    found = list(report.alerts.values())
    rows = tuple(_alert(a) for a in found[:ALERTS_LISTED])
    note = f"{len(found) - len(rows):,} more are in alerts.jsonl." if len(found) > len(rows) else ""
    columns = (
        "entity",
        "from (UTC)",
        "to",
        "score",
        "tail probability",
        "strongest sensors",
        "behaviour",
        "state",
    )
    words = (f"{len(found)} alerts. A row shows its place in the signals below.",) if found else ("No alert.",)
    return Section("Alerts", words, (Table(columns, rows, frozenset({3, 4}), note),) if found else ())


def _alert(a: Mapping[str, Any]) -> Row:
    side = Side.of(a)
    sensors = ", ".join(f"{s['sensor']} {s['contribution']:.0%}" for s in a["sensors"][:3])
    cluster = a["cluster"]["label"] or (f"cluster {a['cluster']['id']}" if a["cluster"]["id"] >= 0 else "none known")
    above = f"{side.factor:.2f} x" if side.factor is not None else ""
    chance = f"{side.tail_probability:.2g}" if side.tail_probability is not None else ""
    state = a["state"] if a["opened"] else f"{a['state']}, opened before the range"
    cells = (side.start, side.end)
    return Row(
        (a["entity"], *map(_short, cells), above, chance, sensors, cluster, state),
        _around(a["entity"], side.start, side.end),
    )


# --- over the signals -------------------------------------------------------------------------------------------------


def entities(reports: list[ModelReport], names: list[str], signals: list[Signal], span: Span) -> Section:
    """Signals, scores and alerts of each entity shown."""
    drawn: dict[str, list[Signal]] = defaultdict(list)
    for signal in signals:
        drawn[signal.entity].append(signal)
    scores = [findings.entity_scores(report.model.folder, names) for report in reports]
    parts = []
    for name in names:
        own = [(report, scores[i][name]) for i, report in enumerate(reports) if name in scores[i]]
        if own:
            parts.append(_entity(name, own, _strongest(name, reports, drawn[name]), span))
    total = len(reports[0].scored.windows)
    words = [
        f"{len(parts)} of {total} entities are shown: those that differ most, or have most alerts."
        if total > len(parts)
        else ""
    ]
    spikes = " Values are the lowest and highest of each stretch of time, so no spike is lost." if signals else ""
    words.append(f"Shaded: alerts.{spikes} Drag to look closer, double-click to go back.")
    heading = "Signals, scores and alerts" if signals else "Scores and alerts"  # tokens are no signal to be drawn
    return Section(heading, tuple(filter(None, words)), tuple(parts))


def _strongest(entity: str, reports: list[ModelReport], signals: list[Signal]) -> list[Signal]:
    """The sensors that the entity's alerts name, the strongest first; then others, until there are a few."""
    share: Counter[str] = Counter()
    for report in reports:
        for alert in report.alerts.values():
            if alert["entity"] == entity:
                share.update({s["sensor"]: s["contribution"] or 0.0 for s in alert["sensors"]})
    return sorted(signals, key=lambda s: (-share[s.sensor], s.sensor))[:SENSORS_MAX]


def _entity(name: str, own: list[tuple[ModelReport, EntityScores]], signals: list[Signal], span: Span) -> Chart:
    panels = [_alerts_panel(name, [report for report, _ in own])]
    for signal in signals:
        x, y = zigzag(signal.t_us, signal.low, signal.high)
        trace = line(ms(x), y, "ink", signal.sensor, line={"width": 1}, showlegend=False)
        panels.append(Panel(figures.label(figures.shortened(signal.sensor, 16)), (trace,)))
    steep = any(_is_steep(scores) for _, scores in own)
    panels += [_score_panel(name, report, scores, (span, steep)) for report, scores in own]
    bands = [
        figures.band(_ms(a["data_start_time"]), _ms(a["data_end_time"]), report.model.label)
        for report, _ in own
        for a in report.alerts.values()
        if a["entity"] == name
    ]
    margin = {"l": 76, "r": 16, "t": 58, "b": 44}
    figure = figures.over_time(panels, bands[:BANDS_MAX], margin=margin, hovermode="x")
    height = 120 + 44 + 84 * len(signals) + 170 * len(own)
    drawn = f", the {len(signals)} sensors that they name first, in their own units," if signals else ""
    return Chart(figure, height, f"{name}: alerts{drawn} and scores", name)


def _alerts_panel(entity: str, reports: list[ModelReport]) -> Panel:
    traces = []
    for report in reports:
        x: list[float | None] = []
        for alert in report.alerts.values():
            if alert["entity"] == entity:
                x += [_ms(alert["data_start_time"]), _ms(alert["data_end_time"]), None]
        label = report.model.label
        style = {"width": 9}
        traces.append(
            line(x, [label.upper()] * len(x), label, f"alerts of {report.model.title}", line=style, mode="lines")
        )
    order = [report.model.label.upper() for report in reports][::-1]
    axis = {"type": "category", "categoryorder": "array", "categoryarray": order, "range": [-0.6, len(order) - 0.4]}
    return Panel("alerts", tuple(traces), 0.25 + 0.2 * len(reports), axis)


def _score_panel(entity: str, report: ModelReport, scores: EntityScores, how: tuple[Span, bool]) -> Panel:
    label, x = report.model.label, ms(scores.end_us)
    above = scores.score > scores.threshold
    frame_end, frame = findings.frames(report.model.folder, entity, how[0])
    who = label.upper()
    traces = (
        line(ms(frame_end), frame, f"{label}-faint", f"{who} frames", line={"width": 3}),
        line(x, scores.score, label, f"{who} score"),
        line(x, scores.threshold, "threshold", f"{who} threshold", line={"dash": "dash", "shape": "hv"}),
        dots(x[above], scores.score[above], "alarm", f"{who} above", marker={"size": 5}),
    )
    steep = {"type": "log"} if how[1] else {"rangemode": "tozero"}
    return Panel(f"score of {who}", traces, 2.0, steep)


def _is_steep(scores: EntityScores) -> bool:
    """Whether the highest score would press all others, and the threshold, to the ground."""
    typical = float(np.nanmedian(scores.threshold)) if np.isfinite(scores.threshold).any() else 0.0
    return float(scores.score.max()) > 20 * typical > 0 < float(scores.score.min())


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def _short(text: str) -> str:
    """A time for a table: no more digits than it has.

    >>> _short("2023-11-14T22:13:00.000000Z"), _short("2023-11-14T22:13:20.250000Z")
    ('2023-11-14 22:13', '2023-11-14 22:13:20.25')
    """
    text = text.replace("T", " ").removesuffix("Z")
    text = text.rstrip("0").removesuffix(".") if "." in text else text
    return text.removesuffix(":00") if text.count(":") == 2 else text
