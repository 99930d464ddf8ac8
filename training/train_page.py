"""The report of a training, for people: report.html beside the bundle, from what is in report.json and in the bundle.

In: the detector, the report's numbers, what was said while training. Out: a `Page`. Remembers: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.detector import Detector
from models.placement import labels
from models.scenes import F64
from models.tail import depth
from stream_app.replay.report.model import placement_of
from stream_app.report import figures
from stream_app.report.figures import Figure, Panel, dots, line
from stream_app.report.page import Chart, Page, Row, Section, Table, render
from stream_app.report.statistics import PEAKS_MIN, exponential_quantiles, garwood, stability
from stream_app.threshold.population import BORROWED, Settings
from training.limits import Given, of_entities, sensor_limits, spoken

HTML_FILE, JSON_FILE = "report.html", "report.json"
POINTS_MAX = 4_000
STEP = 5  # of the quantiles, for a density that is no comb
WEEK_US = 604_800_000_000


@dataclass(frozen=True)
class Told:
    """What the page is made of. `report`: as in report.json; `lines`: said while training."""

    name: str
    detector: Detector
    report: dict[str, Any]
    lineage: dict[str, Any]
    lines: Sequence[str]
    seconds: float


def write_report(out: Path, told: Told) -> None:
    """report.html and report.json, beside the bundle's own files: neither is part of it, nor travels with it."""
    told.report["limits"] = limits_of(told)
    (out / JSON_FILE).write_text(json.dumps(told.report, indent=1, default=float) + "\n")
    (out / HTML_FILE).write_text(render(page_of(told)), encoding="utf-8")


def page_of(told: Told) -> Page:
    """The report."""
    facts = told.lineage
    held = int(_held(told.report)[0])
    rows = [
        ("kind", told.detector.kind),
        ("trained on", str(facts["source"])),
        ("samples", f"{facts['samples']:,}"),
        ("entities", f"{facts['entities']:,}"),
        ("time covered", spoken((facts["to_us"] - facts["from_us"]) / 1e6)),
        ("windows", _windows(told.detector)),
        ("held-out windows", f"{held:,}"),
        ("risk per window", f"{told.detector.risk:.2g}"),
        ("seed", str(facts["seed"])),
        ("training took", spoken(told.seconds)),
        ("bundle", told.detector.digest.removeprefix("sha256:")[:16]),
    ]
    sections = (_limits(told), _chosen(told), _curve(told), _scores(told), _tail(told), _clusters(told), _rate(told))
    return Page(f"Training report: {told.name}", _summary(told), tuple(rows), (), tuple(s for s in sections if s))


def limits_of(told: Told) -> list[str]:
    """What it can't see."""
    if told.detector.kind == "tokens":
        return list(told.report["limits"])
    spec, facts = told.detector.windows, told.lineage
    n, _ = _held(told.report)
    noise = float(told.report["clusters"]["noise"])
    span_s = (facts["to_us"] - facts["from_us"]) / 1e6
    given = Given(span_s, facts["entities"], spec.length_us / 1e6, int(n), told.detector.risk, noise)
    return list(sensor_limits(given))


def _summary(told: Told) -> str:
    detector, facts = told.detector, told.lineage
    clusters, limits = told.report["clusters"], limits_of(told)
    what = f"{len(detector.sensors)} sensors" if detector.kind == "sensors" else f"{len(detector.vocabulary):,} tokens"
    return (
        f"A detector of {what}, trained on {facts['samples']:,} samples of {of_entities(facts['entities'])}: it "
        f"promises {_promise(detector)}, knows {clusters['clusters']} behaviours ({clusters['noise']:.0%} of the "
        f"training windows belong to none), and has {len(limits)} limits that you should know, below."
    )


def _promise(detector: Detector) -> str:
    if detector.windows.counted:
        return f"at most 1 false alarm in {1 / detector.risk:,.0f} windows"
    a_week = detector.risk * WEEK_US / detector.windows.stride_us
    return f"at most {a_week:.3g} false alarms per entity and week"


def _windows(detector: Detector) -> str:
    spec = detector.windows
    if spec.counted:
        return f"{spec.length_tokens} tokens, every {spec.stride_tokens}"
    return f"{spoken(spec.length_us / 1e6)}, every {spoken(spec.stride_us / 1e6)}"


