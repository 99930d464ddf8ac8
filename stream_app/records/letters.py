"""Dead letters: what could not be used, on its way to `<source>-dlt`, read back, and sent to its source again.

In: a record with its refusal, or a dead-letter topic. Out: the record to publish; rows for people. Remembers: nothing.

A dead letter is the record as it came (key, value, headers) and headers that say whence and why: Kafka Streams' names
(KIP-1034) as UTF-8 texts, without stack traces, and `tailrace.reason` and `tailrace.stage`. What would be larger than a
broker takes is sent without its value, with its size and digest instead.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.config import Config
from stream_app.errors import BrokerUnreachable, UsageError
from stream_app.live.security import client_settings
from stream_app.live.topic_batches import consumer_of, partitions_of
from stream_app.samples import DeadLetter, Headers, RawBatch

RECORDS_STAGE, SCORE_STAGE = "records", "score"
LETTER_BYTES = 1_000_000  # Kafka takes 1,048,588 with what it adds; a source may allow more, its dead letters need not
_MESSAGE_MAX = 500  # characters
_ERRORS, _OURS = "__streams.errors.", "tailrace."
_VALUE_BYTES, _VALUE_DIGEST, _CUT = "tailrace.value_bytes", "tailrace.value_sha256", "tailrace.headers_dropped"
_POLL_MS, _MISSING_AFTER_MS = 500, 5_000


@dataclass(frozen=True)
class Outgoing:
    """A record to publish."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def outgoing(batch: RawBatch, letter: DeadLetter) -> Outgoing:
    """The record that a refused one becomes."""
    i = letter.index
    told = told_headers(batch.topic, batch.partition, int(batch.offsets[i]), letter.reason, letter.detail)
    whole = Outgoing(batch.keys[i], batch.values[i], [*batch.headers[i], *told])
    return whole if _size(whole) <= LETTER_BYTES else _stub(whole, told)


def told_headers(
    topic: str, partition: int, offset: int, reason: str, detail: str, stage: str = RECORDS_STAGE
) -> list[tuple[str, bytes]]:
    """The headers that say where a dead letter comes from, and why it is one."""
    told = {
        "__streams.errors.exception": reason,
        "__streams.errors.message": detail[:_MESSAGE_MAX],
        "__streams.errors.topic": topic,
        "__streams.errors.partition": str(partition),
        "__streams.errors.offset": str(offset),
        "tailrace.reason": reason,
        "tailrace.stage": stage,
    }
    return [(name, text.encode("utf-8", "replace")) for name, text in told.items()]


def _stub(whole: Outgoing, told: list[tuple[str, bytes]]) -> Outgoing:
    value = whole.value or b""
    size, digest = str(len(value)).encode(), hashlib.sha256(value).hexdigest().encode()
    stub = Outgoing(whole.key, None, [*whole.headers, (_VALUE_BYTES, size), (_VALUE_DIGEST, digest)])
    if _size(stub) <= LETTER_BYTES:
        return stub
    # A key alone can't be too large: records beyond the broker's limit were never written.
    dropped = str(len(whole.headers) - len(told)).encode()
    return Outgoing(whole.key, None, [*told, (_VALUE_BYTES, size), (_VALUE_DIGEST, digest), (_CUT, dropped)])


def _size(record: Outgoing) -> int:
    """Bytes on the wire, a little more than it will be: lengths are written as a few bytes each."""
    headers = sum(len(name.encode()) + len(text or b"") + 8 for name, text in record.headers)
    return 64 + len(record.key or b"") + len(record.value or b"") + headers


