"""`replay --model live` on Apache Kafka: what workers said while versions came and went, a replay says again.

seconds       0       200  300  400      600       800      900
live          |-- 1 ---|-- 1 ---|-- 2 ---|-- 2 ---|-- 3 ---|
beside it              |-- 2 x--|
                                         two swaps at one offset: to 3, and back to 2 at once
At x the worker is killed amid its work, and another goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from live import DETECTOR, START_MS, apart, read_all
from models_rig import finished
from test_replay_law import same, timeless
from test_swap import ENTITIES, PARTITIONS, Fleet, prepared, produce, signals

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.checkpoint import read_books
from stream_app.model_store.transitions import Wish
from stream_app.model_store.verbs import rollback, shadow
from stream_app.replay.bundles import Named, _missing
from stream_app.replay.merging import alerts_of
from stream_app.replay.ranges import ALL_MS, Range
from stream_app.replay.run import AUTO, CHANGELOG, Order, Replayed, replay

pytestmark = pytest.mark.kafka
Said = dict[tuple[str, int], tuple[str, float, float]]  # by entity and end: bundle, score, threshold


@pytest.fixture
def fleet(kafka: KafkaCluster, unique_name: Callable[[str], str], tmp_path: Path) -> Iterator[Fleet]:
    yield from prepared(kafka, unique_name, tmp_path, bundles=3)


def lived(fleet: Fleet) -> None:
    """The time line above."""
    fleet.publish(0, 1, 2)
    fleet.promote(1)
    worker = fleet.start(instance_id="v")

    def until(second: int) -> None:
        produce(fleet.bootstrap, fleet.topic, signals(until_now[0], second - until_now[0]), PARTITIONS)
        until_now[0] = second
        fleet.wait_until_read(second * ENTITIES)

    until_now = [0]
    fleet.wait_until(worker.is_reading, within_s=120)
    until(200)
    finished(shadow(fleet.config(), Wish("pump", 2)))
    fleet.wait_until(lambda: sum("shadow" in told for told in fleet.told()) == PARTITIONS)
    until(300)
    fleet.wait_until(lambda: missed(fleet) == [0] * PARTITIONS)
    produce(fleet.bootstrap, fleet.topic, signals(300, 50), PARTITIONS)
    until_now[0] = 350
    time.sleep(0.3)
    worker.kill()
    worker = fleet.start(instance_id="v")
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


def missed(fleet: Fleet) -> list[int]:
    """Windows that the shadow would not get to know if its worker was killed now, by partition."""

    async def ask() -> list[int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=fleet.bootstrap)
        await admin.start()
        commits = await admin.list_consumer_group_offsets(fleet.config().group_id)
        await admin.close()
        return [books.missed for commit in commits.values() if (books := read_books(commit.metadata)) is not None]

    return list(apart(ask))


def replayed(fleet: Fleet, out: Path, span: Range, processes: int, warm_up_ms: int | None = ALL_MS) -> Replayed:
    state = AUTO if warm_up_ms is not None else CHANGELOG
    config = fleet.folder / "worker-0.yaml"
    return replay(Order(fleet.topic, ("live",), out, span, warm_up_ms, config, processes=processes, state=state))


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


def test_what_a_shadow_missed_is_said_to_differ_and_by_how_much() -> None:
    """Two was a shadow, through a crash and a swap to another, until it went live; three never did."""
    told = [
        {"offset": 10, "shadow": "two", "missed": 0},
        {"offset": 20, "shadow": "two", "missed": 3},
        {"offset": 30, "to": "one", "missed": 0},
        {"offset": 30, "shadow": "two", "missed": 4},
        {"offset": 40, "to": "two", "missed": 5},
        {"offset": 50, "shadow": "three", "missed": 7},
        {"offset": 60, "shadow": "one", "missed": 8},
    ]
    places = {"one": ("", "pump@1"), "two": ("", "pump@2")}
    (note,) = noted({0: told, 1: told}, places, end=50)
    assert note.startswith("pump@2 did not judge 24 windows as a shadow")
    assert not noted({0: told}, places, end=40), "what is not in the range is not said"
    untold = [{"offset": 10, "shadow": "two"}, {"offset": 20, "shadow": "two"}, {"offset": 40, "to": "two"}]
    (note,) = noted({0: untold}, places, end=50)
    assert "did not tell how many windows it missed" in note
    assert not noted({0: untold[1:]}, places, end=50), "nothing was missed"


def noted(told: dict[int, list[dict[str, Any]]], places: dict[str, tuple[str, str]], end: int) -> tuple[str, ...]:
    missed = tuple(_missing(told, places))
    return Named("a", "live", "", DETECTOR, {}, missed).notes(dict.fromkeys(told, (0, end)))


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

    amid = START_MS + 250_000  # while 2 was a shadow
    replayed(fleet, tmp_path / "amid", Range(start_ms=amid), 1)
    later = replayed_scores(tmp_path / "amid")
    assert {place for place in said if place[1] > 1000 * (amid + 60_000)} <= later.keys() < said.keys()
    places = sorted(later)
    assert [said[place][0] for place in places] == [later[place][0] for place in places]
    np.testing.assert_allclose(numbers(later, places), numbers(said, places), rtol=1e-6)

    for second in (310, 450, 750):  # 2 is a shadow; it has gone live; 3 is about to
        done = replayed(fleet, tmp_path / str(second), Range(start_ms=START_MS + 1000 * second), 1, None)
        assert all(s.history is not None for s in done.plan.slices)
        later = replayed_scores(tmp_path / str(second))
        places = sorted(later)
        assert {place for place in said if place[1] > 1000 * (START_MS + 1000 * (second + 60))} <= later.keys()
        assert [said[place][0] for place in places] == [later[place][0] for place in places]
        np.testing.assert_allclose(numbers(later, places), numbers(said, places), rtol=1e-6)

    replayed(fleet, tmp_path / "y", Range(), 2)
    for path in (path for path in (tmp_path / "x").rglob("*") if path.is_file() and path.name != "replay.json"):
        assert path.read_bytes() == (tmp_path / "y" / path.relative_to(tmp_path / "x")).read_bytes(), path.name
