"""What a worker holds of a partition, and what all its partitions share.

In: the group's commit, and what Kafka still keeps. Out: where to start, and with which bundle. Remembers: per
partition its pipeline, where its reader stands, and the membership under which it was given; for the process, how far
it has come.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import structlog
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from stream_app import turn
from stream_app.checkpoint import Books, Swap, metadata, read_books, read_progress
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.judging import rate_of
from stream_app.ledger import Accounting
from stream_app.live.fetching import BATCHES_AHEAD
from stream_app.live.following import Model, Models
from stream_app.live.guarding import Guard
from stream_app.live.leases import Asked, Committer, Lease, commit_patiently
from stream_app.live.metrics import Metrics
from stream_app.live.preflight import changelog_topic, other_count
from stream_app.live.publish import Publisher
from stream_app.live.shadowing import Shadowing
from stream_app.live.traces import Traces
from stream_app.pipeline import Pipeline, PipelineSpec, Result
from stream_app.quiet import Quiet
from stream_app.samples import RawBatch
from stream_app.shadow import Beside
from stream_app.stamps import Recovered

log = structlog.get_logger("worker")


class Kafka(Committer, Asked, Protocol):
    """What is asked of the consumer's thread."""

    async def bounds(self, tps: Any) -> Mapping[Any, tuple[int, int]]: ...
    async def counts(self, topics: Iterable[str]) -> Mapping[str, int]: ...
    async def seek_all(self, positions: Mapping[Any, int]) -> None: ...


@dataclass(frozen=True)
class Start:
    """From where, under which membership, and with which bundle a partition is worked on.

    `told`: what may have been said already of the records before this offset was said with this bundle; another takes
    over from there on, not before.
    """

    commit: OffsetAndMetadata
    lease: Lease
    model: Model
    told: int

    @property
    def books(self) -> Books | None:
        return read_books(self.commit.metadata)


