"""`tailrace worker`: one stream processor of the group, from its preflight to its last commit.

In: the configuration and a detector. Out: alerts, scores, drift events and dead letters on their topics. Remembers:
nothing that is not in Kafka; a worker may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiokafka import TopicPartition

from models.detector import Detector
from models.memory import keep_freed_memory, seek_garbage_seldom
from stream_app.config import Config, Worker
from stream_app.errors import ConfigurationError, TailraceError
from stream_app.live import preflight
from stream_app.live.following import Models, models_of
from stream_app.live.guarding import Guard
from stream_app.live.held import Hosting
from stream_app.live.metrics import Metrics
from stream_app.live.observe import Probes
from stream_app.live.orders import heard
from stream_app.live.partitions import Partitions
from stream_app.live.preflight import Plan
from stream_app.live.publish import Publisher
from stream_app.live.shadowing import Shadowing
from stream_app.live.topic_batches import consumer_of
from stream_app.live.watchdog import TICK_S, Alive, Watchdog
from stream_app.model_store.topic import reaching
from stream_app.stamps import Recovered
from stream_app.windows.extents import misfit

if TYPE_CHECKING:
    from stream_app.live.app import WorkerApp

T = TypeVar("T")
log = structlog.get_logger("worker")

# Faust's services wait for each other at the end; what takes longer than this has nothing left to save.
_STOP_S = 8.0
# Where checkpoints take long they come less often, so that they never take more than a sixth of the time.
_WORK_PER_CHECKPOINT = 5


async def run_worker(
    config: Config, detector: Detector | None, until_end: bool = False, verdict: Callable[[int], None] = os._exit
) -> int:
    """Runs a worker until a signal, or with `until_end` until its partitions are read to where they end now.

    Gives the exit code. Raises TailraceError with what the user is to be told; nothing is committed then that was not
    finished. `verdict` ends the process where it can't end by itself: on a second signal, or when it is stuck.
    """
    stop = _Signals(verdict)
    alive = Alive()
    async with _probes(config, alive) as metrics:
        plan = await _unless(stop, asyncio.to_thread(preflight.check, config))
        if plan is None:
            verdict(0)  # nothing was begun, and the thread that waits for Kafka would keep the process
            return 0
        async with _models(config, detector, metrics) as models:
            alive.models = models
            if (first := await _unless(stop, models.first())) is None:
                return 0
            if first.detector is not None and (words := misfit(config, first.detector)) is not None:
                log.warning("other windows than the bundle's", why=words)
            until = await _ends(config, plan) if until_end else None
            async with _publisher(config, plan) as publisher, heard(config) as quiet:

                def states(tp: TopicPartition) -> Recovered:
                    return app.states[tp.topic].of(tp.partition)

                shadowing = Shadowing(config.shadow.budget, publisher, metrics)
                guard = Guard(config, metrics)
                hosting = Hosting(
                    config, models, publisher, metrics, states, shadowing, guard, until, quiet, plan.counts
                )
                partitions = Partitions(hosting)
                app = _build(config, plan, partitions)
                alive.partitions, alive.app = partitions, app
                await _work(app, partitions, stop, Watchdog(config.worker, alive, verdict))
                if not await _end(app, partitions, config.worker):
                    verdict(1)  # the thread that works on a batch would keep the process
                if partitions.progress.problem.done():
                    await _raise(partitions.progress.problem)
    return 0


async def _work(app: WorkerApp, partitions: Partitions, stop: _Signals, watchdog: Watchdog) -> None:
    try:
        await _run(app, partitions, stop, watchdog)
    except Exception as problem:
        partitions.fail(problem)


def _build(config: Config, plan: Plan, partitions: Partitions) -> WorkerApp:
    import stream_app.records.arrow_forms  # noqa: F401  # better now than amid the first batch that needs it
    from stream_app.live.app import build  # Faust takes a second to import, which --help must not

    app = build(config, plan.settings, plan.counts, partitions)

    async def revoked(*_: object, **__: object) -> None:
        app.gates.close()
        await partitions.close(config.worker.grace / 1e6)

    app.on_partitions_revoked.connect(revoked, weak=False)
    return app


async def _run(app: WorkerApp, partitions: Partitions, stop: _Signals, watchdog: Watchdog) -> None:
    """Until there is a reason to end; raises it where it is a problem."""
    keep_freed_memory()
    seek_garbage_seldom()
    starting = asyncio.ensure_future(app.start())
    partitions.attach(lambda: app.consumer.kafka)
    tasks = [
        asyncio.ensure_future(work)
        for work in (
            stop.given.wait(),
            partitions.progress.finished.wait(),
            _raise(partitions.progress.problem),
            _crashed(app),
            _checkpoints(partitions),
            partitions.hosting.models.run(partitions.checkpoint),
            partitions.hosting.shadowing.run(partitions.shadows, lambda: partitions.progress.busy_s),
            watchdog.watch(),
        )
    ]
    try:
        done, _ = await asyncio.wait([*tasks, starting], return_when=asyncio.FIRST_COMPLETED)
        if done == {starting} and starting.exception() is None:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in [*tasks, starting]:
            task.cancel()


async def _checkpoints(partitions: Partitions) -> None:
    took_s, every_s = 0.0, partitions.hosting.config.worker.checkpoint / 1e6
    while True:
        await asyncio.sleep(max(every_s, _WORK_PER_CHECKPOINT * took_s))
        took_s = await partitions.checkpoint()
        if partitions.hosting.models.follows:
            await partitions.hosting.guard.judge()


async def _end(app: WorkerApp, partitions: Partitions, worker: Worker) -> bool:
    """Checkpoint, unless there was a problem; then leaves the group, so that others need not wait for the session.

    Gives whether what was being done could be finished in time.
    """
    app.gates.close()
    partitions.hosting.shadowing.shut()
    in_time = True
    if partitions.progress.problem.done():
        partitions.abandon()
    else:
        in_time = await partitions.shut(max(1.0, worker.grace / 1e6 - _STOP_S))
    done = partitions.progress
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    took = {"seconds": round(done.seconds(), 3), "cpu_seconds": round(done.cpu_seconds(), 3)}
    log.info("ended", records=done.records, **took, peak_mb=peak_mb)
    with suppress(TimeoutError, Exception):
        await asyncio.wait_for(app.stop(), _STOP_S)
    return in_time


async def _raise(problem: asyncio.Future[BaseException]) -> None:
    found = await asyncio.shield(problem)
    raise found if isinstance(found, TailraceError) else _unexpected(found) from found


def _unexpected(problem: BaseException) -> TailraceError:
    return TailraceError(
        f"the worker can't go on: {type(problem).__name__}: {problem}. Nothing unfinished was committed; a restart"
        " reads from the last commit"
    )


async def _crashed(app: WorkerApp) -> None:
    while not app.crashed:
        await asyncio.sleep(TICK_S / 4)
    raise _unexpected(app.crash_reason or RuntimeError("Faust stopped without a reason"))


async def _ends(config: Config, plan: Plan) -> dict[TopicPartition, int]:
    """Where every source partition ends now."""
    partitions = [TopicPartition(topic, i) for topic, n in plan.counts.items() for i in range(n)]
    async with consumer_of(config) as consumer:
        return dict(await consumer.end_offsets(partitions))


class _Signals:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second gets one at once."""

    def __init__(self, verdict: Callable[[int], None]) -> None:
        self.given = asyncio.Event()
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal, verdict)

    def _on_signal(self, verdict: Callable[[int], None]) -> None:
        if self.given.is_set():
            log.warning("ended at once by a second signal; what was not committed will be read again")
            verdict(1)
        log.info("ending: finishing the batch, then a checkpoint")
        self.given.set()