def _limits(told: Told) -> Section:
    return Section("What it can't see", tuple(limits_of(told)))


def _chosen(told: Told) -> Section:
    rows = tuple(Row((text,)) for text in told.lines)
    return Section("What was seen and chosen", (), (Table(("in this order",), rows),))


def _curve(told: Told) -> Section | None:
    """The loss of each network, step by step."""
    curves = _curves(told.report)
    if not any(len(loss) for _, loss in curves):
        return None
    traces = [
        line(np.linspace(1, 100, len(loss)), loss, "a", name, line={"color": figures.hue(i)})
        for i, (name, loss) in enumerate(curves)
    ]
    skipped = int(told.report.get("skipped_steps", 0))
    words = ["The loss should fall and level off; one that still falls at the end would gain from more time."]
    words += [f"{skipped} steps were skipped, since their loss was not finite."] if skipped else []
    figure = figures.plot(traces, "share of the training (%)", "loss", showlegend=True)
    return Section("Training curve", tuple(words), (Chart(figure, 320, "Loss of each network over its training"),))


def _curves(report: dict[str, Any]) -> list[tuple[str, list[float]]]:
    if "curves" in report:
        return [(f"network {i + 1}", curve["loss"]) for i, curve in enumerate(report["curves"])]
    networks = report.get("networks") or {"network": {"curve": report.get("curve", [])}}
    return [(name, network["curve"]) for name, network in networks.items()]


def _held(report: dict[str, Any]) -> tuple[int, F64]:
    """How many held-out windows, and evenly spaced quantiles of their scores."""
    known = report["held_out"]
    scores = known["scores"] if "scores" in known else report["held_out_scores"]
    return int(known["windows"]), np.asarray(scores, np.float64)


def _scores(told: Told) -> Section:
    n, quantiles = _held(told.report)
    share = np.linspace(0, 1, len(quantiles))
    steps = quantiles[::STEP]  # each holds the same share of the windows
    some = np.diff(steps) > 0
    density = np.diff(share[::STEP])[some] / np.diff(steps)[some]
    middle = (steps[:-1] + steps[1:])[some] / 2
    traces = (
        line(middle, density, "a", "density", fill="tozeroy", fillcolor="var(--a-band)", line={"shape": "spline"}),
    )
    beyond = np.maximum(1 - share[:-1], 1e-9)
    panels = [
        Panel("density", traces),
        Panel("share above", (line(quantiles[:-1], beyond, "a", "share of windows above"),), axis={"type": "log"}),
    ]
    figure = figures.over_time(panels, showlegend=False)
    figure["layout"]["xaxis"] |= {"type": "linear", "title": {"text": "score of a held-out window"}}
    words = (f"Scores of {n:,} windows that the networks had not seen: what normal looks like. Higher is stranger.",)
    return Section(
        "Held-out scores", words, (Chart(figure, 400, "Distribution, and the share of windows above a score"),)
    )


def _tail(told: Told) -> Section:
    """The population's tail, which an entity borrows until it has its own."""
    settings = Settings.of(told.detector.risk)
    packed = told.detector.tail.get(settings.regime)
    if packed is None:
        return Section("Tail fit", ("The held-out scores are too few, or all the same: there is no tail to borrow.",))
    values = np.asarray(packed, np.float64)
    law = dict(zip(BORROWED, values[: len(BORROWED)].tolist(), strict=True))
    peaks = values[len(BORROWED) :]
    words = (
        f"The highest scores of {len(peaks)} clusters beyond where the tail begins follow a generalised Pareto law of "
        f"shape {law['tail_shape']:.2f} ({_said(law['tail_shape'])}) and scale {law['tail_scale']:.2f}, in units of "
        f"the scores' mean deviation ({law['scale']:.3g}). An entity begins with it; it counts as "
        f"{law['borrowed']:,.0f} windows of its own.",
    )
    shape, scale = np.full(len(peaks), law["tail_shape"]), np.full(len(peaks), law["tail_scale"])
    found = depth(peaks, shape, scale)
    found = found[np.isfinite(found)]  # scores that are nearly all the same leave no law to measure by
    if len(found) < PEAKS_MIN:
        return Section("Tail fit", (*words, "They are too few to be drawn against the law."))
    charts = (
        Chart(_qq(found), 400, "Depth of the peaks under the fitted law against an exponential law (QQ), 95 % band"),
        Chart(
            _stable(found),
            380,
            "Threshold stability: the law above other beginnings of the tail (right: 0 and 1)",
        ),
    )
    return Section("Tail fit", words, charts)


