"""The right to write for a partition: a membership of the group, asked about at each commit.

In: what is to be committed, and the membership it was worked out under. Out: it is committed, or `Fenced`. Remembers:
when it was last known to be in force.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    NoError,
    NotCoordinatorForGroupError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.structs import OffsetAndMetadata

from stream_app.errors import BrokerUnreachable, TailraceError

# A changed coordinator is known within a second; asking more often only makes its start harder.
_RETRY_S = 0.5
_FENCED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class Fenced(TailraceError):
    """The group has gone on without this worker. What to do: nothing; it joins again and reads from the last commit."""


@dataclass(frozen=True)
class Lease:
    """The membership under which partitions were assigned. The coordinator refuses commits under an older one."""

    generation: int
    member_id: str


async def commit_under(lease: Lease, coordinator: Any, commits: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Commits if the lease is in force; `coordinator` is that of an aiokafka consumer.

    aiokafka's own commit takes the membership of the moment. For a group that is empty by now the broker takes even a
    commit without one, and so a worker that woke up late would turn the offset back. Raises Fenced, or KafkaError when
    the coordinator can't be asked.
    """
    await coordinator.ensure_coordinator_known()
    by_topic: dict[str, list[tuple[int, int, str]]] = {}
    for tp, commit in commits.items():
        by_topic.setdefault(tp.topic, []).append((tp.partition, commit.offset, commit.metadata))
    retention = OffsetCommitRequest.DEFAULT_RETENTION_TIME
    membership = (coordinator.group_id, lease.generation, lease.member_id)
    response = await coordinator._send_req(OffsetCommitRequest(*membership, retention, list(by_topic.items())))
    _check({for_code(code) for _, partitions in response.topics for _, code in partitions}, coordinator, lease)


async def ask_about(lease: Lease, coordinator: Any) -> None:
    """Raises Fenced where the group has gone on without the lease. Where the coordinator can't be asked nothing is
    said, and the next commit will tell."""
    with suppress(KafkaError):
        await coordinator.ensure_coordinator_known()
        request = HeartbeatRequest(coordinator.group_id, lease.generation, lease.member_id)
        answer = for_code((await coordinator._send_req(request)).error_code)
        if answer is not RebalanceInProgressError:  # until it is over the lease is in force
            _check({answer}.intersection(_FENCED), coordinator, lease)


class Asked(Protocol):
    """Who asks about a lease."""

    async def ask_about(self, lease: Lease) -> None: ...


class Assurance:
    """Of being in the group still: after a pause, such as a stopped process has, the group may have gone on without us,
    and is asked before anything is said."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s, self._at = pause_s, time.monotonic()

    async def renew(self, kafka: Asked, lease: Lease) -> None:
        """To be called with each step, and at once when it is worked out. Raises Fenced."""
        if time.monotonic() - self._at > self._pause_s:
            await kafka.ask_about(lease)
        self._at = time.monotonic()


class Committer(Protocol):
    """Who commits under a lease."""

    async def commit_under(self, lease: Lease, commits: Mapping[TopicPartition, OffsetAndMetadata]) -> None: ...


async def commit_patiently(
    kafka: Committer, lease: Lease, commits: Mapping[TopicPartition, OffsetAndMetadata], patience_s: float
) -> None:
    """As `commit_under`, again and again while the coordinator is not to be had. Raises Fenced, BrokerUnreachable."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            return await kafka.commit_under(lease, commits)
        except KafkaError as problem:
            if not problem.retriable or time.monotonic() > give_up:
                raise BrokerUnreachable(f"offsets can't be committed: {problem!r}") from problem
            await asyncio.sleep(_RETRY_S)


def _check(errors: set[type[KafkaError]], coordinator: Any, lease: Lease) -> None:
    fenced = errors.intersection(_FENCED)
    if fenced:
        # Only of our present membership: after a rejoin, the refusal of an old lease says nothing about the new one.
        if (coordinator.generation, coordinator.member_id) == (lease.generation, lease.member_id):
            only_moving = fenced == {RebalanceInProgressError}
            (coordinator.request_rejoin if only_moving else coordinator.reset_generation)()
        raise Fenced(f"the group has given its partitions to other workers ({fenced.pop().__name__})")
    if NotCoordinatorForGroupError in errors:
        coordinator.coordinator_dead()
    for error in errors:
        if error is not NoError:
            raise error("while committing offsets")
