"""Models that are taken over while workers run, on Apache Kafka: each window is scored once, by the bundle whose turn
it was, and alerts are those of one pipeline that was handed over at the offsets that the swaps topic tells."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from live import START_MS, Live, Record, batch_of, produce, read_all, timeless
from models_rig import PASSED, bundle, configuration, finished

from models.detector import Detector
from stream_app.alerts.wire import score_rows
from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.checkpoint import Swap
from stream_app.config import Config
from stream_app.live.preflight import agreement_topic
from stream_app.live.topics import create_topics
from stream_app.model_store.places import swaps_topic
from stream_app.model_store.topic import read_pointers
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import Publication, promote, publish, rollback, shadow
from stream_app.opening import open_bundle
from stream_app.pipeline import Pipeline, PipelineSpec

pytestmark = pytest.mark.kafka

Place = tuple[str, str]  # entity, start of the window
PARTITIONS = 3
ENTITIES = 6


def signals(first_s: int, seconds: int, seed: int = 0) -> list[Record]:
    """What the bundles were trained on, once a second; each entity has a fault in every fourth minute."""
    rng, records = np.random.default_rng(seed + first_s), list[Record]()
    for second in range(first_s, first_s + seconds):
        for entity in range(ENTITIES):
            fault = 4.0 * (((second + 40 * entity) // 60) % 4 == 3)
            value = np.sin(second / 5 + entity) + rng.normal(0, 0.1) + fault
            body = {"sensor": "s0", "t": START_MS + 1000 * second, "value": round(float(value), 6)}
            records.append((f"e{entity}".encode(), orjson.dumps(body), START_MS + 1000 * second))
    return records


@dataclass
class Fleet(Live):
    """Workers that follow `pump@live`."""

    bundles: tuple[Path, ...] = ()

    def publish(self, *numbers: int) -> None:
        for n in numbers:
            finished(publish(self.config(), Publication("pump", self.bundles[n], gate=PASSED)))

    def promote(self, version: int) -> None:
        finished(promote(self.config(), Wish("pump", version)))

    def told(self) -> list[dict[str, Any]]:
        """What the swaps topic tells, in order; after compaction."""
        records = read_all(self.bootstrap, swaps_topic(self.config()))
        kept = {record.key: orjson.loads(record.value) for record in records}
        return sorted(kept.values(), key=lambda told: (told["offset"], told["at_ms"]))

    def swaps(self) -> dict[int, list[dict[str, Any]]]:
        """By partition, in order."""
        found: dict[int, list[dict[str, Any]]] = {}
        for told in (told for told in self.told() if "to" in told):
            found.setdefault(told["partition"], []).append(told)
        return found

    def serving(self) -> set[int]:
        """The versions that the partitions were handed to last; 0 while one has none."""
        swaps = self.swaps()
        return {swaps[p][-1]["version"] if p in swaps else 0 for p in range(PARTITIONS)}

    def records(self) -> dict[int, list[Any]]:
        """The source's, by partition."""
        found: dict[int, list[Any]] = {}
        for record in read_all(self.bootstrap, self.topic):
            found.setdefault(record.partition, []).append(record)
        return found

    def agreement(self, name: str) -> int:
        """Of live and shadow so far, summed over the partitions."""
        told = read_all(self.bootstrap, agreement_topic(self.config()))
        return sum(v[name] for v in {r.key: orjson.loads(r.value) for r in told}.values())

    def check_scores(self, expected: dict[Place, tuple[str, float]]) -> None:
        """Every window was told, and however often, with one bundle and one score."""
        told = set()
        for record in read_all(self.bootstrap, f"{self.name}-scores"):
            row = orjson.loads(record.value)
            place = place_of(row)
            told.add(place)
            bundle, score = expected[place]
            assert (row["bundle"], row["anomaly_score"]) == (bundle, pytest.approx(score, rel=1e-6)), place
        assert told == set(expected)

    def check(self) -> None:
        """Nothing lost, nothing scored twice by different bundles, nothing different from one undisturbed pipeline."""
        known = {detector.digest: detector for detector in map(open_bundle, self.bundles)}
        alerts: dict[str, Any] = {}
        scores: dict[Place, tuple[str, float]] = {}
        total: dict[str, int] = {}
        swaps = self.swaps()
        for partition, records in self.records().items():
            run = Undisturbed(self.config(), self.topic, partition, records)
            pipeline = run.over(swaps[partition], known)
            alerts |= run.alerts
            scores |= run.scores
            total = {name: total.get(name, 0) + n for name, n in pipeline.accounting().as_dict().items()}
        assert self.accounting() == total
        self.check_scores(scores)
        assert alerts, "the stream is meant to give alerts"
        assert {i: alike(alert) for i, alert in self.alerts().items()} == {i: alike(a) for i, a in alerts.items()}


