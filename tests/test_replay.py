"""Replay on Apache Kafka: a range of a topic says again what it said, and touches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from live import START_MS, produce, stream
from plain_detector import PlainDetector

from models.detector import Scored, WindowSpec
from models.scenes import Scenes
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, parse
from stream_app.errors import ConfigurationError, UsageError
from stream_app.replay.bundles import Named
from stream_app.replay.ranges import ALL_MS, Range, moment_ms, starts_of
from stream_app.replay.run import Order, Replayed, replay_here

PLAIN = PlainDetector(windows=WindowSpec(length_us=6_000_000, stride_us=2_000_000))
OTHER = replace(PLAIN, digest="plain-2", risk=1e-3)


def settings(kafka: KafkaCluster, topic: str) -> Config:
    return parse({"brokers": kafka.bootstrap, "sources": [{"topic": topic}], "windows": {"lateness": "2s"}})


def replayed(config: Config, span: Range, out: Path, models: tuple[PlainDetector, ...] = (PLAIN,)) -> Replayed:
    named = tuple(Named.of(label, d.digest, Path(d.digest), d) for label, d in zip("ab", models, strict=False))
    order = Order(config.sources[0].topic, tuple(d.digest for d in models), out, span, ALL_MS)
    return replay_here(order, config, named)


@pytest.mark.kafka
def test_two_replays_write_the_same_bytes_but_for_a_header(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    records = stream(200)
    produce(kafka.bootstrap, topic, records, 2)
    config = settings(kafka, topic)
    first, second = (replayed(config, Range(), tmp_path / name, (PLAIN, OTHER)) for name in ("x", "y"))
    assert first.records == second.records == len(records)
    files = sorted(p.relative_to(tmp_path / "x") for p in (tmp_path / "x").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "y") for p in (tmp_path / "y").rglob("*") if p.is_file())
    for name in files:
        if name != Path("replay.json"):
            assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes(), name
    headers = [json.loads((tmp_path / name / "replay.json").read_text()) for name in ("x", "y")]
    assert headers[0] | {"header": None} == headers[1] | {"header": None}
    assert pq.read_table(tmp_path / "x" / "a" / "scores.parquet").num_rows > 0


@pytest.mark.kafka
def test_a_range_of_offsets_reports_these_records_and_no_others(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    produce(kafka.bootstrap, topic, stream(100), 2)
    span = Range(partition=1, first_offset=10, last_offset=59)
    done = replayed(settings(kafka, topic), span, tmp_path / "out")
    assert done.records == 50
    assert done.plan.warm_up_records == 10


class Stopping(PlainDetector):
    """Ends the process, as a kill would, once partition 0 is done."""

    done: ClassVar[Path]

    def score(self, scenes: Scenes, carry: np.ndarray) -> Scored:
        if self.done.exists():
            raise KeyboardInterrupt
        return super().score(scenes, carry)


@pytest.mark.kafka
def test_a_replay_that_was_stopped_goes_on_where_it_was(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    produce(kafka.bootstrap, topic, stream(120), 2)
    config = settings(kafka, topic)
    Stopping.done = tmp_path / "stopped" / ".replay" / "a-0" / "done.json"
    with pytest.raises(KeyboardInterrupt):
        replayed(config, Range(), tmp_path / "stopped", (Stopping(windows=PLAIN.windows),))
    produce(kafka.bootstrap, topic, [(b"e1", b"later", START_MS + 200_000)], 2)
    done = replayed(config, Range(), tmp_path / "stopped")
    assert done.resumed == 1, "partition 0 was done"
    assert done.records == len(stream(120)), "the end is the one of the first attempt"
    whole = replayed(config, Range(end_ms=START_MS + 200_000), tmp_path / "whole")
    assert whole.resumed == 0
    for name in ("scores.parquet", "frames.parquet", "alerts.jsonl", "entities.parquet", "accounting.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.kafka
def test_what_can_not_be_replayed_is_said_in_a_sentence(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 1)
    produce(kafka.bootstrap, topic, stream(20), 1)
    config = settings(kafka, topic)
    with pytest.raises(UsageError, match="lies in the future"):
        replayed(config, Range(start_ms=4_000_000_000_000), tmp_path / "a")
    with pytest.raises(ConfigurationError, match=r"no record lies in the range: .* holds 240 records, the first of"):
        replayed(config, Range(start_ms=START_MS + 100_000), tmp_path / "b")
    with pytest.raises(ConfigurationError, match="does not have all of the partitions"):
        replayed(config, Range(partition=7), tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds something that is no replay \(thesis.txt\)"):
        replayed(config, Range(), tmp_path / "d")
    done = replayed(config, Range(partition=0, first_offset=3, last_offset=10_000), tmp_path / "e")
    assert any("ends at offset 239" in note for note in done.plan.notes)


def test_a_file_of_offsets_says_where_partitions_begin(tmp_path: Path) -> None:
    file = tmp_path / "offsets.csv"
    file.write_text('pump,1,50\n"pump",0,7\nother,0,1\n')
    assert starts_of(file, "pump") == ((0, 7), (1, 50))
    file.write_text("pump,one,50\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        starts_of(file, "pump")


def test_offsets_without_a_partition_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--partition"):
        Range(first_offset=3)


def test_moments_are_rfc_3339_or_milliseconds() -> None:
    assert moment_ms("2023-11-14T22:13:20Z") == moment_ms("1700000000000") == START_MS
    with pytest.raises(UsageError, match="no time"):
        moment_ms("yesterday")
