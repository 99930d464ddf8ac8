"""The rules of windows of tokens, one test each, then the laws against the naive twin."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_windows import NaiveCount, Story
from windows_rig import IDLE, Record, Rig, arrivals, batches, check_lives, expected, lives, one_by_one, tiny_store

from models.detector import WindowSpec
from stream_app.config import Limits
from stream_app.samples import no_samples
from stream_app.windows.closed import STAGE, Closed
from stream_app.windows.counted import CountWindows


def rig(length: int = 4, stride: int = 2, limits: Limits | None = None) -> Rig:
    spec = WindowSpec(length_tokens=length, stride_tokens=stride)
    return Rig(lambda bounds, keys: CountWindows(spec, IDLE, bounds, keys), limits)


def tokens(n: int, **more: object) -> list[Record]:
    """The first n tokens of a session: token i has the value i."""
    return [Record(t=7, value=float(i), **more) for i in range(n)]


def windows(closed: Closed) -> list[list[int]]:
    scenes = closed.scenes
    return [scenes.value[a:b].astype(int).tolist() for a, b in zip(scenes.first, scenes.last, strict=True)]


def test_a_window_closes_with_its_last_token() -> None:
    told = rig(4, 2)
    assert windows(told.feed(arrivals(tokens(3)))) == []
    assert windows(told.feed(arrivals(tokens(4))[3:])) == [[0, 1, 2, 3]]


def test_windows_of_tokens_overlap_by_position_and_share_their_rows() -> None:
    #  0 1 2 3 4 5
    # [       ]
    #     [       ]
    closed = rig(4, 2).feed(arrivals(tokens(6)))
    assert windows(closed) == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert closed.scenes.position.tolist() == [0, 2]
    assert len(closed.scenes.value) == 6


def test_tokens_are_taken_in_the_order_of_arrival_whatever_their_times() -> None:
    records = [Record(t=t, value=float(i)) for i, t in enumerate([9, 3, 3, 5])]
    closed = rig(4, 2).feed(arrivals(records))
    assert windows(closed) == [[0, 1, 2, 3]]
    assert (closed.scenes.start_us.tolist(), closed.scenes.end_us.tolist()) == ([9], [5])
    assert len(closed.late) == 0


def test_what_is_left_closes_with_the_tombstone_and_is_ended() -> None:
    #  0 1 2 3 4 |
    # [       ]
    #     [      |
    closed = rig(4, 2).feed(arrivals([*tokens(5), Record(end=True)]))
    assert windows(closed) == [[0, 1, 2, 3], [2, 3, 4]]
    assert closed.scenes.ended.tolist() == [False, True]
    assert len(closed.ended) == 1


def test_a_session_shorter_than_a_window_is_one_window() -> None:
    assert windows(rig(4, 2).feed(arrivals([*tokens(1), Record(end=True)]))) == [[0]]


def test_a_window_that_would_begin_after_the_last_token_does_not_exist() -> None:
    told = rig(2, 2)
    closed = told.feed(arrivals([*tokens(4), Record(end=True)]))
    assert windows(closed) == [[0, 1], [2, 3]]
    assert not closed.scenes.ended.any()


def test_silence_ends_a_session_and_the_next_token_begins_another_in_the_same_slot() -> None:
    told = rig(4, 2)
    told.feed(arrivals(tokens(2)), clock=0)
    closed = told.feed([], clock=IDLE)
    assert windows(closed) == [[0, 1]]
    assert closed.scenes.ended.tolist() == [True]
    assert len(closed.idle) == 1
    assert len(closed.ended) == 0
    assert told.keys[STAGE]["position"][closed.idle].tolist() == [0]


def test_silence_within_a_batch_is_judged_by_the_clock_of_the_next_token() -> None:
    closed = rig(4, 2).feed(arrivals([Record(value=1.0), Record(value=2.0), Record(value=3.0, wait=IDLE)]))
    assert windows(closed) == [[1, 2]]
    assert closed.scenes.ended.tolist() == [True]


def test_the_end_of_a_file_ends_its_sessions_unless_they_are_open() -> None:
    for over in (True, False):
        told = rig(4, 2)
        told.feed(arrivals(tokens(3)))
        closed = told.stage.finish(over)
        assert windows(closed) == [[0, 1, 2]]
        assert closed.scenes.ended.tolist() == [over]


def test_a_token_before_the_next_expected_is_a_duplicate() -> None:
    #  seq   0 1 2 | 1 2 3      a producer that resends from 1 on
    records = [Record(value=float(seq), seq=seq) for seq in (0, 1, 2, 1, 2, 3)]
    closed = rig(4, 2).feed(arrivals(records))
    assert closed.duplicate.tolist() == [3, 4]
    assert windows(closed) == [[0, 1, 2, 3]]


def test_a_gap_in_seq_is_not_filled() -> None:
    closed = rig(4, 2).feed(arrivals([Record(value=float(seq), seq=seq) for seq in (0, 1, 7, 8)]))
    assert windows(closed) == [[0, 1, 7, 8]]


def test_tokens_without_seq_are_never_duplicates() -> None:
    assert len(rig(4, 2).feed(arrivals(tokens(2) * 3)).duplicate) == 0


def test_ordinals_go_on_over_sessions_of_a_slot() -> None:
    told = rig(4, 2)
    told.feed(arrivals([*tokens(5), Record(value=9.0, wait=IDLE)]))
    told.finish()
    assert told.ordinals["a0"] == [0, 1, 2]


def test_beyond_the_limit_of_pending_tokens_the_least_recently_seen_are_closed() -> None:
    told = rig(100, 50, limits=Limits(pending_samples=8))
    told.feed(arrivals([*tokens(5, key="old"), *tokens(5, key="new", wait=1)]))
    closed = told.feed([])
    assert [told.keys.name(s) for s in closed.forced] == ["old0"]
    assert windows(closed) == [[0, 1, 2, 3, 4]]


def test_no_tokens_give_no_windows() -> None:
    closed = rig().stage.update(no_samples(), 0)
    assert (len(closed.scenes), len(closed.touched), closed.n_open) == (0, 0, 0)


# --- laws -------------------------------------------------------------------------------------------

RECORDS = st.lists(
    st.builds(
        Record,
        key=st.sampled_from("aaab"),
        t=st.integers(-5, 5),
        value=st.integers(0, 9).map(float),
        wait=st.sampled_from([0, 0, 0, 0, 0, 1, IDLE - 1, IDLE, IDLE + 1]),
        seq=st.one_of(st.just(-1), st.integers(0, 30)),
        end=st.sampled_from([False] * 19 + [True]),
    ),
    max_size=60,
)
CUTS = st.lists(st.integers(0, 1000), max_size=20)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda s: (max(s), min(s)))


def twins(records: list[Record], shape: tuple[int, int]) -> dict[str, Story]:
    found: dict[str, NaiveCount] = {}
    for a in arrivals(records):
        found.setdefault(a.session, NaiveCount(*shape, IDLE)).take(a)
    for twin in found.values():
        twin.close_all()
    return {name: twin.story for name, twin in found.items()}


def place(where: list[int]) -> tuple[int, int, int]:
    position, start, end = where
    return start, end, position


@settings(max_examples=300, deadline=None)
@given(RECORDS, CUTS, SHAPES)
def test_windows_and_outcomes_are_those_of_the_naive_twin_however_tokens_are_batched(
    records: list[Record], cuts: list[int], shape: tuple[int, int]
) -> None:
    told = rig(*shape)
    for batch in batches(arrivals(records), cuts):
        told.feed(batch)
    told.finish()
    assert told.told() == expected(twins(records, shape), place)


@settings(max_examples=100, deadline=None)
@given(RECORDS, SHAPES)
def test_a_store_that_packs_and_moves_all_the_time_gives_the_same(
    records: list[Record], shape: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny_store(patch)
        told = rig(*shape)
        for batch in one_by_one(arrivals(records)):
            told.feed(batch)
        told.finish()
        assert told.told() == expected(twins(records, shape), place)


@settings(max_examples=300, deadline=None)
@given(RECORDS, CUTS, SHAPES, st.integers(0, 60), CUTS)
def test_tokens_read_again_from_the_needed_offset_close_the_same_windows(
    records: list[Record], cuts: list[int], shape: tuple[int, int], crash: int, again: list[int]
) -> None:
    check_lives(lives(lambda: rig(*shape), arrivals(records), cuts, crash, again))
