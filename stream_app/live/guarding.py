"""The guard: a version that was promoted and alarms more often than its contract allows is rolled back by itself.

In: what each step gave. Out: a rollback on the models topic, with the reason. Remembers: windows, episodes and windows
without a score since the live version took over in this worker.

A worker judges by the partitions that it holds. The contract promises `risk` episodes per window; after n windows more
than factor * risk * n of them are counted against the version where chance would give as many less often than `level`
(Poisson). A version that came back by a rollback is not guarded: there is nowhere to go from it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import TailraceError
from stream_app.judging import risk_of
from stream_app.live.following import Model
from stream_app.live.metrics import Metrics
from stream_app.model_store.history import History
from stream_app.model_store.places import reference
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.topic import change
from stream_app.model_store.transitions import Wish, rolled_back
from stream_app.pipeline import Result

log = structlog.get_logger("worker")

REFUSED_AFTER = 100  # windows: before that a share of them says little


@dataclass
class Seen:
    """Of one version, since it took over."""

    windows: int = 0
    episodes: int = 0
    refused: int = 0

    def note(self, result: Result) -> None:
        self.refused += len(result.refused)
        if result.windows is not None:
            self.windows += len(result.windows.entities)
            self.episodes += int(result.windows.judged.episode_start.sum())


def complaint(config: Config, detector: Detector, seen: Seen) -> str | None:
    """What is to be held against a version; None where it keeps its contract."""
    from scipy.special import pdtrc

    guard, risk = config.guard, risk_of(config, detector)
    tried = seen.windows + seen.refused
    if tried >= REFUSED_AFTER and seen.refused > guard.refused * tried:
        return f"guard: {seen.refused} of {tried} windows got no score"
    allowed = guard.factor * risk * seen.windows
    if seen.episodes and float(pdtrc(seen.episodes - 1, allowed)) < guard.level:
        promised = risk * seen.windows
        return f"guard: {seen.episodes} alarm episodes in {seen.windows} windows, where {promised:.3g} were promised"
    return None


class Guard:
    """Watches the live version of a worker that follows the models topic."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._config, self._metrics = config, metrics
        self._model: Model | None = None
        self._seen = Seen()
        self._done = False

    def note(self, model: Model, result: Result) -> None:
        """What one step gave, with the bundle that gave it."""
        if self._model != model:
            if self._model is not None and model.since_ms < self._model.since_ms:
                return  # of a partition that was not handed over yet
            self._model, self._seen, self._done = model, Seen(), False
        self._seen.note(result)

    async def judge(self) -> None:
        """Called with each checkpoint: rolls back, once, where there is reason to."""
        model = self._model
        if model is None or model.detector is None or self._done or not self._watches(model):
            return
        why = complaint(self._config, model.detector, self._seen)
        if why is None:
            return
        self._done = True
        log.error("rolling back", model=model.name, why=why)
        try:
            await change(self._config, lambda history: self._back(history, model, why))
        except TailraceError as problem:
            log.error("the version can't be rolled back", model=model.name, why=str(problem))
            return
        self._metrics.rollbacks.inc()

    def _watches(self, model: Model) -> bool:
        age_us = time.time_ns() // 1000 - 1000 * model.since_ms
        return model.version > 0 and not model.returned and age_us < self._config.guard.watch

    def _back(self, history: History, model: Model, why: str) -> list[Pointer]:
        """Nothing where another worker or a person was faster."""
        wanted = reference(self._config.model)
        live = history.live(wanted.detector) if wanted else None
        if wanted is None or live is None or live.version != model.version:
            return []
        return rolled_back(history, Wish(wanted.detector, at_ms=time.time_ns() // 1_000_000, reason=why))
