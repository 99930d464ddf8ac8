"""What a worker writes, on Apache Kafka: alerts, scores, dead letters, and the books."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from live import START_MS, Live, Record, apart, produce, read_all, stream

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.cli.alert_lines import alerts
from stream_app.config import parse
from stream_app.live.topics import TopicShape, ensure_topics

pytestmark = pytest.mark.kafka

PARTITIONS = 2
RECORDS = stream(700, entities=4)
LARGE = (b"large", b"x" * 1_000_000, START_MS)
HUGE = (b"huge", b"x" * 10_000_000, START_MS)
AGAIN = RECORDS[4792:4800]  # second 599
CLOCK_MS = START_MS + 599_000
LATE = (b"e0", orjson.dumps({"sensor": "a", "t": START_MS, "value": 1.0}), CLOCK_MS)
AHEAD = (b"e0", orjson.dumps({"sensor": "a", "t": "2099-01-01T00:00:00Z", "value": 1.0}), CLOCK_MS)
READ = [*RECORDS[:4800], *AGAIN, LATE, AHEAD, *RECORDS[4800:], LARGE, HUGE]


@pytest.fixture(scope="module")
def finished(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A stream that a worker has read to its end; tests only look at it."""
    name = f"finished-{uuid.uuid4().hex[:8]}"
    shape = TopicShape(PARTITIONS, settings={"max.message.bytes": "11000000"})
    ensure_topics(kafka.bootstrap, {f"{name}-samples": shape})
    live = Live(kafka.bootstrap, name, f"{name}-samples", tmp_path_factory.mktemp(name))
    produce(live.bootstrap, live.topic, READ, PARTITIONS, traced=True, max_request_size=11_000_000)
    apart(partial(send_empty, live))
    live.finish()
    return live


async def send_empty(live: Live) -> None:
    """A record without key and value, which aiokafka writes in batches only."""
    async with AIOKafkaProducer(bootstrap_servers=live.bootstrap) as producer:
        batch = producer.create_batch()
        batch.append(timestamp=1_700_000_000_000, key=None, value=None, headers=[("h", b"1")])
        await (await producer.send_batch(batch, live.topic, partition=0))


def test_until_end_reads_everything_and_says_what_became_of_it(finished: Live) -> None:
    finished.check()
    total = finished.accounting()
    assert total["samples_read"] == len(READ) + 1
    assert (total["duplicate"], total["late"]) == (len(AGAIN), 1)
    assert total["open"] > 0, "windows that nothing has closed yet stay open"
    assert all(partition["lag"] == 0 for partition in finished.status())


def test_a_worker_leaves_nothing_where_it_runs(finished: Live) -> None:
    assert {path.suffix for path in finished.folder.iterdir()} == {".yaml", ".log"}


def test_dead_letters_keep_the_record_and_say_why_and_whence(finished: Live) -> None:
    rubbish = [r for r in read_all(finished.bootstrap, finished.topic) if r.value == b"rubbish"]
    letters = [r for r in read_all(finished.bootstrap, f"{finished.topic}-dlt") if r.value == b"rubbish"]
    assert len(letters) == len(rubbish) > 0
    for letter, record in zip(letters, rubbish, strict=True):
        headers = {name: text.decode() for name, text in letter.headers}
        assert (letter.key, letter.value, letter.partition) == (record.key, record.value, record.partition)
        assert headers["tailrace.reason"] == "not_json"
        assert headers["__streams.errors.topic"] == finished.topic
        assert int(headers["__streams.errors.partition"]) == record.partition
        assert int(headers["__streams.errors.offset"]) == record.offset


def test_a_record_without_key_and_value_is_a_dead_letter_like_any_other(finished: Live) -> None:
    (letter,) = [r for r in read_all(finished.bootstrap, f"{finished.topic}-dlt") if r.key is None]
    assert letter.value is None
    assert {"h": b"1", "tailrace.reason": b"missing_key"}.items() <= dict(letter.headers).items()


