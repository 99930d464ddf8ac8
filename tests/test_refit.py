"""Refit on Apache Kafka: from the records of a topic to a candidate that was measured, or to a reason why not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from killed_refits import STEPS
from live import ROOT, START_MS, Record, apart, produce
from sensor_worlds import World, trained
from test_token_rehearsal import other
from test_tokens import SPEC, usual
from token_rig import dataset

from models.bundle import read, write
from stream_app.alerts.alert import rfc3339
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config, load
from stream_app.errors import CheckFailed, UsageError
from stream_app.model_store.topic import read_pointers
from training.dataset import Dataset
from training.fit_tokens import TokenTraining, fit
from training.refit import Refit, refit

pytestmark = pytest.mark.kafka
WORLD = World("multirate", entities=6, seconds=240.0, seed=5)


def records(data: Dataset) -> list[Record]:
    """A record per sample, by time, stamped with it."""
    found = []
    for row in np.argsort(data.t_us, kind="stable"):
        t_ms = int(data.t_us[row]) / 1000
        body = {"sensor": data.sensors[data.sensor[row]], "t": t_ms, "value": float(data.value[row])}
        found.append((data.entities[data.entity[row]].encode(), orjson.dumps(body), int(t_ms)))
    return found


@dataclass
class Place:
    """A detector with a bundle, and a topic that holds what it has met."""

    kafka: KafkaCluster
    name: str
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        path = self.folder / "detector.yaml"
        named = ("alerts", "drift", "control", "feedback", "models")
        settings = {
            "detector": self.name,
            "brokers": self.kafka.bootstrap,
            "sources": [{"topic": f"{self.name}-samples"}],
            "windows": {"lateness": "2s"},
            "alarms": {"risk": 1e-3},
            "training": {"steps": 20},
            "model": str(self.folder / "live"),
            "topics": {topic: f"{self.name}-{topic}" for topic in named},
            "registry": {"allow_unsigned": True, "cache": str(self.folder / "cache")},
        }
        path.write_text(yaml.safe_dump(settings))
        return path

    @property
    def config(self) -> Config:
        return load(self.file)

    def refit(self, **options: Any) -> Any:
        self.said.clear()
        return refit(self.config, Refit(**options), self.folder / "work", self.said.append)


@pytest.fixture
def place(kafka: KafkaCluster, new_topic: Callable[..., str], tmp_path: Path) -> Place:
    name = new_topic("refit")
    write(tmp_path / "live", trained("multirate").bundle)
    return Place(kafka, name, tmp_path)


def fill(place: Place, topic: str, given: list[Record]) -> None:
    from stream_app.live.topics import create_topics

    create_topics(place.kafka.bootstrap, {f"{place.name}-{topic}": 1})
    produce(place.kafka.bootstrap, f"{place.name}-{topic}", given, 1)


def test_a_refit_leaves_out_what_it_must_and_publishes_a_candidate_with_its_lineage(place: Place) -> None:
    data = WORLD.data()
    fill(place, "samples", records(data))
    mine = data.t_us[data.entity == 0]
    start, entity = int(mine.min()) + 90_000_000, data.entities[0]
    label = {"entity": entity, "start": rfc3339(start), "end": rfc3339(start + 5_000_000), "label": "anomalous"}
    fill(place, "feedback", [(entity.encode(), orjson.dumps(label | {"annotator": "test"}), start // 1000)])
    done = place.refit()
    assert done.gate.passed, place.said
    assert done.version == 1
    # every window that touches the label, and no other: its length and the label's, in strides
    windows = open_windows(place)
    assert done.left_out["label"] == pytest.approx((windows[0] + 5_000_000) / windows[1], abs=1)
    pointer = apart(lambda: read_pointers(place.config)).versions(place.name)[1]
    assert pointer.state == "candidate"
    assert pointer.gate == done.gate
    lineage = pointer.lineage
    assert lineage["topics"] == {f"{place.name}-samples": {"0": [0, len(data) - 1]}}
    assert lineage["parent"]["digest"] == read(place.folder / "live").digest
    assert (lineage["seed"], lineage["left_out"]) == (0, done.left_out)
    # a run that is resumed repeats nothing, and publishes nothing twice
    (place.folder / "work" / "finished.json").unlink()
    assert place.refit(resume=True).version == 1
    assert {"samples.parquet is there already", "bundle is there already"} <= set(place.said)
    assert list(apart(lambda: read_pointers(place.config)).versions(place.name)) == [1]
    assert place.refit(fine_tune=True, publish=False).gate.passed, place.said
    assert read(place.folder / "work" / "bundle").lineage["how"] == "fine-tuned"
    (place.folder / "work" / "finished.json").unlink()
    with pytest.raises(UsageError, match=r"other options \(.*seed\)"):
        place.refit(resume=True, seed=3)


def open_windows(place: Place) -> tuple[int, int]:
    from stream_app.opening import open_bundle

    spec = open_bundle(place.folder / "live").windows
    return spec.length_us, spec.stride_us


def test_constant_data_are_refused_and_nothing_is_published(place: Place) -> None:
    data = WORLD.data()
    data.value[:] = 1.0
    fill(place, "samples", records(data))
    with pytest.raises(CheckFailed, match="the live bundle stays") as refused:
        place.refit()
    assert refused.value.exit_code == 5
    assert "no sensor ever changes" in str(refused.value)
    assert not (place.folder / "work/version.json").exists()


def test_too_little_data_are_refused(place: Place) -> None:
    data = WORLD.data()
    fill(place, "samples", records(data.at(data.t_us < data.t_us.min() + 3_000_000)))
    with pytest.raises(CheckFailed, match="the live bundle stays: data - nothing can be trained"):
        place.refit()


@pytest.mark.soak
def test_a_refit_killed_at_any_step_goes_on_to_the_same_bundle(place: Place) -> None:
    fill(place, "samples", records(WORLD.data()))
    whole = place.refit(publish=False).digest
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests/killed_refits.py"), str(place.file), str(place.folder / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ends"] == [int(signal.SIGKILL)] * len(STEPS), list(zip(STEPS, told["ends"], strict=True))
    assert told["version"] == 1
    assert "version.json is there already" in told["said"], "nothing was left to be done"
    assert read(place.folder / "killed" / "bundle").digest == whole
    assert list(apart(lambda: read_pointers(place.config)).versions(place.name)) == [1]


@pytest.mark.soak
def test_tokens_are_gone_on_from_too(place: Place) -> None:
    """The live bundle knows one grammar; the records are of one that has a word more."""
    write(place.folder / "tokens", fit(dataset(usual(0, 200)), TokenTraining(windows=SPEC)).bundle)
    (place.folder / "live").rename(place.folder / "of-sensors")
    (place.folder / "tokens").rename(place.folder / "live")
    sessions = enumerate(other(1, 300))
    rows = [(f"e{i}", word, START_MS + 1000 * i + j) for i, session in sessions for j, word in enumerate(session)]
    found = [(entity.encode(), orjson.dumps({"t": t, "token": word}), t) for entity, word, t in rows]
    over = [(f"e{i}".encode(), None, START_MS + 10**6) for i in range(300)]
    fill(place, "samples", [*found, *over])
    done = place.refit(fine_tune=True)
    assert done.gate.passed, place.said
    assert done.version == 1
    assert read(place.folder / "work" / "bundle").lineage["how"] == "fine-tuned"
