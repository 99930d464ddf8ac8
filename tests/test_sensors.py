"""The detector of sensors: the laws of every detector, and what it must see."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import levels
from models.scenes import Scenes, no_scenes
from stream_app.recipe import Recipe
from tests.sensor_worlds import World, detector, part, scenes, score, trained
from training.dataset import from_indices
from training.look import look

KINDS = ("aligned", "single", "multirate")
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}  # float32 sums in another order


@pytest.mark.parametrize("kind", [*KINDS, "fast"])
@given(cuts=st.lists(st.integers(1, 400), max_size=6), lost=st.sampled_from([0.0, 0.3]))
@settings(max_examples=8, deadline=None)
def test_scores_do_not_depend_on_how_windows_come_in_calls(kind: str, cuts: list[int], lost: float) -> None:
    known = detector(kind)
    given_ = scenes(known, World(kind, 1, 10.0 if kind == "fast" else 60.0, seed=7, lost=lost).data())
    whole = score(known, given_)
    edges = sorted({0, *(c for c in cuts if c < len(given_)), len(given_)})
    carry, pieces = known.carry_initial.copy(), []
    for a, b in pairwise(edges):
        piece = known.score(part(given_, slice(a, b)), carry)
        pieces.append(piece)
        carry = piece.carry
    np.testing.assert_allclose(np.concatenate([p.score for p in pieces]), whole.score, **TOLERANCE)
    np.testing.assert_allclose(np.concatenate([p.frames.score for p in pieces]), whole.frames.score, **TOLERANCE)
    np.testing.assert_array_equal(np.concatenate([p.frames.start_us for p in pieces]), whole.frames.start_us)
    np.testing.assert_allclose(np.concatenate([p.embedding for p in pieces]), whole.embedding, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_entitys_scores_do_not_depend_on_others_in_the_call(kind: str) -> None:
    known = detector(kind)
    both = scenes(known, World(kind, 2, 60.0, seed=3).data())
    alone = part(both, slice(int((both.entity == 0).sum()), None))
    np.testing.assert_allclose(score(known, both).score[both.entity == 1], score(known, alone).score, **TOLERANCE)


@pytest.mark.parametrize("kind", [*KINDS, "fast"])
def test_a_score_uses_nothing_after_the_windows_end(kind: str) -> None:
    known = detector(kind)
    given_ = scenes(known, World(kind, 1, 10.0 if kind == "fast" else 60.0, seed=4).data())
    middle = len(given_) // 2
    changed = np.where(given_.t_us >= given_.end_us[middle], 1e6, given_.value)
    after = score(known, dataclasses.replace(given_, value=changed))
    np.testing.assert_array_equal(after.score[: middle + 1], score(known, given_).score[: middle + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_input_is_not_changed_and_an_empty_call_gives_nothing(kind: str) -> None:
    known = detector(kind)
    given_ = scenes(known, World(kind, 2, 30.0).data())
    carry = np.repeat(known.carry_initial, 2)
    before = {f.name: getattr(given_, f.name).copy() for f in dataclasses.fields(Scenes)}, carry.copy()
    known.score(given_, carry)
    for name, array in before[0].items():
        np.testing.assert_array_equal(getattr(given_, name), array)
    np.testing.assert_array_equal(carry, before[1])
    assert len(known.score(no_scenes(), carry[:0]).score) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wild", [1e300, -1e300, 0.0, np.nan])
def test_finite_or_missing_input_gives_finite_scores(kind: str, wild: float) -> None:
    known = detector(kind)
    given_ = scenes(known, World(kind, 1, 60.0, seed=5).data())
    value = np.where(np.arange(len(given_.value)) % 7 == 3, wild, given_.value)
    out = score(known, dataclasses.replace(given_, value=value))
    assert np.isfinite(out.score).all()
    assert np.isfinite(out.parts).all()
    assert np.isfinite(out.embedding).all()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_tile_time(kind: str) -> None:
    known = detector(kind)
    frames = score(known, scenes(known, World(kind, 1, 60.0).data())).frames
    np.testing.assert_array_equal(frames.end_us[:-1], frames.start_us[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_scored_above_what_is_normal(kind: str) -> None:
    known = detector(kind)
    data = World(kind, 1, 120.0, seed=9, fault_s=80.0).data()
    out = score(known, scenes(known, data))
    start = int(data.t_us.min())
    normal = (out.frames.start_us > start + 20_000_000) & (out.frames.start_us < start + 78_000_000)
    faulty = (out.frames.start_us > start + 82_000_000) & (out.frames.start_us < start + 100_000_000)
    assert np.median(out.frames.score[faulty]) > np.quantile(out.frames.score[normal], 0.99)


@pytest.mark.parametrize("kind", ["aligned", "multirate"])
def test_the_sensor_that_went_its_own_way_is_named_first(kind: str) -> None:
    known = detector(kind)
    data = World(kind, 1, 100.0, seed=9, fault_s=80.0).data()
    given_ = scenes(known, data)
    out = score(known, given_)
    window = int(np.argmax(np.where(given_.end_us < data.t_us.min() + 95_000_000, out.score, -1)))
    told = out.explain(window)
    assert told[0].sensor == "s0"
    assert sum(p.contribution for p in told) == pytest.approx(1)
    assert told[0].actual is not None
    assert told[0].expected is not None
    assert told[0].actual > told[0].expected  # the fault adds to what is right


@pytest.mark.parametrize("kind", ["aligned", "multirate"])
def test_a_sensor_that_sends_nothing_is_no_anomaly(kind: str) -> None:
    known = detector(kind)
    fewer = score(known, scenes(known, World(kind, 1, 100.0, seed=11, gone=(1,)).data()))
    assert np.median(fewer.frames.score) < 1  # what one in a hundred normal frames says of each part
    assert all(p.actual is None for p in fewer.explain(50) if p.sensor == "s1")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_after_the_last_sample_repeat_its_score(kind: str) -> None:
    known = detector(kind)
    data = World(kind, 1, 60.0, seed=6).data()
    frames = score(known, scenes(known, data)).frames
    grid = known.fitted.grid
    last = (int(data.t_us.max()) - grid.shift_us) // grid.step_us * grid.step_us
    after = frames.start_us > last
    assert after.sum() > grid.per_bin  # more than a bin of silence lies in the windows that hold the last sample
    held = frames.score[frames.start_us == last][0]
    told = after & (frames.start_us <= last + grid.hold * grid.step_us)
    np.testing.assert_array_equal(frames.score[told], held)


def test_what_a_window_costs_has_a_bound_whatever_the_rate() -> None:
    for rate in (30.0, 100.0, 250.0, 4_000.0):
        t_us = (np.arange(2_000) * 1e6 / rate).astype(np.int64)
        zero = np.zeros(2_000, int)
        grid = look(from_indices(("a",), ("x",), (zero, zero, t_us, np.sin(t_us / 1e6)))).grid
        assert grid.stride % grid.every == 0
        assert grid.stride // grid.every <= 8
        assert grid.stride <= 20
        assert grid.spread == (rate > 150)


def test_training_twice_with_one_seed_gives_one_bundle() -> None:
    from training.fit_sensors import SensorTraining, fit

    data = World("aligned", 1, 200.0).data()
    first, second = (fit(data, SensorTraining(seed=3, recipe=Recipe(steps=5))).bundle for _ in range(2))
    assert first.settings == second.settings
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name], err_msg=name)


def test_the_state_of_an_entity_is_small() -> None:
    assert detector("multirate").carry_initial.itemsize < 1_000


def test_a_bundle_tells_its_population_tail_and_risk() -> None:
    bundle = trained("multirate").bundle
    assert bundle.tail
    assert 0 < bundle.settings["risk"] <= 0.01


@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=4),
    delay=st.sampled_from([0, 5, 40, 300]),
)
@settings(max_examples=40, deadline=None)
def test_levels_equal_a_loop_over_frames_however_they_are_cut(seed: int, lengths: list[int], delay: int) -> None:
    rng = np.random.default_rng(seed)
    pace = levels.Pace(np.array([1.0, 5.0]), 30.0, delay, np.array([0.5, 2.0]))
    rows = np.zeros(len(lengths), levels.layout(2))
    levels.initial(rows, pace)
    ratios = [rng.exponential(1, (n, 2)) for n in lengths]
    halves = [[r[: len(r) // 3] for r in ratios], [r[len(r) // 3 :] for r in ratios]]
    got: list[list[np.ndarray]] = [[] for _ in lengths]
    for half in halves:
        first = np.concatenate([[0], np.cumsum([len(r) for r in half])])
        out = levels.update(np.concatenate(half), first, rows, pace)
        for e in range(len(lengths)):
            got[e].append(out[first[e] : first[e + 1]])
    for e, ratio in enumerate(ratios):
        np.testing.assert_allclose(np.concatenate(got[e]), _loop(ratio, pace), rtol=1e-5)


def _loop(ratio: np.ndarray, pace: levels.Pace) -> np.ndarray:
    smooth, level, past, out = pace.start.copy(), pace.start.copy(), [], []
    for i, r in enumerate(ratio):
        entry = i // pace.slot - (levels.SLOTS - 1)
        late = pace.start if entry < 1 else past[entry * pace.slot - 1]
        smooth = smooth + 2 / (pace.span + 1) * (r - smooth)
        level = level + (smooth - level) / pace.time
        past.append(level)
        out.append(smooth * pace.start / late)
    return np.array(out).reshape(len(ratio), 2)
