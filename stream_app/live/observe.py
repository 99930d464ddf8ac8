"""How a worker is seen from outside: metrics, probes, and the log.

In: what each step gave. Out: `/metrics` for Prometheus, `/livez` and `/readyz` for a supervisor, lines on stderr.
Remembers: counters since the start of the process. No metric carries an entity: their number has no bound.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from stream_app.ledger import Accounting
from stream_app.pipeline import Result
from stream_app.samples import RawBatch
from stream_app.shadow import Agreement

OUTCOMES = ("scored", "late", "duplicate", "dead_lettered")
# OpenTelemetry's buckets for messaging, in seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_AGES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self._used: set[tuple[str, str]] = set()
        self.samples = Counter("samples", "Samples by what became of them", ["outcome"], registry=r)
        self.windows = Counter("windows_scored", "Windows scored", registry=r)
        self.alerts = Counter("alerts", "Alert messages, by status", ["status"], registry=r)
        self.dead_letters = Counter("dlq", "Records dead-lettered", ["reason"], registry=r)
        self.late = Counter("late", "Samples later than allowed", registry=r)
        self.duplicates = Counter("duplicates", "Samples that came before", registry=r)
        self.nonfinite = Counter("score_nonfinite", "Windows whose score was no number", registry=r)
        self.step_seconds = Histogram("scoring_seconds", "From a batch to its results", buckets=_SECONDS, registry=r)
        self.checkpoint_seconds = Histogram("checkpoint_seconds", "Checkpoints", buckets=_SECONDS, registry=r)
        self.e2e = Histogram("e2e_latency_seconds", "Record written to results known", buckets=_AGES, registry=r)
        self.event_lag = Gauge("event_time_lag_seconds", "Now less the end of the last window scored", registry=r)
        self.lag = Gauge("consumer_lag_records", "Records not read yet", ["topic", "partition"], registry=r)
        self.restore_seconds = Gauge("state_restore_seconds", "Of the last assignment", registry=r)
        self.threshold = Gauge("threshold", "Median over the windows scored last", registry=r)
        self.model = Gauge(
            "model_version_info", "1, labelled with each bundle in use", ["digest", "version"], registry=r
        )
        self.model_age = Gauge("model_age_seconds", "Since the bundle was taken into use", registry=r)
        self.models_refused = Counter("tailrace_models_refused", "Bundles refused, by reason", ["reason"], registry=r)
        self.rollbacks = Counter("model_rollbacks", "Versions that the guard rolled back", registry=r)
        self.shadow_windows = Counter("shadow_windows", "Windows, by what became of them", ["outcome"], registry=r)
        self.shadow_episodes = Counter("shadow_episodes", "Alarm episodes in the same windows", ["of"], registry=r)
        self.shadow_waiting = Gauge("shadow_waiting_windows", "Windows that the shadow has not judged yet", registry=r)
        self.shadow_seconds = Counter("shadow_cost_seconds", "Of one core's time, for the shadow", registry=r)
        self.held = Gauge("partitions_held", "Partitions this worker reads", registry=r)

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
            self.nonfinite.inc(refused.reason == "nonfinite_score")
        for alert in result.alerts:
            self.alerts.labels(str(alert.status)).inc()
        self.e2e.observe(max(0.0, time.time() - float(records.clock_us[-1]) / 1e6))
        if result.windows is not None and len(result.windows.entities):
            self.windows.inc(len(result.windows.entities))
            self.event_lag.set(time.time() - float(result.windows.scenes.end_us.max()) / 1e6)
            known = result.windows.judged.threshold[np.isfinite(result.windows.judged.threshold)]
            if len(known):
                self.threshold.set(float(np.median(known)))

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


Check = Callable[[], tuple[bool, str]]


class Probes:
    """A small local server. `alive` and `ready` name their checks; each gives whether it holds, and a word on it."""

    def __init__(self, metrics: Metrics, alive: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        self._metrics, self._alive, self._ready = metrics, alive, ready
        self._runner: Any = None

    async def start(self, host: str, port: int) -> int:
        """Listens; gives the port, which the system chooses for 0. Raises OSError where it is taken."""
        from aiohttp import web

        async def metrics(_: Any) -> web.Response:
            body = generate_latest(self._metrics.registry)
            return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

        def probe(checks: Mapping[str, Check]) -> Any:
            async def answer(_: Any) -> web.Response:
                found = {name: check() for name, check in checks.items()}
                body = {name: {"ok": ok, "detail": detail} for name, (ok, detail) in found.items()}
                return web.json_response(body, status=200 if all(ok for ok, _ in found.values()) else 503)

            return answer

        application = web.Application()
        routes = {"/metrics": metrics, "/livez": probe(self._alive), "/readyz": probe(self._ready)}
        application.add_routes([web.get(path, answer) for path, answer in routes.items()])
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


def start_log(verbose: bool = False) -> None:
    """Lines for a terminal, JSON otherwise, both on stderr. Libraries speak from warnings on, and without tracebacks
    unless `verbose`: what they mean for the user is said by us, in one sentence."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    stamp: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if not verbose:
        stamp.append(_without_traceback)
    stamp.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*stamp, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamp,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("worker").setLevel(logging.INFO)


def _without_traceback(_: Any, __: str, event: Any) -> Any:
    event.pop("exc_info", None)
    record = event.get("_record")
    if record is not None:
        record.exc_info = record.exc_text = None
    return event
