"""What leaves a worker: alerts, scores, drift events, dead letters, and the states written to the changelogs.

In: `Result` of a step with the records it came from. Out: Kafka records, acknowledged by all replicas once `flush`
returns. Remembers: what is under way, and the first error; a producer that is full makes the caller wait.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from stream_app.config import Config
from stream_app.errors import BrokerUnreachable
from stream_app.pipeline import Result
from stream_app.preflight import changelog_topic
from stream_app.samples import Headers, RawBatch
from stream_app.wire import Speaker, alert_headers, encode_alert, encode_drift, score_rows

# Long enough to fill a batch, short against everything a person notices.
_LINGER_MS = 5
_BATCH_BYTES = 1 << 17
_REQUEST_BYTES = 8 << 20
# Kafka's default limit for a record batch is 1,048,588 bytes; a source may allow more, its dead letters need not.
_LETTER_BYTES = 1_000_000
_DETAIL_MAX = 500
# After so many records the loop gets a turn: heartbeats are elsewhere, but probes and signals are here.
_YIELD_EVERY = 500


class Publisher:
    """The producer of a worker. All methods are called on one event loop."""

    def __init__(self, config: Config, settings: Mapping[str, Any], speaker: Speaker) -> None:
        self._config, self._settings, self._speaker = config, settings, speaker
        self._letters = {source.topic: source.dead_letter_topic for source in config.sources}
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
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()

    async def publish(self, records: RawBatch, result: Result) -> None:
        """Sends what a step gave. Acknowledged only after `flush`."""
        topics = self._config.topics
        for letter in result.dead_letters:
            await self._send_letter(records, letter.index, letter.reason, letter.detail)
        for refused, entity, first, last in result.refused:
            await self._send_window_letter(records, refused, entity, (first, last))
        for alert in result.alerts:
            partition = await self._partition(topics.alerts, alert.entity)
            key = alert.alert_id.encode()
            await self._send(topics.alerts, key, encode_alert(alert), alert_headers(alert), partition)
        for event in result.drift:
            await self._send(topics.drift, event.entity.encode(), encode_drift(event))
        if topics.scores is not None and result.windows is not None:
            for entity, value in score_rows(result.windows, self._speaker, records.topic, records.partition):
                partition = await self._partition(topics.scores, entity)
                await self._send(topics.scores, entity.encode(), value, (), partition)

    async def write_states(self, topic: str, partition: int, states: Mapping[bytes, bytes | None]) -> None:
        """Writes states to the changelog of a source partition; None deletes."""
        changelog = changelog_topic(self._config, topic)
        for key, state in states.items():
            await self._send(changelog, key, state, (), partition)

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

    # --- one record ------------------------------------------------------------------------------------------------

    async def _send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> None:
        assert self._producer is not None
        try:
            sent = await self._producer.send(topic, value, key, partition=partition, headers=list(headers))
        except KafkaError as problem:
            raise BrokerUnreachable(f"a record for topic {topic} could not be published: {problem!r}") from problem
        sent.add_done_callback(self._done)
        self._n_sent += 1
        if self._n_sent % _YIELD_EVERY == 0:
            await asyncio.sleep(0)

    def _done(self, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and self._problem is None:
            self._problem = sent.exception()

    async def _send_letter(self, records: RawBatch, index: int, reason: str, detail: str) -> None:
        """The record as it came, with why and whence; where that would be too large, its size and digest instead."""
        told = _told(records.topic, records.partition, int(records.offsets[index]), reason, detail)
        key, value, headers = records.keys[index], records.values[index], list(records.headers[index])
        if value is not None and _size(key, value, [*headers, *told]) > _LETTER_BYTES:
            told += [
                ("tailrace.value_bytes", str(len(value)).encode()),
                ("tailrace.value_sha256", hashlib.sha256(value).hexdigest().encode()),
            ]
            value, headers = None, headers if _size(key, b"", headers) < _LETTER_BYTES // 2 else []
        topic = self._letters[records.topic]
        await self._send(topic, key, value, [*headers, *told], records.partition % await self._count(topic))

    async def _send_window_letter(self, records: RawBatch, refused: Any, entity: str, offsets: tuple[int, int]) -> None:
        """A window without a score: its records are in the source topic, so only where is told."""
        topic = self._letters[records.topic]
        told = _told(records.topic, records.partition, offsets[0], refused.reason, refused.detail)
        told += [("tailrace.last_offset", str(offsets[1]).encode()), ("tailrace.stage", b"score")]
        await self._send(topic, entity.encode(), None, told, records.partition % await self._count(topic))

    # --- partitions ------------------------------------------------------------------------------------------------

    async def _partition(self, topic: str, entity: str) -> int:
        """The partition that Java's default partitioner gives an entity, whatever the record's key is."""
        return _hash(entity) % await self._count(topic)

    async def _count(self, topic: str) -> int:
        assert self._producer is not None
        known = self._producer.client.cluster.partitions_for_topic(topic)
        return len(known or await self._producer.partitions_for(topic))


def _size(key: bytes | None, value: bytes, headers: Headers) -> int:
    """Bytes of a record, a little more than it will be: lengths are written as a few bytes each."""
    return 64 + len(key or b"") + len(value) + sum(len(name) + len(text or b"") + 8 for name, text in headers)


@lru_cache(65_536)
def _hash(entity: str) -> int:
    return int(murmur2(entity.encode())) & 0x7FFFFFFF


def _told(topic: str, partition: int, offset: int, reason: str, detail: str) -> list[tuple[str, bytes]]:
    """Kafka Streams' names for where a dead letter comes from, and our own for why."""
    told = {
        "__streams.errors.topic": topic,
        "__streams.errors.partition": str(partition),
        "__streams.errors.offset": str(offset),
        "__streams.errors.exception": reason,
        "__streams.errors.message": detail[:_DETAIL_MAX],
        "tailrace.reason": reason,
    }
    return [(name, text.encode("utf-8", "replace")) for name, text in told.items()]
