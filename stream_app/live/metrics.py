"""What a worker counts and measures, for Prometheus.

In: what each step gave, and which bundles are in use. Out: a registry that `/metrics` shows. Remembers: counters since
the start of the process. No metric carries an entity: their number has no bound.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from models.scenes import F64
from stream_app.judging import AlarmRate, ScoredWindows
from stream_app.ledger import Accounting
from stream_app.pipeline import Result
from stream_app.records.refusals import Reason
from stream_app.samples import RawBatch
from stream_app.shadow import Agreement

OUTCOMES = ("scored", "late", "duplicate", "dead_lettered")
# OpenTelemetry's buckets for messaging, in seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_AGES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._used: set[tuple[str, str]] = set()
        self._promise: tuple[str, AlarmRate] | None = None
        self._watched = self._episodes = 0  # since the promise
        self.samples = counter("samples", "Samples by what became of them", ["outcome"])
        self.windows = counter("windows_scored", "Windows scored")
        self.episodes = counter("alarm_episodes", "Episodes of alarms that began")
        self.alerts = counter("alerts", "Alert messages, by status", ["status"])
        self.dead_letters = counter("dlq", "Records dead-lettered", ["reason"])
        self.late = counter("late", "Samples later than allowed")
        self.duplicates = counter("duplicates", "Samples that came before")
        self.nonfinite = counter("score_nonfinite", "Windows whose score was no number")
        self.step_seconds = histogram("scoring_seconds", "From a turn's batches to their results", buckets=_SECONDS)
        self.checkpoint_seconds = histogram("checkpoint_seconds", "Checkpoints", buckets=_SECONDS)
        self.e2e = histogram("e2e_latency_seconds", "Record written to results known", buckets=_AGES)
        self.event_lag = gauge("event_time_lag_seconds", "Now less the end of the last window scored")
        self.lag = gauge("consumer_lag_records", "Records not read yet", ["topic", "partition"])
        self.held = gauge("partitions_held", "Partitions this worker reads")
        self.restore_seconds = gauge("state_restore_seconds", "Of the last assignment")
        self.restored = gauge("states_restored", "Records read from the changelogs since the start")
        self.lost = counter("records_lost", "Records that retention deleted before they were read")
        self.threshold = gauge("threshold", "Median over the windows scored last")
        self.tail_shape = gauge("tail_shape", "Median over the windows scored last; positive: a heavy tail")
        of_rate = "episodes per entity and `per`"
        self.promised = gauge("tailrace_alarm_rate_promised", f"False {of_rate}, at most", ["per"])
        self.observed = gauge("tailrace_alarm_rate_observed", f"All {of_rate}, over tailrace_alarm_rate_span", ["per"])
        self.span = gauge("tailrace_alarm_rate_span", "Entities x `per` watched since the bundle is live", ["per"])
        self.model = gauge("model_version_info", "1, labelled with each bundle in use", ["digest", "version"])
        self.model_age = gauge("model_age_seconds", "Since the bundle was taken into use")
        self.models_refused = counter("tailrace_models_refused", "Bundles refused, by reason", ["reason"])
        self.rollbacks = counter("model_rollbacks", "Versions that the guard rolled back")
        self.shadow_windows = counter("shadow_windows", "Windows, by what became of them", ["outcome"])
        self.shadow_episodes = counter("shadow_episodes", "Alarm episodes in the same windows", ["of"])
        self.shadow_waiting = gauge("shadow_waiting_windows", "Windows that the shadow has not judged yet")
        self.shadow_seconds = counter("shadow_cost_seconds", "Of one core's time, for the shadow")

    def note(self, before: Accounting, after: Accounting, records: RawBatch, result: Result) -> None:
        """Counts what one step gave."""
        for outcome in OUTCOMES:
            self.samples.labels(outcome).inc(getattr(after, outcome) - getattr(before, outcome))
        self.late.inc(after.late - before.late)
        self.duplicates.inc(after.duplicate - before.duplicate)
        for letter in result.dead_letters:
            self.dead_letters.labels(str(letter.reason)).inc()
        for refused, *_ in result.refused:
            self.dead_letters.labels(refused.reason).inc()
            self.nonfinite.inc(refused.reason == Reason.NONFINITE_SCORE)
        for alert in result.alerts:
            self.alerts.labels(str(alert.status)).inc()
        self.e2e.observe(max(0.0, time.time() - float(records.clock_us[-1]) / 1e6))
        if result.windows is not None and len(result.windows.entities):
            self._note_windows(result.windows)

    def _note_windows(self, said: ScoredWindows) -> None:
        windows, episodes = len(said.entities), int(said.judged.episode_start.sum())
        self.windows.inc(windows)
        self.episodes.inc(episodes)
        self.event_lag.set(time.time() - float(said.scenes.end_us.max()) / 1e6)
        _show_median(self.threshold, said.judged.threshold)
        _show_median(self.tail_shape, said.judged.tail_shape)
        if self._promise is not None:
            self._watched, self._episodes = self._watched + windows, self._episodes + episodes
            _, rate = self._promise
            span = self._watched / rate.windows
            self.span.labels(rate.per).set(span)
            self.observed.labels(rate.per).set(self._episodes / span)

    def note_shadow(self, found: Agreement) -> None:
        """Counts what one batch gave in shadow."""
        different = found.windows - found.alike
        outcomes = {"alike": found.alike, "different": different, "refused": found.refused, "skipped": found.skipped}
        for outcome, n in outcomes.items():
            self.shadow_windows.labels(outcome).inc(n)
        self.shadow_episodes.labels("live").inc(found.live_episodes)
        self.shadow_episodes.labels("shadow").inc(found.shadow_episodes)
        self.shadow_episodes.labels("promised").inc(found.promised)
        self.shadow_seconds.inc(found.seconds)

    def use_models(self, used: Iterable[tuple[str, int]]) -> None:
        """Digests and versions of the bundles in use: one, but while partitions are handed over."""
        now = {(digest, str(version or "")) for digest, version in used if digest}
        if now == self._used:
            return
        self._used, began = now, time.monotonic()
        self.model.clear()
        for digest, version in now:
            self.model.labels(digest, version).set(1)
        self.model_age.set_function(lambda: time.monotonic() - began)

    def promise(self, bundle: str, rate: AlarmRate) -> None:
        """What the bundle that is live promises; what is observed is counted anew with another."""
        if self._promise == (bundle, rate):
            return
        self._promise, self._watched, self._episodes = (bundle, rate), 0, 0
        for shown in (self.promised, self.observed, self.span):
            shown.clear()
        self.promised.labels(rate.per).set(rate.episodes)


def _show_median(gauge: Gauge, values: F64) -> None:
    known = values[np.isfinite(values)]
    if len(known):
        gauge.set(float(np.median(known)))