@asynccontextmanager
async def _probes(config: Config, alive: Alive) -> AsyncIterator[Metrics]:
    metrics, worker = Metrics(), config.worker
    probes = Probes(metrics, {"event_loop": alive.loop}, {"model": alive.model, "partitions": alive.assigned})
    if worker.http_port is not None:
        try:
            port = await probes.start(worker.http_host, worker.http_port)
        except OSError as problem:
            raise ConfigurationError(
                f"worker.http_port {worker.http_port} can't be used: {problem.strerror}; choose another, 0 for any, or"
                " null for none"
            ) from problem
        log.info("probes", livez=f"http://{worker.http_host}:{port}/livez")
    turning = asyncio.ensure_future(alive.turn())
    try:
        yield metrics
    finally:
        turning.cancel()
        await probes.stop()


@asynccontextmanager
async def _models(config: Config, detector: Detector | None, metrics: Metrics) -> AsyncIterator[Models]:
    models = models_of(config, detector, metrics)
    try:
        yield models
    finally:
        await models.stop()


@asynccontextmanager
async def _publisher(config: Config, plan: Plan) -> AsyncIterator[Publisher]:
    publisher = Publisher(config, plan.settings)
    try:
        with reaching(config):
            await publisher.start()
        yield publisher
    finally:
        await publisher.stop()


async def _unless(stop: _Signals, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if a signal comes first."""
    task, given = asyncio.ensure_future(work), asyncio.ensure_future(stop.given.wait())
    await asyncio.wait([task, given], return_when=asyncio.FIRST_COMPLETED)
    given.cancel()
    return task.result() if task.done() else None