def alike(alert: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on how windows fell into batches: networks' last digits do."""
    return {name: value for name, value in alert.items() if isinstance(value, str) or name == "inputs"}


def place_of(row: dict[str, Any]) -> Place:
    return row["entity"], row["data_start_time"]


class Undisturbed:
    """One pipeline over one partition, handed over at given offsets."""

    def __init__(self, config: Config, topic: str, partition: int, records: list[Any]) -> None:
        self._config, self._place, self._records = config, (topic, partition), records
        self.alerts: dict[str, Any] = {}
        self.scores: dict[Place, tuple[str, float]] = {}
        self.thresholds: dict[Place, float | None] = {}

    def over(self, swaps: list[dict[str, Any]], known: dict[str, Detector]) -> Pipeline:
        store: dict[bytes, bytes] = {}
        offset, metadata = 0, ""
        for told, end in zip(swaps, [s["offset"] for s in swaps[1:]] + [len(self._records)], strict=True):
            spec = PipelineSpec(self._config, known[told["to"]], *self._place, store, f"pump@{told['version']}")
            pipeline = Pipeline(spec)
            pipeline.restore(offset, metadata)
            if offset < end:
                self._take(pipeline, batch_of(*self._place, self._records[offset:end]))
            point = pipeline.checkpoint(Swap("next", 0, end, 0))
            offset, metadata = point.offset, point.metadata
        return pipeline

    def _take(self, pipeline: Pipeline, batch: Any) -> None:
        result = pipeline.step(batch)
        for alert in result.alerts:
            self.alerts[alert.alert_id] = timeless(orjson.loads(orjson.dumps(alert)))
        if result.windows is not None:
            for _, value in score_rows(result.windows, *self._place):
                told = orjson.loads(value)
                place = place_of(told)
                self.thresholds[place] = told["threshold"]
                assert place not in self.scores, "scored twice"
                self.scores[place] = told["bundle"], told["anomaly_score"]


@pytest.fixture
def fleet(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Fleet]:
    yield from prepared(kafka, unique_name, tmp_path, bundles=3)


def prepared(kafka: KafkaCluster, unique_name: Callable[[str], str], folder: Path, bundles: int) -> Iterator[Fleet]:
    topic, name = unique_name("samples"), unique_name("swap")
    create_topics(kafka.bootstrap, {topic: PARTITIONS})
    registry = configuration(kafka.bootstrap, name, folder).registry.model_dump(mode="json")
    more = {"model": "pump@live", "registry": registry}
    fleet = Fleet(kafka.bootstrap, name, topic, folder, {"max_poll_records": 60}, more=more)
    fleet.bundles = tuple(bundle(folder, n) for n in range(bundles))
    yield fleet
    for worker in fleet.processes:
        worker.kill()


def test_a_worker_waits_for_its_first_model_and_then_follows(fleet: Fleet) -> None:
    produce(fleet.bootstrap, fleet.topic, signals(0, 300), PARTITIONS)
    worker = fleet.start()
    fleet.wait_until(lambda: "waiting for a live model" in worker.said())
    fleet.publish(0, 1)
    fleet.promote(1)
    fleet.wait_until(worker.is_reading, within_s=120)
    fleet.wait_until_read(300 * ENTITIES)
    candidate = open_bundle(fleet.bundles[1]).digest.removeprefix("sha256:")
    fleet.wait_until((fleet.folder / "cache" / candidate).is_dir)  # before anybody promotes it
    fleet.promote(2)
    fleet.wait_until(lambda: fleet.serving() == {2})
    produce(fleet.bootstrap, fleet.topic, signals(300, 300), PARTITIONS)
    fleet.wait_until_read(600 * ENTITIES)
    finished(rollback(fleet.config(), Wish("pump")))
    fleet.wait_until(lambda: fleet.serving() == {1})
    fleet.wait_until_read(600 * ENTITIES)  # what was read before P is read again
    assert worker.terminate() == 0
    assert all([s["version"] for s in swaps] == [1, 2, 1] for swaps in fleet.swaps().values())
    fleet.check()


def test_workers_killed_while_they_take_over_score_each_window_once(fleet: Fleet) -> None:
    promote_under_kills(fleet, kills=1, versions=1, seed=1)
    fleet.check()


def test_a_shadow_goes_live_with_its_own_thresholds(fleet: Fleet) -> None:
    """Both versions hold the same arrays, so what one pipeline says that was never handed over is what must be said."""
    fleet.publish(0, 1)
    fleet.promote(1)
    finished(shadow(fleet.config(), Wish("pump", 2)))
    produce(fleet.bootstrap, fleet.topic, signals(0, 400), PARTITIONS)
    worker = fleet.start()
    fleet.wait_until(worker.is_reading, within_s=120)
    fleet.wait_until_read(400 * ENTITIES)
    windows = len(read_all(fleet.bootstrap, f"{fleet.name}-scores"))
    fleet.wait_until(lambda: fleet.agreement("windows") == windows)
    assert fleet.agreement("alike") == windows
    beside = read_all(fleet.bootstrap, f"{fleet.name}-scores-shadow")
    assert {orjson.loads(record.value)["bundle"] for record in beside} == {open_bundle(fleet.bundles[1]).digest}
    fleet.promote(2)
    fleet.wait_until(lambda: fleet.serving() == {2})
    produce(fleet.bootstrap, fleet.topic, signals(400, 200), PARTITIONS)
    fleet.wait_until_read(600 * ENTITIES)
    assert worker.terminate() == 0, worker.said()
    once, known = fleet.swaps()[0][0], open_bundle(fleet.bundles[0])
    rows = [orjson.loads(record.value) for record in read_all(fleet.bootstrap, f"{fleet.name}-scores")]
    told = {place_of(row): (row["anomaly_score"], row["threshold"]) for row in rows}
    expected: dict[Place, Any] = {}
    for partition, records in fleet.records().items():
        run = Undisturbed(fleet.config(), fleet.topic, partition, records)
        run.over([{**once, "offset": 0, "to": known.digest}], {known.digest: known})
        expected |= {place: (score, run.thresholds[place]) for place, (_, score) in run.scores.items()}
    assert told.keys() == expected.keys()
    assert len(rows) == len(told), "every window once"
    pairs = np.array([told[p] for p in expected], float), np.array(list(expected.values()), float)
    np.testing.assert_allclose(*pairs, rtol=1e-6)


def test_a_version_that_is_nobodys_we_trust_is_refused_and_the_one_before_it_serves_on(fleet: Fleet) -> None:
    fleet.publish(0)
    fleet.promote(1)
    worker = fleet.start(http_port=0)
    fleet.wait_until(worker.is_reading, within_s=120)
    (fleet.folder / "other").mkdir()
    other = configuration(fleet.bootstrap, fleet.name, fleet.folder / "other")
    finished(publish(other, Publication("pump", bundle(fleet.folder, 1), gate=PASSED)))
    finished(promote(other, Wish("pump", 2)))
    fleet.wait_until(lambda: worker.metrics().get("tailrace_models_refused_totalsignature") == 1)
    (refused,) = [event for event in worker.events() if event["event"] == "model refused"]
    assert (refused["model"], refused["reason"]) == ("pump@2", "signature")
    produce(fleet.bootstrap, fleet.topic, signals(0, 400), PARTITIONS)
    fleet.wait_until_read(400 * ENTITIES)
    assert worker.terminate() == 0, worker.said()
    late = fleet.start("--until-end")
    assert late.wait(90) == 0, "who starts now takes the one before it, too"
    assert fleet.serving() == {1}
    fleet.check()


def test_a_version_that_alarms_too_often_is_rolled_back_by_itself(fleet: Fleet) -> None:
    fleet.more = {**fleet.more, "alarms": {"risk": 1e-3}, "guard": {"factor": 1.0, "level": 0.2}}
    fleet.publish(0, 1)
    fleet.promote(1)
    produce(fleet.bootstrap, fleet.topic, signals(0, 200), PARTITIONS)
    worker = fleet.start()
    fleet.wait_until(worker.is_reading, within_s=120)
    fleet.wait_until_read(200 * ENTITIES)
    fleet.promote(2)
    fleet.wait_until(lambda: fleet.serving() == {2})
    produce(fleet.bootstrap, fleet.topic, signals(200, 500), PARTITIONS)
    fleet.wait_until(lambda: fleet.serving() == {1})
    fleet.wait_until_read(700 * ENTITIES)
    assert worker.terminate() == 0, worker.said()
    versions = finished(read_pointers(fleet.config())).versions("pump")
    assert (versions[1].state, versions[2].state) == ("live", "retired")
    assert "alarm episodes" in (versions[2].reason or "")
    fleet.check()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_many_promotions_under_kills_and_rebalances_score_each_window_once(
    kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path, seed: int
) -> None:
    for fleet in prepared(kafka, unique_name, tmp_path, bundles=8):
        promote_under_kills(fleet, kills=3, versions=7, seed=seed)
        fleet.check()


def promote_under_kills(fleet: Fleet, kills: int, versions: int, seed: int) -> None:
    """Records keep coming, versions are promoted, and of two workers one is killed at random moments after that."""
    rng = random.Random(seed)
    fleet.publish(*range(versions + 1))
    fleet.promote(1)
    workers = {name: fleet.start(instance_id=name) for name in ("v", "w")}
    fleet.wait_until(lambda: all(worker.is_reading() for worker in workers.values()), within_s=120)
    for version in range(2, versions + 2):
        produce(fleet.bootstrap, fleet.topic, signals(300 * (version - 2), 300), PARTITIONS)
        fleet.promote(version)
        for _ in range(kills):
            time.sleep(rng.uniform(0.0, 1.5))
            name = rng.choice(sorted(workers))
            workers[name].kill()
            workers[name] = fleet.start(instance_id=name)
            if rng.random() < 0.3:
                guest = fleet.start()
                fleet.wait_until(guest.is_reading)
                guest.terminate()
        fleet.wait_until(lambda version=version: fleet.serving() == {version}, within_s=90)
    fleet.wait_until_read(300 * versions * ENTITIES)
    for worker in workers.values():
        assert worker.terminate() == 0, worker.said()
