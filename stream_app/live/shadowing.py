"""The shadows of a worker's partitions, at work: on a thread of their own, within a budget, on topics of their own.

In: the shadows of the pipelines held. Out: `*-shadow` topics, metrics, and per partition a record that sums up how live
and shadow agree. Remembers: the budget, and the sums since each shadow began.

The budget is of one core's time: what a batch has cost must have been earned before the next begins, and little is
earned while the live bundle works. What does not fit into it waits, and when too much waits whole batches are passed
over; the live bundle's own work is never put off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from aiokafka import TopicPartition

from stream_app.live.metrics import Metrics
from stream_app.live.publish import Publisher
from stream_app.shadow import Agreement, Shadow

_PAUSE_S = 0.02
_SAVED_S = 1.0  # of budget: more would be spent at once, when the live bundle is busiest
BUSY_BUDGET = 0.08  # while the live one works: the two share an interpreter, and it must keep nine tenths of its speed
DRAIN_S = 2.0  # a version that is promoted may use so much to be up to date


class Shadowing:
    """Works for the shadows in turn."""

    def __init__(self, budget: float, publisher: Publisher, metrics: Metrics) -> None:
        self._budget, self._publisher, self._metrics = budget, publisher, metrics
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._sums: dict[TopicPartition, tuple[str, Agreement]] = {}
        self._untold: set[TopicPartition] = set()

    async def run(
        self, shadows: Callable[[], Iterable[tuple[TopicPartition, Shadow]]], busy_s: Callable[[], float]
    ) -> None:
        """For ever. `busy_s`: how long the live bundle has worked so far."""
        earned_s, at, worked_s = 0.0, time.monotonic(), busy_s()
        while True:
            worked = False
            for tp, shadow in list(shadows()):
                now, busy = time.monotonic(), busy_s()
                earned_s += self._budget * (now - at) - max(0.0, self._budget - BUSY_BUDGET) * (busy - worked_s)
                earned_s, at, worked_s = min(_SAVED_S, earned_s), now, busy
                if earned_s > 0:
                    cost_s = await self._work(tp, shadow)
                    earned_s, worked = earned_s - cost_s, worked or cost_s > 0
            self._metrics.shadow_waiting.set(sum(shadow.waiting for _, shadow in shadows()))
            if not worked or earned_s <= 0:
                await asyncio.sleep(max(_PAUSE_S, -earned_s / self._budget))

    async def drain(self, tp: TopicPartition, shadow: Shadow) -> None:
        """Does what waits, budget or not, before the version goes live."""
        give_up = time.monotonic() + DRAIN_S
        while shadow.waiting and time.monotonic() < give_up:
            await self._work(tp, shadow)

    async def tell(self) -> None:
        """A record per partition of which something new is to be told."""
        untold, self._untold = self._untold, set()
        for tp in untold:
            bundle, total = self._sums[tp]
            await self._publisher.tell_shadow(tp.topic, tp.partition, bundle, total)

    def shut(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self, tp: TopicPartition, shadow: Shadow) -> float:
        """One batch; gives its cost in seconds of one core."""
        done = await asyncio.get_running_loop().run_in_executor(self._thread, shadow.work)
        if done is None:
            return 0.0
        result, agreement = done
        self._metrics.note_shadow(agreement)
        bundle, before = self._sums.get(tp, ("", Agreement()))
        before = before if bundle == shadow.spec.bundle else Agreement()
        self._sums[tp] = shadow.spec.bundle, before + agreement
        self._untold.add(tp)
        await self._publisher.publish_shadow(tp.topic, tp.partition, result)
        return agreement.seconds
