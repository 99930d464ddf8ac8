"""One model within a replay's report: what it promised and did, its tail, its known behaviours, its drift.

In: its folder of results and the detector. Out: `ModelReport`. Remembers: nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from models.detector import Detector
from models.placement import Placement, labels
from models.scenes import F64, I32, I64, Bool
from stream_app.config import Config
from stream_app.judging import overlap_of, risk_of
from stream_app.replay.merging import alerts_of
from stream_app.replay.parts import EMBEDDINGS
from stream_app.replay.report import findings
from stream_app.replay.report.findings import Scored, Span
from stream_app.report.statistics import Interval, Quantiles, Stability, exponential_quantiles, garwood, stability
from stream_app.threshold.population import Settings

POINTS_MAX = 3_000  # known points drawn; a browser slows with more, and they hide each other


@dataclass(frozen=True)
class Model:
    """A model whose results lie in a folder."""

    label: str  # a or b
    name: str
    folder: Path
    detector: Detector

    @property
    def title(self) -> str:
        return f"{self.label.upper()}: {self.name}"


@dataclass(frozen=True)
class Space:
    """Embeddings in two dimensions: the known behaviours [n, 2] and the replayed windows [w, 2]."""

    known: F64
    cluster: I64
    windows: F64
    window_cluster: I32
    anomalous: Bool
    explained: F64  # [2] share of the known points' variance


@dataclass(frozen=True)
class ModelReport:
    """What is told of one model. `peaks_from`: the depth from which the tail has a law."""

    model: Model
    scored: Scored
    alerts: dict[str, dict[str, Any]]
    promised: float  # false episodes on these windows
    interval: Interval  # of the observed
    risk: float
    peaks_from: float
    quantiles: Quantiles | None
    stable: Stability
    space: Space | None
    drift: list[dict[str, Any]]

    @property
    def windows(self) -> int:
        return sum(self.scored.windows.values())

    @property
    def opened(self) -> int:
        """Alerts that began within the range."""
        return len(self.promised_ones)

    @property
    def promised_ones(self) -> list[dict[str, Any]]:
        """Alerts that began within the range, of the reason whose rate is promised."""
        return _promised_ones(self.alerts)


def report_of(model: Model, config: Config, span: Span) -> ModelReport:
    """Reads the model's results."""
    risk = risk_of(config, model.detector)
    settings = Settings.of(risk, overlap_of(model.detector))
    scored = findings.scored(model.folder, span, settings.gap)
    alerts = alerts_of(model.folder)
    opened = len(_promised_ones(alerts))
    lowest = -math.log(settings.rate)
    excess = scored.peaks[scored.peaks > lowest] - lowest
    quantiles = exponential_quantiles(excess) if len(excess) else None
    return ModelReport(
        model,
        scored,
        alerts,
        risk * sum(scored.windows.values()),
        garwood(opened),
        risk,
        lowest,
        quantiles,
        stability(scored.peaks, lowest),
        _space(model),
        findings.drift_events(model.folder),
    )


def _promised_ones(alerts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [alert for alert in alerts.values() if alert["opened"] and alert["reason"] == "tail"]


def placement_of(detector: Any) -> Placement | None:
    """The known behaviours; None for a detector that has none."""
    found = getattr(getattr(detector, "fitted", detector), "known", None)
    return found if isinstance(found, Placement) and len(found.points) > 2 else None


def _space(model: Model) -> Space | None:
    known = placement_of(model.detector)
    table = pq.read_table(model.folder / EMBEDDINGS)
    if known is None:
        return None
    at = np.unique(np.linspace(0, len(known.points) - 1, POINTS_MAX).astype(int))
    mean = known.points.mean(0)
    _, spread, axes = np.linalg.svd(known.points - mean, full_matrices=False)
    axes = axes[:2] if len(axes) > 1 else np.vstack([axes, np.zeros_like(axes)])
    share = np.resize(np.append(spread**2 / max(float((spread**2).sum()), 1e-300), 0.0), 2)
    embedded = np.array(table["embedding"].to_pylist(), np.float64).reshape(table.num_rows, -1)
    windows = (embedded - mean) @ axes.T if table.num_rows else np.empty((0, 2))
    anomalous = table["anomalous"].to_numpy()
    cluster = table["cluster"].to_numpy().astype(np.int32)
    return Space((known.points[at] - mean) @ axes.T, labels(known)[at], windows, cluster, anomalous, share)
