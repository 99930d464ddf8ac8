"""What leaves a worker: alerts, scores, drift events, dead letters, and the states written to the changelogs.

In: `Result` of a step with the records it came from. Out: Kafka records, acknowledged by all replicas once `flush`
returns. Remembers: what is under way, and the first error; a producer that is full makes the caller wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from stream_app.alerts.alert import Alert
from stream_app.alerts.wire import alert_headers, encode_alert, encode_drift, score_rows
from stream_app.checkpoint import Swap
from stream_app.config import Config
from stream_app.errors import BrokerUnreachable
from stream_app.handovers import Place
from stream_app.live.preflight import agreement_topic, changelog_topic, shadow_topic
from stream_app.live.refusal_log import RefusalLog
from stream_app.model_store.places import swaps_topic
from stream_app.pipeline import Result
from stream_app.records import letters
from stream_app.samples import DeadLetter, Headers, RawBatch
from stream_app.shadow import Agreement, Beside
from stream_app.stamps import Stamp

# Long enough to fill a batch, short against everything a person notices.
_LINGER_MS = 5
# Half of what a broker takes by default.
_BATCH_BYTES = 1 << 19
_REQUEST_BYTES = 8 << 20
# After so many records the loop gets a turn: heartbeats are elsewhere, but probes and signals are here.
_YIELD_EVERY = 500


class Publisher:
    """The producer of a worker. All methods are called on one event loop."""

    def __init__(self, config: Config, settings: Mapping[str, Any]) -> None:
        self._config, self._settings = config, settings
        self._letters = {source.topic: source.dead_letter_topic for source in config.sources}
        self._refusals = RefusalLog()
        self._producer: AIOKafkaProducer | None = None
        self._problem: BaseException | None = None
        self._n_sent = 0

    async def start(self) -> None:
        # A cut shorter than the watchdog's patience must not end the process.
        patience_ms = max(40_000, self._config.worker.stuck_after // 1000)
        self._producer = AIOKafkaProducer(
            **self._settings,
            client_id=f"tailrace-{self._config.group_id}",
            acks="all",
            linger_ms=_LINGER_MS,
            max_batch_size=_BATCH_BYTES,
            max_request_size=_REQUEST_BYTES,
            request_timeout_ms=patience_ms,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Ends the producer; what was not flushed may be lost, and is made again from the last commit."""
        self._refusals.close()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def publish(self, records: RawBatch, result: Result, traced: Callable[[Alert], Headers]) -> None:
        """Sends what a step gave. Acknowledged only after `flush`. `traced`: the trace that an alert goes on with."""
        topics = self._config.topics
        for letter in result.dead_letters:
            await self._send_letter(records, letter)
        for refused, entity, first, last in result.refused:
            await self._send_window_letter(records, refused, entity, (first, last))
        await self._send_alerts(topics.alerts, result, traced)
        for event in result.drift:
            await self._send(topics.drift, event.entity.encode(), encode_drift(event))
        if topics.scores is not None:
            await self._send_scores(topics.scores, result, (records.topic, records.partition))

    async def publish_shadow(self, topic: str, partition: int, result: Result) -> None:
        """What a shadow says of windows of a source partition."""
        topics = self._config.topics
        await self._send_alerts(shadow_topic(topics.alerts), result, _untraced)
        if topics.scores is not None:
            await self._send_scores(shadow_topic(topics.scores), result, (topic, partition))

    async def tell_shadow(self, topic: str, partition: int, shadow: str, sums: Agreement) -> None:
        """How live and the shadow of this digest agree on a source partition so far."""
        told = self._place(topic, partition).agreement(shadow, sums)
        await self._send(agreement_topic(self._config), told.key, told.value())

    async def _send_alerts(self, topic: str, result: Result, traced: Callable[[Alert], Headers]) -> None:
        for alert in result.alerts:
            partition, headers = await self._partition(topic, alert.entity), [*alert_headers(alert), *traced(alert)]
            await self._send(topic, alert.alert_id.encode(), encode_alert(alert), headers, partition)

    async def _send_scores(self, topic: str, result: Result, place: tuple[str, int]) -> None:
        if result.windows is None:
            return
        rows: dict[int, list[tuple[bytes, bytes]]] = {}
        for entity, value in score_rows(result.windows, *place):
            rows.setdefault(await self._partition(topic, entity), []).append((entity.encode(), value))
        for partition, scores in rows.items():
            await self._send_many(topic, partition, scores)

    async def write_states(
        self, topic: str, partition: int, states: Mapping[bytes, bytes | None], stamp: Stamp
    ) -> None:
        """Writes states to the changelog of a source partition; None deletes."""
        await self._send_many(changelog_topic(self._config, topic), partition, states.items(), stamp.headers())

    async def tell_swap(self, topic: str, partition: int, swap: Swap) -> None:
        """From which offset on another bundle scores a partition."""
        told = self._place(topic, partition).swap(swap)
        await self._send(swaps_topic(self._config), told.key, told.value())

    async def tell_beside(self, topic: str, partition: int, beside: Beside) -> None:
        """From which offset on a version judges beside the live one, or none: what it has learned when it goes live."""
        told = self._place(topic, partition).beside(beside, time.time_ns() // 1_000_000)
        await self._send(swaps_topic(self._config), told.key, told.value())

    async def flush(self) -> None:
        """Waits until everything sent is acknowledged by all replicas.

        Raises BrokerUnreachable with the first failure: what is not acknowledged must not be committed.
        """
        assert self._producer is not None
        if self._problem is None:
            await self._producer.flush()
            await asyncio.sleep(0)  # the records' own callbacks run in the loop's next turn
        if self._problem is not None:
            raise BrokerUnreachable(f"a record could not be published: {self._problem!r}") from self._problem

    # --- many records ----------------------------------------------------------------------------------------------

    async def _send_many(
        self, topic: str, partition: int, rows: Iterable[tuple[bytes | None, bytes | None]], headers: Headers = ()
    ) -> None:
        """Records of one partition in batches made here: aiokafka's way record by record costs ten times as much."""
        assert self._producer is not None
        batch, shared = self._producer.create_batch(), list(headers)
        for key, value in rows:
            if batch.append(timestamp=None, key=key, value=value, headers=shared) is None:
                await self._send_batch(topic, partition, batch)
                batch = self._producer.create_batch()
                batch.append(timestamp=None, key=key, value=value, headers=shared)
        if batch.record_count():
            await self._send_batch(topic, partition, batch)

    async def _send_batch(self, topic: str, partition: int, batch: Any) -> None:
        assert self._producer is not None
        try:
            sent = await self._producer.send_batch(batch, topic, partition=partition)
        except KafkaError as problem:
            raise BrokerUnreachable(f"records for topic {topic} could not be published: {problem!r}") from problem
        sent.add_done_callback(self._done)

    # --- one record ------------------------------------------------------------------------------------------------

    async def _send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> None:
        assert self._producer is not None
        if key is None and value is None:  # such a record may be read, and aiokafka writes it in batches only
            return await self._send_many(topic, partition or 0, [(key, value)], headers)
        try:
            sent = await self._producer.send(topic, value, key, partition=partition, headers=list(headers))
        except KafkaError as problem:
            raise BrokerUnreachable(f"a record for topic {topic} could not be published: {problem!r}") from problem
        sent.add_done_callback(self._done)
        self._n_sent += 1
        if self._n_sent % _YIELD_EVERY == 0:
            await asyncio.sleep(0)

    def _done(self, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled():
            problem = sent.exception()  # asked for in any case, or asyncio complains
            self._problem = self._problem or problem

    async def _send_letter(self, records: RawBatch, letter: DeadLetter) -> None:
        topic = self._letters[records.topic]
        self._refusals.note(topic, str(letter.reason), letter.detail)
        record = letters.outgoing(records, letter)
        partition = records.partition % await self._count(topic)
        await self._send(topic, record.key, record.value, record.headers, partition)

    async def _send_window_letter(self, records: RawBatch, refused: Any, entity: str, offsets: tuple[int, int]) -> None:
        """A window without a score: its records are in the source topic, so only where is told."""
        topic, (first, last) = self._letters[records.topic], offsets
        self._refusals.note(topic, str(refused.reason), refused.detail)
        told = letters.told_headers(
            records.topic, records.partition, first, refused.reason, refused.detail, letters.SCORE_STAGE
        )
        told.append(("tailrace.last_offset", str(last).encode()))
        await self._send(topic, entity.encode(), None, told, records.partition % await self._count(topic))

    # --- partitions ------------------------------------------------------------------------------------------------

    def _place(self, topic: str, partition: int) -> Place:
        return Place(self._config.detector, self._config.group_id, topic, partition)

    async def _partition(self, topic: str, entity: str) -> int:
        """The partition that Java's default partitioner gives an entity, whatever the record's key is."""
        return _hash(entity) % await self._count(topic)

    async def _count(self, topic: str) -> int:
        assert self._producer is not None
        known = self._producer.client.cluster.partitions_for_topic(topic)
        return len(known or await self._producer.partitions_for(topic))


@lru_cache(65_536)
def _hash(entity: str) -> int:
    return int(murmur2(entity.encode())) & 0x7FFFFFFF


def _untraced(alert: Alert) -> Headers:
    return ()
