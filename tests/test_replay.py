"""Replay on Apache Kafka: a range of a topic says again what it said, and touches nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from aiokafka import TopicPartition
from killed_replays import STEPS
from live import ROOT, START_MS, produce, stream
from models_rig import bundle
from plain_detector import PlainDetector
from test_cli import SCRIPT, tailrace
from test_swap import signals

from models.detector import Scored, WindowSpec
from models.scenes import Scenes
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, parse
from stream_app.errors import ConfigurationError, UsageError
from stream_app.live.topic_batches import consumer_of
from stream_app.replay import reading
from stream_app.replay.bundles import Named
from stream_app.replay.ranges import ALL_MS, Range, moment_ms, starts_of
from stream_app.replay.run import Order, Replayed, replay_here

PLAIN = PlainDetector(windows=WindowSpec(length_us=6_000_000, stride_us=2_000_000))
OTHER = replace(PLAIN, digest="plain-2", risk=1e-3)


def settings(kafka: KafkaCluster, topic: str) -> Config:
    return parse(as_given(kafka, topic))


def as_given(kafka: KafkaCluster, topic: str) -> dict[str, Any]:
    return {"brokers": kafka.bootstrap, "sources": [{"topic": topic}], "windows": {"lateness": "2s"}}


def replayed(config: Config, span: Range, out: Path, models: tuple[PlainDetector, ...] = (PLAIN,)) -> Replayed:
    named = tuple(Named.of(label, d.digest, Path(d.digest), d) for label, d in zip("ab", models, strict=False))
    order = Order(config.sources[0].topic, tuple(d.digest for d in models), out, span, ALL_MS)
    return replay_here(order, config, named)


def the_same_bytes(one: Path, other: Path) -> None:
    """All files but for the header."""
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name in files:
        assert name == Path("replay.json") or (one / name).read_bytes() == (other / name).read_bytes(), name


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
    the_same_bytes(tmp_path / "x", tmp_path / "y")
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


@pytest.mark.kafka
def test_who_has_read_to_the_end_of_a_range_asks_for_nothing_beyond_it(
    kafka: KafkaCluster, new_topic: Callable[..., str]
) -> None:
    topic = new_topic("samples", 2)
    produce(kafka.bootstrap, topic, stream(100), 2)
    tps, found = [TopicPartition(topic, i) for i in range(2)], []

    async def read() -> None:
        async with consumer_of(settings(kafka, topic)) as consumer:
            for tp in tps * 2:
                found.append(sum([len(batch) async for batch in reading.records(consumer, tp, 3, 40)]))
                assert consumer.paused() == {tp}  # the next to read would wait for the answer

    asyncio.run(read())
    assert found == [37] * 4


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
def test_a_replay_killed_at_any_step_goes_on_to_the_same_bytes(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 2)
    produce(kafka.bootstrap, topic, stream(200), 2)
    file = tmp_path / "pump.json"
    file.write_text(json.dumps(as_given(kafka, topic)))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    folders = [str(tmp_path / name) for name in ("killed", "whole")]
    command = [sys.executable, str(ROOT / "tests/killed_replays.py"), str(file), topic, *folders]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(STEPS, int(signal.SIGKILL))
    the_same_bytes(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.kafka
def test_the_processes_of_a_replay_that_is_killed_end_and_the_same_command_goes_on(
    kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic("samples", 4)
    records = signals(0, 1000)
    produce(kafka.bootstrap, topic, records, 4)
    made = bundle(tmp_path)
    command = ["replay", "--topic", topic, "--model", str(made), "--by-duration", "5000d", "--brokers"]
    command += [kafka.bootstrap, "--processes", "2", "--out"]
    work = tmp_path / "killed" / ".replay"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *command, str(tmp_path / "killed")], env=environment)
    wait_until(lambda: any(work.glob("a-*/scores.parquet")) or process.poll() is not None)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert children, "killed amid its work"
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not (tmp_path / "killed" / "replay.json").exists()
    produce(kafka.bootstrap, topic, signals(1000, 10), 4)  # what comes later is not of the range
    again = tailrace(*command, tmp_path / "killed", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["records"] == len(records)
    until = ("--to", str(START_MS + 1_000_000), "--brokers", kafka.bootstrap)
    whole = tailrace(*command[:5], *until, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    the_same_bytes(tmp_path / "whole", tmp_path / "killed")


def wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)


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
