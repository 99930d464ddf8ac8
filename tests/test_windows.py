"""The rules of windows of event time, one test each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plain_detector import PlainDetector
from windows_rig import IDLE, Record, arrivals, at, one_by_one, rig, windows

from models.detector import WindowSpec
from models.scenes import no_scenes
from stream_app.config import Limits, parse
from stream_app.errors import ConfigurationError
from stream_app.keys import Keys
from stream_app.samples import no_samples
from stream_app.windows import idle, pending
from stream_app.windows.closed import STAGE
from stream_app.windows.cutting import Grid
from stream_app.windows.extents import DEFAULT, extents, misfit
from stream_app.windows.timed import INGEST, CountWindows, TimeWindows, of

# --- what a window is -----------------------------------------------------------------------------


def test_windows_are_half_open_and_aligned_to_the_epoch() -> None:
    #  -10  -5   0   5   10  15  20
    #                |-------|            [5, 15) holds 5 and 14, not 15
    #                    |-------|        [10, 20)
    closed = rig(10, 5).feed(arrivals(at(5, 14, 15, 20)))
    assert windows(closed) == [(0, 10, [5]), (5, 15, [5, 14]), (10, 20, [14, 15])]


def test_windows_before_the_epoch_are_aligned_to_it_too() -> None:
    closed = rig(10, 5).feed(arrivals(at(-7, 10)))
    assert windows(closed) == [(-15, -5, [-7]), (-10, 0, [-7])]


def test_a_sample_is_in_every_window_that_starts_within_a_length_before_it() -> None:
    grid = Grid(10, 3)
    for t in range(-40, 40):
        starts = [start for start in range(-60, 60, 3) if t - 10 < start <= t]
        low, high = (int(f(np.array([t]))[0]) for f in (grid.first, grid.last))
        assert [k * 3 for k in range(low, high + 1)] == starts


def test_a_window_without_an_accepted_sample_does_not_exist() -> None:
    #  0    10                  1000
    #  x                          x      nothing in between
    told = rig(10, 10)
    assert windows(told.feed(arrivals(at(0, 1000)))) == [(0, 10, [0])]
    assert windows(told.finish()) == [(1000, 1010, [1000])]


def test_windows_that_overlap_share_their_rows() -> None:
    closed = rig(10, 5).feed(arrivals(at(1, 6, 11, 30)))
    assert closed.scenes.t_us.tolist() == [1, 6, 11]
    assert list(zip(closed.scenes.first, closed.scenes.last, strict=True)) == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_samples_of_a_window_are_in_order_of_time_then_sensor() -> None:
    told = rig(10, 10, lateness=5)
    told.feed(arrivals([Record(t=3, sensor=1), Record(t=1, sensor=1), Record(t=3, sensor=0), Record(t=1, sensor=0)]))
    scenes = told.finish().scenes
    assert list(zip(scenes.t_us, scenes.sensor, strict=True)) == [(1, 0), (1, 1), (3, 0), (3, 1)]


def test_windows_of_an_entity_close_in_order_of_end_and_their_ordinals_rise() -> None:
    told = rig(10, 5)
    told.feed(arrivals(at(1, 6, 11, 40, 100)))
    told.finish()
    starts = [place[0] for place, *_ in told.stories["a0"].windows]
    assert starts == sorted(starts)
    assert (np.diff(told.ordinals["a0"]) > 0).all()
    assert min(told.ordinals["a0"]) >= 0


def test_a_missing_value_is_a_sample_like_any_other() -> None:
    told = rig(10, 10)
    told.feed(arrivals([Record(t=1, value=np.nan)]))
    assert np.isnan(told.finish().scenes.value).all()


def test_a_window_names_the_first_and_last_offset_of_its_samples() -> None:
    told = rig(10, 10, lateness=10)
    scenes = told.feed(arrivals(at(5, 15, 2, 25, 17))).scenes
    assert (scenes.first_offset.tolist(), scenes.last_offset.tolist()) == ([0], [2])


# --- the watermark --------------------------------------------------------------------------------


def test_a_window_closes_when_the_watermark_reaches_its_end() -> None:
    told = rig(10, 10, lateness=3)
    assert windows(told.feed(arrivals(at(5, 12)))) == []
    assert windows(told.feed(arrivals(at(5, 12, 13))[2:])) == [(0, 10, [5])]


def test_the_watermark_is_per_entity() -> None:
    told = rig(10, 10)
    closed = told.feed(arrivals([Record("a", 1), Record("b", 100), Record("a", 2)]))
    assert windows(closed) == []
    assert len(closed.late) == 0


def test_the_watermark_moves_sample_by_sample_not_once_per_batch() -> None:
    #  arrival   5   10   6          10 closes [0, 10) before 6 comes, though all three are one batch
    closed = rig(10, 10).feed(arrivals(at(5, 10, 6)))
    assert closed.late.tolist() == [2]
    assert windows(closed) == [(0, 10, [5])]


def test_the_watermark_never_falls() -> None:
    told = rig(10, 10, lateness=5)
    told.feed(arrivals(at(30, 26)))
    closed = told.feed(arrivals(at(30, 26, 12))[2:])
    assert closed.late.tolist() == [2]


def test_a_sample_is_late_when_all_windows_that_hold_it_have_closed() -> None:
    #  0    5    10   15   20
    #  |---------|                closed by 12
    #       |---------|           open: holds 7
    closed = rig(10, 5).feed(arrivals(at(12, 7, 4)))
    assert closed.late.tolist() == [2]


def test_a_sample_is_not_in_windows_that_closed_before_it_came() -> None:
    #  0    5    10   15
    #  |---------|                holds 6; closed by 12, then 7 comes
    #       |---------|           holds 6, 7, 12
    closed = rig(10, 5).feed(arrivals(at(6, 12, 7, 20)))
    assert windows(closed) == [(0, 10, [6]), (5, 15, [6, 7, 12]), (10, 20, [12])]
    assert sorted(closed.scored.tolist()) == [0, 1, 2]


def test_lateness_is_how_far_behind_a_sample_may_be() -> None:
    assert rig(10, 10, lateness=3).feed(arrivals(at(12, 9))).late.tolist() == []
    assert rig(10, 10, lateness=2).feed(arrivals(at(12, 9))).late.tolist() == [1]


# --- resends --------------------------------------------------------------------------------------


def test_the_same_time_of_the_same_sensor_is_a_duplicate_and_the_first_counts() -> None:
    told = rig(10, 10)
    told.feed(arrivals([Record(t=1, value=1.0), Record(t=1, value=2.0), Record(t=1, sensor=1, value=3.0)]))
    assert told.finish().scenes.value.tolist() == [1.0, 3.0]
    assert told.told()[1] == [(0, "scored"), (1, "duplicate"), (2, "scored")]


def test_a_resend_after_its_windows_closed_is_late() -> None:
    closed = rig(10, 10).feed(arrivals(at(1, 50, 1)))
    assert (closed.late.tolist(), closed.duplicate.tolist()) == ([2], [])


def test_a_clock_that_stands_still_does_not_fill_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MANY_CHUNKS", 4)
    told = rig(10, 10)
    for batch in one_by_one(arrivals(at(*[1] * 100))):
        closed = told.feed(batch)
        assert closed.n_open <= 8
    assert len([o for o in told.told()[1] if o[1] == "duplicate"]) >= 90


# --- silence and ends -----------------------------------------------------------------------------


def test_an_entity_that_falls_silent_is_closed_by_the_partitions_clock() -> None:
    told = rig(10, 5)
    told.feed(arrivals(at(1)), clock=0)
    assert windows(told.feed([], clock=IDLE - 1)) == []
    closed = told.feed([], clock=IDLE)
    assert windows(closed) == [(-5, 5, [1]), (0, 10, [1])]
    assert closed.idle.tolist() == closed.touched.tolist()
    assert not closed.scenes.ended.any()


def test_silence_is_judged_by_the_clock_of_the_entitys_next_record() -> None:
    #  clock     0        20
    #  t         1        2          silent for 20: [0, 10) closes between the two, though they are one batch
    closed = rig(10, 10).feed(arrivals([Record(t=1), Record(t=2, wait=IDLE)]))
    assert windows(closed) == [(0, 10, [1])]
    assert closed.late.tolist() == [1]


def test_records_of_others_do_not_end_a_silence() -> None:
    told = rig(10, 10)
    told.feed(arrivals([Record("a", 1)]))
    closed = told.feed(arrivals([Record("a", 1), Record("b", 1, wait=IDLE - 1), Record("b", 2, wait=1)])[1:])
    assert windows(closed) == [(0, 10, [1])]


def test_a_tombstone_closes_all_windows_and_ends_the_session() -> None:
    told = rig(10, 5)
    closed = told.feed(arrivals([Record(t=1), Record(end=True), Record(t=2)]))
    assert windows(closed) == [(-5, 5, [1]), (0, 10, [1])]
    assert closed.scenes.ended.tolist() == [False, True]
    assert len(closed.ended) == 1
    told.finish()
    assert [place[0] for place, *_ in told.stories["a1"].windows] == [-5, 0]


def test_the_row_of_an_ended_session_names_its_tombstone() -> None:
    told = rig()
    samples = told.samples(arrivals([Record(t=1), Record(t=2), Record(end=True)]))
    closed = told.stage.update(samples, 0)
    assert told.keys[STAGE]["ended_at"][closed.ended].tolist() == [2]


def test_a_tombstone_of_an_entity_without_samples_gives_no_window() -> None:
    closed = rig().feed(arrivals([Record(end=True)]))
    assert len(closed.scenes) == 0
    assert len(closed.ended) == 1


def test_the_end_of_a_file_closes_everything() -> None:
    told = rig(10, 10, lateness=100)
    told.feed(arrivals([Record("a", 1), Record("b", 2)]))
    closed = told.finish()
    assert [times for _, _, times in windows(closed)] == [[1], [2]]
    assert closed.n_open == 0
    assert told.stage.needed_offset() is None


# --- limits ---------------------------------------------------------------------------------------


def test_beyond_the_limit_of_pending_samples_the_least_recently_seen_are_closed() -> None:
    told = rig(100, 100, limits=Limits(pending_samples=8))
    old = [Record("old", t) for t in range(5)]
    new = [Record("new", t, wait=1) for t in range(5)]
    told.feed(arrivals(old + new))
    closed = told.feed([])
    assert [told.keys.name(s) for s in closed.forced] == ["old0"]
    assert closed.n_open == 5


def test_beyond_the_limit_of_entities_the_least_recently_seen_are_closed() -> None:
    told = rig(100, 100, limits=Limits(entities=3))
    told.feed(arrivals([Record(k, 1, wait=1) for k in "abcd"]))
    assert [told.keys.name(s) for s in told.feed([]).forced] == ["a0"]


def test_quiet_entities_are_not_looked_at_in_every_batch() -> None:
    told = rig(10, 10)
    told.feed(arrivals([Record(str(i), 1) for i in range(100)]), clock=0)
    silence = told.stage._silence
    told.feed([], clock=1)
    queue = silence._slots
    told.feed([], clock=2)
    assert isinstance(silence, idle.Silence)
    assert silence._slots.base is queue.base


def test_an_update_does_not_change_its_input() -> None:
    told = rig()
    samples = told.samples(arrivals([Record("b", 3), Record("a", 1), Record("b", 2), Record("a", end=True)]))
    columns = vars(samples) | vars(samples.runs)
    copies = {name: column.copy() for name, column in columns.items() if isinstance(column, np.ndarray)}
    told.stage.update(samples, 100)
    for name, column in copies.items():
        np.testing.assert_array_equal(columns[name], column)


def test_no_samples_give_no_windows() -> None:
    closed = rig().stage.update(no_samples(), 0)
    assert len(closed.scenes) == len(no_scenes()) == 0
    assert (len(closed.touched), closed.n_open) == (0, 0)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "stride"), [("100 tokens", 5_000_000), (10, "5 tokens"), (10, 11), (10, 0), ("2 tokens", "3 tokens")]
)
def test_extents_that_do_not_go_together_are_refused(length: int | str, stride: int | str) -> None:
    with pytest.raises(ConfigurationError):
        extents(length, stride, DEFAULT)


def test_what_the_settings_leave_open_is_the_detectors() -> None:
    tokens = WindowSpec(length_tokens=64, stride_tokens=32)
    assert extents(None, None, tokens) == tokens
    assert extents(None, None, DEFAULT) == DEFAULT
    assert extents(12, None, tokens) == WindowSpec(length_us=12, stride_us=2)


def test_a_length_that_is_the_detectors_has_the_detectors_stride() -> None:
    assert extents(DEFAULT.length_us, None, replace(DEFAULT, stride_us=7)).stride_us == 7
    tokens = WindowSpec(length_tokens=64, stride_tokens=64)
    assert extents("64 tokens", None, tokens) == extents("64  token", None, tokens) == tokens
    assert extents("32 tokens", None, tokens).stride_tokens == 16


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ({}, None),
        ({"length": "1m"}, None),
        ({"length": "60s", "stride": "10s"}, None),
        ({"length": "30s"}, "30s every 5s are asked for, and the bundle was fitted to windows of 1m every 10s"),
        ({"stride": "20s"}, "1m every 20s are asked for"),
        ({"length": "8 tokens"}, "8 tokens every 4 are asked for"),
    ],
)
def test_settings_that_cut_other_windows_than_the_bundles_are_told(windows: dict[str, str], words: str | None) -> None:
    """They used to give other scores and another alarm rate without a word."""
    said = misfit(parse({"sources": [{"topic": "t"}], "windows": windows}), PlainDetector())
    assert said is None if words is None else words in (said or "")


def test_the_stage_is_chosen_by_the_unit_of_the_length() -> None:
    keys = Keys({STAGE: INGEST})
    by = {
        length: of(parse({"sources": [{"topic": "t"}], "windows": {"length": length}}), None, keys)
        for length in ("60s", "64 tokens")
    }
    assert isinstance(by["60s"], TimeWindows)
    assert isinstance(by["64 tokens"], CountWindows)
