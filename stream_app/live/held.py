"""What a worker holds of a partition, and what all its partitions share.

In: the group's commit, and what Kafka still keeps. Out: where to start. Remembers: per partition its pipeline, where
its reader stands, and the membership under which it was given; for the process, how far it has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from models.detector import Detector
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.ledger import Accounting
from stream_app.live.leases import Lease
from stream_app.live.observe import Metrics
from stream_app.live.publish import Publisher
from stream_app.pipeline import Pipeline, PipelineSpec

log = structlog.get_logger("worker")


class Kafka(Protocol):
    """What is asked of the consumer's thread."""

    async def commit_under(self, lease: Lease, commits: Mapping[Any, OffsetAndMetadata]) -> None: ...
    async def bounds(self, tps: Any) -> Mapping[Any, tuple[int, int]]: ...
    async def seek_all(self, positions: Mapping[Any, int]) -> None: ...


@dataclass
class Held:
    """One partition, while it is ours."""

    pipeline: Pipeline
    lease: Lease
    committed: OffsetAndMetadata
    position: int  # of the next record to read
    counted: Accounting  # in the metrics
    touched: bool = False  # since the last checkpoint

    @classmethod
    def begin(cls, hosting: Hosting, tp: TopicPartition, start: OffsetAndMetadata, lease: Lease) -> Held:
        """A partition just given, its states recovered."""
        spec = PipelineSpec(hosting.config, hosting.detector, tp.topic, tp.partition, hosting.states(tp))
        pipeline = Pipeline(spec)
        pipeline.restore(start.offset, start.metadata)
        return cls(pipeline, lease, start, start.offset, pipeline.accounting())


@dataclass(frozen=True)
class Hosting:
    """What partitions are worked on with. `states` gives the recovered states of a partition, the live dictionary."""

    config: Config
    detector: Detector | None
    publisher: Publisher
    metrics: Metrics
    states: Callable[[TopicPartition], dict[bytes, bytes]]
    until: Mapping[TopicPartition, int] | None = None  # None: for ever


@dataclass
class Progress:
    """What the watchdog, the probes and the end of the run look at."""

    settled: bool = False  # assigned, recovered, reading
    at: float = field(default_factory=time.monotonic)  # when something moved last
    unsettled_at: float = field(default_factory=time.monotonic)
    problem: asyncio.Future[BaseException] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    records: int = 0
    began: float | None = None  # with the first batch

    def moved(self) -> None:
        self.at = time.monotonic()

    def reading(self, records: int) -> None:
        self.began, self.records = self.began or time.monotonic(), self.records + records

    def seconds(self) -> float:
        """Since the first batch."""
        return time.monotonic() - self.began if self.began else 0.0


def where_to_start(tp: TopicPartition, commit: OffsetAndMetadata | None, first: int, end: int) -> OffsetAndMetadata:
    """The committed offset, or the first there is. Raises ConfigurationError where the commit is not of this topic."""
    if commit is None:
        return OffsetAndMetadata(first, "")
    if commit.offset > end:
        raise ConfigurationError(
            f"the group has committed offset {commit.offset} of {tp.topic}[{tp.partition}], which ends at {end}: the"
            " topic was made anew. Delete the group's offsets (kafka-consumer-groups.sh --delete-offsets), or choose"
            " another `group`"
        )
    if commit.offset < first:
        tell_lost(tp, first - commit.offset)
        return OffsetAndMetadata(first, commit.metadata)
    return commit


def tell_lost(tp: TopicPartition, lost: int) -> None:
    """Retention was shorter than our absence; nothing can be done, but everybody should know."""
    log.error("records lost to retention before they were read", topic=tp.topic, partition=tp.partition, n=lost)
