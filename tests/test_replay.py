"""Replay on Apache Kafka: a range of a topic says again what it said, and touches nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from live import START_MS, apart, produce, stream
from plain_detector import PlainDetector

from models.detector import WindowSpec
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, parse
from stream_app.errors import UsageError
from stream_app.replay import Range, Replayed, moment_ms, replay

pytestmark = pytest.mark.kafka
PLAIN = PlainDetector(windows=WindowSpec(length_us=6_000_000, stride_us=2_000_000))


def settings(kafka: KafkaCluster, topic: str) -> Config:
    return parse({"brokers": kafka.bootstrap, "sources": [{"topic": topic}], "windows": {"lateness": "2s"}})


def replayed(config: Config, span: Range, out: Path) -> Replayed:
    return apart(lambda: replay(config, PLAIN, span, out))


def test_two_replays_say_the_same_and_every_sample_is_accounted_for(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    records = stream(200)
    produce(kafka.bootstrap, topic, records, 2)
    config = settings(kafka, topic)
    first, second = (replayed(config, Range(), tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert first.records == len(records)
    assert first.accounting.samples_read > 0
    for name in ("scores.parquet", "frames.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert pq.read_table(tmp_path / "a" / "scores.parquet").num_rows > 0


def test_a_range_of_offsets_reads_these_records_and_no_others(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    produce(kafka.bootstrap, topic, stream(100), 2)
    span = Range(partition=1, first_offset=10, last_offset=59)
    assert replayed(settings(kafka, topic), span, tmp_path / "out").records == 50


def test_offsets_without_a_partition_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--partition"):
        Range(first_offset=3)


def test_moments_are_rfc_3339_or_milliseconds() -> None:
    assert moment_ms("2023-11-14T22:13:20Z") == moment_ms("1700000000000") == START_MS
    with pytest.raises(UsageError, match="no time"):
        moment_ms("yesterday")
