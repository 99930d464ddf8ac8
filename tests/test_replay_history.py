"""The state at the beginning of a range from the changelog, on Apache Kafka: what live said from there on, exactly.

live        |----------|--x kill |---------------|   checkpoints all along
replay                       C...|---------------|   from what was written by then, read again from its commit
warm-up                     wwwww|---------------|   knows too little
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from live import DETECTOR, START_MS, Live, apart, produce, read_all, stream
from test_cli import tailrace
from test_replay import the_same_bytes
from test_replay_law import same, timeless

from stream_app.brokers.kafka.cluster import KafkaCluster
from stream_app.config import Config
from stream_app.errors import ConfigurationError
from stream_app.live.preflight import changelog_topic
from stream_app.live.topics import TopicShape, create_topics, ensure_topics
from stream_app.replay.bundles import Named
from stream_app.replay.finding import Plan, find
from stream_app.replay.history import Search
from stream_app.replay.merging import alerts_of
from stream_app.replay.ranges import Range
from stream_app.replay.run import CHANGELOG, Order, Replayed, replay_here
from stream_app.stamps import Stamp

pytestmark = pytest.mark.kafka
PARTITIONS, SECONDS = 3, 1000


def prepared(kafka: KafkaCluster, name: str, folder: Path) -> Live:
    topic = f"{name}-samples"
    sinks = [f"{topic}-dlt", f"{name}-alerts", f"{name}-scores", f"{name}-drift"]
    create_topics(kafka.bootstrap, dict.fromkeys([topic, *sinks], PARTITIONS))
    return Live(kafka.bootstrap, name, topic, folder, {"checkpoint": "200ms"})


@pytest.fixture(scope="module")
def live(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A topic that workers have read as it came, with a checkpoint every few minutes of it; one of them was killed."""
    with prepared(kafka, f"history-{id(kafka):x}", tmp_path_factory.mktemp("history")) as found:
        records, worker = stream(SECONDS), found.start(instance_id="v")
        for end in range(2_000, len(records) + 1, 2_000):
            produce(kafka.bootstrap, found.topic, records[end - 2_000 : end], PARTITIONS)
            if end == 6_000:
                worker.kill()
                worker = found.start(instance_id="v")
            found.wait_until_read(end)
        assert worker.terminate() == 0, worker.said()
        yield found


def replayed(
    live: Live, begin_s: int, out: Path, warm_up_ms: int | None = None, state: str = CHANGELOG, **config: Any
) -> Replayed:
    named = Named.of("a", "plain", Path("plain"), DETECTOR)
    order = Order(live.topic, ("plain",), out, Range(start_ms=START_MS + 1000 * begin_s), warm_up_ms, state=state)
    return replay_here(order, live.config().model_copy(update=config), (named,))


def live_scores(live: Live) -> dict[tuple[str, int], list[float]]:
    """By entity and end of the window."""
    rows = [orjson.loads(record.value) for record in read_all(live.bootstrap, f"{live.name}-scores")]
    ends = np.array([row["data_end_time"].removesuffix("Z") for row in rows], "M8[us]").astype(np.int64).tolist()
    return {(r["entity"], end): [r["anomaly_score"], r["threshold"]] for r, end in zip(rows, ends, strict=True)}


def scores(out: Path) -> dict[tuple[str, int], list[float]]:
    table = pq.read_table(out / "scores.parquet")
    ends = table["data_end_time"].cast("int64").to_pylist()
    columns = [table[name].to_pylist() for name in ("entity", "anomaly_score", "threshold")]
    return {(entity, end): said for end, entity, *said in zip(ends, *columns, strict=True)}


def apart_from(found: dict[tuple[str, int], list[float]], said: dict[tuple[str, int], list[float]]) -> float:
    """The largest relative difference; thresholds are there from the same window on."""
    ours, theirs = (np.array([of[place] for place in found], float) for of in (found, said))
    if (np.isnan(ours) != np.isnan(theirs)).any():
        return np.inf
    return float(np.nanmax(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-12)))