@dataclass(frozen=True)
class Letter:
    """A dead letter as it lies in its topic."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def told(self, name: str) -> str:
        """The text of a header, the last of its name: an earlier one came with the record."""
        found = [text for given, text in self.headers if given == name and text is not None]
        return found[-1].decode("utf-8", "replace") if found else ""

    @property
    def reason(self) -> str:
        return self.told("tailrace.reason") or self.told("__streams.errors.exception")

    @property
    def source(self) -> str:
        return self.told("__streams.errors.topic")

    @property
    def complete(self) -> bool:
        """Whether it is a source record with its value. A window without a score is none, nor is a stub."""
        stage = self.told("tailrace.stage")
        return bool(self.source) and stage == RECORDS_STAGE and not self.told(_VALUE_BYTES)

    def row(self) -> dict[str, Any]:
        at = datetime.fromtimestamp(self.timestamp_ms / 1_000, UTC).isoformat(timespec="milliseconds")
        return {
            "partition": self.partition,
            "offset": self.offset,
            "at": at.replace("+00:00", "Z"),
            "entity": None if self.key is None else _text(self.key),
            "reason": self.reason,
            "message": self.told("__streams.errors.message"),
            "stage": self.told("tailrace.stage"),
            "source": f"{self.source}[{self.told('__streams.errors.partition')}]",
            "source_offset": self.told("__streams.errors.offset"),
        }


def listed(config: Config, topic: str, limit: int) -> list[dict[str, Any]]:
    """The newest dead letters of a topic, newest first. Raises ConfigurationError, BrokerUnreachable."""

    async def read() -> list[Letter]:
        return [letter async for letter in _letters(config, topic, limit)]

    found = sorted(asyncio.run(read()), key=lambda letter: (-letter.timestamp_ms, letter.partition, -letter.offset))
    return [letter.row() for letter in found[:limit]]


def by_reason(config: Config, topic: str) -> dict[str, int]:
    """How many dead letters there are for each reason, most frequent first."""

    async def read() -> Counter[str]:
        return Counter([letter.reason async for letter in _letters(config, topic)])

    return dict(asyncio.run(read()).most_common())


def shown(config: Config, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """One dead letter with all it holds. Bytes that are no UTF-8 are given as base64.

    Raises UsageError where there is none.
    """
    letter = asyncio.run(_letter(config, topic, TopicPartition(topic, partition), offset))
    headers = {name: None if text is None else _text(text) for name, text in letter.headers}
    return letter.row() | {"headers": headers, "value": None if letter.value is None else _text(letter.value)}


def redriven(config: Config, topic: str, reason: str | None, *, execute: bool) -> dict[str, Any]:
    """Sends dead letters to the topic and partition they came from, as they were; without `execute` it counts only.

    They stay in the dead-letter topic: what is sent twice is counted as a duplicate. Samples of a record that had been
    used are duplicates too, and all of them may be late by now.
    """
    return asyncio.run(_redrive(config, topic, reason, execute))


async def _redrive(config: Config, topic: str, reason: str | None, execute: bool) -> dict[str, Any]:
    """One by one: there may be more of them than memory holds."""
    found, sources = 0, Counter[str]()
    async with AsyncExitStack() as stack:
        send = await stack.enter_async_context(_sending(config)) if execute else None
        async for letter in _letters(config, topic):
            if reason not in (None, letter.reason):
                continue
            found += 1
            if letter.complete:
                sources[letter.source] += 1
                if send is not None:
                    await send(letter)
    return {
        "topic": topic,
        "reason": reason,
        "found": found,
        "sent" if execute else "would_send": sources.total(),
        "without_value": found - sources.total(),
        "sources": sorted(sources),
    }


@asynccontextmanager
async def _sending(config: Config) -> AsyncIterator[Callable[[Letter], Awaitable[None]]]:
    """A function that sends a letter; at the end all of them have arrived. Raises BrokerUnreachable."""
    producer = AIOKafkaProducer(**client_settings(config), acks="all", max_request_size=8 << 20)
    failed: list[BaseException] = []

    def note(sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and (problem := sent.exception()) is not None:
            failed[:] = [problem]

    async def send(letter: Letter) -> None:
        (await _send_one(producer, letter)).add_done_callback(note)

    try:
        await producer.start()
        yield send
        await producer.flush()
        await asyncio.sleep(0)  # the records' own callbacks run in the loop's next turn
        if failed:
            raise failed[0]
    except KafkaError as problem:
        raise BrokerUnreachable(f"a dead letter could not be sent again: {problem!r}") from problem
    finally:
        await producer.stop()


async def _send_one(producer: AIOKafkaProducer, letter: Letter) -> asyncio.Future[Any]:
    partitions = await producer.partitions_for(letter.source)
    told = letter.told("__streams.errors.partition")
    partition = int(told) if told.isdecimal() and int(told) in partitions else None
    own = [(name, text) for name, text in letter.headers if not name.startswith((_ERRORS, _OURS))]
    future: asyncio.Future[Any] = await producer.send(letter.source, letter.value, letter.key, partition, headers=own)
    return future


async def _letters(config: Config, topic: str, newest: int | None = None) -> AsyncIterator[Letter]:
    """All letters of now, or about the newest of each partition, in order of offset within a partition."""
    tps = partitions_of(config, topic)
    async with consumer_of(config) as consumer:
        consumer.assign(tps)
        first, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        for tp in tps:
            consumer.seek(tp, first[tp] if newest is None else max(first[tp], ends[tp] - newest))
        async for record in _to_ends(consumer, ends):
            yield _letter_of(record)


async def _to_ends(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> AsyncIterator[Any]:
    left = {tp for tp in ends if await consumer.position(tp) < ends[tp]}
    while left:
        for tp, records in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
            for record in records:
                if record.offset < ends[tp]:
                    yield record
        left = {tp for tp in left if await consumer.position(tp) < ends[tp]}


async def _letter(config: Config, topic: str, tp: TopicPartition, offset: int) -> Letter:
    if tp not in partitions_of(config, topic):
        raise UsageError(f"topic {topic} has no partition {tp.partition}")
    async with consumer_of(config) as consumer:
        consumer.assign([tp])
        first, ends = await consumer.beginning_offsets([tp]), await consumer.end_offsets([tp])
        if first[tp] <= offset < ends[tp]:
            consumer.seek(tp, offset)
            found = (await consumer.getmany(tp, timeout_ms=_MISSING_AFTER_MS)).get(tp) or []
            if found and found[0].offset == offset:
                return _letter_of(found[0])
    held = f"offsets {first[tp]} to {ends[tp] - 1}" if first[tp] < ends[tp] else "nothing"
    raise UsageError(f"{topic}[{tp.partition}] holds {held}, and no record at {offset}")


def _letter_of(record: Any) -> Letter:
    return Letter(record.partition, record.offset, record.timestamp, record.key, record.value, record.headers)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()
