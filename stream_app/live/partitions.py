"""The partitions a worker holds: a pipeline each, its steps, and the checkpoints that make its progress permanent.

In: batches, and what the group has committed. Out: results to the publisher, states to the changelogs, commits.
Remembers: per partition its pipeline, where its reader stands, and the membership under which it was given.

One turn is worked on at a time, a batch of each partition that has one, in a thread of its own: heartbeats and probes
never wait for a score. A checkpoint stops the work while it takes the states; what it then waits for, it waits for
beside the work. Nothing is lost or doubled by how Faust delivers: a batch is taken only if it begins where the
partition's reader stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from stream_app.checkpoint import Checkpoint, Swap
from stream_app.live.fetching import Fetched
from stream_app.live.following import Model
from stream_app.live.held import Held, Hosting, Kafka, Progress, starts_of, step_of, tell_lost
from stream_app.live.leases import Assurance, Fenced, Lease
from stream_app.live.saving import Saving
from stream_app.live.turns import TOGETHER, Turns
from stream_app.shadow import Shadow

T = TypeVar("T")
log = structlog.get_logger("worker")


class Partitions:
    """The partitions held."""

    def __init__(self, hosting: Hosting) -> None:
        self.hosting = hosting
        self.progress = Progress()
        self.source_topics = frozenset(source.topic for source in hosting.config.sources)
        self._held: dict[TopicPartition, Held] = {}
        # Held by who works on a turn, or changes what is held; before it, by who makes a checkpoint: one at a time.
        self._lock, self._saving = asyncio.Lock(), asyncio.Lock()
        self._turns = Turns(TOGETHER, self._lock, self._read)
        self._thread = ThreadPoolExecutor(1, "pipeline")
        self._closing, self._assurance = False, Assurance(hosting.config.worker.session_timeout / 4e6)
        self._kafka: Callable[[], Kafka] | None = None

    def attach(self, kafka: Callable[[], Kafka]) -> None:
        """Who is asked to commit and to seek, once the application has started."""
        self._kafka = kafka

    @property
    def kafka(self) -> Kafka:
        assert self._kafka is not None
        return self._kafka()

    # --- what the application calls --------------------------------------------------------------------------------

    async def open(self, commits: Mapping[Any, OffsetAndMetadata | None], lease: Lease) -> dict[Any, int]:
        """Makes a pipeline for each partition, as the group's commit and the recovered states say."""
        async with self._saving, self._lock:
            self._turns.clear()
            self._held = {}
            if self._closing:
                return {}
            try:
                await self.hosting.must_not_have_grown(self.kafka)
                await self._begin(commits, lease)
                await self._set_shadows()
            except Fenced as news:
                self._drop(news)
            except Exception as problem:
                self.fail(problem)
                return {}
            self.progress.moved()
            return {tp: held.position for tp, held in self._held.items()}

    async def read(self, fetched: Fetched) -> None:
        """Works on a batch. Once begun it is finished, even where Faust cancels the agent that brought it."""
        await self._turns.add(fetched)

    def settled(self) -> None:
        took_s = time.monotonic() - self.progress.unsettled_at
        if not self.progress.settled:
            self.hosting.metrics.restore_seconds.set(took_s)
        self.progress.settled = True
        self.progress.moved()
        self.hosting.metrics.held.set(len(self._held))
        held = [f"{tp.topic}[{tp.partition}]" for tp in sorted(self._held)]
        log.info("partitions", held=held, restored_s=round(took_s, 3))
        self._note_end()

    def fail(self, problem: BaseException) -> None:
        if not self.progress.problem.done():
            self.progress.problem.set_result(problem)

    # --- the run ---------------------------------------------------------------------------------------------------

    async def checkpoint(self, last: bool = False) -> float:
        """Makes permanent what has been done so far; the steps are those of `stream_app.checkpoint`. Gives the seconds
        it took, without those for which another was waited for. A new live bundle takes over with it.

        last: what is held is given up, and nothing is worked on any more. A worker that the group has gone on without
        drops its partitions, and has written nothing.
        """
        # Once begun it is finished: a pipeline asked for its states must not be asked again before they are written.
        return await asyncio.shield(asyncio.ensure_future(self._checkpoint_touched(last)))

    async def close(self, within_s: float) -> bool:
        """Finishes the step in flight, makes a checkpoint and drops the pipelines; gives whether there was time."""
        self.progress.settled, self.progress.unsettled_at = False, time.monotonic()
        self._turns.clear()
        try:
            await asyncio.wait_for(self.checkpoint(last=True), within_s)
        except TimeoutError:
            log.warning("partitions given up without a checkpoint", within_s=within_s)
            return False
        except Exception as problem:
            self.fail(problem)
        finally:
            self._held = {}
        return True

    async def shut(self, within_s: float) -> bool:
        """As `close`, and nothing is opened any more."""
        self._closing = True
        in_time = await self.close(within_s)
        self._thread.shutdown(wait=False, cancel_futures=True)
        return in_time

    def abandon(self) -> None:
        """Drops everything as it is: there was a problem, and nothing more may be written."""
        self._closing, self._held = True, {}
        self._thread.shutdown(wait=False, cancel_futures=True)

    def lag(self, highwater: Callable[[Any], int | None]) -> dict[TopicPartition, int]:
        """Records that are not read yet, per partition held."""
        return {tp: max(0, (highwater(tp) or 0) - held.position) for tp, held in self._held.items()}

    # --- a start ---------------------------------------------------------------------------------------------------

    async def _begin(self, commits: Mapping[Any, OffsetAndMetadata | None], lease: Lease) -> None:
        for tp, start in (await starts_of(self.hosting, self.kafka, commits, lease)).items():
            self._held[tp] = await self._call(partial(Held.begin, self.hosting, tp, start))
            if start.books is not None and start.books.swap is not None:
                await self._tell_swap(tp, start.books.swap)  # 7 of the checkpoint's steps, once more
        self._show_models()

    # --- one turn --------------------------------------------------------------------------------------------------

    async def _read(self, batches: list[Fetched]) -> None:
        try:
            await self._step([(held, b) for b in batches if (held := await self._reader(b)) is not None])
            self._note_end()
        except Fenced as news:
            self._drop(news)
        except Exception as problem:
            self._held = {}
            self.fail(problem)

    async def _reader(self, fetched: Fetched) -> Held | None:
        """Whose the batch is, if it is what is to be read next."""
        tp = TopicPartition(fetched.records.topic, fetched.records.partition)
        held = self._held.get(tp)
        if held is None or fetched.position == held.position:
            return held
        return None if held.is_stale() or not await self._is_gap(tp, held, fetched) else held

    async def _step(self, batches: list[tuple[Held, Fetched]]) -> None:
        work = [(held, fetched.records) for held, fetched in batches if len(fetched.records)]
        if work:
            began = time.monotonic()
            self.progress.reading(sum(len(records) for _, records in work))
            results = await self._call(partial(step_of, work))
            self.progress.busy_s += time.monotonic() - began
            self.hosting.metrics.step_seconds.observe(time.monotonic() - began)
            await self._assurance.renew(self.kafka, work[0][0].lease)
            for (held, records), result in zip(work, results, strict=True):
                # Given up meanwhile: what it says now could overtake its successor.
                if self._held.get(TopicPartition(records.topic, records.partition)) is held:
                    self.hosting.metrics.note(*held.count(), records, result)
                    self.hosting.guard.note(held.start.model, result)
                    await self.hosting.publisher.publish(records, result, held.traces.of)
        for held, fetched in batches:
            held.position, held.touched, held.stale = fetched.next_position, True, 0
        self.progress.moved()

    async def _is_gap(self, tp: TopicPartition, held: Held, fetched: Fetched) -> bool:
        """Whether the records in between are gone for good. If not, they are asked for, and this batch is dropped."""
        first, _ = (await self.kafka.bounds([tp]))[tp]
        if held.position < fetched.position <= first:  # which may have moved on since the batch was fetched
            tell_lost(tp, fetched.position - held.position, self.hosting.metrics)
            return True
        log.info("batch out of turn", topic=tp.topic, partition=tp.partition, at=fetched.position, want=held.position)
        await self.kafka.seek_all({tp: held.position})
        return False

    # --- one checkpoint --------------------------------------------------------------------------------------------

    async def _checkpoint_touched(self, last: bool) -> float:
        async with self._saving, AsyncExitStack() as stillness:
            await stillness.enter_async_context(self._lock)
            model, began = self.hosting.models.live, time.monotonic()
            await self._drain_shadows(model)
            swaps = {tp: swap for tp, held in self._held.items() if (swap := held.swap_to(model)) is not None}
            touched = {tp: held for tp, held in self._held.items() if held.has_news() or tp in swaps}
            if not touched:
                await self._set_shadows()
                return 0.0
            saving, stays = Saving(self.hosting, self.kafka, touched, await self._take(touched, swaps)), last or swaps
            try:
                if not stays:  # otherwise none of the old bundle's steps may be done from here on
                    await stillness.aclose()
                await saving.write(lambda: all(self._held.get(tp) is held for tp, held in touched.items()))
                if not stays:
                    await stillness.enter_async_context(self._lock)
                await self._settle(saving)
                for tp in swaps:
                    await self._hand_over(tp, touched[tp], model, swaps[tp])
            except Fenced as news:
                self._drop(news)
            except Exception as problem:  # states were taken and not written: these pipelines must not be asked again
                self._held = {}
                self.fail(problem)
            else:
                await self._set_shadows()
                self.progress.moved()
                self.hosting.metrics.checkpoint_seconds.observe(time.monotonic() - began)
            return time.monotonic() - began

    async def _take(self, touched: Mapping[Any, Held], swaps: Mapping[Any, Swap]) -> dict[Any, Checkpoint]:
        """The states as they are between two turns. Everything that led to them is on its way to its topic."""
        made = {tp: partial(held.pipeline.checkpoint, swaps.get(tp)) for tp, held in touched.items()}
        for held in touched.values():
            held.touched = False
        return await self._call(lambda: {tp: make() for tp, make in made.items()})

    async def _settle(self, saving: Saving) -> None:
        for tp, checkpoint in saving.taken.items():
            await self._call(partial(saving.held[tp].pipeline.committed, checkpoint))
        await saving.settle()

    # --- another bundle --------------------------------------------------------------------------------------------

    async def _hand_over(self, tp: TopicPartition, held: Held, model: Model, swap: Swap) -> None:
        """6 and 7 of the checkpoint's steps."""
        successor = await self._call(partial(held.successor, self.hosting, tp, model))
        if self._held.get(tp) is not held:
            return  # given up meanwhile; whoever has it now reads in the commit what is to be done
        self._held[tp] = successor
        if successor.position < held.position:
            await self.kafka.seek_all({tp: successor.position})
        await self._tell_swap(tp, swap)
        self._show_models()
        self._note_end()

    def shadows(self) -> list[tuple[TopicPartition, Shadow]]:
        """Of the partitions held."""
        return [(tp, held.pipeline.shadow) for tp, held in self._held.items() if held.pipeline.shadow is not None]

    async def _set_shadows(self) -> None:
        shadow = self.hosting.models.shadow
        for tp, held in list(self._held.items()):
            if held.shadow != shadow:
                beside = await self._call(partial(held.set_shadow, shadow))
                await self.hosting.publisher.tell_beside(tp.topic, tp.partition, beside)
        await self.hosting.shadowing.tell()

    async def _drain_shadows(self, model: Model) -> None:
        """What a shadow has learned goes live with it: first it learns what still waits."""
        for tp, shadow in self.shadows():
            if shadow.spec.bundle == model.digest:
                await self.hosting.shadowing.drain(tp, shadow)

    async def _tell_swap(self, tp: TopicPartition, swap: Swap) -> None:
        log.info("swap", topic=tp.topic, partition=tp.partition, at=swap.at, version=swap.version, bundle=swap.to)
        if self.hosting.models.follows:
            await self.hosting.publisher.tell_swap(tp.topic, tp.partition, swap)

    def _show_models(self) -> None:
        self.hosting.show_models(held.start.model for held in self._held.values())

    def _drop(self, news: Fenced) -> None:
        self._held = {}
        log.warning("fenced", why=str(news))

    def _note_end(self) -> None:
        self.progress.note_end(self.hosting.until, {tp: held.position for tp, held in self._held.items()})

    def _call(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)
