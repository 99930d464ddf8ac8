"""Dead letters: what they hold, that they fit, and the round trip through Kafka."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config
from stream_app.errors import ConfigurationError, UsageError
from stream_app.keys import Keys
from stream_app.live.topic_batches import batches, consumer_of
from stream_app.records import letters
from stream_app.records.decoder import Decoder, DecoderSettings, Reason
from stream_app.samples import DeadLetter, Headers, RawBatch

T_MS = 1_700_000_000_000
GOOD = json.dumps({"sensor": "a", "t": T_MS, "value": 1}).encode()


def batch(
    *values: bytes | None, key: bytes | None = b"pump", headers: Headers = (), topic: str = "samples"
) -> RawBatch:
    n = len(values)
    clock_us = np.full(n, T_MS * 1_000)
    return RawBatch(topic, 0, [key] * n, values, np.arange(n, dtype=np.int64), clock_us, [headers] * n)


def outgoing(value: bytes | None, key: bytes | None = b"pump", headers: Headers = (), detail: str = "why") -> Any:
    return letters.outgoing(batch(value, key=key, headers=headers), DeadLetter(0, Reason.NOT_JSON, detail))


def test_a_letter_is_the_record_unchanged_with_where_and_why() -> None:
    letter = outgoing(b"\xff\0", key=b"\xfe", headers=[("traceparent", b"00"), ("traceparent", b"01")])
    assert (letter.key, letter.value) == (b"\xfe", b"\xff\0")
    assert letter.headers[:2] == [("traceparent", b"00"), ("traceparent", b"01")]
    assert dict(letter.headers[2:]) == {
        "__streams.errors.exception": b"not_json",
        "__streams.errors.message": b"why",
        "__streams.errors.topic": b"samples",
        "__streams.errors.partition": b"0",
        "__streams.errors.offset": b"0",
        "tailrace.reason": b"not_json",
        "tailrace.stage": b"records",
    }


def test_a_record_too_large_to_travel_goes_as_its_size_and_digest() -> None:
    value = b"x" * (letters.LETTER_BYTES - 100)
    letter = outgoing(value, headers=[("traceparent", b"00")])
    headers = dict(letter.headers)
    assert letter.value is None
    assert headers["tailrace.value_bytes"] == str(len(value)).encode()
    assert headers["tailrace.value_sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert headers["traceparent"] == b"00"


def test_headers_too_large_to_travel_are_left_out_and_counted() -> None:
    letter = outgoing(b"x", headers=[("a", b"y" * letters.LETTER_BYTES), ("b", b"")])
    headers = dict(letter.headers)
    assert ("a" in headers, headers["tailrace.headers_dropped"]) == (False, b"2")
    assert headers["tailrace.reason"] == b"not_json"


def test_a_long_message_is_cut() -> None:
    assert len(dict(outgoing(b"x", detail="é" * 10_000).headers)["__streams.errors.message"].decode()) == 500


# On Apache Kafka


async def produce(bootstrap: str, topic: str, records: Sequence[Any]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=8 << 20) as producer:
        for record in records:
            headers = list(record.headers)
            await producer.send_and_wait(topic, record.value, record.key, partition=0, headers=headers)


async def read(config: Config, topic: str) -> list[tuple[bytes | None, bytes | None, Headers]]:
    found: list[Any] = []
    async with consumer_of(config) as consumer:
        async for part in batches(consumer, [TopicPartition(topic, 0)]):
            found += zip(part.keys, part.values, part.headers, strict=True)
    return found


@pytest.fixture
def refused(kafka: KafkaCluster, new_topic: Callable[..., str]) -> tuple[Config, str, str]:
    """A source, and its dead letters: not JSON, too large, a sensor too far ahead, and a window without a score."""
    source, dlt = new_topic("source"), new_topic("source-dlt")
    ahead = json.dumps({"sensor": "a", "t": T_MS * 2, "value": 1}).encode()
    raw = batch(b"nope", b"x" * 1_040_000, GOOD, ahead, headers=[("traceparent", b"00")], topic=source)
    decoder = Decoder(DecoderSettings(), Keys({"nothing": np.zeros(1, [("n", "i8")])}))
    records = [letters.outgoing(raw, letter) for letter in decoder.decode(raw).dead_letters]
    told = letters.told_headers(source, 0, 3, Reason.NONFINITE_SCORE, "NaN", letters.SCORE_STAGE)
    asyncio.run(produce(kafka.bootstrap, dlt, [*records, letters.Outgoing(b"pump", None, told)]))
    return Config(brokers=kafka.bootstrap, sources=({"topic": source},)), source, dlt


@pytest.mark.kafka
def test_letters_are_listed_newest_first_and_counted_by_reason(refused: tuple[Config, str, str]) -> None:
    config, source, dlt = refused
    rows = letters.listed(config, dlt, 100)
    assert [row["reason"] for row in rows] == ["nonfinite_score", "time_ahead", "too_large", "not_json"]
    assert [row["offset"] for row in letters.listed(config, dlt, 2)] == [3, 2]
    assert (rows[-1]["entity"], rows[-1]["source"], rows[-1]["source_offset"]) == ("pump", f"{source}[0]", "0")
    assert letters.by_reason(config, dlt) == dict.fromkeys(
        ["not_json", "too_large", "time_ahead", "nonfinite_score"], 1
    )


@pytest.mark.kafka
def test_one_letter_is_shown_whole(refused: tuple[Config, str, str]) -> None:
    config, _, dlt = refused
    letter = letters.shown(config, dlt, 0, 0)
    assert (letter["value"], letter["headers"]["traceparent"]) == ("nope", "00")
    with pytest.raises(UsageError, match="no record at 99"):
        letters.shown(config, dlt, 0, 99)
    with pytest.raises(UsageError, match="no partition 7"):
        letters.shown(config, dlt, 7, 0)
    with pytest.raises(ConfigurationError, match="no topic"):
        letters.listed(config, f"{dlt}-missing", 1)


@pytest.mark.kafka
def test_letters_go_back_as_they_came_and_never_as_a_tombstone(refused: tuple[Config, str, str]) -> None:
    config, source, dlt = refused
    planned = letters.redriven(config, dlt, None, execute=False)
    assert (planned["found"], planned["would_send"], planned["without_value"]) == (4, 2, 2)
    assert asyncio.run(read(config, source)) == []
    assert letters.redriven(config, dlt, "time_ahead", execute=True)["sent"] == 1
    assert letters.redriven(config, dlt, None, execute=True)["sent"] == 2
    found = asyncio.run(read(config, source))
    assert [key for key, _, _ in found] == [b"pump"] * 3
    assert [value == b"nope" for _, value, _ in found] == [False, True, False]
    assert all(headers == (("traceparent", b"00"),) for _, _, headers in found)
