"""The sections of a replay's report on its models: alarm rate, tail, known behaviours, drift.

In: `ModelReport`s. Out: `Section`s. Remembers: nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import numpy as np

from stream_app.replay.report.model import ModelReport
from stream_app.report import figures
from stream_app.report.figures import Figure, Panel, Trace, dots, line, ms
from stream_app.report.page import Chart, Row, Section, Table
from stream_app.report.statistics import poisson_quantile
from stream_app.threshold.judgement import WARM_AFTER

ENTITIES_LISTED = 40
EVENTS_LISTED = 200


def verdict(report: ModelReport) -> str:
    """What the number of alerts means beside what was promised."""
    seen, promised, interval = report.opened, report.promised, report.interval
    if promised < interval.low:
        meaning = "more than false alarms alone explain: real anomalies, or a promise that these data break"
    elif promised > interval.high:
        meaning = "fewer than the promise allows"
    else:
        meaning = "as many as false alarms alone would explain"
    return (
        f"{report.model.title} promised at most {promised:.3g} false alarms on {report.windows:,} windows "
        f"(risk {report.risk:.2g} each); {seen} alerts opened, 95 % interval of their rate {interval.low:.3g} to "
        f"{interval.high:.3g}: {meaning}."
    )


def rates(reports: list[ModelReport]) -> Section:
    """Promised and observed, over time and by entity."""
    words = [verdict(report) for report in reports]
    warming = [f"{r.model.label.upper()} {r.scored.warming / max(1, r.windows):.0%}" for r in reports]
    words.append(
        f"Windows of entities still warming (fewer than {WARM_AFTER} windows of their own): {', '.join(warming)}."
    )
    chart = Chart(
        _cumulative(reports), 340, "Alerts opened so far, beside what the promise would give (with its 95 % band)"
    )
    return Section("Alarm rate: promised and observed", tuple(words), (chart, _by_entity(reports)))


def _cumulative(reports: list[ModelReport]) -> Figure:
    traces: list[Trace] = []
    for report in reports:
        periods, label = report.scored.periods, report.model.label
        edges = np.linspace(periods.span.start_us, periods.span.end_us, len(periods.seen) + 1)
        mean = report.risk * np.concatenate([[0], np.cumsum(periods.seen)])
        if report is reports[0]:
            low, high = (poisson_quantile(q, mean) for q in (0.025, 0.975))
            traces += figures.between(ms(edges), np.maximum(low, 0), high, f"95 % of promise {label.upper()}")
        dash = {"dash": "dash", "color": "var(--threshold)" if report is reports[0] else f"var(--{label}-faint)"}
        traces.append(line(ms(edges), mean, label, f"promised {label.upper()}", line=dash))
        opened = sorted(_ms(a["data_start_time"]) for a in report.promised_ones)
        x = [ms(edges)[0], *opened, ms(edges)[-1]]
        y = [0, *range(1, len(opened) + 1), len(opened)]
        traces.append(line(x, y, label, f"opened {report.model.title}", line={"shape": "hv", "width": 2}))
    return figures.plot(traces, "time (UTC)", "alerts so far", xaxis={"type": "date"})


def _by_entity(reports: list[ModelReport]) -> Table:
    opened = [Counter(a["entity"] for a in r.promised_ones) for r in reports]
    names = sorted({*reports[0].scored.windows}, key=lambda e: (-max(o[e] for o in opened), e))
    columns = ["entity", "windows"] + [f"{r.model.label.upper()} {w}" for r in reports for w in ("promised", "opened")]
    rows = []
    for name in names[:ENTITIES_LISTED]:
        cells = [name, f"{reports[0].scored.windows[name]:,}"]
        for report, count in zip(reports, opened, strict=True):
            cells += [f"{report.risk * report.scored.windows.get(name, 0):.3g}", str(count[name])]
        rows.append(Row(tuple(cells)))
    words = f"The {len(rows)} of {len(names)} entities with most alerts" if len(names) > len(rows) else "By entity"
    return Table(tuple(columns), tuple(rows), frozenset(range(1, len(columns))), words)


def tail(reports: list[ModelReport]) -> Section:
    """Is the law of the tail as the threshold takes it?"""
    words = (
        "The threshold turns a score into the probability that a normal window reaches it. If its law is right, the "
        "depth (minus the logarithm of that probability) of the highest window of each cluster, beyond where the tail "
        "begins, is exponential: points on the line. Points that rise above it at the right end are anomalies, or a "
        "tail heavier than taken; points all along above or below it mean that alarms come more or less often than "
        "promised.",
        "Above every other beginning of the tail the law must stay the same: shape 0 and scale 1 in this unit.",
    )
    lines = [_said_of_tail(report) for report in reports]
    parts = []
    if any(r.quantiles is not None for r in reports):
        parts.append(
            Chart(_qq(reports), 400, "Depth of the clusters' peaks against an exponential law (QQ), 95 % bands")
        )
    if any(len(r.stable.threshold) for r in reports):
        parts.append(
            Chart(_stability(reports), 400, "Threshold stability: the law fitted above each beginning of the tail")
        )
    return Section("Tail fit", (*words, *lines), tuple(parts))


def _said_of_tail(report: ModelReport) -> str:
    n = int(np.count_nonzero(report.scored.peaks > report.peaks_from))
    wanted = np.exp(-report.peaks_from) * report.windows
    return f"{report.model.title}: {n} clusters of exceedances, where {wanted:.3g} are kept by design."


def _qq(reports: list[ModelReport]) -> Figure:
    traces: list[Trace] = []
    most = 1.0
    for report in reports:
        q, label = report.quantiles, report.model.label
        if q is None:
            continue
        most = max(most, float(q.expected[-1]), float(q.seen[-1]))
        traces += figures.between(q.expected, q.low, q.high, f"95 % {label.upper()}", f"{label}-band")
        traces.append(dots(q.expected, q.seen, label, report.model.title))
    traces.append(line([0, most], [0, most], "threshold", "the law", line={"dash": "dash"}))
    within = {"range": [-0.03 * most, 1.05 * most]}
    return figures.plot(
        traces, "expected excess depth (nats)", "seen excess depth (nats)", xaxis=dict(within), yaxis=dict(within)
    )


def _stability(reports: list[ModelReport]) -> Figure:
    panels = []
    for name, right in (("shape", 0.0), ("scale", 1.0)):
        traces: list[Trace] = []
        for report in reports:
            s, label = report.stable, report.model.label
            value, error = getattr(s, name), 1.96 * getattr(s, f"{name}_error")
            whole = f"{report.model.title}" if name == "shape" else ""
            traces += figures.between(s.threshold, value - error, value + error, "", f"{label}-band")
            traces[-1]["showlegend"] = False
            traces.append(line(s.threshold, value, label, whole, showlegend=bool(whole)))
        ends = [min(r.peaks_from for r in reports), max(float(r.stable.threshold.max(initial=0)) for r in reports)]
        law = {"line": {"dash": "dash"}, "showlegend": name == "shape"}
        traces.append(line(ends, [right, right], "threshold", "the law", **law))
        panels.append(Panel(f"{name} (of depth)", tuple(traces)))
    figure = figures.over_time(panels)
    figure["layout"]["xaxis"] |= {"type": "linear", "title": {"text": "tail begins at depth (nats)"}}
    return figure


def spaces(reports: list[ModelReport]) -> Section:
    """The replayed windows among the known behaviours."""
    parts = []
    words = [
        "Each dot is a window of the training data, in the colour of the behaviour it belongs to; on them lie the "
        "replayed windows."
    ]
    for report in reports:
        space = report.space
        if space is None:
            continue
        noise = float(np.mean(space.window_cluster < 0)) if len(space.window_cluster) else 0.0
        trained = float(np.mean(space.cluster < 0))
        words.append(
            f"{report.model.title}: {len(np.unique(space.cluster[space.cluster >= 0]))} known behaviours; "
            f"{noise:.0%} of the replayed windows belong to none, {trained:.0%} of the training's."
        )
        parts.append(Chart(_space(report), 520, f"{report.model.title}: embeddings in their two main directions"))
    return Section("Known behaviours", tuple(words), tuple(parts))


def _space(report: ModelReport) -> Figure:
    space = report.space
    assert space is not None
    normal, odd = space.windows[~space.anomalous], space.windows[space.anomalous]
    ring = {"symbol": "circle-open", "size": 6, "opacity": 0.5, "line": {"width": 1}}
    cross = {"symbol": "x", "size": 8}
    traces = figures.clusters(space.known, space.cluster, report.model.detector.cluster_names)
    traces.append(dots(normal[:, 0], normal[:, 1], "ink", f"replayed ({len(normal):,})", marker=ring))
    traces.append(dots(odd[:, 0], odd[:, 1], "alarm", f"replayed, anomalous ({len(odd):,})", marker=cross))
    titles = [f"direction {i + 1} ({share:.0%} of the training's variance)" for i, share in enumerate(space.explained)]
    right = {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"}
    return figures.plot(traces, *titles, legend=right)


def drift(reports: list[ModelReport]) -> Section:
    """Scores that rise or spread slowly, which the threshold follows and must not hide."""
    words = [f"{r.model.title}: {len(r.drift)} drift events." for r in reports]
    words.insert(
        0, "Quantiles of all windows' scores over time. What lasts, the rolling threshold accepts; it is told here."
    )
    rows = [
        Row(
            (
                report.model.label.upper(),
                e["at"],
                e["entity"] or "all",
                e["method"],
                e["statistic"],
                f"{e['before']:.4g}",
                f"{e['after']:.4g}",
            )
        )
        for report in reports
        for e in report.drift[:EVENTS_LISTED]
    ]
    parts: list[Chart | Table] = [
        Chart(
            _drift(reports),
            190 * len(reports) + 90,
            "Median, 95 % and 99.9 % quantile of the scores; drift events as lines",
        )
    ]
    if rows:
        columns = ("model", "at (UTC)", "entity", "method", "of the", "before", "after")
        parts.append(Table(columns, tuple(rows), frozenset({5, 6}), "Drift events"))
    return Section("Drift", tuple(words), tuple(parts))


def _drift(reports: list[ModelReport]) -> Figure:
    panels, marks = [], []
    for report in reports:
        middle, quantiles = report.scored.periods.quantiles()
        label, traces = report.model.label, []
        for k, (name, dash) in enumerate((("median", "solid"), ("95 %", "dash"), ("99.9 %", "dot"))):
            style = {"dash": dash, "width": 2 if k == 0 else 1.3}
            traces.append(line(ms(middle), quantiles[:, k], label, f"{label.upper()} {name}", line=style))
        largest, smallest = float(quantiles[:, 2].max(initial=0)), float(np.median(quantiles[:, 0]))
        steep = {"type": "log"} if largest > 50 * smallest > 0 else {}
        panels.append(Panel(f"score of {label.upper()}", tuple(traces), axis=steep))
        marks += [figures.band(_ms(e["at"]), _ms(e["at"]), label) for e in report.drift[:EVENTS_LISTED]]
    return figures.over_time(panels, marks)


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000