@dataclass
class Held:
    """One partition, while it is ours."""

    pipeline: Pipeline
    start: Start
    committed: OffsetAndMetadata
    position: int  # of the next record to read
    counted: Accounting  # in the metrics
    touched: bool = False  # since the last checkpoint
    stale: int = 0  # batches on their way from where the reader stood before
    shadow: Model | None = None
    beside: Beside | None = None  # told last
    traces: Traces = field(default_factory=Traces)
    writer: bytes = field(default_factory=lambda: os.urandom(8))  # in the stamps of its states

    @classmethod
    def begin(cls, hosting: Hosting, tp: TopicPartition, start: Start) -> Held:
        """A partition just given, its states recovered; or just handed over to another bundle."""
        model, states = start.model, hosting.states(tp)
        if states.unstamped:  # what they know can't have been read later
            states.reach = max(states.reach, start.told)
        spec = PipelineSpec(hosting.config, model.detector, tp.topic, tp.partition, states, model.name)
        pipeline = Pipeline(replace(spec, quiet=hosting.quiet))
        pipeline.restore(start.commit.offset, start.commit.metadata)
        return cls(pipeline, start, start.commit, start.commit.offset, pipeline.accounting())

    @property
    def lease(self) -> Lease:
        return self.start.lease

    def has_news(self) -> bool:
        """Whether there is something for a checkpoint: a shadow may learn long after the last record."""
        return self.touched or (self.pipeline.shadow is not None and self.pipeline.shadow.has_learned)

    def is_stale(self) -> bool:
        """Whether the batch at hand was under way when the reader was sent back. Called once for each."""
        self.stale -= 1
        return self.stale >= 0

    def swap_to(self, model: Model) -> Swap | None:
        """What the next checkpoint has to say so that the bundle takes over; None where it has, or can't yet."""
        old = self.start.model
        if model.digest == old.digest or self.position < self.start.told:
            return None
        beside = self.pipeline.shadow
        missed = beside.missed if beside is not None and beside.spec.bundle == model.digest else 0
        return Swap(model.digest, model.version, self.position, time.time_ns() // 1_000_000, old.digest, missed)

    def successor(self, hosting: Hosting, tp: TopicPartition, model: Model) -> Held:
        """The same partition with another bundle, from the checkpoint that said so."""
        new = Held.begin(hosting, tp, Start(self.committed, self.lease, model, self.position))
        new.counted, new.touched = self.counted, True
        new.stale = BATCHES_AHEAD if new.position < self.position else 0
        return new

    def set_shadow(self, shadow: Model | None) -> Beside:
        """Another version judges beside the live one, or none."""
        missed, spec = self._missed_by_shadow(), self.pipeline.spec
        told = read_progress(self.start.commit.metadata)
        at = max(self.position, told[1] if told else 0)  # what closes below was judged before this pipeline began
        if self.beside is not None and self.beside.at == at:
            missed += self.beside.missed  # the same place: what is told now is told instead
        self.shadow, of = shadow, None
        self.beside = Beside(at, None, missed=missed)
        if shadow is not None and shadow.digest != spec.bundle:
            of = replace(spec, detector=shadow.detector, model=shadow.name, shadow=None)
            self.beside = Beside(at, shadow.digest, shadow.version, missed)
        self.pipeline.set_shadow(of)
        return self.beside

    def _missed_by_shadow(self) -> int:
        """By the one that ends here, or by that of whoever held the partition before."""
        if self.pipeline.shadow is not None:
            return self.pipeline.shadow.missed
        return books.missed if self.shadow is None and (books := self.start.books) else 0

    def count(self) -> tuple[Accounting, Accounting]:
        """The books as they were told to the metrics last, and as they are to be told now: nothing twice, where records
        are read again."""
        before, now = self.counted, self.pipeline.accounting()
        self.counted = Accounting.of(np.maximum(before.counts(), now.counts()))
        return before, self.counted


@dataclass(frozen=True)
class Hosting:
    """What partitions are worked on with. `states` gives the recovered states of a partition, the live dictionary."""

    config: Config
    models: Models
    publisher: Publisher
    metrics: Metrics
    states: Callable[[TopicPartition], Recovered]
    shadowing: Shadowing
    guard: Guard
    until: Mapping[TopicPartition, int] | None = None  # None: for ever
    quiet: Quiet = field(default_factory=Quiet)
    counts: Mapping[str, int] = field(default_factory=dict)  # partitions of each source, as at the start

    async def must_not_have_grown(self, kafka: Kafka) -> None:
        """The group would share out sources with more partitions than before, while keys' states stay where they were.

        Raises ConfigurationError.
        """
        for topic, n in (await kafka.counts(self.counts)).items():
            if n > (before := self.counts[topic]):
                raise other_count(topic, n, changelog_topic(self.config, topic), before)

    @property
    def patience_s(self) -> float:
        """For how long a coordinator that is not to be had is asked again: as long as the watchdog waits."""
        return self.config.worker.stuck_after / 1e6

    def show_models(self, used: Iterable[Model]) -> None:
        """In the metrics: the bundles at work, and what the live one promises."""
        self.metrics.use_models({(model.digest, model.version) for model in used})
        if self.models.live.detector is not None:
            self.metrics.promise(self.models.live.digest, rate_of(self.config, self.models.live.detector))


@dataclass
class Progress:
    """What the watchdog, the probes and the end of the run look at."""

    settled: bool = False  # assigned, recovered, reading
    at: float = field(default_factory=time.monotonic)  # when something moved last
    unsettled_at: float = field(default_factory=time.monotonic)
    problem: asyncio.Future[BaseException] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    records: int = 0
    busy_s: float = 0.0  # spent in steps
    began: float | None = None  # with the first batch
    began_cpu_s: float = 0.0  # of the process, by then

    def moved(self) -> None:
        self.at = time.monotonic()

    def reading(self, records: int) -> None:
        if self.began is None:
            self.began, self.began_cpu_s = time.monotonic(), time.process_time()
        self.records += records

    def note_end(self, until: Mapping[TopicPartition, int] | None, positions: Mapping[TopicPartition, int]) -> None:
        """Of a run that has an end: whether what is held is read up to it."""
        if until is not None and self.settled:
            there = all(position >= until.get(tp, 0) for tp, position in positions.items())
            (self.finished.set if there else self.finished.clear)()

    def seconds(self) -> float:
        """Since the first batch."""
        return time.monotonic() - self.began if self.began else 0.0

    def cpu_seconds(self) -> float:
        """Of all threads, since the first batch."""
        return time.process_time() - self.began_cpu_s if self.began else 0.0


def step_of(work: Sequence[tuple[Held, RawBatch]]) -> list[Result]:
    """One turn: a batch of each partition. Blocks."""
    for held, records in work:
        held.traces.note(records)
    return turn.step([(held.pipeline, records) for held, records in work])


async def starts_of(
    hosting: Hosting, kafka: Kafka, commits: Mapping[Any, OffsetAndMetadata | None], lease: Lease
) -> dict[Any, Start]:
    """How the partitions given to us begin. Raises Fenced, BrokerUnreachable, ConfigurationError."""
    bounds, starts = await kafka.bounds(commits), dict[Any, Start]()
    for tp, commit in commits.items():
        begin = where_to_start(tp, commit, *bounds[tp])
        if commit is not None and begin.offset > commit.offset:
            tell_lost(tp, begin.offset - commit.offset, hosting.metrics)
        starts[tp] = start = await start_of(hosting.models, begin, lease, bounds[tp][1])
        if start.commit is not begin:  # the choice of the first bundle
            await commit_patiently(kafka, lease, {tp: start.commit}, hosting.patience_s)
    return starts


async def start_of(models: Models, commit: OffsetAndMetadata, lease: Lease, end: int) -> Start:
    """How a partition given to us begins. Where the group has named no bundle, the live one is named by the commit to
    be made first, so that a crash does not leave the choice open once something was said; `end`: of the partition."""
    books = read_books(commit.metadata) or Books()
    if not models.follows:
        return Start(commit, lease, models.live, end)
    if books.bundle or books.swap:
        return Start(commit, lease, await models.of(books.successor), end)
    model = models.live
    swap = Swap(model.digest, model.version, commit.offset, time.time_ns() // 1_000_000)
    named = metadata(Books(books.accounting, books.clock_us, "", swap), books.accounting, commit.offset)
    return Start(OffsetAndMetadata(commit.offset, named), lease, model, commit.offset)


def where_to_start(tp: TopicPartition, commit: OffsetAndMetadata | None, first: int, end: int) -> OffsetAndMetadata:
    """The committed offset, or the first that is kept where that is later.

    Raises ConfigurationError where the commit is not of this topic.
    """
    if commit is None:
        return OffsetAndMetadata(first, "")
    if commit.offset > end:
        raise ConfigurationError(
            f"the group has committed offset {commit.offset} of {tp.topic}[{tp.partition}], which ends at {end}: the"
            " topic was made anew. Delete the group's offsets (kafka-consumer-groups.sh --delete-offsets), or choose"
            " another `group`"
        )
    if commit.offset < first:
        return OffsetAndMetadata(first, commit.metadata)
    return commit


def tell_lost(tp: TopicPartition, lost: int, metrics: Metrics) -> None:
    """Retention was shorter than our absence; nothing can be done, but everybody should know."""
    metrics.lost.inc(lost)
    log.error("records lost to retention before they were read", topic=tp.topic, partition=tp.partition, n=lost)