@pytest.mark.parametrize("begin_s", [350, 850])
def test_from_what_workers_had_written_by_then_a_replay_says_what_live_said(
    live: Live, tmp_path: Path, begin_s: int
) -> None:
    done = replayed(live, begin_s, tmp_path / "out")
    assert all(s.history is not None and s.warm_up < s.begin for s in done.plan.slices)
    if begin_s > 700:  # two thirds of the stream had been committed, and states written after
        assert sum(s.warm_up for s in done.plan.slices) > 0
    found, said = scores(tmp_path / "out"), live_scores(live)
    later = {place for place in said if place[1] > 1000 * (START_MS + 1000 * (begin_s + 10))}
    assert later <= set(found) < set(said)
    assert apart_from(found, said) < 1e-6
    alerts, told = timeless(alerts_of(tmp_path / "out")), timeless(live.alerts())
    assert same(alerts, {i: told[i] for i in alerts})
    assert {i for i, alert in told.items() if alert["data_start_time"] > later_than(begin_s)} <= set(alerts)


def later_than(second: int) -> str:
    return str(np.datetime64(START_MS + 1000 * (second + 10), "ms"))


def test_a_warm_up_alone_would_say_something_else_and_two_replays_say_the_same(live: Live, tmp_path: Path) -> None:
    done = replayed(live, 800, tmp_path / "warm", 60_000, "auto")
    assert all(s.history is None for s in done.plan.slices)
    assert apart_from(scores(tmp_path / "warm"), live_scores(live)) > 0.01
    done = replayed(live, 800, tmp_path / "x")
    replayed(live, 800, tmp_path / "y")
    the_same_bytes(tmp_path / "x", tmp_path / "y")
    assert "what workers had written to the changelog" in (tmp_path / "x" / "report.html").read_text()
    header = json.loads((tmp_path / "x" / "replay.json").read_text())
    assert header["warm_up"].startswith("the live one")
    assert [s["history"]["states"] for s in header["slices"]] == [2, 2, 2]
    assert not done.plan.notes


def copied(live: Live, group: str, settings: dict[str, str], **how: bool) -> Config:
    """The changelog of another group. `stamped`: with its headers; `holes`: after offsets without a record;
    `newest`: of each session the newest record alone."""
    config = live.config().model_copy(update={"group": group})
    source, target = (changelog_topic(of, live.topic) for of in (live.config(), config))
    ensure_topics(live.bootstrap, {target: TopicShape(PARTITIONS, compacted=True, settings=settings)})
    if how.get("holes"):
        hole(live, target)
    records = read_all(live.bootstrap, source)
    if how.get("newest"):
        records = list({(record.partition, record.key): record for record in records}.values())
    append(live, target, records, stamped=how.get("stamped", True))
    return config


