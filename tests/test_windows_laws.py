"""Laws of windows of time, against the naive twin: however records are batched, stored, read again or put together."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive_windows import NaiveTime, Story
from windows_rig import (
    IDLE,
    Record,
    arrivals,
    at,
    batches,
    check_lives,
    expected,
    lives,
    one_by_one,
    rig,
    sharing,
    tiny_store,
)

TIMES = st.one_of(
    st.integers(-30, 60),
    st.integers(-30, 60),
    st.integers(-30, 60),
    st.sampled_from([10**6, 10**6 + 3, -(10**6), 10**15, -(10**15)]),
)
RECORDS = st.lists(
    st.builds(
        Record,
        key=st.sampled_from("aaab"),
        t=TIMES,
        sensor=st.integers(0, 2),
        value=st.sampled_from([1.0, 2.5, float("nan")]),
        wait=st.sampled_from([0, 0, 0, 0, 1, 2, IDLE - 1, IDLE, IDLE + 1]),
        end=st.sampled_from([False] * 19 + [True]),
    ),
    max_size=60,
)
CUTS = st.lists(st.integers(0, 1000), max_size=20)
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12)).map(
    lambda s: (max(s[0], s[1]), min(s[0], s[1]), s[2])
)


def twins(records: list[Record], shape: tuple[int, int, int]) -> dict[str, Story]:
    found: dict[str, NaiveTime] = {}
    for a in arrivals(records):
        found.setdefault(a.session, NaiveTime(*shape, IDLE)).take(a)
    for twin in found.values():
        twin.close_all()
    return {name: twin.story for name, twin in found.items()}


@settings(max_examples=300, deadline=None)
@given(RECORDS, CUTS, SHAPES)
@example(at(6, 12, 7, 20), [], (10, 5, 0))
def test_windows_and_outcomes_are_those_of_the_naive_twin_however_records_are_batched(
    records: list[Record], cuts: list[int], shape: tuple[int, int, int]
) -> None:
    told = rig(*shape)
    for batch in batches(arrivals(records), cuts):
        told.feed(batch)
    told.finish()
    assert told.told() == expected(twins(records, shape), lambda where: (*where, 0))


@settings(max_examples=100, deadline=None)
@given(RECORDS, SHAPES)
def test_a_store_that_packs_and_moves_all_the_time_gives_the_same(
    records: list[Record], shape: tuple[int, int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny_store(patch)
        told = rig(*shape)
        for batch in one_by_one(arrivals(records)):
            told.feed(batch)
        told.finish()
        assert told.told() == expected(twins(records, shape), lambda where: (*where, 0))


@settings(max_examples=300, deadline=None)
@given(RECORDS, CUTS, SHAPES, st.integers(0, 60), CUTS)
def test_records_read_again_from_the_needed_offset_close_the_same_windows(
    records: list[Record], cuts: list[int], shape: tuple[int, int, int], crash: int, again: list[int]
) -> None:
    check_lives(lives(lambda: rig(*shape), arrivals(records), cuts, crash, again))


@settings(max_examples=200, deadline=None)
@given(RECORDS, CUTS, SHAPES, st.lists(st.booleans(), min_size=60, max_size=60))
def test_samples_of_one_record_are_judged_as_if_they_came_one_by_one(
    records: list[Record], cuts: list[int], shape: tuple[int, int, int], shared: list[bool]
) -> None:
    items = sharing(arrivals(records), shared)
    alone, together = rig(*shape), rig(*shape)
    for batch in batches(items, cuts):
        alone.feed(batch)
        together.feed(batch, together=True)
    alone.finish()
    together.finish()
    assert together.told() == alone.told()


@settings(max_examples=100, deadline=None)
@given(RECORDS, CUTS, SHAPES)
def test_the_needed_offset_is_at_or_before_every_sample_without_outcome(
    records: list[Record], cuts: list[int], shape: tuple[int, int, int]
) -> None:
    told, read = rig(*shape), set()
    for batch in batches(arrivals(records), cuts):
        told.feed(batch)
        read |= {a.offset for a in batch if not a.end}
        waiting = read - {offset for offset, _ in told.told()[1]}
        needed = told.stage.needed_offset()
        assert not waiting or (needed is not None and needed <= min(waiting))
