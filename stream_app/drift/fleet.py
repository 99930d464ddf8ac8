"""Drift of all entities of a partition at once: of the scores' quantiles, and of the embeddings against a baseline.

In: scored windows. Out: `DriftEvent`s without an entity, and gauges. Remembers: the last windows, in memory only: a
restart begins anew, and what it says depends on how entities' windows interleave. It is for people: nothing acts on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.detector import Scored
from models.energy import chance_distance, energy_distance
from models.scenes import F64
from stream_app.alerts.alert import rfc3339
from stream_app.drift.entities import DriftEvent
from stream_app.drift.kswin import kswin

RECENT_SCORES = 8_192  # enough for a 99.9 % quantile to rest on eight windows
BASELINE, SAMPLE = 512, 128  # embeddings
FALSE_ALARMS = 1e-3  # per sample of 128
THIN = 16  # of so many windows one is taken: windows that overlap are no independent draws
QUANTILES = (0.5, 0.95, 0.999)


@dataclass(frozen=True)
class FleetGauges:
    """For metrics; NaN while too little is known."""

    quantiles: tuple[float, ...]  # of recent scores, at QUANTILES
    energy: float  # of the last sample of embeddings from the baseline
    energy_threshold: float


class FleetDrift:
    """Watches what all entities have in common."""

    def __init__(self, name: str, bundle: str, baseline: F64 | None = None, seed: int = 0) -> None:
        """baseline [m, width]: embeddings at training; where None, the first 512 taken stand for it."""
        self._name, self._bundle, self._rng = name, bundle, np.random.default_rng(seed)
        self._scores, self._seen = np.empty(0), 0
        self._sample: list[F64] = []
        self._baseline: _Baseline | None = None
        if baseline is not None and len(baseline) > SAMPLE:
            self._baseline = _Baseline(baseline, self._rng)
        self._energy, self._drifted = np.nan, False
        self._new_kswin: Callable[[], Callable[[float], bool]] = lambda: kswin(seed)
        self._changed = self._new_kswin()

    def update(self, scored: Scored, end_us: int) -> list[DriftEvent]:
        """Takes windows; `end_us` dates what is found."""
        fine = np.isfinite(scored.score)
        taken = np.flatnonzero(fine)[(-self._seen) % THIN :: THIN]
        self._seen += int(fine.sum())
        before = float(np.median(self._scores)) if len(self._scores) else np.nan
        self._scores = np.concatenate([self._scores, scored.score[fine]])[-RECENT_SCORES:]
        changes = [self._take(scored.score[i], scored.embedding[i].astype(np.float64)) for i in taken]
        after = float(np.median(self._scores)) if len(self._scores) else np.nan
        limit, at = self._baseline.threshold if self._baseline else np.nan, rfc3339(end_us)
        events = []
        for by_score, energy in changes:
            if by_score:
                events.append(DriftEvent(self._name, "", at, "kswin", "scores", before, after, self._bundle))
            if energy is not None:
                events.append(DriftEvent(self._name, "", at, "energy", "embeddings", limit, energy, self._bundle))
        return events

    def gauges(self) -> FleetGauges:
        known = len(self._scores) > 0
        quantiles = np.quantile(self._scores, QUANTILES) if known else np.full(len(QUANTILES), np.nan)
        limit = self._baseline.threshold if self._baseline else np.nan
        return FleetGauges(tuple(quantiles.tolist()), self._energy, limit)

    def _take(self, score: float, embedding: F64) -> tuple[bool, float | None]:
        changed = self._changed(float(score))
        if changed:
            self._changed = self._new_kswin()
        if np.isfinite(embedding).all():
            self._sample.append(embedding)
        return changed, self._compare()

    def _compare(self) -> float | None:
        """The distance of a full sample, where it says drift and the one before did not."""
        if self._baseline is None:
            if len(self._sample) == BASELINE:
                self._baseline, self._sample = _Baseline(np.array(self._sample), self._rng), []
            return None
        if len(self._sample) < SAMPLE:
            return None
        self._energy, self._sample = self._baseline.distance(np.array(self._sample)), []
        was, self._drifted = self._drifted, self._energy > self._baseline.threshold
        return self._energy if self._drifted and not was else None


class _Baseline:
    """Embeddings in units of their own spread, and the distance that chance gives."""

    def __init__(self, embeddings: F64, rng: np.random.Generator) -> None:
        few = embeddings[rng.choice(len(embeddings), min(len(embeddings), BASELINE), replace=False)]
        self._mean, sd = few.mean(axis=0), few.std(axis=0)
        self._sd = np.where(sd > 1e-9 * (1 + np.abs(self._mean)), sd, np.inf)  # a constant dimension says nothing
        self._vectors = (few - self._mean) / self._sd
        self.threshold = chance_distance(self._vectors, SAMPLE, FALSE_ALARMS, rng)

    def distance(self, embeddings: F64) -> float:
        return energy_distance((embeddings - self._mean) / self._sd, self._vectors)