@pytest.mark.parametrize(("record", "reason"), [(LARGE, "not_json"), (HUGE, "too_large")])
def test_a_record_too_large_to_be_sent_on_is_a_dead_letter_by_size_and_digest(
    finished: Live, record: Record, reason: str
) -> None:
    key, value, _ = record
    assert value is not None
    (letter,) = [r for r in read_all(finished.bootstrap, f"{finished.topic}-dlt") if r.key == key]
    headers = {name: text.decode() for name, text in letter.headers}
    assert letter.value is None
    assert headers["tailrace.reason"] == reason
    assert headers["tailrace.value_bytes"] == str(len(value))
    assert headers["tailrace.value_sha256"] == hashlib.sha256(value).hexdigest()


def test_a_time_far_ahead_is_a_dead_letter_and_closes_nothing(finished: Live) -> None:
    letters = read_all(finished.bootstrap, f"{finished.topic}-dlt")
    (letter,) = [r for r in letters if r.value == AHEAD[1]]
    assert dict(letter.headers)["tailrace.reason"] == b"time_ahead"
    ends = [orjson.loads(r.value)["data_end_time"] for r in read_all(finished.bootstrap, f"{finished.name}-scores")]
    assert max(ends) < "2023-11-14T22:25", "and what came after it was not late"


def test_alerts_carry_cloudevents_headers_and_their_id_as_key(finished: Live) -> None:
    alerts = read_all(finished.bootstrap, f"{finished.name}-alerts")
    assert alerts
    partition_of: dict[str, int] = {}
    for record in alerts:
        body, headers = orjson.loads(record.value), dict(record.headers)
        assert record.key.decode() == body["alert_id"]
        assert headers["ce_specversion"] == b"1.0"
        assert headers["ce_subject"].decode() == body["entity"]
        assert headers["content-type"] == b"application/json"
        assert partition_of.setdefault(body["entity"], record.partition) == record.partition, "by entity"


def test_alerts_go_on_with_the_trace_of_their_last_record(finished: Live) -> None:
    context_of = {(r.partition, r.offset): r.headers for r in read_all(finished.bootstrap, finished.topic)}
    for record in read_all(finished.bootstrap, f"{finished.name}-alerts"):
        (given,) = orjson.loads(record.value)["inputs"]
        wanted = context_of[given["partition"], given["last_offset"]]
        assert [h for h in record.headers if h[0].startswith("trace")] == list(wanted)
        assert len(wanted) == 2


def test_scores_are_one_per_window_in_order(finished: Live) -> None:
    last: dict[str, str] = {}
    for record in read_all(finished.bootstrap, f"{finished.name}-scores"):
        row = orjson.loads(record.value)
        assert record.key.decode() == row["entity"]
        assert last.get(row["entity"], "") < row["data_start_time"]
        last[row["entity"]] = row["data_start_time"]
    assert len(last) == 4


def test_who_follows_an_empty_topic_hears_what_comes(kafka: KafkaCluster, new_topic: Callable[..., str]) -> None:
    topic = new_topic("alerts", partitions=2)

    async def follow() -> dict[str, Any]:
        found = alerts(parse({"brokers": kafka.bootstrap, "sources": [{"topic": topic}]}), topic, follow=True)
        first = asyncio.ensure_future(anext(found))
        await asyncio.sleep(1.5)
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            await producer.send_and_wait(topic, b'{"status": "open"}', partition=1)
        heard = await asyncio.wait_for(first, 20)
        await found.aclose()
        return heard

    assert apart(follow) == {"status": "open"}


def test_until_end_a_second_time_finds_nothing_to_do(finished: Live) -> None:
    before = finished.accounting(), len(read_all(finished.bootstrap, f"{finished.name}-alerts"))
    finished.finish()
    assert (finished.accounting(), len(read_all(finished.bootstrap, f"{finished.name}-alerts"))) == before
