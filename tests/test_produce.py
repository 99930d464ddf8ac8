"""A file on a topic, read back: on Apache Kafka, with the worker's own records stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, parse
from stream_app.errors import ConfigurationError
from stream_app.files.produce import Job, produce
from training.reading import Period, read

pytestmark = pytest.mark.kafka


def now_ms() -> int:
    return int(time.time()) * 1000


@pytest.fixture
def config(kafka: KafkaCluster) -> Config:
    return parse({"sources": [{"topic": "any"}], "brokers": kafka.bootstrap})


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two entities, three rates."""
    columns = []
    for entity in ("p", "q"):
        for sensor, step_ms in (("fast", 10), ("middle", 100), ("slow", 5000)):
            t = now_ms() - 30_000 + np.arange(0, 30_000, step_ms)
            columns += [{"entity": entity, "sensor": sensor, "t": int(ms), "value": float(ms % 977)} for ms in t]
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.Table.from_pylist(sorted(columns, key=lambda row: row["t"])), path)
    return path


@pytest.mark.parametrize("form", ["json", "chunks", "arrow"])
def test_a_topic_trains_on_what_its_file_held(
    samples: Path, config: Config, new_topic: Callable[..., str], form: str
) -> None:
    topic = new_topic("samples", partitions=3)
    sent = produce(Job(samples, topic, form), config)
    file, found = read(str(samples), Period(), None).data, read(f"kafka://{topic}", Period(), config).data
    assert sent["samples"] == len(file) == len(found)
    assert (file.entities, file.sensors) == (found.entities, found.sensors)
    for name in ("entity", "sensor", "t_us", "value"):
        np.testing.assert_array_equal(getattr(file, name), getattr(found, name))


def test_a_session_of_tokens_is_ended_and_the_next_is_another(
    tmp_path: Path, config: Config, new_topic: Callable[..., str]
) -> None:
    path, topic = tmp_path / "tokens.parquet", new_topic("tokens")
    rows = [{"entity": "s", "t": now_ms() + i, "token": token} for i, token in enumerate("abca")]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert produce(Job(path, topic), config)["ends"] == 1
    produce(Job(path, topic, "chunks"), config)
    data = read(f"kafka://{topic}", Period(), config).data
    assert data.entities == ("s", "s (2)")
    assert data.vocabulary == {"a": 3, "b": 4, "c": 5}
    np.testing.assert_array_equal(data.value, [3, 4, 5, 3, 3, 4, 5, 3])


def test_speed_is_a_multiple_of_real_time(tmp_path: Path, config: Config, new_topic: Callable[..., str]) -> None:
    path = tmp_path / "slow.parquet"
    pq.write_table(pa.Table.from_pylist([{"t": now_ms() + 1000 * i, "x": 0.0} for i in range(11)]), path)
    began = time.monotonic()
    produce(Job(path, new_topic("slow"), speed=10), config)
    assert time.monotonic() - began > 0.9


def test_a_topic_that_is_not_there_is_refused_in_a_sentence(samples: Path, config: Config) -> None:
    with pytest.raises(ConfigurationError, match="there is no topic nowhere"):
        produce(Job(samples, "nowhere"), config)
