"""`replay --model live` on Apache Kafka: what workers said while versions came and went, a replay says again.

seconds       0       200      400      600       800      900
live          |-- 1 ---|-- 1 ---|-- 2 ---|-- 2 ---|-- 3 ---|
beside it              |-- 2 ---|
                                         two swaps at one offset: to 3, and back to 2 at once
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from live import read_all
from models_rig import finished
from test_replay_law import same, timeless
from test_swap import ENTITIES, PARTITIONS, Fleet, prepared, produce, signals

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import rollback, shadow
from stream_app.replay.merging import alerts_of
from stream_app.replay.ranges import ALL_MS, Range
from stream_app.replay.run import Order, Replayed, replay

pytestmark = pytest.mark.kafka
Said = dict[tuple[str, int], tuple[str, float, float]]  # by entity and end: bundle, score, threshold


@pytest.fixture
def fleet(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Fleet]:
    yield from prepared(kafka, unique_name, tmp_path, bundles=3)


def lived(fleet: Fleet) -> None:
    """The time line above."""
    fleet.publish(0, 1, 2)
    fleet.promote(1)
    worker = fleet.start()

    def until(second: int) -> None:
        produce(fleet.bootstrap, fleet.topic, signals(until_now[0], second - until_now[0]), PARTITIONS)
        until_now[0] = second
        fleet.wait_until_read(second * ENTITIES)

    until_now = [0]
    fleet.wait_until(worker.is_reading, within_s=120)
    until(200)
    finished(shadow(fleet.config(), Wish("pump", 2)))
    fleet.wait_until(lambda: sum("shadow" in told for told in fleet.told()) == PARTITIONS)
    until(400)
    windows = fleet.agreement("windows")
    fleet.promote(2)
    fleet.wait_until(lambda: fleet.serving() == {2})
    assert windows > 0
    until(600)
    fleet.promote(3)
    fleet.wait_until(lambda: fleet.serving() == {3})
    finished(rollback(fleet.config(), Wish("pump")))
    fleet.wait_until(lambda: fleet.serving() == {2})
    until(800)
    fleet.promote(3)
    fleet.wait_until(lambda: fleet.serving() == {3})
    until(900)
    assert worker.terminate() == 0, worker.said()


def replayed(fleet: Fleet, out: Path, span: Range, processes: int) -> Replayed:
    order = Order(fleet.topic, ("live",), out, span, ALL_MS, fleet.folder / "worker-0.yaml", processes=processes)
    return replay(order)


def live_scores(fleet: Fleet) -> Said:
    rows = [orjson.loads(record.value) for record in read_all(fleet.bootstrap, f"{fleet.name}-scores")]
    ends = np.array([row["data_end_time"].removesuffix("Z") for row in rows], "M8[us]").astype(np.int64)
    said = zip(rows, ends.tolist(), strict=True)
    return {(row["entity"], end): (row["bundle"], row["anomaly_score"], row["threshold"]) for row, end in said}


def replayed_scores(out: Path) -> Said:
    table = pq.read_table(out / "scores.parquet")
    columns = [table[name].to_pylist() for name in ("entity", "bundle", "anomaly_score", "threshold")]
    ends = table["data_end_time"].cast("int64").to_pylist()
    return {(row[0], end): (row[1], row[2], row[3]) for end, *row in zip(ends, *columns, strict=True)}


def numbers(said: Said, places: list[Any]) -> np.ndarray:
    return np.array([said[place][1:] for place in places], float)


def test_a_replay_of_live_says_what_was_said_across_swaps_and_out_of_a_shadow(fleet: Fleet, tmp_path: Path) -> None:
    lived(fleet)
    assert all([swap["version"] for swap in swaps] == [1, 2, 3, 2, 3] for swaps in fleet.swaps().values())
    done = replayed(fleet, tmp_path / "x", Range(), 1)
    assert not done.plan.notes, "nothing of live is missing"
    said, again = live_scores(fleet), replayed_scores(tmp_path / "x")
    assert said.keys() == again.keys()
    places = sorted(said)
    assert [said[place][0] for place in places] == [again[place][0] for place in places], "each by the same bundle"
    np.testing.assert_allclose(numbers(again, places), numbers(said, places), rtol=1e-6)
    assert same(timeless(alerts_of(tmp_path / "x")), timeless(fleet.alerts()))
    assert done.accounting[0].as_dict() == fleet.accounting()

    replayed(fleet, tmp_path / "y", Range(), 2)
    for path in (path for path in (tmp_path / "x").rglob("*") if path.is_file() and path.name != "replay.json"):
        assert path.read_bytes() == (tmp_path / "y" / path.relative_to(tmp_path / "x")).read_bytes(), path.name