def _said(shape: float) -> str:
    return "heavy" if shape > 0.05 else "bounded" if shape < -0.05 else "exponential"


def _qq(found: F64) -> Figure:
    q = exponential_quantiles(found)
    most = max(float(q.expected[-1]), float(q.seen[-1]))
    within = {"range": [-0.03 * most, 1.05 * most]}
    traces = (
        *figures.between(q.expected, q.low, q.high, "95 %"),
        dots(q.expected, q.seen, "a", "held-out peaks"),
        line([0, most], [0, most], "threshold", "the law", line={"dash": "dash"}),
    )
    axes = {"xaxis": dict(within), "yaxis": dict(within)}
    return figures.plot(traces, "expected depth (nats)", "depth of the peaks (nats)", **axes)


def _stable(found: F64) -> Figure:
    s = stability(found, 0.0)
    panels = []
    for name, right in (("shape", 0.0), ("scale", 1.0)):
        value, error = getattr(s, name), 1.96 * getattr(s, f"{name}_error")
        band = figures.between(s.threshold, value - error, value + error, "95 %")
        law = line(s.threshold, np.full(len(s.threshold), right), "threshold", "the law", line={"dash": "dash"})
        panels.append(Panel(f"{name} (of depth)", (*band, line(s.threshold, value, "a", name), law)))
    figure = figures.over_time(panels, showlegend=False)
    figure["layout"]["xaxis"] |= {"type": "linear", "title": {"text": "tail begins at depth (nats)"}}
    return figure


def _clusters(told: Told) -> Section:
    facts = told.report["clusters"]
    words = [
        f"{facts['clusters']} clusters; {facts['noise']:.0%} of the windows belong to none. Placing the windows again "
        f"puts {facts['agreement']:.0%} of them where the fit did."
    ]
    words += [f"Not good enough to be relied on: {problem}." for problem in facts["problems"]]
    sizes = sorted(facts["sizes"].items(), key=lambda item: -item[1])
    names = told.detector.cluster_names
    rows = tuple(Row((f"cluster {c}", names.get(int(c), ""), f"{n:,}")) for c, n in sizes)
    parts: list[Chart | Table] = []
    known = placement_of(told.detector)
    if known is not None:
        parts.append(
            Chart(_space(told, known.points, labels(known)), 520, "Training windows in their two main directions")
        )
    if rows:
        parts.append(Table(("cluster", "name", "windows"), rows, frozenset({2})))
    return Section("Known behaviours", tuple(words), tuple(parts))


def _space(told: Told, points: F64, cluster: Any) -> Figure:
    at = np.unique(np.linspace(0, len(points) - 1, POINTS_MAX).astype(int))
    x = points - points.mean(0)
    _, spread, axes = np.linalg.svd(x, full_matrices=False)
    flat = np.zeros((len(at), 2))
    flat[:, : min(2, len(axes))] = x[at] @ axes[:2].T
    share = np.resize(np.append(spread**2 / max(float((spread**2).sum()), 1e-300), 0.0), 2)
    titles = [f"direction {i + 1} ({s:.0%} of the variance)" for i, s in enumerate(share)]
    right = {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"}
    return figures.plot(figures.clusters(flat, cluster[at], told.detector.cluster_names), *titles, legend=right)


def _rate(told: Told) -> Section:
    detector = told.detector
    n, _ = _held(told.report)
    wanted = detector.risk * n
    spread = garwood(round(wanted))
    words = (
        f"It promises {_promise(detector)}, a risk of {detector.risk:.2g} per window, unless `alarms` says otherwise.",
        f"On as many windows as were held out ({n:,}) that is {wanted:.3g} false alarms, and counts from "
        f"{max(0, round(spread.low))} to {round(spread.high)} would not contradict it. What was observed is in the "
        "report of a replay.",
    )
    return Section("Alarm rate promised", words)
