"""Which batches are worked on together: those that wait, one of each partition.

In: batches, each partition's in order. Out: turns. Remembers: the batches that wait.

A partition alone never waits for another: a turn is what is there when the one before it is over. Large batches have
turns of their own: their windows are enough for one call of the detector, and several at once only take memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stream_app.live.fetching import Fetched

TOGETHER = 4_000  # records: four batches of 2,600 windows took three times the memory, and twice as long as each alone

# Passes of the loop in which the batches that one fetch brought come together: each takes a few to get here.
_GATHERING = 5


@dataclass(frozen=True)
class _Waiting:
    fetched: Fetched
    done: asyncio.Future[None]

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Turns:
    """Batches on their way to `work`, which is called under the lock with those of one turn and does not raise."""

    def __init__(self, records_max: int, lock: asyncio.Lock, work: Callable[[list[Fetched]], Awaitable[None]]) -> None:
        self._records_max, self._lock, self._work = records_max, lock, work
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Future[None] | None = None

    async def add(self, fetched: Fetched) -> None:
        """Returns when the batch is done with. It is worked on in any case, even where the caller is cancelled."""
        waiting = _Waiting(fetched, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._running is None:
            self._running = asyncio.ensure_future(self._run())
        await waiting.done

    def clear(self) -> None:
        """What waits is dropped: it was read for an assignment that is over."""
        dropped, self._waiting = self._waiting, []
        for waiting in dropped:
            waiting.finish()

    async def _run(self) -> None:
        try:
            for _ in range(_GATHERING):
                await asyncio.sleep(0)
            while self._waiting:
                async with self._lock:
                    turn = self._next()
                    await self._work([waiting.fetched for waiting in turn])
                for waiting in turn:
                    waiting.finish()
        finally:
            self._running = None

    def _next(self) -> list[_Waiting]:
        """The first batch of each partition, as long as they are not too many together."""
        turn, rest, n, seen = list[_Waiting](), list[_Waiting](), 0, set[tuple[str, int]]()
        for waiting in self._waiting:
            records = waiting.fetched.records
            place = (records.topic, records.partition)
            if place in seen or (turn and n + len(records) > self._records_max):
                rest.append(waiting)
            else:
                turn.append(waiting)
                n += len(records)
            seen.add(place)  # what follows a batch must not overtake it
        self._waiting = rest
        return turn
