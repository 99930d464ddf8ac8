"""`report.html` of a replay, and the same as JSON and Parquet beside it.

In: folders of results, the plan and the models. Out: report.html, report.json, report/*.parquet. Remembers: nothing.
Nothing of the wall clock stands in them, so two replays of a range write the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream_app.config import Config
from stream_app.replay.difference import Difference
from stream_app.replay.finding import Plan
from stream_app.replay.report import entities, findings, sections
from stream_app.replay.report.findings import Span
from stream_app.replay.report.model import Model, ModelReport, report_of
from stream_app.replay.report.signals import Signal, signals
from stream_app.report.page import Page, Section, plain, render


@dataclass(frozen=True)
class Subject:
    """What the report is of. `state`: from what the state at the range's beginning was rebuilt."""

    out: Path
    config: Config
    plan: Plan
    models: tuple[Model, ...]
    compared: Difference | None
    state: str
    records: int


def write_report(subject: Subject) -> None:
    """Gathers and writes."""
    span = findings.span_of([model.folder for model in subject.models])
    reports = [report_of(model, subject.config, span) for model in subject.models] if span else []
    names = entities.shown(reports, subject.compared) if reports else []
    seen: list[Signal] = []
    if span is not None:
        detector = subject.models[0].detector
        seen = signals(subject.config, detector, subject.plan, dict.fromkeys(names, span))
    page = _page(subject, reports, _sections(subject, reports, names, (seen, span)))
    (subject.out / "report.html").write_text(render(page), encoding="utf-8")
    data = _data(page, reports, subject)
    (subject.out / "report.json").write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n")
    _write_tables(subject.out / "report", _tables(reports, seen))


def _sections(
    subject: Subject, reports: list[ModelReport], names: list[str], drawn: tuple[list[Signal], Span | None]
) -> list[Section]:
    seen, span = drawn
    if not reports or span is None:
        return []
    first = entities.difference(subject.compared) if subject.compared else entities.alerts(reports[0])
    return [
        first,
        entities.entities(reports, names, seen, span),
        sections.rates(reports),
        sections.tail(reports),
        sections.spaces(reports),
        sections.drift(reports),
    ]


def _page(subject: Subject, reports: list[ModelReport], parts: list[Section]) -> Page:
    plan = subject.plan
    several = len(subject.models) > 1
    title = f"Replay of {plan.topic}" + (": A and B compared" if several else "")
    facts = [("records replayed", f"{subject.records:,}"), ("partitions", str(len(plan.slices)))]
    facts += [(model.label.upper() if several else "model", model.name) for model in subject.models]
    for report in reports:
        who = f"{report.model.label.upper()}: " if several else ""
        facts += [(f"{who}windows", f"{report.windows:,}"), (f"{who}alerts opened", str(report.opened))]
        facts += [(f"{who}bundle", report.model.detector.digest.removeprefix("sha256:")[:16])]
    if reports:
        span = reports[0].scored.periods.span
        facts.append(("event time", f"{_day(span.start_us)} to {_day(span.end_us)}"))
    notes = (*plan.notes, f"The state at the beginning of the range: {subject.state}.")
    return Page(title, _summary(subject, reports), tuple(facts), notes, tuple(parts))


def _summary(subject: Subject, reports: list[ModelReport]) -> str:
    if not reports:
        return (
            f"No window closed within the {subject.records:,} records, so there is no score and no alert: "
            "the range is shorter than a window, or its records could not be used (see accounting.json)."
        )
    first = reports[0]
    if subject.compared is None:
        text = f"{first.model.name} opened {_alerts(first.opened)} on {first.windows:,} windows of"
        return f"{text} {len(first.scored.windows)} entities. {sections.verdict(first).split(': ', 1)[1]}"
    c = subject.compared.counts
    if not any(c[kind] for kind in ("added", "lost", "moved", "changed")):
        return f"A and B say the same: {_alerts(c['same'])} each, with the same bounds and causes."
    return (
        f"On the same records A ({first.model.name}) has {_alerts(c['a'])} and B ({reports[1].model.name}) has "
        f"{c['b']}: B adds {c['added']} and loses {c['lost']}; of the {c['a'] - c['lost']} that both have, "
        f"{c['moved']} moved and {c['changed']} changed in strength or cause."
    )


def _alerts(n: int) -> str:
    return f"{n} alert" if n == 1 else f"{n} alerts"


def _day(us: int) -> str:
    return str(np.datetime64(us, "us").astype("datetime64[m]")).replace("T", " ")


def _data(page: Page, reports: list[ModelReport], subject: Subject) -> dict[str, Any]:
    """What people read, for programs."""
    return {
        "title": page.title,
        "summary": page.summary,
        "notes": page.notes,
        "topic": subject.plan.topic,
        "records": subject.records,
        "slices": subject.plan.as_dict()["slices"],
        "difference": subject.compared.counts if subject.compared else None,
        "models": {report.model.label: _model(report) for report in reports},
    }


def _model(report: ModelReport) -> dict[str, Any]:
    space = report.space
    return {
        "name": report.model.name,
        "digest": report.model.detector.digest,
        "windows": report.windows,
        "entities": len(report.scored.windows),
        "anomalous_windows": report.scored.anomalous,
        "warming_windows": report.scored.warming,
        "risk": report.risk,
        "alarms": {"promised": report.promised, "observed": report.opened, "interval_95": asdict(report.interval)},
        "tail": {
            "begins_at_depth": report.peaks_from,
            "clusters": int(np.count_nonzero(report.scored.peaks > report.peaks_from)),
            "qq": asdict(report.quantiles) if report.quantiles else None,
            "stability": asdict(report.stable),
        },
        "noise": {
            "replayed": float(np.mean(space.window_cluster < 0)) if space and len(space.window_cluster) else None,
            "training": float(np.mean(space.cluster < 0)) if space else None,
        },
        "drift": report.drift,
    }


def _tables(reports: list[ModelReport], seen: list[Signal]) -> dict[str, list[dict[str, Any]]]:
    """What is drawn, column by column."""
    found: dict[str, list[dict[str, Any]]] = {"signals": [asdict(signal) for signal in seen]}
    for report in reports:
        who = {"model": report.model.label}
        if report.quantiles is not None:
            found.setdefault("tail_qq", []).append(who | asdict(report.quantiles))
        found.setdefault("tail_stability", []).append(who | asdict(report.stable))
        middle, q = report.scored.periods.quantiles()
        columns = {"t_us": middle} | dict(zip(("q50", "q95", "q999"), q.T, strict=True))
        found.setdefault("score_quantiles", []).append(who | columns)
        if report.space is not None:
            s = report.space
            known = {"x": s.known[:, 0], "y": s.known[:, 1], "cluster": s.cluster}
            found.setdefault("known_behaviours", []).append(who | known)
            windows = {
                "x": s.windows[:, 0],
                "y": s.windows[:, 1],
                "cluster": s.window_cluster,
                "anomalous": s.anomalous,
            }
            found.setdefault("replayed_windows", []).append(who | windows)
    return found


def _write_tables(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """A Parquet file per table: arrays are its columns, single values stand in each of their rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    for name, parts in tables.items():
        made = []
        for part in parts:
            n = max(len(v) for v in part.values() if isinstance(v, np.ndarray))
            made.append(pa.table({k: v if isinstance(v, np.ndarray) else [v] * n for k, v in part.items()}))
        if made:
            pq.write_table(pa.concat_tables(made), folder / f"{name}.parquet")
