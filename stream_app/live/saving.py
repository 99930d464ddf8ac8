"""Steps 0 to 4 of a checkpoint, as `stream_app.checkpoint` numbers them, for the partitions that were worked on.

In: states taken between two turns, and who holds them. Out: records on the changelogs, and a commit. Remembers:
nothing. The work goes on meanwhile: what it says later belongs to a later checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiokafka.structs import OffsetAndMetadata

from stream_app.checkpoint import Checkpoint
from stream_app.live.held import Held, Hosting, Kafka
from stream_app.live.leases import Fenced, commit_patiently
from stream_app.stamps import Stamp


@dataclass(frozen=True)
class Saving:
    """One checkpoint on its way. `taken`: of the partitions `held`, everything said before is on its way already."""

    hosting: Hosting
    kafka: Kafka
    held: Mapping[Any, Held]
    taken: Mapping[Any, Checkpoint]

    async def write(self, ours: Callable[[], bool]) -> None:
        """0 to 3. `ours`: whether the partitions are still held. Raises Fenced, BrokerUnreachable."""
        publisher, began = self.hosting.publisher, time.monotonic()
        stamps = {tp: self._stamp(tp) for tp in self.taken}
        before = {tp: held.committed for tp, held in self.held.items()}
        await self._commit(before)  # 0
        await publisher.flush()  # 1
        if time.monotonic() - began > self.hosting.config.worker.session_timeout / 4e6:
            await self._commit(before)  # so long ago, 0 says little about now
        if not ours():
            raise Fenced("the partitions were given up while the checkpoint was made")
        for tp, checkpoint in self.taken.items():  # 2
            await publisher.write_states(tp.topic, tp.partition, checkpoint.states, stamps[tp])
        await publisher.flush()
        await self._commit({tp: _commit_of(checkpoint) for tp, checkpoint in self.taken.items()})  # 3

    async def settle(self) -> None:
        """4, once it is committed."""
        for tp, checkpoint in self.taken.items():
            self.held[tp].committed = _commit_of(checkpoint)
            self.held[tp].traces.forget(checkpoint.offset)
            ended = dict.fromkeys(checkpoint.ended)
            await self.hosting.publisher.write_states(tp.topic, tp.partition, ended, self._stamp(tp))

    def _stamp(self, tp: Any) -> Stamp:
        held, states = self.held[tp], self.hosting.states(tp)
        commit = held.committed.offset, held.committed.metadata
        stamp = Stamp.made(self.taken[tp].metadata, commit, held.writer)
        states.reach = max(states.reach, stamp.reach)
        return replace(stamp, reach=states.reach)

    async def _commit(self, commits: Mapping[Any, OffsetAndMetadata]) -> None:
        (lease,) = {held.lease for held in self.held.values()}
        await commit_patiently(self.kafka, lease, commits, self.hosting.patience_s)


def _commit_of(checkpoint: Checkpoint) -> OffsetAndMetadata:
    return OffsetAndMetadata(checkpoint.offset, checkpoint.metadata)