def hole(live: Live, changelog: str) -> None:
    """Offsets without a record in each partition, as compaction leaves them: here they are an aborted transaction's."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=live.bootstrap, transactional_id=changelog) as producer:
            await producer.begin_transaction()
            for partition in range(PARTITIONS):
                await producer.send(changelog, b"", b"nobody", partition=partition)
            await producer.flush()
            await producer.abort_transaction()

    apart(send)


def append(live: Live, changelog: str, records: list[Any], *, stamped: bool) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=live.bootstrap, linger_ms=20) as producer:
            for r in records:
                place = {"partition": r.partition, "timestamp_ms": r.timestamp}
                await producer.send(changelog, r.value, r.key, headers=list(r.headers) if stamped else None, **place)
            await producer.flush()

    apart(send)


def test_what_compaction_has_left_is_relied_on_where_it_is_all_that_is_needed(
    live: Live, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    gone = copied(live, unique_name("gone"), {}, holes=True, newest=True)
    forgetful = copied(live, unique_name("forgetful"), {"delete.retention.ms": "0"}, holes=True)
    for config in (gone, forgetful):
        with pytest.raises(ConfigurationError, match=r"does not give the live state: compaction may have removed"):
            searched(live, config)
    for settings in ({}, {"delete.retention.ms": "0", "min.compaction.lag.ms": "86400000"}):
        plan = searched(live, copied(live, unique_name(f"left-{len(settings)}"), settings, holes=True))
        assert [s.history.states for s in plan.slices if s.history] == [2, 2, 2]
        assert plan.exact
    done = replayed(live, 800, tmp_path / "auto", state="auto", group=gone.group)
    assert all(s.warm_up == 0 for s in done.plan.slices)
    assert not done.plan.notes, "the warm-up has read everything, and is as good"


def searched(live: Live, config: Config) -> Plan:
    """From the middle of the stream on."""
    named = Named.of("a", "plain", Path("plain"), DETECTOR)

    async def search() -> Plan:
        plan = await find(config, live.topic, Range(start_ms=START_MS + 500 * SECONDS), 0)
        return await Search(config, (named,), None).remembered(plan, must=True)

    return asyncio.run(search())


def test_why_the_changelog_gives_no_state_is_said(
    live: Live, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    early = copied(live, unique_name("early"), {}, stamped=False)
    reasons = [
        (800, early.group, "written by an earlier version"),
        (800, unique_name("none"), "there is no such topic"),
        (3, None, "it holds no state from before the range"),
    ]
    for i, (begin_s, group, reason) in enumerate(reasons):
        with pytest.raises(ConfigurationError, match=reason):
            replayed(live, begin_s, tmp_path / str(i), group=group)
    other = tailrace("replay", "--topic", live.topic, "--model", "x", "--out", tmp_path / "o", "--state", "history")
    assert other.returncode == 2
    assert "auto, changelog, warm-up" in other.stderr


def test_a_model_that_nobody_ran_has_a_warm_up_and_the_report_says_why(live: Live, tmp_path: Path) -> None:
    """And what the source no longer holds can't be read again."""
    unknown = Named.of("a", "other", Path("other"), replace(DETECTOR, digest="plain-9"))
    span = Range(partition=1, first_offset=3_000)
    trimmed(live, 1_000)
    order = Order(live.topic, ("other",), tmp_path / "out", span)
    done = replay_here(order, live.config(), (unknown,))
    (note,) = [note for note in done.plan.notes if "changelog" in note]
    assert note.endswith("does not give the live state: its states hold nothing that other has learned")
    assert done.plan.slices[0].warm_up == 1_000
    assert note in (tmp_path / "out" / "report.html").read_text()
    known = Named.of("a", "plain", Path("plain"), DETECTOR)
    done = replay_here(Order(live.topic, ("plain",), tmp_path / "known", span), live.config(), (known,))
    assert done.plan.slices[0].history is not None, "by itself, since the warm-up does not know everything"
    trimmed(live, 2_995)
    with pytest.raises(ConfigurationError, match=r"go on from offset \d,\d\d\d, which .* holds no longer"):
        replay_here(Order(live.topic, ("plain",), tmp_path / "late", span, state=CHANGELOG), live.config(), (known,))


def trimmed(live: Live, first: int) -> None:
    """The source's partition 1 begins there from now on."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=live.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(live.topic, 1): RecordsToDelete(before_offset=first)})
        await admin.close()

    apart(delete)


def test_a_worker_reads_states_with_stamps_and_without(
    kafka: KafkaCluster, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    with prepared(kafka, unique_name("mixed"), tmp_path) as live:
        records = stream(800)
        produce(kafka.bootstrap, live.topic, records[:4_800], PARTITIONS)
        live.finish()
        changelog = changelog_topic(live.config(), live.topic)
        newest = {record.key: record for record in read_all(kafka.bootstrap, changelog)}
        append(live, changelog, list(newest.values())[::2], stamped=False)
        produce(kafka.bootstrap, live.topic, records[4_800:], PARTITIONS)
        live.finish()
        live.check()
        stamps = [Stamp.of(record.headers) for record in read_all(kafka.bootstrap, changelog)]
        assert None in stamps
        assert stamps[-1] is not None
