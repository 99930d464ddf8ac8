"""The Faust application that hosts a worker: membership of the group, assignment, and tables with their changelogs.

In: the configuration, and who reads the partitions. Out: an application that is started and stopped. Remembers: the
packed states of the partitions held, as recovered from the changelogs.

Faust is asked for no more than this. Its web server, its acknowledgements and its creation of topics stay off.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import faust
import mode
from faust.stores.memory import Store
from faust.types import TP
from yarl import URL

from stream_app.config import Config, Worker
from stream_app.live.fetching import Fetched, Gates, PartitionReader
from stream_app.live.preflight import changelog_topic
from stream_app.live.transport import Transport
from stream_app.stamps import Recovered

# More would hold whole batches of the changelog in memory; with one, Faust goes on reading it after the recovery.
_RECOVERY_BATCHES = 2
# Source partitions are held to two each by the gates; this bounds what is read of the changelogs ahead of the tables.
_QUEUED_BATCHES = 64


class WorkerApp(faust.App):  # type: ignore[misc]
    """One worker of the group. `partition_reader` gets the partitions; `states` holds what the changelogs say."""

    partition_reader: PartitionReader
    worker_config: Worker
    client_settings: Mapping[str, Any]
    client_id: str
    gates: Gates
    states: dict[str, PartitionStates]

    @property
    def given(self) -> bool:
        """Whether the group has given it partitions; until they are read their states are being restored."""
        return self.consumer.kafka.lease is not None

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return Transport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """None: states live in memory and in Kafka, and a worker may run where nothing can be written."""

    def on_rebalance_end(self) -> None:
        super().on_rebalance_end()
        self.partition_reader.settled()

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        """The reader stops the process on any error; Faust would go on with the next batch."""
        self.partition_reader.fail(exc)


class PartitionStates(Store):  # type: ignore[misc]
    """A table's content by partition: two partitions may hold the same key, which Faust's stores would mix up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_partition: dict[int, Recovered] = {}
        self.n_recovered = 0

    def of(self, partition: int) -> Recovered:
        """The states of one partition, by key. It is the live dictionary."""
        return self.by_partition.setdefault(partition, Recovered())

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        for event in batch:
            records = event.value.records
            states = self.of(records.partition)
            for key, value in zip(records.keys, records.values, strict=True):
                if value is None:
                    states.pop(key, None)
                else:
                    states[key] = value
            states.note(records.headers)
            self.n_recovered += len(records)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        held = {tp.partition for tp in active_tps}
        self.by_partition = {p: states for p, states in self.by_partition.items() if p in held}


class ChangelogTable(faust.Table[bytes, bytes]):  # type: ignore[misc]
    """A table that is only recovered: checkpoints write its changelog themselves, with the partition they belong to."""

    def _new_store(self) -> Store:
        return PartitionStates("memory://", self.app, self, table_name=self.name)

    def _new_changelog_topic(self, **_: Any) -> Any:
        # Not Faust's own, or it would declare the topic; preflight has, with the source's number of partitions.
        return self.app.topic(self.name, schema=_BatchSchema(), acks=False, internal=False, partitions=self.partitions)

    def _changelog_topic_name(self) -> str:
        return str(self.name)

    async def on_start(self) -> None:
        await self.add_runtime_dependency(self.data)


class _BatchSchema(faust.Schema):  # type: ignore[misc]
    """Messages hold `Fetched` already: there is nothing to decode."""

    def compile(self, app: Any, **_: Any) -> Any:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return app.create_event(None, message.value, message.headers, message)

        return decode


def build(config: Config, settings: Mapping[str, Any], counts: Mapping[str, int], reader: PartitionReader) -> WorkerApp:
    """The application, not started. `settings` are the clients', `counts` the partitions of each source topic."""
    name = config.worker.instance_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    app = WorkerApp(
        config.group_id,
        broker=[URL(f"kafka://{address.strip()}") for address in config.brokers.split(",")],
        # Faust's assignor tells workers apart by their addresses, though none is served.
        canonical_url=f"http://{name}:1",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=_QUEUED_BATCHES,
        agent_supervisor=mode.CrashingSupervisor,
        broker_session_timeout=config.worker.session_timeout / 1e6,
        broker_request_timeout=max(40.0, config.worker.session_timeout / 1e6),
    )
    app.client_settings, app.client_id = settings, f"tailrace-{name}"
    app.worker_config, app.partition_reader = config.worker, reader
    app.gates, app.states = Gates(), {}
    for topic, partitions in counts.items():
        table = app.tables.add(
            ChangelogTable(
                app,
                name=changelog_topic(config, topic),
                partitions=partitions,
                recovery_buffer_size=_RECOVERY_BATCHES,
            )
        )
        app.states[topic] = table.data
        _read_source(app, topic)
    return app


def _read_source(app: WorkerApp, topic: str) -> None:
    """One agent per source, which hands batches over in order and does not wait: the gates bound how many wait."""
    under_way = set[asyncio.Future[None]]()  # a task that nobody holds may be collected as garbage

    async def read(batches: Any) -> None:
        async for fetched in batches:
            handed = asyncio.ensure_future(_hand_over(app, fetched))
            under_way.add(handed)
            handed.add_done_callback(under_way.discard)

    app.agent(app.topic(topic, schema=_BatchSchema(), acks=False), name=f"read-{topic}", concurrency=1)(read)


async def _hand_over(app: WorkerApp, fetched: Fetched) -> None:
    try:
        await app.partition_reader.read(fetched)
    except Exception as problem:
        app.partition_reader.fail(problem)
    finally:
        app.gates.leave(TP(fetched.records.topic, fetched.records.partition))
