"""Which bundles a worker works with: one from a path, or those that the models topic calls live, as they change.

In: the models topic. Out: `Model`, fetched, verified and open. Remembers: the bundles that are open, and what was
refused.

Nothing here waits in the way of a batch: bundles are fetched and opened in threads of their own, and what is live
changes in one step, which the partitions look at between two batches. A candidate that passed its gate is opened before
it is promoted. A version that is refused is told and counted,
and the one before it serves on; a worker that starts then takes the one before it, too.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from models.detector import Detector
from stream_app.alerts.others import must_suit
from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, BundleRefused, ConfigurationError, TailraceError
from stream_app.live.metrics import Metrics
from stream_app.model_store.fetching import fetch
from stream_app.model_store.history import History
from stream_app.model_store.places import Reference, cache_folder, reference
from stream_app.model_store.pointers import Pointer
from stream_app.model_store.pruning import prune_cache
from stream_app.model_store.topic import follow
from stream_app.model_store.transitions import previous
from stream_app.opening import open_bundle

log = structlog.get_logger("worker")

_AGAIN_S = 1.0
_TELL_EVERY_S = 10.0
KEPT_OPEN = 5  # live, its shadow, the one before, one for partitions that have not handed over yet, and a candidate


@dataclass(frozen=True)
class Model:
    """A bundle in use. `version` is 0 and `name` None where it comes from a path; `name` is what `--model` takes."""

    detector: Detector | None = field(compare=False)  # the version says which it is
    version: int = 0
    name: str | None = None
    since_ms: int = 0  # wall clock: when it was promoted
    returned: bool = False  # by a rollback

    @property
    def digest(self) -> str:
        """Empty where nothing is scored."""
        return self.detector.digest if self.detector else ""


class Models:
    """What partitions ask about bundles. This one knows a single bundle, for good."""

    follows = False  # the models topic
    shadow: Model | None = None  # judges beside the live one

    def __init__(self, live: Model | None) -> None:
        self._live = live

    @property
    def live(self) -> Model:
        """With what partitions are to be worked on; there is one once `first` has returned."""
        assert self._live is not None
        return self._live

    async def of(self, digest: str) -> Model:
        """The bundle that a commit names, or where it is not to be had the live one."""
        return self.live

    async def first(self) -> Model:
        """Waits until there is a bundle to work with."""
        return self.live

    async def stop(self) -> None:
        """Nothing is followed any more."""

    async def run(self, changed: Callable[[], Awaitable[object]]) -> None:
        """For ever; calls `changed` after `live` has become another."""
        await asyncio.Event().wait()

    def ready(self) -> tuple[bool, str]:
        """For the probe."""
        return True, self.live.name or self.live.digest or "records are counted, not scored"


class Following(Models):
    """The bundle that the models topic calls live, version by version."""

    follows = True

    def __init__(self, config: Config, wanted: Reference, metrics: Metrics) -> None:
        super().__init__(None)
        self._config, self._wanted, self._metrics = config, wanted, metrics
        self._history = History()
        self._open: dict[str, Model] = {}
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._refused: set[bytes] = set()
        self._why = "the models topic was not read yet"
        self._news, self._later, self._there = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._changed: Callable[[], Awaitable[object]] | None = None
        self._tasks = [asyncio.ensure_future(work()) for work in (self._watch, self._settle, self._open_ahead)]

    async def first(self) -> Model:
        waiting = asyncio.ensure_future(self._there.wait())
        patience_s, first = _AGAIN_S, asyncio.FIRST_COMPLETED  # what is there is found within a moment
        while not (await asyncio.wait([waiting, *self._tasks], timeout=patience_s, return_when=first))[0]:
            log.warning("waiting for a live model", model=str(self._wanted), why=self._why)
            patience_s = _TELL_EVERY_S
        self._raise_problems()
        return self.live

    async def run(self, changed: Callable[[], Awaitable[object]]) -> None:
        self._changed = changed
        await changed()  # what came while the application started
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._raise_problems()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def of(self, digest: str) -> Model:
        if digest == self.live.digest:
            return self.live
        pointers = self._history.versions(self._wanted.detector).values()
        for pointer in (p for p in pointers if p.digest == digest):
            while True:
                try:
                    model = await self._opened(pointer)
                except BrokerUnreachable as problem:
                    log.warning("waiting for a bundle", model=pointer.name, why=str(problem))
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if model is not None:
                    return model
                break
        log.warning("the bundle of the last commit is not to be had; the live one goes on", bundle=digest)
        return self.live

    def ready(self) -> tuple[bool, str]:
        return (False, self._why) if self._live is None else (True, self._live.name or "")

    # --- following -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async for history in follow(self._config, self._wanted.detector):
            self._history = history
            self._news.set()
            self._later.set()

    async def _settle(self) -> None:
        """Opens what is live now, and again until it could be fetched."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                found = await self._newest()
                shadow = await self._beside(found) if found else None
            except BrokerUnreachable as problem:
                self._why = str(problem)
                log.warning("a bundle can't be fetched", why=self._why, again_in_s=_AGAIN_S)
                asyncio.get_running_loop().call_later(_AGAIN_S, self._news.set)
                continue
            if found is None or (found, shadow) == (self._live, self.shadow):
                continue
            self._live, self.shadow = found, shadow
            log.info("live", model=found.name, bundle=found.digest, shadow=shadow and shadow.name)
            self._there.set()
            if self._changed is not None:
                await self._changed()
            await asyncio.to_thread(prune_cache, self._config, self._history)

    async def _newest(self) -> Model | None:
        """The live version, or where it is refused the one that was live before it."""
        history, name = self._history, self._wanted.detector
        try:
            live = history.named(self._wanted)
            if (model := await self._opened(live)) is not None:
                return _serving(model, live)
            self._why = f"{live.name} was refused, and no version before it was live"
            return await self._opened(previous(history, name))
        except ConfigurationError as nothing:
            if history.live(name) is None:
                self._why = str(nothing)
            return None

    async def _beside(self, live: Model) -> Model | None:
        """The version in shadow."""
        pointer = self._history.shadow(self._wanted.detector)
        model = await self._opened(pointer) if pointer is not None else None
        return None if model is None or model.digest == live.digest else model

    async def _opened(self, pointer: Pointer) -> Model | None:
        """The version, open; None where it is refused, which is told once. Raises BrokerUnreachable."""
        if pointer.digest in self._open:
            return self._open[pointer.digest]
        if (claim := _claim(pointer)) in self._refused:
            return None
        try:
            return await self._kept(pointer)
        except ConfigurationError as problem:
            reason = problem.reason if isinstance(problem, BundleRefused) else "content"
            log.error("model refused", model=pointer.name, reason=reason, why=str(problem))
            self._metrics.models_refused.labels(reason).inc()
            self._refused.add(claim)
            return None

    async def _kept(self, pointer: Pointer) -> Model:
        """The version, open from now on. Raises BundleRefused, ConfigurationError, BrokerUnreachable."""
        async with self._opening[pointer.digest]:  # ahead of time and when it is wanted, it is fetched once
            if pointer.digest in self._open:
                return self._open[pointer.digest]
            self._open[pointer.digest] = model = await asyncio.to_thread(self._fetched, pointer)
        for digest in [d for d in self._open if d not in (pointer.digest, self._live and self._live.digest)]:
            if len(self._open) > KEPT_OPEN:
                del self._open[digest]
        return model

    async def _open_ahead(self) -> None:
        """The candidate, so that it need not be fetched and opened once it is promoted. What is wrong with it is told
        then, when it is tried again."""
        await self._there.wait()
        while True:
            await self._later.wait()
            self._later.clear()
            candidate = self._history.candidate(self._wanted.detector)
            if candidate is not None:
                with suppress(TailraceError):
                    await self._kept(candidate)

    def _fetched(self, pointer: Pointer) -> Model:
        folder = fetch(self._config, pointer, cache_folder(self._config))
        detector = open_bundle(folder, pointer.digest)
        serving = self._live.detector if self._live else None
        if serving is not None and (serving.kind, serving.windows) != (detector.kind, detector.windows):
            raise BundleRefused(
                f"{pointer.name} cuts the stream into other windows than the version that serves; publish it under"
                " another detector's name"
            )
        must_suit(detector, self._config.alarms.also)
        return Model(detector, pointer.version, pointer.name)

    def _raise_problems(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()


def models_of(config: Config, detector: Detector | None, metrics: Metrics) -> Models:
    """What the configuration's `model` says: `name@live` is followed, all else is `detector`, which is open already."""
    wanted = reference(config.model)
    if wanted is not None and wanted.which == "live":
        return Following(config, wanted, metrics)
    return Models(Model(detector, 0, None))


def is_followed(config: Config) -> bool:
    """Whether the worker finds its bundle itself, and no command need open it."""
    wanted = reference(config.model)
    return wanted is not None and wanted.which == "live"


def _serving(model: Model, pointer: Pointer) -> Model:
    last = max((t for t in pointer.history if t.state == "live"), key=lambda t: t.at_ms, default=None)
    if last is None:
        return model
    return replace(model, since_ms=last.at_ms, returned=last.rolled_back_from is not None)


def _claim(pointer: Pointer) -> bytes:
    """What a refusal is about: published again in another place, it may be another matter."""
    return f"{pointer.digest} {pointer.location} {pointer.signature}".encode()
