"""Turns: batches of several partitions in one step give what each gives alone, and none overtakes another."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_detector import PlainDetector
from sensor_worlds import detector
from test_pipeline import SHORT, START_MS, Outcome, batch, run, spec, streams
from test_sensors import TOLERANCE

from stream_app import turn
from stream_app.live.fetching import Fetched
from stream_app.live.turns import Turns
from stream_app.pipeline import Pipeline
from stream_app.samples import RawBatch

FAILING = replace(SHORT, fail_above=0.3, nan_above=0.15)


def in_turns(
    partitions: list[list], plain: PlainDetector, data: st.DataObject
) -> tuple[list[Outcome], list[list[int]]]:
    """Every partition's records, in batches of any size, some of them in each turn; and where they were cut."""
    pipelines, outcomes = [Pipeline(spec(detector=plain)) for _ in partitions], [Outcome() for _ in partitions]
    at, cuts = [0] * len(partitions), [list[int]() for _ in partitions]
    while any(begin < len(records) for begin, records in zip(at, partitions, strict=True)):
        there = [i for i, records in enumerate(partitions) if at[i] < len(records)]
        mine = data.draw(st.sets(st.sampled_from(there), min_size=1).map(sorted))
        ends = [min(len(partitions[i]), at[i] + data.draw(st.integers(1, 40))) for i in mine]
        parts = [batch(partitions[i][at[i] : end], at[i]) for i, end in zip(mine, ends, strict=True)]
        results = turn.step([(pipelines[i], part) for i, part in zip(mine, parts, strict=True)])
        for i, end, part, result in zip(mine, ends, parts, results, strict=True):
            outcomes[i].take(result, part.offsets)
            at[i] = end
            cuts[i] += [end] * (end < len(partitions[i]))
    for pipeline, outcome in zip(pipelines, outcomes, strict=True):
        outcome.take(pipeline.finish(), np.empty(0, np.int64))
    return outcomes, cuts


@settings(max_examples=100, deadline=None)
@given(st.lists(streams(), min_size=2, max_size=3), st.sampled_from([SHORT, FAILING]), st.data())
def test_partitions_worked_on_together_give_what_each_gives_alone(
    partitions: list[list], plain: PlainDetector, data: st.DataObject
) -> None:
    together, cuts = in_turns(partitions, plain, data)
    assert together == [run(records, at, plain)[0] for records, at in zip(partitions, cuts, strict=True)]


def test_partitions_with_different_bundles_are_scored_by_their_own() -> None:
    records = [("x", {"sensor": "a", "t": START_MS + i * 500, "value": float(i % 7)}, i / 2) for i in range(60)]
    other = replace(SHORT, digest="plain-2", gain=3.0)
    pipelines = [Pipeline(spec(detector=d)) for d in (SHORT, other, SHORT)]
    results = turn.step([(pipeline, batch(records, 0)) for pipeline in pipelines])
    one, two, three = (r.windows.scored.score for r in results if r.windows)
    assert len(one) > 10
    np.testing.assert_allclose(two, 3 * one)
    np.testing.assert_array_equal(three, one)


def test_a_trained_detector_says_of_several_partitions_what_it_says_of_each() -> None:
    known, rng = detector("aligned"), np.random.default_rng(5)
    partitions = [
        [
            (f"e{i}", {"t": START_MS + t * 1000, "values": {f"s{k}": float(v) for k, v in enumerate(row)}}, float(t))
            for t, row in enumerate(rng.normal(0, 1, (seconds, 3)))
            for i in range(entities)
        ]
        for entities, seconds in ((2, 200), (1, 150), (3, 180))
    ]
    parts = [batch(records, 0) for records in partitions]
    together = turn.step([(Pipeline(spec(detector=known)), part) for part in parts])
    for part, mine in zip(parts, together, strict=True):
        alone = Pipeline(spec(detector=known)).step(part)
        assert alone.windows is not None
        assert mine.windows is not None
        assert mine.windows.entities == alone.windows.entities
        ours, theirs = mine.windows.scored, alone.windows.scored
        assert len(ours.score) > 20
        np.testing.assert_allclose(ours.score, theirs.score, **TOLERANCE)
        np.testing.assert_allclose(ours.frames.score, theirs.frames.score, **TOLERANCE)
        np.testing.assert_array_equal(ours.frames.entity, theirs.frames.entity)
        for i in (0, len(ours.score) - 1):
            ours_told, theirs_told = ours.explain(i), theirs.explain(i)
            assert [p.sensor for p in ours_told] == [p.sensor for p in theirs_told]
            np.testing.assert_allclose([p.actual for p in ours_told], [p.actual for p in theirs_told], **TOLERANCE)


def fetched(partition: int, first: int, n: int) -> Fetched:
    none: list[bytes | None] = [None] * n
    offsets = np.arange(first, first + n)
    return Fetched(RawBatch("s", partition, none, none, offsets, offsets, [()] * n), first, first + n)


def worked(waiting: list[Fetched], records_max: int) -> list[list[tuple[int, int]]]:
    """Partition and first offset of the batches in each turn."""
    turns: list[list[tuple[int, int]]] = []

    async def work(batches: list[Fetched]) -> None:
        await asyncio.sleep(0)
        turns.append([(b.records.partition, b.position) for b in batches])

    async def main() -> None:
        given_out = Turns(records_max, asyncio.Lock(), work)
        await asyncio.gather(*map(given_out.add, waiting))

    asyncio.run(main())
    return turns


def test_a_turn_is_the_first_batch_of_each_partition_that_waits() -> None:
    waiting = [fetched(0, 0, 5), fetched(0, 5, 5), fetched(1, 0, 5), fetched(2, 0, 5), fetched(1, 5, 5)]
    assert worked(waiting, 100) == [[(0, 0), (1, 0), (2, 0)], [(0, 5), (1, 5)]]


def test_a_turn_holds_no_more_records_than_a_batch_may_and_nothing_is_overtaken() -> None:
    waiting = [fetched(0, 0, 60), fetched(1, 0, 60), fetched(1, 60, 10), fetched(2, 0, 40), fetched(0, 60, 200)]
    assert worked(waiting, 100) == [[(0, 0), (2, 0)], [(1, 0)], [(1, 60)], [(0, 60)]]


def test_what_waits_for_an_assignment_that_is_over_is_dropped() -> None:
    async def main() -> list[list[Fetched]]:
        turns: list[list[Fetched]] = []

        async def work(batches: list[Fetched]) -> None:
            turns.append(batches)

        lock = asyncio.Lock()
        given_out = Turns(100, lock, work)
        async with lock:
            added = asyncio.ensure_future(given_out.add(fetched(0, 0, 5)))
            await asyncio.sleep(0)
            given_out.clear()
            await added
        await given_out.add(fetched(0, 7, 5))
        return turns

    assert [[b.position for b in turn] for turn in asyncio.run(main()) if turn] == [[7]]
