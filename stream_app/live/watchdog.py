"""Whether a worker lives, is ready, and gets on: what probes answer, and what ends a process that is stuck.

In: the partitions held and the application. Out: answers, the lag as a metric, and in the end an exit code. Remembers:
when the event loop turned last.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from stream_app.config import Worker
from stream_app.errors import Stuck
from stream_app.live.following import Models
from stream_app.live.partitions import Partitions

if TYPE_CHECKING:
    from stream_app.live.app import WorkerApp

TICK_S = 1.0


class Alive:
    """What probes and watchdog ask about."""

    models: Models | None = None
    partitions: Partitions | None = None
    app: WorkerApp | None = None

    def __init__(self) -> None:
        self.tick = time.monotonic()

    async def turn(self) -> None:
        """For ever: notes that the event loop turns."""
        while True:
            self.tick = time.monotonic()
            await asyncio.sleep(TICK_S)

    def loop(self) -> tuple[bool, str]:
        late = time.monotonic() - self.tick
        return late < 10 * TICK_S, f"last turn {late:.1f} s ago"

    def assigned(self) -> tuple[bool, str]:
        if self.partitions is None:
            return False, "waiting for Kafka"
        if self.partitions.progress.settled:
            return True, "reading"
        given = self.app is not None and self.app.given
        return False, f"restoring states, {self.n_recovered()} read so far" if given else "joining the group"

    def model(self) -> tuple[bool, str]:
        return (False, "waiting for Kafka") if self.models is None else self.models.ready()

    def n_recovered(self) -> int:
        return sum(states.n_recovered for states in self.app.states.values()) if self.app else 0

    def lag(self) -> dict[TopicPartition, int]:
        if self.partitions is None or self.app is None or not self.partitions.progress.settled:
            return {}
        return self.partitions.lag(self.app.consumer.highwater)


class Watchdog:
    """Ends the process when nothing moves: by an error if the loop turns, from a thread of its own if it does not."""

    def __init__(self, worker: Worker, alive: Alive, verdict: Callable[[int], None]) -> None:
        self._patience_s, self._alive, self._verdict = worker.stuck_after / 1e6, alive, verdict

    async def watch(self) -> None:
        partitions = self._alive.partitions
        assert partitions is not None
        done = threading.Event()
        threading.Thread(target=self._watch_loop, args=(done,), daemon=True, name="watchdog").start()
        recovered = -1
        try:
            while True:
                n, lag = self._alive.n_recovered(), self._alive.lag()
                if n != recovered or (partitions.progress.settled and not any(lag.values())):
                    partitions.progress.moved()
                recovered = n
                partitions.hosting.metrics.restored.set(n)
                partitions.hosting.metrics.lag.clear()
                for tp, behind in lag.items():
                    partitions.hosting.metrics.lag.labels(tp.topic, tp.partition).set(behind)
                self._judge(partitions, lag)
                await asyncio.sleep(TICK_S)
        finally:
            done.set()

    def _judge(self, partitions: Partitions, lag: dict[TopicPartition, int]) -> None:
        still_s = time.monotonic() - partitions.progress.at
        if still_s > self._patience_s:
            what = f"{sum(lag.values())} records wait" if partitions.progress.settled else "its states are not restored"
            self._end(f"no progress for {still_s:.0f} s while {what}")

    def _watch_loop(self, done: threading.Event) -> None:
        while not done.wait(TICK_S):
            if time.monotonic() - self._alive.tick > self._patience_s:
                self._end(f"the event loop has not turned for {self._patience_s:.0f} s")

    def _end(self, why: str) -> None:
        # What is stuck can't be asked to leave: the process ends as it is.
        print(f"{why}. Nothing unfinished was committed; a restart reads from the last commit", file=sys.stderr)
        sys.stderr.flush()
        self._verdict(Stuck.exit_code)
