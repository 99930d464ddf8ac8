"""Training data from a stream: what the windows stage accepted, each sample once, however the batches fell."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detector import WindowSpec
from stream_app.config import Limits
from stream_app.keys import Keys
from stream_app.samples import Samples
from stream_app.windows.closed import INGEST, STAGE
from stream_app.windows.counted import CountWindows
from stream_app.windows.timed import TimeWindows
from training.accepted import Accepted

TIMED, COUNTED = WindowSpec(10, 4), WindowSpec(length_tokens=4, stride_tokens=2)
Row = tuple[str, int, float]  # session, time, value


def taken(columns: np.ndarray, cuts: list[int], spec: WindowSpec) -> list[Row]:
    """columns: entity, time, end. The value of a sample is its place."""
    keys = Keys({STAGE: INGEST})
    slots = keys.slots([b"a", b"b", b"c"])
    stage = (CountWindows(spec, 1000, Limits(), keys)) if spec.counted else TimeWindows(spec, 3, 1000, Limits(), keys)
    accepted = Accepted(spec.counted, keys.name)
    rows: list[Row] = []
    n = columns.shape[1]
    edges = sorted({0, n, *(c for c in cuts if c <= n)})
    for a, b in pairwise(edges):
        entity, t_us, end = columns[:, a:b]
        place, none = np.arange(a, b), np.full(b - a, -1, np.int64)
        value = np.where(end == 1, np.nan, place)
        stamps = np.zeros(b - a, np.int64)
        batch = Samples.of_rows(
            entity=slots[entity],
            sensor=np.zeros(b - a, np.int32),
            t_us=t_us,
            value=value,
            offset=place,
            clock_us=stamps,
            seq=none,
            end=end == 1,
        )
        for part in accepted.take(stage.update(batch, 0)):
            names = [f"{accepted.sessions[e]}{e if spec.counted else ''}" for e in part.entity]
            rows += zip(names, part.t_us.tolist(), part.value.tolist(), strict=True)
    return sorted(rows)


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=60), st.lists(st.integers(0, 60), max_size=6)
)
def test_what_is_accepted_does_not_depend_on_batches_and_comes_once(
    samples: list[tuple[int, int]], cuts: list[int]
) -> None:
    columns = np.array([(e, t, 0) for e, t in samples], np.int64).reshape(-1, 3).T
    rows = taken(columns, cuts, TIMED)
    assert rows == taken(columns, [], TIMED)
    assert len(rows) == len(set(rows))


def test_in_order_everything_below_the_last_closed_window_is_accepted() -> None:
    t = np.arange(0, 50, 2)
    rows = taken(np.stack([np.zeros(25, int), t, np.zeros(25, int)]), [3, 11], TIMED)
    # the watermark is 48 - 3 = 45: the last window that has closed is [32, 42)
    assert [at for _, at, _ in rows] == list(range(0, 42, 2))


def test_what_came_late_for_one_of_its_windows_is_left_out() -> None:
    #   windows  [0 10) [4 14) [8 18)      9 comes when [0, 10) has closed and [4, 14) has not
    rows = taken(np.array([[0, 0, 0, 0], [2, 14, 9, 40], [0, 0, 0, 0]]), [], TIMED)
    assert [at for _, at, _ in rows] == [2, 14]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2), max_size=50), st.sets(st.integers(0, 2)), st.lists(st.integers(0, 50), max_size=5))
def test_tokens_of_closed_windows_are_accepted_once_and_in_order(
    came: list[int], over: set[int], cuts: list[int]
) -> None:
    rows = [(entity, place, 0) for place, entity in enumerate([*came, *came])] + [(e, 200, 1) for e in over]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    got = taken(columns, cuts, COUNTED)
    for entity in range(3):
        said = [place for e, place, end in rows if e == entity and not end]
        # a session that was ended is there whole, of one that goes on the windows that have closed
        closed = len(said) if entity in over else 0 if len(said) < 4 else (len(said) - 4) // 2 * 2 + 4
        assert [int(value) for name, _, value in got if name.startswith("abc"[entity])] == said[:closed]
