"""Faust's Kafka transport, fed in batches: one Faust message per run of records of a partition.

In: what the brokers answer. Out: `Fetched`, columns of up to `max_poll_records` records, to agents and to tables.
Remembers: which partitions may be read, and how many of their batches are being worked on.

Three things differ from Faust's own driver. Records come as columns, read from the wire format's batches without an
object per record. A source partition is read only between `start_at` and the next rebalance, at most two batches ahead
of its reader, so memory is bounded and no partition can starve another. And offsets are never committed from
acknowledgements, which lose data: `commit` sends what a checkpoint says, under the membership it was taken with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import aiokafka
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from stream_app.live.fetching import Fetched, read_batch
from stream_app.live.leases import Lease, ask_about, commit_under

T = TypeVar("T")

# A partition that has been read to its end holds up the others of its broker for at most this long.
FETCH_WAIT_MS = 100
# A few batches of the producers' usual size; the broker sends more when one record needs it.
FETCH_BYTES = 1 << 20


class _NoReadOffsets(dict[TP, "int | None"]):
    """Faust drops messages below the offset it read last. Ours are checked by their reader, which asks for what is
    missing; a batch dropped unseen would stay counted as being worked on."""

    def __missing__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class RebalanceListener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps the membership under which partitions were given: asked for later, it could be that of the next one."""

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Any:
        self._thread.lease = None
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        coordinator = self._thread._ensure_consumer()._coordinator
        self._thread.lease = Lease(coordinator.generation, coordinator.member_id)
        await super().on_partitions_assigned(assigned)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that talks to Kafka: heartbeats, fetches and commits never wait for the pipelines."""

    #: The membership in force; None while partitions are being given anew.
    lease: Lease | None = None
    #: The membership under which records were fetched last.
    fetched_under: Lease | None = None

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        worker, loop = self.app.worker_config, self.thread_loop
        self._opened = asyncio.Event()
        self.app.gates.changed = lambda: loop.call_soon_threadsafe(self._opened.set)
        # Faust's recovery reads the changelogs' distribution from its own assignor.
        self._assignor = self.app.assignor
        session_ms = worker.session_timeout // 1000
        return aiokafka.AIOKafkaConsumer(
            **self.app.client_settings,
            client_id=self.app.client_id,
            group_id=self.app.conf.id,
            group_instance_id=worker.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # What an aborted transaction wrote was never said.
            isolation_level="read_committed",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(100, session_ms // 4),
            # What others wait for us before they go on: our last checkpoint may take `grace`.
            rebalance_timeout_ms=session_ms + worker.grace // 1000,
            # aiokafka leaves the group when nobody polls for so long; our own watchdog ends the process before.
            max_poll_interval_ms=10 * max(session_ms, worker.stuck_after // 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            metadata_max_age_ms=session_ms,  # a source that grows is noticed as soon as a worker that is gone
        )

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock detector judges by acknowledgements, which are not used; the worker has its own watchdog."""

    # --- called from the main thread -------------------------------------------------------------------------------

    async def in_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the thread's loop. Faust's own queue has two workers, which a stuck commit could fill."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.thread_loop))

    async def committed(self, tps: Iterable[TP]) -> dict[TP, OffsetAndMetadata | None]:
        """What the group has committed, with metadata; None for a partition that nobody committed."""
        wanted = [TopicPartition(*tp) for tp in tps]
        found = await self.in_thread(self._ensure_consumer()._coordinator.fetch_committed_offsets(wanted))
        return {TP(*tp): found.get(tp) for tp in wanted}

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """The first offset that is still kept, and the end."""
        wanted = [TopicPartition(*tp) for tp in tps]
        consumer = self._ensure_consumer()
        first = await self.in_thread(consumer.beginning_offsets(wanted))
        end = await self.in_thread(consumer.end_offsets(wanted))
        return {TP(*tp): (first[tp], end[tp]) for tp in wanted}

    async def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions topics have now."""
        client = self._ensure_consumer()._client

        async def ask() -> None:
            await client.force_metadata_update()

        await self.in_thread(ask())
        return {topic: len(client.cluster.partitions_for_topic(topic) or ()) for topic in topics}

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        async def seek() -> None:
            for tp, offset in positions.items():
                self._ensure_consumer().seek(TopicPartition(*tp), offset)

        await self.in_thread(seek())

    async def commit_under(self, lease: Lease, commits: Mapping[TP, OffsetAndMetadata]) -> None:
        """As `stream_app.live.leases` does it."""
        await self.in_thread(commit_under(lease, self._ensure_consumer()._coordinator, commits))

    async def ask_about(self, lease: Lease) -> None:
        """As `stream_app.live.leases` does it."""
        await self.in_thread(ask_about(lease, self._ensure_consumer()._coordinator))

    # --- in the thread ---------------------------------------------------------------------------------------------

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float | None = None, max_records: int | None = None
    ) -> dict[TP, Fetched]:
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        consumer._coordinator.check_errors()
        deadline = self.thread_loop.time() + (timeout or 0)
        with fetcher._subscriptions.fetch_context():
            while self.consumer.flow_active:
                if fetcher._subscriptions.reassignment_in_progress:
                    return {}
                self._opened.clear()
                self.fetched_under = self.lease
                found = dict(self._take(fetcher, active_partitions))
                left = deadline - self.thread_loop.time()
                if found or left <= 0 or fetcher._closed:
                    return found
                await self._wait_for_more(fetcher, left)
        return {}

    def _take(self, fetcher: Any, active: set[TP]) -> Iterator[tuple[TP, Fetched]]:
        """One batch of every partition that has one and may be read, so that all get their turn."""
        gates, bound = self.app.gates, self.app.worker_config.max_poll_records
        for kafka_tp, result in list(fetcher._records.items()):
            tp = TP(*kafka_tp)
            if tp not in active or not (tp.topic in self.app.tables.changelog_topics or gates.is_open(tp)):
                continue
            if not isinstance(result, FetchResult):
                del fetcher._records[kafka_tp]
                fetcher._notify(fetcher._wait_consume_future)
                result.check_raise()
                continue
            fetched = read_batch(result, bound)
            if not result.has_more():
                del fetcher._records[kafka_tp]
                fetcher._notify(fetcher._wait_consume_future)
            if fetched is not None:
                gates.enter(tp)
                yield tp, fetched

    async def _wait_for_more(self, fetcher: Any, timeout: float) -> None:
        arrived = fetcher._create_fetch_waiter()
        opened = asyncio.ensure_future(self._opened.wait())
        await asyncio.wait([arrived, opened], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if arrived.done():
            arrived.result()  # raises what the coordinator found, such as a refused authorisation
        arrived.cancel()


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with batches for messages, and without acknowledgements."""

    RebalanceListener: ClassVar[Any] = RebalanceListener
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def kafka(self) -> ConsumerThread:
        """The thread that talks to Kafka."""
        return self._thread

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        fetched, _ = await self._wait_next_records(timeout)
        # Not that of the call: it may have waited through a rebalance, and what it brings is then the beginning of a
        # changelog, which nobody would ask for again.
        lease = self._thread.fetched_under
        for tp, batch in (fetched or {}).items():
            # After a rebalance every partition is read from its commit again, so nothing is lost by leaving.
            if self.should_stop or not self.flow_active or lease is None or self._thread.lease != lease:
                return
            yield tp, _message(tp, batch, lease.generation)

    async def perform_seek(self) -> None:
        """Called by Faust when tables are recovered: the reader opens the partitions held, then they are read."""
        self.app.gates.close()
        lease = self._thread.lease
        sources = {tp for tp in self.assignment() if tp.topic in self.app.partition_reader.source_topics}
        if lease is None:
            return
        positions = await self.app.partition_reader.open(await self._thread.committed(sources), lease)
        if self._thread.lease == lease:
            await self._thread.seek_all(positions)
            self.app.gates.open(positions)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Nothing: Faust calls it from many places, none of which knows what is safe."""
        return False

    def ack(self, message: Any) -> bool:
        message.acked = True
        return False

    def track_message(self, message: Any) -> None:
        self._on_message_in(message.tp, message.offset, message)

    async def wait_empty(self) -> None:
        """Nothing to wait for: the reader finishes its step before partitions are given up."""

    def _new_offset(self, tp: TP) -> int | None:
        return None

    def _should_commit(self, tp: TP, offset: int) -> bool:
        return False

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter(())

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: gaps are told by positions, not by what was acknowledged."""


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's own producer, which we leave idle, reaching Kafka as every other client does."""

    def _settings_default(self) -> Mapping[str, Any]:
        return {**self.app.client_settings, "client_id": self.app.client_id, "acks": "all"}

    def _settings_auth(self) -> Mapping[str, Any]:
        return {}


class Transport(driver.Transport):  # type: ignore[misc]
    """Names the consumer and producer above."""

    Consumer: ClassVar[Any] = Consumer
    Producer: ClassVar[Any] = Producer


def _message(tp: TP, batch: Fetched, generation: int) -> ConsumerMessage:
    # Faust's recovery ends when the offset reaches the end of the log, which a hole before the end must not prevent.
    offset = batch.next_position - 1
    return ConsumerMessage(
        tp.topic, tp.partition, offset, 0.0, 0, None, None, batch, None, 0, 0, tp, generation_id=generation
    )
